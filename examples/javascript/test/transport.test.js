// The protocol over HTTP, against a server that misbehaves; and the client's loop.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { takePart } from "../fedmrn/client.js";
import { RefusedError, Transport } from "../fedmrn/transport.js";

/** Serve answers, one for each request, to a function of a transport; return what was asked for. */
async function serving(answers, use, options = {}) {
  const asked = [];
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    asked.push({ method: request.method, url: request.url, headers: request.headers, body: Buffer.concat(parts).toString() });
    const { status = 200, headers = {}, body = "" } = answers[Math.min(asked.length, answers.length) - 1];
    response.writeHead(status, headers).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await use(new Transport(`http://127.0.0.1:${server.address().port}/`, "a-token-of-tests", options));
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return asked;
}

const json = (value, status = 200) => ({ status, body: JSON.stringify(value) });
const RUN = { protocol: 1, run: "00", client: 1, method: "fedmrn-s", round: 0, rounds: 1 };
const layer = (inputs, outputs) => [
  { name: "weight", shape: [outputs, inputs], group: "coded" },
  { name: "bias", shape: [outputs], group: "coded" },
];
const DATA = { images: [new Float32Array(4)], labels: [0] };

test("an address that cannot be is refused, not asked again", () => {
  for (const base of ["127.0.0.1:8000", "ftp://host", "https://", "http://a b"]) {
    assert.throws(() => new Transport(base, "a-token-of-tests"), /a server's address is such as/);
  }
});

test("the token travels, and a busy server is asked again", async () => {
  const troubles = [];
  const busy = { status: 503, headers: { "Retry-After": "0" } };
  const use = async (transport) => assert.equal((await transport.run()).method, "fedmrn-s");
  const asked = await serving([busy, busy, json(RUN)], use, { onTrouble: (text) => troubles.push(text) });
  assert.deepEqual(asked.map((one) => one.headers.authorization), Array(3).fill("Bearer a-token-of-tests"));
  assert.equal(troubles.length, 2);
});

test("a request that will never do is not sent again", async () => {
  const refused = (error) => error instanceof RefusedError && error.status === 401 && error.error === "NoToken";
  const use = (transport) => assert.rejects(transport.run(), refused);
  const asked = await serving([json({ error: "NoToken", message: "nobody" }, 401)], use);
  assert.equal(asked.length, 1);
});

test("another version of the protocol, and answers without end, are refused", async () => {
  await serving([json({ ...RUN, protocol: 2 })], (transport) => assert.rejects(transport.run(), /version 2/));
  const headers = { "Fedmrn-Task": "1-train", "Fedmrn-Kind": "train", "Fedmrn-Round": "1" };
  const long = [{ headers, body: Buffer.alloc(5000) }];
  await serving(long, (transport) => assert.rejects(transport.task(4999), /more than 4999 bytes/));
  await serving(long, async (transport) => assert.equal((await transport.task(5000)).body.length, 5000));
});

test("it stops when it is told to", async () => {
  const stop = new AbortController();
  const use = (transport) => {
    setTimeout(() => stop.abort(new Error("stopped")), 50);
    return assert.rejects(transport.task(10), /stopped/);
  };
  await serving([{ status: 204, headers: { "Retry-After": "30" } }], use, { signal: stop.signal });
});

test("a model that this client cannot train ends it before anything is asked for", async () => {
  const play = (layout, expected) =>
    serving([json({ ...RUN, layout })], (transport) => assert.rejects(takePart(transport, { train: DATA }), expected));
  await play(layer(2 ** 20, 2 ** 19), /no model of/);
  await play(layer(5, 3), /an image has 4/);
  await play([{ name: "w", shape: [-1], group: "coded" }], /no size/);
  await play("no", /array/);
});

test("a frame that is refused is told to the server, and the client goes on", async () => {
  const headers = {
    "Fedmrn-Task": "1-train", "Fedmrn-Kind": "train", "Fedmrn-Round": "1", "Fedmrn-Run": "00", "Fedmrn-Config": "{}",
  };
  const answers = [json({ ...RUN, layout: layer(4, 2) }), { headers, body: "FMRN" }, json({ answer: "noted" }), { status: 410 }];
  const events = [];
  const asked = await serving(answers, (t) => takePart(t, { train: DATA, test: DATA }, (event) => events.push(event.type)));
  assert.equal(asked[2].url, "/v1/failure/1-train");
  assert.match(asked[2].body, /^TruncatedFrameError: /);
  assert.deepEqual(events, ["run", "refused", "over"]);
});

// Every example of docs/wire-format.md, decoded from the page itself.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { floatBytes, hex, unhex } from "../fedmrn/bytes.js";
import { codecOf } from "../fedmrn/codecs/index.js";
import { readFrame, writeFrame } from "../fedmrn/frame.js";
import { Held, readPublic } from "../fedmrn/grid.js";
import { Layout } from "../fedmrn/layout.js";
import { setGaussianTable } from "../fedmrn/noise.js";
import { philox, Purpose, words } from "../fedmrn/philox.js";
import { readTerms } from "../fedmrn/terms.js";

const root = new URL("../../../", import.meta.url);
const page = readFileSync(new URL("docs/wire-format.md", root), "utf8");
setGaussianTable(readFileSync(new URL("src/fedmrn/numerics/gaussian.bin", root)));

const examples = page.split(/^### /m).flatMap((part) => {
  const found = part.match(/^(9\.\d+) (.*?)\n[\s\S]*?^```hex\n([\s\S]*?)^```[\s\S]*?^```json\n([\s\S]*?)^```/m);
  if (!found) return [];
  const [, number, title, frame, values] = found;
  return { number, title, bytes: unhex(frame.replace(/#.*$/gm, "")), expected: JSON.parse(values) };
});
const GROUPS = ["coded", "dense", "stats", "variance"];
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

test("the page has its examples", () => assert.equal(examples.length, 30));

test("published answers of the generator", () => {
  const row = /^\| ([0-9a-f]{8}(?: [0-9a-f]{8}){3}) \| ([0-9a-f]{8} [0-9a-f]{8}) \| ([0-9a-f]{8}(?: [0-9a-f]{8}){3}) \|$/gm;
  const rows = [...page.matchAll(row)].map((match) => match.slice(1).map((text) => text.split(" ").map((w) => parseInt(w, 16))));
  assert.equal(rows.length, 3);
  for (const [counter, key, answer] of rows) {
    const out = new Uint32Array(4);
    philox(...counter, ...key, out);
    assert.deepEqual([...out], answer);
  }
});

/** Codec 8 is read with the state of the broadcast before it. */
const STATE = { "9.7": examples.find((e) => e.number === "9.6").expected.sections.find((s) => s.role === 1).values };
const METHOD = { 2: "fedmrn", 3: "fedmrn-s", 16: "fedbat", 17: "fedpm" };

function checkValues(values, section, name) {
  const shown = section.values;
  shown.forEach((x, i) => assert.ok(Object.is(values[i], x), `${name}: value ${i} is ${values[i]}, not ${x}`));
  if (section.values_sha256) assert.equal(sha256(floatBytes(values)), section.values_sha256, name);
  else assert.equal(values.length, shown.length, name);
}

for (const { number, title, bytes, expected } of examples) {
  test(`${number} ${title}`, () => {
    const frame = readFrame(bytes, expected.kind);
    assert.equal(frame.round, expected.round);
    const { low, high } = frame.noiseKey;
    assert.equal([high, low].map((half) => half.toString(16).padStart(8, "0")).join(""), expected.noise_key);
    assert.equal(frame.weight, expected.weight);
    assert.equal(hex(frame.digest), expected.layout_digest);
    assert.deepEqual(writeFrame(frame), bytes);
    const tensors = expected.layout.map(([name, shape, group]) => ({ name, shape, group: GROUPS[group] }));
    const layout = Layout.fromJson(JSON.stringify(tensors));
    assert.equal(hex(layout.digest), expected.layout_digest);
    for (const [i, section] of frame.sections.entries()) {
      const want = expected.sections[i];
      assert.deepEqual([section.codec, section.role, section.group, section.elements], [want.codec, want.role, want.group, want.elements]);
      assert.equal(hex(section.parameters), want.parameters);
      if (section.role === 2 || section.codec === 15) continue;
      if (section.role === 3) {
        assert.deepEqual(Object.entries(readTerms(frame, METHOD[frame.method], layout.sizes(0).length)), want.terms);
      } else {
        const given = { ...section, key: frame.noiseKey, limit: Infinity, state: Float32Array.from(STATE[number] ?? []) };
        checkValues(codecOf(section).decode(given), want, `section ${i}`);
      }
    }
    if (frame.sections.some((s) => s.codec === 15)) checkPublic(frame, layout, expected);
  });
}

function checkPublic(frame, layout, expected) {
  const held = new Held();
  const sections = expected.sections.filter((s) => s.codec === 15);
  const flat = (name) => Float32Array.from(sections.flatMap((s) => s[name]));
  const start = sections[0].start ? flat("start") : null;
  if (sections[0].base !== null) {
    const groups = Object.fromEntries(
      sections.map((s) => [s.group, { steps: Int8Array.from(s.base_steps), numbers: Int32Array.from(s.base_numbers) }]),
    );
    held.keep({ run: sections[0].run, number: sections[0].base, base: null, groups }, layout);
  }
  const { state, kept } = readPublic(frame, layout, held, start);
  assert.deepEqual([...state], [...flat("values")]);
  for (const s of sections) assert.deepEqual([...kept.groups[s.group].numbers], s.numbers);
}

test("long vectors of section 9.21", () => {
  const octets = (n) => Uint8Array.from({ length: n }, (_, j) => (167 * j + 13) & 255);
  const rows = [...page.matchAll(/^\| ([A-F]) \| (\d+) \| `([0-9a-f]+)` \| ([\d,]+) \| ([\d,]+) \| `([0-9a-f]{64})` \| `([0-9a-f]{64})` \|$/gm)];
  assert.equal(rows.length, 6);
  const key = { low: 0x38d01377, high: 0x452821e6 };
  const bodies = { A: () => octets(8750), B: levelsBody, C: () => rotatedBody(C), D: () => rotatedBody(D), F: randomBody };
  const C = { scales: 3, indices: 17472, dense: 117 };
  const kept = words(key, Purpose.quantise, 0, 40000).filter((word) => word < 2 ** 31).length;
  const blocks = [...Math.floor(kept / 128).toString(2)].filter((bit) => bit === "1").length;
  const D = { scales: blocks, indices: (kept - (kept % 128)) / 8, dense: kept % 128 };
  for (const [, name, codec, parameters, elements, length, bodySum, valuesSum] of rows) {
    if (!(name in bodies)) continue; // E needs a writer of codec 9
    const n = Number(elements.replaceAll(",", ""));
    const body = bodies[name]();
    assert.equal(body.length, Number(length.replaceAll(",", "")), name);
    assert.equal(sha256(body), bodySum, name);
    const section = { codec: Number(codec), parameters: unhex(parameters), elements: n, body, key, limit: Infinity };
    assert.equal(sha256(floatBytes(codecOf(section).decode(section))), valuesSum, name);
  }

  function levelsBody() {
    const body = new Uint8Array(2660);
    const view = new DataView(body.buffer);
    for (let k = 0; k < 40; k++) view.setFloat32(4 * k, (k + 1) / 32, true);
    for (let i = 0; i < 5000; i++) body[160 + (i >> 1)] |= ((5 * i) % 15) << (4 * (i & 1));
    return body;
  }

  function rotatedBody({ scales, indices, dense }) {
    const body = new Uint8Array(4 * scales + indices + 4 * dense);
    const view = new DataView(body.buffer);
    for (let k = 0; k < scales; k++) view.setFloat32(4 * k, 2 ** -(k + 1), true);
    body.set(octets(indices), 4 * scales);
    for (let k = 0; k < dense; k++) view.setFloat32(4 * (scales + k) + indices, (k - 58) / 1024, true);
    return body;
  }

  function randomBody() {
    const head = new Uint8Array(21);
    const view = new DataView(head.buffer);
    head[0] = 1;
    view.setUint32(1, 2, true);
    view.setUint32(5, 16000, true);
    view.setUint32(13, 4000, true);
    const tables = new Uint8Array(8).fill(64, 0, 4).fill(100, 4);
    const path = octets(977);
    path[976] &= 2 ** (7813 % 8) - 1;
    return Uint8Array.from([...head, ...tables, ...path]);
  }
});

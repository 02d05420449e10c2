// The page: starts a client, and shows what happens.

import { takePart } from "./fedmrn/client.js";
import { readDigits } from "./fedmrn/digits.js";
import { setGaussianTable } from "./fedmrn/noise.js";
import { Transport } from "./fedmrn/transport.js";

const TABLE = "gaussian.bin";
const LEFT = 84;
const [WIDTH, HEIGHT, BOTTOM] = [600, 220, 30];
const at = (id) => document.getElementById(id);

/** A number of bytes for a person: counted, with a unit. */
function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

/** What this client has seen: a row a round. */
class Record {
  constructor() {
    this.rounds = 0;
    this.parameters = 1;
    this.rows = new Map();
  }

  row(round) {
    if (!this.rows.has(round)) this.rows.set(round, { round });
    return this.rows.get(round);
  }

  /** The rounds whose model was seen, in order. */
  get curve() {
    return [...this.rows.values()].filter((row) => row.accuracy !== undefined).sort((a, b) => a.round - b.round);
  }
}

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function draw(record) {
  const x = (round) => LEFT + ((WIDTH - LEFT - 15) * round) / Math.max(record.rounds, 1);
  const y = (accuracy) => 12 + (HEIGHT - BOTTOM - 12) * (1 - accuracy);
  const parts = [0, 0.5, 1].flatMap((a) => [
    element("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(a), y2: y(a) }),
    element("text", { x: LEFT - 8, y: y(a) + 6, "text-anchor": "end" }, `${100 * a} %`),
  ]);
  for (const round of new Set([0, Math.round(record.rounds / 2), record.rounds])) {
    parts.push(element("text", { x: x(round), y: HEIGHT - 4, "text-anchor": "middle" }, `${round}`));
  }
  const points = record.curve.map((row) => [x(row.round), y(row.accuracy)]);
  parts.push(element("polyline", { class: "curve", points: points.map((p) => p.join()).join(" ") }));
  parts.push(...points.map(([cx, cy]) => element("circle", { cx, cy, r: 4 })));
  at("chart").replaceChildren(...parts);
}

function show(record, transport) {
  const last = record.curve.at(-1);
  at("round").textContent = record.rounds ? `${last?.round ?? 0} of ${record.rounds}` : "–";
  at("progress").value = record.rounds ? (last?.round ?? 0) / record.rounds : 0;
  at("accuracy").textContent = last ? `${(100 * last.accuracy).toFixed(1)} %` : "–";
  at("up").textContent = size(transport.up);
  at("down").textContent = size(transport.down);
  at("history").hidden = record.rows.size === 0;
  const rows = [...record.rows.values()].sort((a, b) => b.round - a.round);
  at("rows").replaceChildren(...rows.map((row) => tableRow(row, record.parameters)));
  draw(record);
}

function tableRow({ round, accuracy, loss, down, up }, parameters) {
  const cells = [
    round === 0 ? "start" : `${round}`,
    accuracy === undefined ? "" : `${(100 * accuracy).toFixed(1)} %`,
    loss === undefined ? "" : loss.toFixed(3),
    down === undefined ? "" : size(down),
    up === undefined ? "" : size(up),
    up === undefined ? "" : ((8 * up) / parameters).toFixed(2),
  ];
  const row = document.createElement("tr");
  row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return row;
}

/** Note an event of the client. */
function note(record, event) {
  if (event.type === "run") {
    Object.assign(record, { rounds: event.rounds, parameters: event.parameters, rows: new Map() });
    say(`Client ${event.client}: waiting for a round. ${event.parameters} parameters, method ${event.method}.`);
  } else if (event.type === "state") {
    record.row(event.round).accuracy = event.accuracy;
    if (!event.final) {
      record.row(event.round + 1).down = event.bytes;
      say(`Round ${event.round + 1}: training.`);
    }
  } else if (event.type === "update") {
    Object.assign(record.row(event.round), { loss: event.loss, up: event.bytes });
    say(`Round ${event.round}: ${event.counts ? "sent" : "came too late"}. Waiting for the others.`);
  } else if (event.type === "refused") {
    say(`Round ${event.round}: ${event.error.name}: ${event.error.message}`, true);
  } else if (event.type === "over") {
    say("The run is over.");
  }
}

async function fetched(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

async function start(signal) {
  const record = new Record();
  const data = readDigits(await (await fetched(at("data").value)).text());
  try {
    setGaussianTable(new Uint8Array(await (await fetched(TABLE)).arrayBuffer()));
  } catch {
    // Only gaussian noise needs the table; a client that is asked for that says so.
  }
  const onTrouble = (text) => say(`${text[0].toUpperCase()}${text.slice(1)}.`, true);
  const transport = new Transport(at("server").value, at("token").value, { signal, onTrouble });
  say("Connecting.");
  const tell = (event) => {
    note(record, event);
    show(record, transport);
  };
  await takePart(transport, data, tell, signal);
}

let running = null;

async function toggle(event) {
  event?.preventDefault();
  if (running !== null) {
    running.abort(new Error("stopped"));
    return;
  }
  running = new AbortController();
  at("start").textContent = "Stop";
  try {
    await start(running.signal);
  } catch (error) {
    if (running.signal.aborted) say("Stopped.");
    else say(`${error.name}: ${error.message}`, true);
  }
  running = null;
  at("start").textContent = "Start";
}

at("form").addEventListener("submit", toggle);
// #server=...&token=...&data=...&start fills the form: what follows # is not sent to whoever serves this page.
const given = new URLSearchParams(location.hash.slice(1));
for (const name of ["server", "token", "data"]) if (given.has(name)) at(name).value = given.get(name);
draw(new Record());
if (given.has("start")) toggle();

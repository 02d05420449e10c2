// The test vectors of the repository: every case whose codecs are in scope is read to the bit, every bad frame refused.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { readStatistics, readUpdate } from "../fedmrn/answers.js";
import { MASKED, readBroadcast, readModel } from "../fedmrn/broadcast.js";
import { equal, floatBytes, floats, hex, unhex } from "../fedmrn/bytes.js";
import { crc32 } from "../fedmrn/crc32.js";
import { LIMITS, METHODS } from "../fedmrn/frame.js";
import { Held } from "../fedmrn/grid.js";
import { Layout } from "../fedmrn/layout.js";
import { Law, noise, setGaussianTable } from "../fedmrn/noise.js";
import { words } from "../fedmrn/philox.js";
import { halfBits, readTask, writeUpdate } from "../fedmrn/update.js";

const folder = new URL("../../../vectors/", import.meta.url);
const there = existsSync(new URL("index.json", folder));
const index = there ? JSON.parse(text("index.json")) : { layouts: {}, cases: [], refused: [] };
const refused = index.refused ?? [];
if (there) setGaussianTable(read(index.gaussian));
const layouts = Object.fromEntries(
  Object.entries(index.layouts).map(([name, { file }]) => [name, Layout.fromJson(text(file))]),
);

function read(path) {
  return new Uint8Array(readFileSync(new URL(path, folder)));
}

function text(path) {
  return new TextDecoder().decode(read(path));
}

/** Compare values with what the index has of them: the first ones, and the digest of all. */
function assertValues(values, expected, name) {
  assert.equal(values.length, expected.elements, name);
  const bytes = floatBytes(values);
  const first = read(expected.file);
  assert.ok(equal(bytes.subarray(0, first.length), first), `${name}: the first values differ`);
  assert.equal(createHash("sha256").update(bytes).digest("hex"), expected.sha256, name);
}

test("the vectors are there", { skip: there ? false : "no folder vectors/ here" }, () => {
  assert.ok(index.cases.length > 0);
  for (const [name, { digest, size }] of Object.entries(index.layouts)) {
    assert.equal(hex(layouts[name].digest), digest);
    assert.equal(layouts[name].size, size);
  }
});

/** Read frames one after the other, as one client and its server do. */
class Reader {
  constructor(layout, { start = null, accept = METHODS, limits = LIMITS } = {}) {
    Object.assign(this, { layout, start, accept, limits, held: new Held(), broadcast: null });
  }

  read(bytes, kind) {
    const { held, start, accept, limits } = this;
    if (kind === "broadcast") {
      this.broadcast = readBroadcast(bytes, this.layout, { held, start, accept, limits });
      return this.broadcast.state;
    }
    if (kind === "model") {
      const { frame, state } = readModel(bytes, this.layout, { held, start, limits });
      this.model = frame;
      return state;
    }
    if (kind === "update") return readUpdate(bytes, this.broadcast, this.layout, limits).values;
    return readStatistics(bytes, this.model, this.layout, limits).values;
  }
}

for (const { name, about, layout, start, frames } of index.cases) {
  test(`${name}: ${about}`, () => {
    const reader = new Reader(layouts[layout], { start: start ? floats(read(start.file)) : null });
    for (const frame of frames) assertValues(reader.read(read(frame.file), frame.kind), frame.values, frame.file);
  });
}

/** The bits of a mask that decodes to these values, without scales of its own. */
function bitsOf(values, template, key) {
  const { law, type, scale } = readTask(template);
  const n = noise(key, law, scale, values.length);
  return Uint8Array.from(values, (x, i) => (type === 1 ? x === n[i] : x !== 0));
}

const WRITTEN = new Set([1, 14]);
const SIDE = new Set([0, 10]);
for (const { name, layout, frames } of index.cases) {
  const [first, second] = frames;
  const codecs = second?.sections.map((section) => section.codec) ?? [];
  if (!second?.again || !WRITTEN.has(codecs[0]) || !codecs.slice(1).every((codec) => SIDE.has(codec))) continue;
  test(`written again: ${name}`, () => {
    const reader = new Reader(layouts[layout]);
    reader.read(read(first.file), "broadcast");
    const bytes = read(second.file);
    const values = reader.read(bytes, "update");
    const template = reader.broadcast.templates.find((t) => t.group === 0);
    const coded = reader.layout.part(values, 0);
    const bits = bitsOf(coded, template, reader.broadcast.frame.noiseKey);
    const side = values.subarray(coded.length);
    const written = writeUpdate(reader.broadcast, reader.layout, { bits, side, weight: second.weight });
    assert.ok(equal(written, bytes));
  });
}

const bitsOfFloat = (text) => new Float32Array(new Uint32Array([parseInt(text, 16)]).buffer)[0];
const keyOf = (text) => ({ high: parseInt(text.slice(0, 8), 16), low: parseInt(text.slice(8), 16) });
const numbers = there ? JSON.parse(text(index.numbers)) : null;

test("small steps", { skip: there ? false : "no folder vectors/ here" }, () => {
  METHODS.forEach((name, i) => assert.equal(numbers.methods[name], i + 1));
  for (const { bytes, crc32: sum } of numbers.crc32) assert.equal(crc32(unhex(bytes)), parseInt(sum, 16));
  for (const { key, domain, words: shown } of numbers.words) {
    const { high: purpose, low: at } = keyOf(domain);
    const near = Object.entries(shown).filter(([place]) => Number(place) < 1e5);
    const all = words(keyOf(key), purpose, at, 1e5);
    for (const [place, word] of near) assert.equal(all[place], parseInt(word, 16), `word ${place}`);
  }
  for (const { key, law, scale, noise: shown } of numbers.noise) {
    const all = noise(keyOf(key), Law[law], bitsOfFloat(scale), 65537);
    for (const [place, bits] of Object.entries(shown)) assert.ok(Object.is(all[place], bitsOfFloat(bits)), `noise ${place}`);
  }
  for (const { float32, float16 } of numbers.float16) {
    assert.equal(halfBits(bitsOfFloat(float32)), parseInt(float16, 16), float32);
  }
});

/** Which kind a frame is, by its own word. */
function kindOf(bytes) {
  return ["update", "broadcast", "model", "saved", "statistics"][bytes[5] - 1];
}

for (const { name, why, file, kind, error, layout, before = [], start, accept, limits, reader: who } of refused) {
  test(`refused: ${name}: ${why}`, () => {
    const accepted = (accept ?? ["masked"]).flatMap((word) => (word === "masked" ? MASKED : [word]));
    const reader = new Reader(layouts[layout], {
      start: start ? floats(read(start.file)) : null,
      accept: who === "server" ? METHODS : accepted,
      limits: { ...LIMITS, ...limits },
    });
    for (const path of before) reader.read(read(path), kindOf(read(path)));
    const held = reader.held.numbers;
    assert.throws(() => reader.read(read(file), kind), (caught) => {
      assert.equal(caught.name, error, caught.message);
      return true;
    });
    assert.deepEqual(reader.held.numbers, held, "a refused frame changes nothing");
  });
}

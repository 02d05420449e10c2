// The test vectors of the repository: every case whose codecs are in scope is read to the bit, every bad frame refused.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { readBroadcast, readModel } from "../fedmrn/broadcast.js";
import { equal, floatBytes, floats, hex } from "../fedmrn/bytes.js";
import { Kind, LIMITS, METHODS, readFrame } from "../fedmrn/frame.js";
import { Held } from "../fedmrn/grid.js";
import { Layout } from "../fedmrn/layout.js";
import { setGaussianTable } from "../fedmrn/noise.js";
import { codecOf } from "../fedmrn/codecs/index.js";
import { readUpdate } from "../fedmrn/update.js";

const folder = new URL("../../../vectors/", import.meta.url);
/** Codecs that this client does not read: those of methods without masks, which it does not take part in. */
const OUT_OF_SCOPE = [2, 3, 4, 7, 8];
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

function readStatistics(bytes, layout) {
  const frame = readFrame(bytes, Kind.statistics);
  return frame.sections.flatMap((s) => [...codecOf(s).decode({ ...s, key: frame.noiseKey, limit: LIMITS.value })]);
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
    if (kind === "model") return readModel(bytes, this.layout, { held, start, limits }).state;
    if (kind === "update") return readUpdate(bytes, this.broadcast, this.layout, limits).values;
    return Float32Array.from(readStatistics(bytes, this.layout));
  }
}

for (const { name, about, layout, codecs, start, frames } of index.cases) {
  const beyond = codecs.filter((codec) => OUT_OF_SCOPE.includes(codec));
  test(`${name}: ${about}`, { skip: beyond.length ? `out of scope: codecs ${beyond.join(", ")}` : false }, () => {
    const reader = new Reader(layouts[layout], { start: start ? floats(read(start.file)) : null });
    for (const frame of frames) assertValues(reader.read(read(frame.file), frame.kind), frame.values, frame.file);
  });
}

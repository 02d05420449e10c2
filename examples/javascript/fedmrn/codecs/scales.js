// Masked noise in scales of its own for each tensor: own scale (codec 12) and told scale (codec 13).

import { setU64, u64, viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { interleavedMask } from "./interleaved.js";
import { checkLargest, maskedNoise, readMask, valuesOf } from "./mask.js";
import { randomCode } from "./random_code.js";
import { sortedMask } from "./sorted.js";

/** The codecs of masks that can stand inside. */
const INNER = { 1: maskedNoise, 9: sortedMask, 11: randomCode, 14: interleavedMask };

/** A table of scales at the start of a body: rows of a size and a scale, and where it ends. */
function readTable(body, elements) {
  require(body.length >= 4, errors.MalformedFrameError, "a table of scales has no head");
  const view = viewOf(body);
  const runs = view.getUint32(0, true);
  const end = 4 + 12 * runs;
  require(end <= body.length, errors.MalformedFrameError, `a table of ${runs} scales does not fit`);
  const table = [];
  let total = 0;
  for (let k = 0; k < runs; k++) {
    const size = u64(view, 4 + 12 * k);
    total += size;
    require(size > 0 && total <= elements, errors.MalformedFrameError, "a run is empty, or the runs are too large");
    table.push({ size, scale: view.getFloat32(12 + 12 * k, true) });
  }
  require(total === elements, errors.MalformedFrameError, `runs of ${total} elements, not ${elements}`);
  return { table, end };
}

function checkScales(table, mask, limit) {
  const scales = table.map((row) => row.scale);
  require(scales.every(Number.isFinite), errors.NonFiniteError, "a scale is not finite");
  const bounded = scales.every((s) => s >= 0 && !Object.is(s, -0) && s <= limit);
  require(bounded, errors.BoundError, `a scale is negative, or above the limit of ${limit}`);
  const powers = scales.every((s) => s >= 2 ** -80 && s <= 2 ** 80 && isPower(s));
  require(powers, errors.MalformedFrameError, "a scale is no power of two from 2^-80 to 2^80");
  if (scales.length) checkLargest(Math.max(...scales), mask, limit);
}

function isPower(scale) {
  return 2 ** Math.round(Math.log2(scale)) === scale;
}

/** Multiply each run by its scale, a power of two: nothing is rounded. */
export function scaleRuns(values, table) {
  let at = 0;
  for (const { size, scale } of table) {
    for (let i = at; i < at + size; i++) values[i] *= scale;
    at += size;
  }
  return values;
}

function scaled(allowed, wants) {
  return {
    check(parameters) {
      const inner = INNER[parameters[0]];
      const known = inner !== undefined && allowed.includes(parameters[0]);
      require(known, errors.MalformedFrameError, "no codec of masks stands inside");
      const mask = inner.check(parameters.subarray(1));
      require(mask.scale === 1, errors.MalformedFrameError, "the scale inside is not 1");
      return mask;
    },
    /** Its runs beside its values, for who has to compare them. */
    read({ parameters, elements, body, key, limit }) {
      const rest = parameters.subarray(1);
      const mask = readMask(rest);
      const { table, end } = readTable(body, elements);
      checkScales(table, mask, limit);
      const start = wants ? end + table.length : end;
      require(start <= body.length, errors.MalformedFrameError, "the wanted scales do not fit");
      const wanted = Array.from(body.subarray(end, start), (byte) => (byte << 24) >> 24);
      require(wanted.every((e) => Math.abs(e) <= 80), errors.MalformedFrameError, "a wanted scale is out of range");
      const section = { parameters: rest, elements, body: body.subarray(start), key, mask };
      return { table, values: scaleRuns(valuesOf(INNER[parameters[0]].bits(section), mask, key), table) };
    },
    decode(section) {
      return this.read(section).values;
    },
  };
}

export const ownScale = scaled([1, 9, 11, 14], false);
export const toldScale = scaled([1, 9, 14], true);

/** The bytes of a table of scales. */
export function writeTable(table) {
  const out = new Uint8Array(4 + 12 * table.length);
  const view = viewOf(out);
  view.setUint32(0, table.length, true);
  table.forEach(({ size, scale }, k) => {
    setU64(view, 4 + 12 * k, size);
    view.setFloat32(12 + 12 * k, scale, true);
  });
  return out;
}

// Masked noise in scales of its own for each tensor: own scale (codec 12) and told scale (codec 13).

import * as errors from "../errors.js";
import { require } from "../errors.js";
import { interleavedMask } from "./interleaved.js";
import { checkLargest, maskedNoise, readMask, valuesOf } from "./mask.js";
import { randomCode } from "./random_code.js";
import { sortedMask } from "./sorted.js";
import { readTable, scaleRuns } from "./tables.js";

/** The codecs of masks that can stand inside. */
const INNER = { 1: maskedNoise, 9: sortedMask, 11: randomCode, 14: interleavedMask };

function isPower(scale) {
  return scale >= 2 ** -80 && scale <= 2 ** 80 && 2 ** Math.round(Math.log2(scale)) === scale;
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

    /** Its table beside its values, for who has to compare it. Products with powers of two are not rounded. */
    read({ parameters, elements, body, key, limit }) {
      const rest = parameters.subarray(1);
      const mask = readMask(rest);
      const { table, end } = readTable(body, elements, limit);
      const powers = table.every(({ scale }) => isPower(scale));
      require(powers, errors.MalformedFrameError, "a scale is no power of two from 2^-80 to 2^80");
      for (const { scale } of table) checkLargest(scale, mask, limit);
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

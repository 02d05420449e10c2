// Coded mask (codec 9): the bits sorted by context, in one asymmetric numeral system of 64 bits.

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { checkOccurring, contextsOf, countContexts, readSizes } from "./contexts.js";
import { byMode, checkBuckets, maskCodec } from "./mask.js";

const SEGMENT = 2 ** 20;

function coded({ parameters, elements, body, key, mask }) {
  const { sizes, end } = readSizes(body, elements, 1416);
  const contexts = countContexts(sizes, parameters[6]).reduce((a, b) => a + b, 0);
  const rest = body.length - end - contexts;
  require(rest >= 0 && rest % 4 === 0, errors.MalformedFrameError, "frequencies and whole words do not fit");
  const frequencies = body.subarray(end, end + contexts);
  const view = viewOf(body);
  const words = Array.from({ length: rest / 4 }, (_, i) => view.getUint32(end + contexts + 4 * i, true));
  require(words.length === 0 || words.at(-1) !== 0, errors.MalformedFrameError, "the last word is 0");
  const where = contextsOf(sizes, parameters[6], mask, key);
  checkOccurring(where, frequencies);
  const bits = new Uint8Array(elements);
  let state = 0n; // its 64 bits are more than a number holds
  for (let i = 0; i < 2 && words.length; i++) state = (state << 32n) | BigInt(words.pop());
  const q24 = (1n << 24n) - 1n;
  for (const i of order(where, contexts)) {
    const p1 = BigInt(frequencies[where[i]]) << 16n;
    const p0 = q24 + 1n - p1;
    const q = state & q24;
    const bit = q >= p0;
    state = bit ? p1 * (state >> 24n) + q - p0 : p0 * (state >> 24n) + q;
    if (state < 1n << 32n && words.length) state = (state << 32n) | BigInt(words.pop());
    bits[i] = bit;
  }
  const ended = state === 0n && words.length === 0;
  require(ended, errors.MalformedFrameError, "the words do not end where the last bit does");
  return bits;
}

/** Elements in the order of their symbols: within a segment by context, within a context as they stand. */
function order(where, contexts) {
  const out = new Uint32Array(where.length);
  for (let start = 0; start < where.length; start += SEGMENT) {
    const stop = Math.min(start + SEGMENT, where.length);
    const next = new Uint32Array(contexts + 1);
    for (let i = start; i < stop; i++) next[where[i] + 1] += 1;
    for (let k = 1; k <= contexts; k++) next[k] += next[k - 1];
    for (let i = start; i < stop; i++) out[start + next[where[i]]++] = i;
  }
  return out;
}

export const sortedMask = maskCodec(7, checkBuckets, byMode(coded));

// Interleaved mask (codec 14): a mask whose bits are coded where they stand, by the share of ones in each context.

import { concat, setU64, viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { checkOccurring, contextsOf, countContexts, readSizes } from "./contexts.js";
import { BLOCK, cutBlocks, readBlock, writeBlock } from "./lanes.js";
import { byMode, checkBuckets, maskCodec, pack } from "./mask.js";

const MOST_PER_BYTE = 1424;

function coded({ parameters, elements, body, key, mask }) {
  const { sizes, end } = readSizes(body, elements, MOST_PER_BYTE);
  require(elements >= 1, errors.MalformedFrameError, "no element is coded");
  const contexts = countContexts(sizes, parameters[6]).reduce((a, b) => a + b, 0);
  const count = Math.ceil(elements / BLOCK);
  const first = end + contexts + 4 * (count - 1);
  require(first <= body.length, errors.MalformedFrameError, "frequencies and lengths of blocks do not fit");
  const frequencies = body.subarray(end, end + contexts);
  const view = viewOf(body);
  const lengths = Array.from({ length: count - 1 }, (_, k) => view.getUint32(end + contexts + 4 * k, true));
  const { blocks, end: last } = cutBlocks(body, first, lengths);
  blocks.push(body.subarray(last));
  const where = contextsOf(sizes, parameters[6], mask, key);
  const bits = new Uint8Array(elements);
  const found = { f: 0, start: 0 };
  blocks.forEach((block, k) => {
    const from = k * BLOCK;
    const step = (i, q) => {
      const ones = frequencies[where[from + i]];
      const bit = q >= 256 - ones;
      bits[from + i] = bit;
      found.f = bit ? ones : 256 - ones;
      found.start = bit ? 256 - ones : 0;
    };
    readBlock(block, Math.min(BLOCK, elements - from), 256, step, found);
  });
  checkOccurring(where, frequencies);
  return bits;
}

export const interleavedMask = maskCodec(7, checkBuckets, byMode(coded));

/** A body for these bits: mode 1 where that is shorter and a reader would take it, else mode 0. */
export function writeInterleaved(bits, sizes, buckets, mask, key) {
  const plain = concat([new Uint8Array(1), pack(bits)]);
  if (bits.length === 0) return plain;
  const where = contextsOf(sizes, buckets, mask, key);
  const contexts = countContexts(sizes, buckets).reduce((a, b) => a + b, 0);
  const [ones, all] = [new Uint32Array(contexts), new Uint32Array(contexts)];
  where.forEach((context, i) => {
    ones[context] += bits[i];
    all[context] += 1;
  });
  const share = (k) => (all[k] ? Math.min(Math.max(Math.round((256 * ones[k]) / all[k]), 1), 255) : 0);
  const frequencies = Uint8Array.from({ length: contexts }, (_, k) => share(k));
  const blocks = [];
  for (let from = 0; from < bits.length; from += BLOCK) {
    const symbol = (i) => {
      const k = frequencies[where[from + i]];
      return bits[from + i] ? { f: k, start: 256 - k } : { f: 256 - k, start: 0 };
    };
    blocks.push(writeBlock(Math.min(BLOCK, bits.length - from), 256, symbol));
  }
  const head = new Uint8Array(5 + 8 * sizes.length);
  const view = viewOf(head);
  view.setUint8(0, 1);
  view.setUint32(1, sizes.length, true);
  sizes.forEach((size, j) => setU64(view, 5 + 8 * j, size));
  const lengths = new Uint8Array(4 * (blocks.length - 1));
  blocks.slice(0, -1).forEach((block, k) => viewOf(lengths).setUint32(4 * k, block.length, true));
  const body = concat([head, frequencies, lengths, ...blocks]);
  return body.length < plain.length && bits.length <= MOST_PER_BYTE * body.length ? body : plain;
}

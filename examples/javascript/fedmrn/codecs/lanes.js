// Interleaved lanes of an asymmetric numeral system: what codec 14 and whole numbers (section 10) share.

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";

export const BLOCK = 2 ** 19;

/** Cut blocks of these lengths out of `bytes`, and say where the last one ends. */
export function cutBlocks(bytes, at, lengths) {
  const blocks = lengths.map((length) => {
    require(at + length <= bytes.length, errors.MalformedFrameError, "a block reaches out of its body");
    at += length;
    return bytes.subarray(at - length, at);
  });
  return { blocks, end: at };
}

/**
 * Read a block of `count` symbols.
 * @param {number} one what frequencies add up to: a power of two, 2^8 or 2^12
 * @param {(i: number, q: number) => void} step finds the symbol of element i at q, and keeps it; it puts the symbol's
 *   frequency and where it starts into `found`
 * @param {{f: number, start: number}} found
 */
export function readBlock(block, count, one, step, found) {
  const lanes = count < 65536 ? 2 : 4;
  const fits = block.length >= 4 * lanes && block.length % 2 === 0;
  require(fits, errors.MalformedFrameError, `a block of ${block.length} bytes has no states, or half a word`);
  const view = viewOf(block);
  const states = Array.from({ length: lanes }, (_, lane) => view.getUint32(4 * lane, true));
  require(states.every((x) => x >= 65536), errors.MalformedFrameError, "a lane begins below its least state");
  const shift = 31 - Math.clz32(one);
  let at = 4 * lanes;
  for (let i = 0; i < count; i++) {
    const x = states[i % lanes];
    const q = x & (one - 1);
    step(i, q);
    let next = found.f * (x >>> shift) + q - found.start;
    if (next < 65536) {
      require(at < block.length, errors.MalformedFrameError, "a block ends before its last symbol");
      next = next * 65536 + view.getUint16(at, true);
      at += 2;
    }
    states[i % lanes] = next;
  }
  const ended = at === block.length && states.every((x) => x === 65536);
  require(ended, errors.MalformedFrameError, "a block does not end where its last symbol does");
}

/** Write a block: what `readBlock` undoes. `symbol(i)` returns the frequency and the start of element i's symbol. */
export function writeBlock(count, one, symbol) {
  const lanes = count < 65536 ? 2 : 4;
  const states = new Array(lanes).fill(65536);
  const words = [];
  for (let i = count - 1; i >= 0; i--) {
    const { f, start } = symbol(i);
    let x = states[i % lanes];
    if (x >= f * (2 ** 32 / one)) {
      words.push(x & 0xffff);
      x >>>= 16;
    }
    states[i % lanes] = Math.floor(x / f) * one + (x % f) + start;
  }
  const block = new Uint8Array(4 * lanes + 2 * words.length);
  const view = viewOf(block);
  states.forEach((x, lane) => view.setUint32(4 * lane, x, true));
  words.reverse().forEach((word, i) => view.setUint16(4 * lanes + 2 * i, word, true));
  return block;
}

// Small whole numbers, coded without loss: what public models are made of (section 10).

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { BLOCK, cutBlocks, readBlock } from "./lanes.js";

const ONE = 4096;
const LARGEST_FIRST = 2 ** 30;

/** One table, and where it ends: for each q below 4,096 its symbol, and of each symbol its frequency and start. */
function readTable(bytes, at) {
  require(at + 6 <= bytes.length, errors.MalformedFrameError, "a table of whole numbers has no head");
  const view = viewOf(bytes);
  const first = view.getInt32(at, true);
  const [count, escapes] = bytes.subarray(at + 4, at + 6);
  const end = at + 6 + 2 * (count + escapes);
  const possible = Math.abs(first) <= LARGEST_FIRST && escapes <= 1 && count + escapes >= 1 && end <= bytes.length;
  require(possible, errors.MalformedFrameError, "a table of whole numbers is out of range, or does not fit");
  const frequencies = Array.from({ length: count + escapes }, (_, s) => view.getUint16(at + 6 + 2 * s, true));
  const whole = frequencies.reduce((a, b) => a + b, 0) === ONE && (escapes === 0 || frequencies.at(-1) > 0);
  require(whole, errors.MalformedFrameError, "frequencies of whole numbers do not add up, or escapes have none");
  const symbols = new Uint8Array(ONE);
  const starts = [];
  let start = 0;
  frequencies.forEach((f, s) => {
    starts.push(start);
    symbols.fill(s, start, start + f);
    start += f;
  });
  return { first, count, frequencies, symbols, starts, end };
}

/**
 * The numbers that `bytes` hold, all of them and nothing else.
 * @param {number[]} sizes of the tensors, none 0; they bound the memory that is taken
 */
export function readIntegers(bytes, sizes) {
  const total = sizes.reduce((a, b) => a + b, 0);
  const tables = [];
  let at = 0;
  for (let i = 0; i < sizes.length; i++) {
    tables.push(readTable(bytes, at));
    at = tables.at(-1).end;
  }
  const count = Math.ceil(total / BLOCK);
  require(at + 4 * count <= bytes.length, errors.MalformedFrameError, "the lengths of blocks do not fit");
  const view = viewOf(bytes);
  const lengths = Array.from({ length: count }, (_, k) => view.getUint32(at + 4 * k, true));
  const { blocks, end } = cutBlocks(bytes, at + 4 * count, lengths);
  require((bytes.length - end) % 4 === 0, errors.MalformedFrameError, "an escape has no whole number");
  const numbers = new Int32Array(total);
  const found = { f: 0, start: 0 };
  let [tensor, tensorEnd, escape] = [0, sizes[0], end];
  blocks.forEach((block, k) => {
    const from = k * BLOCK;
    const step = (i, q) => {
      while (from + i >= tensorEnd) tensorEnd += sizes[++tensor];
      const { first, count: values, frequencies, symbols, starts } = tables[tensor];
      const s = symbols[q];
      found.f = frequencies[s];
      found.start = starts[s];
      if (s < values) {
        numbers[from + i] = first + s;
        return;
      }
      require(escape < bytes.length, errors.MalformedFrameError, "an escape is missing");
      const number = view.getInt32(escape, true);
      const outside = number < first || number >= first + values;
      require(outside, errors.MalformedFrameError, "an escape is a value of its table");
      numbers[from + i] = number;
      escape += 4;
    };
    readBlock(block, Math.min(BLOCK, total - from), ONE, step, found);
  });
  require(escape === bytes.length, errors.MalformedFrameError, "an escape is left over");
  return numbers;
}

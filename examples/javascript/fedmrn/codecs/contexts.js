// What coded masks have in common (codecs 9, 11 and 14): the sizes of tensors, and a context for each element.

import { u64, viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { largestNoise, noise } from "../noise.js";

/** The head of a body in mode 1: sizes of tensors, and where it ends. Nothing is taken that the body does not hold. */
export function readSizes(body, elements, mostPerByte) {
  const view = viewOf(body);
  const tensors = view.getUint32(1, true);
  const end = 5 + 8 * tensors;
  require(end <= body.length, errors.MalformedFrameError, `sizes of ${tensors} tensors do not fit`);
  require(elements <= mostPerByte * body.length, errors.MalformedFrameError, "more elements than such a body can hold");
  const sizes = [];
  let total = 0;
  for (let j = 0; j < tensors; j++) {
    const size = u64(view, 5 + 8 * j);
    total += size;
    require(size > 0 && total <= elements, errors.MalformedFrameError, "a size is 0, or the sizes are too large");
    sizes.push(size);
  }
  require(total === elements, errors.MalformedFrameError, `sizes of ${total} elements, not ${elements}`);
  return { sizes, end };
}

/** How many contexts each tensor has. */
export function countContexts(sizes, buckets) {
  return sizes.map((size) => Math.min(Math.max(Math.floor(size / 64), 1), buckets));
}

/** The context of each element: its tensor, and how large its noise is. Quotient and product are rounded to float32. */
export function contextsOf(sizes, buckets, { law, scale }, key) {
  const counts = countContexts(sizes, buckets);
  const out = noise(key, law, scale, sizes.reduce((a, b) => a + b, 0));
  const largest = largestNoise(law, scale);
  const where = new Uint32Array(out.length);
  let [start, first] = [0, 0];
  sizes.forEach((size, j) => {
    const count = counts[j];
    for (let i = start; i < start + size; i++) {
      const x = Math.fround(Math.abs(out[i]) / largest);
      where[i] = first + Math.min(Math.floor(Math.fround(x * count)), count - 1);
    }
    start += size;
    first += count;
  });
  return where;
}

/** Refuse a table that has no number for a context that occurs, or one for a context that does not. */
export function checkOccurring(where, ...tables) {
  const occurs = new Uint8Array(tables[0].length);
  for (const context of where) occurs[context] = 1;
  for (const table of tables) {
    const same = table.every((k, context) => k > 0 === occurs[context] > 0);
    require(same, errors.MalformedFrameError, "a table has a number too many or too few");
  }
}

// Rotated (codec 6): a few bits an element in a rotated basis, as a compressed broadcast has them (section 2.7).

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { Purpose, words } from "../philox.js";
import { bitsAt } from "./floats.js";

const HALVES = {
  1: [0.797884560802865356],
  2: [0.452780034636492009, 1.5104176084990954],
  3: [0.245094178944221668, 0.756005281205877275, 1.34390927850499988, 2.15194570453698729],
  4: [
    0.12839502985114701, 0.388048299490290197, 0.656759118532463381, 0.942340456486961371,
    1.25623119734717715, 1.61804638602188263, 2.06901722653138658, 2.73258957099516307,
  ],
};

function read(parameters) {
  return { bits: parameters[0], keep: viewOf(parameters).getFloat32(2, true) };
}

/** The sizes of the blocks of n kept elements; what they leave are dense. */
function blocksOf(n) {
  const sizes = [];
  for (let left = n; left >= 128; left -= sizes.at(-1)) sizes.push(2 ** Math.min(16, Math.floor(Math.log2(left))));
  return sizes;
}

export const rotated = {
  check(parameters) {
    require(parameters.length === 6, errors.MalformedFrameError, "rotated has 6 bytes of parameters");
    const { bits, keep } = read(parameters);
    const possible = bits >= 1 && bits <= 4 && parameters[1] <= 1 && keep >= 2 ** -8 && keep <= 1;
    require(possible, errors.MalformedFrameError, "rotated with bits, a rule or a share that there are not");
  },

  decode({ parameters, elements, body, key, limit }) {
    const { bits, keep } = read(parameters);
    const places = keep === 1 ? null : kept(key, elements, keep * 2 ** 32);
    const n = places === null ? elements : places.length;
    const dense = n % 128;
    const blocks = blocksOf(n);
    const expected = 4 * blocks.length + ((n - dense) * bits) / 8 + 4 * dense;
    require(body.length === expected, errors.MalformedFrameError, `${body.length} bytes of a body, not ${expected}`);
    const view = viewOf(body);
    const scales = blocks.map((_, k) => view.getFloat32(4 * k, true));
    const tail = Array.from({ length: dense }, (_, k) => view.getFloat32(body.length - 4 * (dense - k), true));
    require([...scales, ...tail].every(Number.isFinite), errors.NonFiniteError, "a scale or value is not finite");
    const positive = scales.every((s) => s >= 0 && !Object.is(s, -0));
    const top = Math.max(0, ...scales) * HALVES[bits].at(-1) / keep;
    const bounded = positive && top <= Math.min(limit, 2 ** 119) && tail.every((v) => Math.abs(v / keep) <= limit);
    require(bounded, errors.BoundError, `a scale is negative, or values are above the limit of ${limit}`);
    const values = new Float32Array(n);
    const flips = words(key, Purpose.rotation, 0, n - dense);
    const indices = body.subarray(4 * blocks.length);
    const half = HALVES[bits].map(Math.fround);
    const codebook = [...half.map((c) => -c).reverse(), ...half];
    const clip = largestFloat(limit);
    let p = 0;
    blocks.forEach((size, k) => {
      const block = values.subarray(p, p + size);
      const g = Math.fround(scales[k] / (Math.sqrt(size) * keep));
      if (g !== 0) {
        for (let j = 0; j < size; j++) block[j] = codebook[bitsAt(indices, bits * (p + j), bits)] * g;
        hadamard(block);
        for (let j = 0; j < size; j++) {
          const x = flips[p + j] >>> 31 ? -block[j] : block[j];
          block[j] = Math.min(Math.max(x, -clip), clip);
        }
      }
      p += size;
    });
    tail.forEach((v, k) => {
      values[p + k] = Math.min(Math.max(Math.fround(v / keep), -clip), clip);
    });
    if (places === null) return values;
    const out = new Float32Array(elements);
    places.forEach((place, k) => {
      out[place] = values[k];
    });
    return out;
  },
};

function kept(key, elements, below) {
  const places = [];
  words(key, Purpose.quantise, 0, elements).forEach((word, i) => {
    if (word < below) places.push(i);
  });
  return places;
}

/** Sums and differences in place, each rounded to float32. */
function hadamard(x) {
  for (let h = 1; h < x.length; h *= 2) {
    for (let start = 0; start < x.length; start += 2 * h) {
      for (let j = start; j < start + h; j++) {
        const [a, b] = [x[j], x[j + h]];
        x[j] = a + b;
        x[j + h] = a - b;
      }
    }
  }
}

/** The largest float32 that is not above a limit. */
function largestFloat(limit) {
  const rounded = new Float32Array([Math.min(limit, 3.4028234663852886e38)]);
  if (rounded[0] > limit) new Uint32Array(rounded.buffer)[0] -= 1;
  return rounded[0];
}

// Noise that client and server make alike from the noise key (section 4).

import { blake2b } from "./blake2b.js";
import { equal, floats, unhex } from "./bytes.js";
import { Purpose, words } from "./philox.js";

export const Law = Object.freeze({ uniform: 0, gaussian: 1, bernoulli: 2 });

/** BLAKE2b of src/fedmrn/numerics/gaussian.bin, whose SHA-256 section 4 has. A browser has no SHA-256 without TLS. */
const TABLE_DIGEST = "f498c94847b0252f252073a3359291cec5eed064986fce9eecc75a1ce27f791a";
let table = null;

/** Give the table of gaussian noise, 16,384 bytes: gaussian noise needs it, and the file decides, not a formula. */
export function setGaussianTable(bytes) {
  if (!equal(blake2b(bytes, 32, "fedmrn-table"), unhex(TABLE_DIGEST))) {
    throw new Error("this is not the table of gaussian noise");
  }
  table = floats(bytes);
}

export function hasGaussianTable() {
  return table !== null;
}

function gaussianTable() {
  if (table === null) throw new Error("gaussian noise needs its table: call setGaussianTable first");
  return table;
}

/** The noise of the first `count` elements, float32. A product of two float32 is exact in a double, and rounded once. */
export function noise(key, law, scale, count) {
  const random = words(key, Purpose.noise, 0, count);
  const out = new Float32Array(count);
  if (law === Law.uniform) {
    const step = scale * 2 ** -24;
    for (let i = 0; i < count; i++) out[i] = (2 * (random[i] >>> 8) + 1 - 2 ** 24) * step;
  } else if (law === Law.gaussian) {
    const sizes = gaussianTable();
    for (let i = 0; i < count; i++) {
      const size = sizes[random[i] >>> 20] * scale;
      out[i] = (random[i] >>> 19) & 1 ? -size : size;
    }
  } else {
    for (let i = 0; i < count; i++) out[i] = random[i] >>> 31 ? -scale : scale;
  }
  return out;
}

/** The largest magnitude that noise of this law and scale can have, a float32. */
export function largestNoise(law, scale) {
  return law === Law.gaussian ? Math.fround(gaussianTable()[4095] * scale) : scale;
}

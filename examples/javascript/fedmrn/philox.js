// Random words: Philox4x32-10, and streams of it (section 3).

/** The upper 32 bits of the product of two u32, by halves of 16 bits: no product needs more than a double holds. */
function high(a, b) {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const [lowHigh, highLow] = [aLow * bHigh, aHigh * bLow];
  const middle = ((aLow * bLow) >>> 16) + (lowHigh & 0xffff) + (highLow & 0xffff);
  return (aHigh * bHigh + (lowHigh >>> 16) + (highLow >>> 16) + (middle >>> 16)) >>> 0;
}

/** Four u32 words of a counter of four u32 and a key of two, into `out`. */
export function philox(c0, c1, c2, c3, k0, k1, out) {
  for (let round = 0; round < 10; round++) {
    const aHigh = high(0xd2511f53, c0);
    const bHigh = high(0xcd9e8d57, c2);
    const aLow = Math.imul(0xd2511f53, c0);
    const bLow = Math.imul(0xcd9e8d57, c2);
    c0 = (bHigh ^ c1 ^ k0) >>> 0;
    c1 = bLow >>> 0;
    c2 = (aHigh ^ c3 ^ k1) >>> 0;
    c3 = aLow >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** What a stream is for: the upper half of its domain. */
export const Purpose = Object.freeze({
  noise: 1, trainMask: 2, finalMask: 3, shuffle: 4, rotation: 7, quantise: 8, frozen: 9, codebook: 11,
});

/**
 * The first `count` words of a stream.
 * @param {{low: number, high: number}} key 64 bits, in halves
 * @param {number} purpose the upper half of the domain
 * @param {number} index the lower half
 */
export function words(key, purpose, index, count) {
  const out = new Uint32Array(count);
  const four = new Uint32Array(4);
  for (let block = 0; 1024 * block < count; block++) {
    for (let j = 0; j < 256; j++) {
      const n = 256 * block + j;
      if (1024 * block + j >= count) break;
      philox(n >>> 0, Math.floor(n / 2 ** 32), index, purpose, key.low, key.high, four);
      for (let plane = 0; plane < 4; plane++) {
        const i = 1024 * block + 256 * plane + j;
        if (i < count) out[i] = four[plane];
      }
    }
  }
  return out;
}

/** Numbers uniform in [0, 1), multiples of 2^-24, of a stream. */
export function uniforms(key, purpose, index, count) {
  return Float32Array.from(words(key, purpose, index, count), (word) => (word >>> 8) * 2 ** -24);
}

/** A key that nobody else knows, for masks and the order of samples. */
export function privateKey() {
  const [low, high] = crypto.getRandomValues(new Uint32Array(2));
  return { low, high };
}

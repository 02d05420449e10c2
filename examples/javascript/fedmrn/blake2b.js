// BLAKE2b (RFC 7693) with a personalisation, which neither node's nor a browser's own hashes have.
// A 64-bit word is two 32-bit ones, the low one first: that is several times as fast as BigInt.

const IV = new Uint32Array([
  0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a,
  0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19,
]);
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
  "0123456789abcdef", "ea489fd61c02b753",
].map((row) => Array.from(row, (digit) => 2 * parseInt(digit, 16)));

const v = new Uint32Array(32);
const m = new Uint32Array(32);

/** v[a] += v[b] */
function add(a, b) {
  const low = v[a] + v[b];
  v[a + 1] += v[b + 1] + (low >= 2 ** 32 ? 1 : 0);
  v[a] = low;
}

/** v[a] += m[b] */
function addWord(a, b) {
  const low = v[a] + m[b];
  v[a + 1] += m[b + 1] + (low >= 2 ** 32 ? 1 : 0);
  v[a] = low;
}

/** v[d] = (v[d] ^ v[a]) rotated right by n bits */
function mix(d, a, n) {
  let low = v[d] ^ v[a];
  let high = v[d + 1] ^ v[a + 1];
  if (n >= 32) [low, high] = [high, low];
  const by = n % 32;
  v[d] = by ? (low >>> by) | (high << (32 - by)) : low;
  v[d + 1] = by ? (high >>> by) | (low << (32 - by)) : high;
}

function quarter(a, b, c, d, x, y) {
  add(a, b);
  addWord(a, x);
  mix(d, a, 32);
  add(c, d);
  mix(b, c, 24);
  add(a, b);
  addWord(a, y);
  mix(d, a, 16);
  add(c, d);
  mix(b, c, 63);
}

function compress(h, block, counted, last) {
  v.set(h);
  v.set(IV, 16);
  v[24] ^= counted;
  v[25] ^= Math.floor(counted / 2 ** 32);
  if (last) {
    v[28] = ~v[28];
    v[29] = ~v[29];
  }
  for (let i = 0; i < 32; i++) m[i] = block.getUint32(4 * i, true);
  for (const s of SIGMA) {
    quarter(0, 8, 16, 24, s[0], s[1]);
    quarter(2, 10, 18, 26, s[2], s[3]);
    quarter(4, 12, 20, 28, s[4], s[5]);
    quarter(6, 14, 22, 30, s[6], s[7]);
    quarter(0, 10, 20, 30, s[8], s[9]);
    quarter(2, 12, 22, 24, s[10], s[11]);
    quarter(4, 14, 16, 26, s[12], s[13]);
    quarter(6, 8, 18, 28, s[14], s[15]);
  }
  for (let i = 0; i < 16; i++) h[i] ^= v[i] ^ v[i + 16];
}

/** The digest of `size` bytes (1 to 64) of some bytes, with a personalisation of up to 16 ASCII characters. */
export function blake2b(bytes, size, person) {
  const parameters = new Uint8Array(64);
  parameters.set([size, 0, 1, 1]);
  parameters.set(new TextEncoder().encode(person), 48);
  const view = new DataView(parameters.buffer);
  const h = IV.map((word, i) => word ^ view.getUint32(4 * i, true));
  let at = 0;
  for (; bytes.length - at > 128; at += 128) {
    compress(h, new DataView(bytes.buffer, bytes.byteOffset + at, 128), at + 128, false);
  }
  const rest = new Uint8Array(128);
  rest.set(bytes.subarray(at));
  compress(h, new DataView(rest.buffer), bytes.length, true);
  const out = new DataView(new ArrayBuffer(64));
  h.forEach((word, i) => out.setUint32(4 * i, word, true));
  return new Uint8Array(out.buffer, 0, size);
}

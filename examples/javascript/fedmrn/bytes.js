// Little-endian numbers in bytes from outside.

/** A DataView of exactly these bytes. */
export function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * A u64 as a number. Above 2^53 it is the nearest one, which is enough to compare: every limit is far below.
 * Noise keys need all their bits, and are read in halves.
 */
export function u64(view, at) {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

export function setU64(view, at, value) {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

export function concat(parts) {
  const out = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export function equal(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function unhex(text) {
  const digits = text.replace(/\s+/g, "");
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** The bytes of float32 values, little-endian whatever the machine. */
export function floatBytes(values) {
  const out = new Uint8Array(4 * values.length);
  const view = viewOf(out);
  for (let i = 0; i < values.length; i++) view.setFloat32(4 * i, values[i], true);
  return out;
}

export function floats(bytes) {
  const view = viewOf(bytes);
  const out = new Float32Array(bytes.length / 4);
  for (let i = 0; i < out.length; i++) out[i] = view.getFloat32(4 * i, true);
  return out;
}

// Codecs of floats: raw (0), float16 (10), float8 (16), levels (5).

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";

const PIECE = 16384;

/** Refuse what is not finite or above the limit, by pieces as section 7 says. */
export function checkValues(values, limit) {
  for (let at = 0; at < values.length; at += PIECE) {
    const piece = values.subarray(at, at + PIECE);
    require(piece.every(Number.isFinite), errors.NonFiniteError, "a value is not finite");
    require(piece.every((x) => Math.abs(x) <= limit), errors.BoundError, `a value is above the limit of ${limit}`);
  }
  return values;
}

function lengthIs(body, bytes) {
  require(body.length === bytes, errors.MalformedFrameError, `a body of ${body.length} bytes should have ${bytes}`);
}

const none = (parameters) => require(parameters.length === 0, errors.MalformedFrameError, "parameters of no meaning");

export const raw = {
  check: none,
  decode({ elements, body, limit }) {
    lengthIs(body, 4 * elements);
    const view = viewOf(body);
    return checkValues(Float32Array.from({ length: elements }, (_, i) => view.getFloat32(4 * i, true)), limit);
  },
};

/** The number that 16 bits stand for: IEEE 754 binary16. */
function half(bits) {
  const [sign, e, m] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (e === 31) return m ? NaN : sign * Infinity;
  return sign * (e ? (1024 + m) * 2 ** (e - 25) : m * 2 ** -24);
}

export const float16 = {
  check: none,
  decode({ elements, body, limit }) {
    lengthIs(body, 2 * elements);
    const view = viewOf(body);
    return checkValues(Float32Array.from({ length: elements }, (_, i) => half(view.getUint16(2 * i, true))), limit);
  },
};

export const float8 = {
  check: none,
  decode({ elements, body, limit }) {
    lengthIs(body, 1 + elements);
    const top = viewOf(body).getInt8(0);
    require(Math.abs(top) <= 100, errors.MalformedFrameError, `an exponent of ${top} is out of range`);
    const codes = body.subarray(1);
    require(!codes.includes(0x80), errors.MalformedFrameError, "a byte stands for -0");
    const values = Float32Array.from(codes, (code) => {
      const [sign, e, m] = [code & 128 ? -1 : 1, (code >> 4) & 7, code & 15];
      return sign * (e ? 2 ** (top - 7 + e) * (1 + m / 16) : m * 2 ** (top - 10));
    });
    require(values.every((x) => Math.abs(x) <= limit), errors.BoundError, `a value is above the limit of ${limit}`);
    return values;
  },
};

export const levels = {
  check(parameters) {
    require(parameters.length === 5, errors.MalformedFrameError, "levels have 5 bytes of parameters");
    const possible = viewOf(parameters).getUint32(0, true) >= 1 && parameters[4] >= 1 && parameters[4] <= 127;
    require(possible, errors.MalformedFrameError, "levels of no block, or of no level");
  },
  decode({ parameters, elements, body, limit }) {
    const block = viewOf(parameters).getUint32(0, true);
    const s = parameters[4];
    const width = 32 - Math.clz32(2 * s);
    const blocks = Math.ceil(elements / block);
    lengthIs(body, 4 * blocks + Math.ceil((elements * width) / 8));
    const view = viewOf(body);
    const norms = Float32Array.from({ length: blocks }, (_, i) => view.getFloat32(4 * i, true));
    require(norms.every(Number.isFinite), errors.NonFiniteError, "a norm is not finite");
    const bounded = norms.every((x) => !Object.is(x, -0) && x >= 0 && x <= limit);
    require(bounded, errors.BoundError, `a norm is negative, or above the limit of ${limit}`);
    const symbols = body.subarray(4 * blocks);
    checkPadding(symbols, elements * width);
    return Float32Array.from({ length: elements }, (_, i) => {
      const v = bitsAt(symbols, width * i, width);
      require(v <= 2 * s, errors.MalformedFrameError, "a symbol stands for no level");
      return (norms[Math.floor(i / block)] * (v - s)) / s; // -0 below the middle of a block of zeros
    });
  },
};

/** `count` bits from bit `at` on, least significant first: at most 25 of them. */
export function bitsAt(bytes, at, count) {
  let value = 0;
  const first = Math.floor(at / 8);
  for (let i = 3; i >= 0; i--) value = (value << 8) | (bytes[first + i] ?? 0);
  return (value >>> at % 8) & ((1 << count) - 1);
}

/** Refuse bits that are set where none is used. */
export function checkPadding(bytes, used) {
  const spare = used % 8;
  const clear = spare === 0 || bytes[bytes.length - 1] >>> spare === 0;
  require(clear, errors.PaddingError, "a bit is set that is not used");
}

// Masked noise: a bit an element says whether its noise is taken (codec 1).

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { largestNoise, noise } from "../noise.js";
import { checkPadding } from "./floats.js";

export const MaskType = Object.freeze({ binary: 0, signed: 1 });

/** What the six bytes say that every codec of masks begins its parameters with. */
export function readMask(parameters) {
  require(parameters.length >= 6, errors.MalformedFrameError, "a mask has 6 bytes of parameters at least");
  const [law, type] = parameters;
  const scale = viewOf(parameters).getFloat32(2, true);
  const possible = law <= 2 && type <= 1 && scale >= 2 ** -80 && scale <= 2 ** 80;
  require(possible, errors.MalformedFrameError, "a mask of no law, type or scale that there is");
  return { law, type, scale };
}

/** Decoded values of a mask's bits: noise times mask. */
export function valuesOf(bits, { law, type, scale }, key) {
  const out = noise(key, law, scale, bits.length);
  for (let i = 0; i < out.length; i++) if (!bits[i]) out[i] = type === MaskType.signed ? -out[i] : 0;
  return out;
}

export function unpack(body, elements) {
  const fits = body.length === Math.ceil(elements / 8);
  require(fits, errors.MalformedFrameError, `a mask of ${elements} elements has no body of ${body.length} bytes`);
  checkPadding(body, elements);
  return Uint8Array.from({ length: elements }, (_, i) => (body[i >> 3] >> (i & 7)) & 1);
}

export function pack(bits) {
  const out = new Uint8Array(Math.ceil(bits.length / 8));
  bits.forEach((bit, i) => {
    out[i >> 3] |= bit << (i & 7);
  });
  return out;
}

/** A codec of masks: how its parameters end, and how its body becomes bits. */
export function maskCodec(length, checkRest, bitsOf) {
  return {
    check(parameters) {
      const { law, type, scale } = readMask(parameters);
      require(parameters.length === length, errors.MalformedFrameError, `a mask with ${parameters.length} parameters`);
      checkRest(parameters);
      return { law, type, scale };
    },
    bits: bitsOf,
    decode({ parameters, elements, body, key }) {
      const mask = readMask(parameters);
      return valuesOf(bitsOf({ parameters, elements, body, key, mask }), mask, key);
    },
  };
}

export const maskedNoise = maskCodec(6, () => {}, ({ body, elements }) => unpack(body, elements));

/** The bits of a body whose first byte is its mode: 0, then a body of codec 1; or 1, then `coded`'s own. */
export function byMode(coded) {
  return (section) => {
    const { body, elements } = section;
    if (body[0] === 0) return unpack(body.subarray(1), elements);
    require(body.length >= 5 && body[0] === 1, errors.MalformedFrameError, "a coded mask has no whole head, or no mode");
    return coded(section);
  };
}

export function checkBuckets(parameters) {
  const buckets = parameters[6];
  require(buckets >= 1 && buckets <= 64, errors.MalformedFrameError, `there are no ${buckets} buckets`);
}

/** Refuse masks of noise that could be above the limit in some scale. */
export function checkLargest(scale, { law, scale: inner }, limit) {
  const largest = scale * largestNoise(law, inner);
  require(largest <= limit, errors.BoundError, `noise of scale ${scale} is above the limit of ${limit}`);
}

// Codecs of methods without masked noise: sign (2), sparse (3), ternary (4), bernoulli (7), support (8).

import { viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";
import { checkPadding, float16, raw } from "./floats.js";
import { unpack } from "./mask.js";
import { readTable, scaleRuns } from "./tables.js";

/** A codec of a table of scales, then `bytesOf(elements)` bytes that stand for factors of them. */
function scaledCodec(check, bytesOf, factorsOf) {
  return {
    check,
    read({ elements, body, limit }) {
      const rest = bytesOf(elements);
      const { table, end } = readTable(body, elements, limit, (after) => {
        require(body.length === after + rest, errors.MalformedFrameError, `${body.length} bytes of a body are not all`);
      });
      return { table, values: scaleRuns(factorsOf(body.subarray(end), elements), table) };
    },
    decode(section) {
      return this.read(section).values;
    },
  };
}

export const sign = scaledCodec(
  (parameters) => {
    const possible = parameters.length === 1 && parameters[0] <= 2;
    require(possible, errors.MalformedFrameError, "signs by no rule that there is");
  },
  (elements) => Math.ceil(elements / 8),
  (bytes, elements) => Float32Array.from(unpack(bytes, elements), (bit) => (bit ? 1 : -1)),
);

const TRITS = [0, 1, -1];

export const ternary = scaledCodec(
  (parameters) => {
    const clip = parameters.length === 4 ? viewOf(parameters).getFloat32(0, true) : NaN;
    const possible = Number.isFinite(clip) && clip >= 0 && !Object.is(clip, -0);
    require(possible, errors.MalformedFrameError, "ternary with no clip that there is");
  },
  (elements) => Math.ceil(elements / 5),
  (bytes, elements) => {
    require(bytes.every((byte) => byte <= 242), errors.MalformedFrameError, "a byte is no five trits");
    const trit = (i) => Math.floor(bytes[Math.floor(i / 5)] / 3 ** (i % 5)) % 3;
    for (let i = elements; i < 5 * bytes.length; i++) {
      require(trit(i) === 0, errors.PaddingError, "a trit is set that is not used");
    }
    return Float32Array.from({ length: elements }, (_, i) => TRITS[trit(i)]);
  },
);

export const sparse = {
  check(parameters) {
    require(parameters.length === 6, errors.MalformedFrameError, "sparse has 6 bytes of parameters");
    const density = viewOf(parameters).getFloat32(0, true);
    const possible = density >= 2 ** -20 && density <= 1 && [16, 32].includes(parameters[4]) && parameters[5] <= 30;
    require(possible, errors.MalformedFrameError, "sparse with a density, bits or r that there are not");
  },

  decode({ parameters, elements, body, limit }) {
    const density = viewOf(parameters).getFloat32(0, true);
    const [bits, r] = parameters.subarray(4);
    const count = Math.min(elements, Math.max(1, Math.floor(density * elements + 0.5)));
    const end = (count * bits) / 8;
    require(end <= body.length, errors.MalformedFrameError, `${count} values do not fit`);
    const values = (bits === 16 ? float16 : raw).decode({ elements: count, body: body.subarray(0, end), limit });
    const gaps = body.subarray(end);
    const out = new Float32Array(elements);
    let [at, place] = [0, -1];
    const next = () => {
      require(at < 8 * gaps.length, errors.MalformedFrameError, "a place is missing");
      at += 1;
      return (gaps[(at - 1) >> 3] >> ((at - 1) & 7)) & 1;
    };
    for (const value of values) {
      let gap = 0;
      while (next()) gap += 2 ** r;
      for (let j = 0; j < r; j++) gap += next() * 2 ** j;
      place += gap + 1;
      require(place < elements, errors.MalformedFrameError, "a place is not in the vector");
      out[place] = value;
    }
    require(gaps.length === Math.ceil(at / 8), errors.MalformedFrameError, "bytes follow the last place");
    checkPadding(gaps, at);
    return out;
  },
};

export const bernoulli = {
  check: (parameters) => require(parameters.length === 8, errors.MalformedFrameError, "a seed has 8 bytes"),
  decode: ({ elements, body }) => Float32Array.from(unpack(body, elements)),
};

export const support = {
  check: (parameters) => require(parameters.length === 0, errors.MalformedFrameError, "parameters of no meaning"),
  /** @param {{state: Float32Array}} section `state` is that of the broadcast: it says which elements there are */
  decode({ body, limit, state }) {
    const places = [];
    state.forEach((x, i) => x !== 0 && places.push(i));
    const values = raw.decode({ elements: places.length, body, limit });
    const out = new Float32Array(state.length);
    places.forEach((place, k) => {
      out[place] = values[k];
    });
    return out;
  },
};

// Codecs by number (section 2). Each has `check`, of its parameters, and `decode`, of a section, to float32 values.
// Who calls `decode` has compared `elements` with the model's: memory is taken in proportion to it.

import * as errors from "../errors.js";
import { require } from "../errors.js";
import { float16, float8, levels, raw } from "./floats.js";
import { interleavedMask } from "./interleaved.js";
import { maskedNoise } from "./mask.js";
import { bernoulli, sign, sparse, support, ternary } from "./others.js";
import { randomCode } from "./random_code.js";
import { rotated } from "./rotated.js";
import { ownScale, toldScale } from "./scales.js";
import { sortedMask } from "./sorted.js";

const CODECS = {
  0: raw, 1: maskedNoise, 2: sign, 3: sparse, 4: ternary, 5: levels, 6: rotated, 7: bernoulli, 8: support, 9: sortedMask,
  10: float16, 11: randomCode, 12: ownScale, 13: toldScale, 14: interleavedMask, 16: float8,
};

/** The codec of a number, whose parameters are possible. Codec 15 is of whole states alone: `readPublic`. */
export function codecOf({ codec, parameters }) {
  require(codec in CODECS, errors.UnknownCodecError, `codec ${codec} is not known here`);
  CODECS[codec].check(parameters);
  return CODECS[codec];
}

// Codecs by number (section 2). What is not here belongs to methods that this client does not take part in.

import * as errors from "../errors.js";
import { require } from "../errors.js";
import { float16, float8, levels, raw } from "./floats.js";
import { interleavedMask } from "./interleaved.js";
import { maskedNoise } from "./mask.js";
import { randomCode } from "./random_code.js";
import { rotated } from "./rotated.js";
import { ownScale, toldScale } from "./scales.js";
import { sortedMask } from "./sorted.js";

const CODECS = {
  0: raw, 1: maskedNoise, 5: levels, 6: rotated, 9: sortedMask, 10: float16, 11: randomCode, 12: ownScale,
  13: toldScale, 14: interleavedMask, 16: float8,
};

/** The codec of a number, whose parameters are possible. */
export function codecOf({ codec, parameters }) {
  require(codec in CODECS, errors.UnknownCodecError, `codec ${codec} is not known here`);
  CODECS[codec].check(parameters);
  return CODECS[codec];
}

// Random code (codec 11): the body names one of many masks that both sides can make.

import * as errors from "../errors.js";
import { require } from "../errors.js";
import { Purpose, words } from "../philox.js";
import { checkOccurring, contextsOf, countContexts, readSizes } from "./contexts.js";
import { checkPadding } from "./floats.js";
import { byMode, checkBuckets, maskCodec } from "./mask.js";

const BLOCK = 2 ** 14;

function named({ parameters, elements, body, key, mask }) {
  const { sizes, end } = readSizes(body, elements, 2048);
  const contexts = countContexts(sizes, parameters[6]).reduce((a, b) => a + b, 0);
  require(end + 2 * contexts <= body.length, errors.MalformedFrameError, "two tables do not fit");
  const priors = body.subarray(end, end + contexts);
  const informations = body.subarray(end + contexts, end + 2 * contexts);
  const path = body.subarray(end + 2 * contexts);
  const where = contextsOf(sizes, parameters[6], mask, key);
  checkOccurring(where, priors, informations);
  const random = words(key, Purpose.codebook, 0, elements);
  const states = 2 ** parameters[7];
  const bits = new Uint8Array(elements);
  let [state, spent, label, read] = [0, 0, 0, 0];
  for (let i = 0; i < elements; i++) {
    if (i % BLOCK === 0) [state, spent] = [0, 256];
    if (spent >= 256) {
      require(read < 8 * path.length, errors.MalformedFrameError, "the path ends before the mask does");
      const bit = (path[read >> 3] >> (read & 7)) & 1;
      label = bit * states + state;
      state = (2 * state + bit) % states;
      spent -= 256;
      read += 1;
    }
    const w = random[i];
    const candidate = ((label * ((w & 0xffff) | 1) + (w >>> 16)) >>> 8) & 255;
    bits[i] = candidate < priors[where[i]];
    spent += informations[where[i]];
  }
  require(path.length === Math.ceil(read / 8), errors.MalformedFrameError, "the path is longer than its mask reads");
  checkPadding(path, read);
  return bits;
}

function checkRest(parameters) {
  checkBuckets(parameters);
  const [states, rate] = parameters.subarray(7);
  const possible = states >= 1 && states <= 10 && rate >= 64 && rate <= 128;
  require(possible, errors.MalformedFrameError, "a random code of no states or rate that there are");
}

export const randomCode = maskCodec(9, checkRest, byMode(named));

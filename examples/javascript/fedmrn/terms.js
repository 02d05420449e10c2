// What a server tells its clients about local training beside the codecs (section 1.4).

import { viewOf } from "./bytes.js";
import * as errors from "./errors.js";
import { require } from "./errors.js";
import { Role } from "./frame.js";

const F64 = { length: 8, read: (view, at) => view.getFloat64(at, true) };
const U8 = { length: 1, read: (view, at) => view.getUint8(at) };
const MASKED = ["fedmrn", "fedmrn-s", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post", "fedmrn-mrc", "fedmrn-s-mrc"];
/** Of each tag: its name, its number, the range that it is in, and the methods that have it. */
const TERMS = {
  1: { name: "warmup", number: F64, range: [0, 1], methods: ["fedbat"] },
  2: { name: "rho", number: F64, range: [0, Infinity], methods: ["fedbat"] },
  3: { name: "progressive", number: U8, range: [0, 1], methods: MASKED },
  4: { name: "stochastic", number: U8, range: [0, 1], methods: MASKED },
  5: { name: "backward", number: U8, range: [0, 1], methods: ["fedpm"] },
  6: { name: "budget", number: F64, range: [0, 1], methods: MASKED },
  7: { name: "theta", number: F64, range: [0, 0.25], methods: ["fedmrn-s"] },
  32: { name: "caps", range: [-126, 127], methods: null },
  33: { name: "scales", range: [-80, 80], methods: MASKED },
};

/**
 * The terms of a broadcast, by name; what it does not tell is absent.
 * @param {object} frame of kind broadcast
 * @param {string} method its name
 * @param {number} tensors coded ones that are not empty
 */
export function readTerms(frame, method, tensors) {
  const found = {};
  const sections = frame.sections.filter((section) => section.role === Role.terms);
  if (sections.length === 0) return found;
  const [{ codec, group, elements, parameters, body }] = sections;
  const plain = sections.length === 1 && codec === 0 && group === 0 && parameters.length === 1;
  require(plain, errors.MalformedFrameError, "the terms have another header than terms have");
  require(parameters[0] === 1, errors.UnsupportedVersionError, `terms of version ${parameters[0]} are not known here`);
  const view = viewOf(body);
  let [at, before, count] = [0, 0, 0]; // no term has tag 0
  while (at < body.length) {
    require(at + 6 <= body.length, errors.MalformedFrameError, "a term has no whole header");
    const tag = view.getUint16(at, true);
    const length = view.getUint32(at + 2, true);
    require(at + 6 + length <= body.length, errors.MalformedFrameError, `the value of term ${tag} does not fit`);
    require(tag > before, errors.MalformedFrameError, `term ${tag} is out of order`);
    require(tag in TERMS, errors.UnknownTermError, `term ${tag} is not known here: this client is too old`);
    found[TERMS[tag].name] = readValue(TERMS[tag], body.subarray(at + 6, at + 6 + length));
    [at, before, count] = [at + 6 + length, tag, count + 1];
  }
  require(count > 0 && count === elements, errors.MalformedFrameError, `${count} terms came, ${elements} were told`);
  for (const { name, methods } of Object.values(TERMS)) {
    const has = !(name in found) || methods === null || methods.includes(method);
    require(has, errors.MalformedFrameError, `${method} has no term ${name}`);
  }
  for (const name of ["caps", "scales"]) {
    const fits = !(name in found) || found[name].length === tensors;
    require(fits, errors.MalformedFrameError, `${name} of other tensors than the ${tensors} of this model`);
  }
  return found;
}

function readValue({ name, number, range: [least, most] }, bytes) {
  const view = viewOf(bytes);
  const within = (value) => require(value >= least && value <= most, errors.BoundError, `${name} is out of its range`);
  if (number === undefined) {
    const exponents = Array.from(bytes, (_, i) => view.getInt8(i));
    exponents.forEach(within);
    return exponents;
  }
  require(bytes.length === number.length, errors.MalformedFrameError, `${name} has ${bytes.length} bytes`);
  const value = number.read(view, 0);
  require(Number.isFinite(value), errors.NonFiniteError, `${name} is not finite`);
  within(value);
  return value;
}

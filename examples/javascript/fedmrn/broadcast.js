// What a client receives: broadcasts to train from, models to evaluate (section 7).

import { equal } from "./bytes.js";
import { codecOf } from "./codecs/index.js";
import { MaskType } from "./codecs/mask.js";
import * as errors from "./errors.js";
import { require } from "./errors.js";
import { Kind, LIMITS, METHODS, Role, readFrame } from "./frame.js";
import { GRID, readPublic, stateOf } from "./grid.js";
import { Group } from "./layout.js";
import { readTerms } from "./terms.js";

/** The methods by which one bit a parameter leaves a client, at most. */
export const MASKED = Object.freeze(METHODS.filter((name) => name.startsWith("fedmrn")));
const signed = (name) => name === "fedmrn-s" || name === "fedmrn-s-mrc";

/** The codec of group 0, and how its parameters begin, by method (section 1.5); masked noise has several. */
const CODED = {
  fedavg: [0], signsgd: [2, 0], "signsgd-vote": [2, 0], "signsgd-stochastic": [2, 1], fedbat: [2, 2], topk: [3],
  "topk-ef": [3], "fedsparsify-local": [3], terngrad: [4], qsgd: [5], drive: [6, 1, 0], "eden-half": [6, 1, 0],
  "drive-mse": [6, 1, 1], eden2: [6, 2, 0], eden4: [6, 4, 0], fedpm: [7], "fedsparsify-global": [8],
};

/**
 * Read a broadcast, and keep its public model, if it has one. Nothing is kept of a frame that is refused.
 * @param {Uint8Array} bytes
 * @param {import("./layout.js").Layout} layout
 * @param {{held: import("./grid.js").Held, accept?: readonly string[], start?: Float32Array | null, limits?: object}} options
 * @returns its frame, method, terms, templates, and the state: a flat float32 vector
 */
export function readBroadcast(bytes, layout, { held, accept = MASKED, start = null, limits = LIMITS }) {
  const frame = readFrame(bytes, Kind.broadcast, limits);
  const method = methodOf(frame);
  require(accept.includes(method), errors.MethodNotAcceptedError, `this client does not take part in ${method}`);
  const templates = frame.sections.filter((section) => section.role === Role.template);
  for (const template of templates) checkTemplate(template, method);
  const terms = readTerms(frame, method, layout.sizes(Group.coded).length);
  const tells = templates.some((t) => t.group === Group.coded && t.codec === 13);
  require("scales" in terms === tells, errors.MalformedFrameError, "scales are told without need, or missing");
  const { state, kept } = readState(frame, layout, held, start);
  const wanted = templates.map((t) => `${t.group}:${t.elements}`).sort();
  const there = layout.groups.map((group) => `${group}:${layout.elements(group)}`).sort();
  require(equal(wanted, there), errors.MalformedFrameError, "the templates are not those of this model");
  if (kept !== null) held.keep(kept, layout);
  return { frame, method, terms, templates, state };
}

/** Read a model to evaluate: a flat float32 vector. Nothing is kept of it. */
export function readModel(bytes, layout, { held, start = null, limits = LIMITS }) {
  const frame = readFrame(bytes, Kind.model, limits);
  methodOf(frame);
  return { frame, state: readState(frame, layout, held, start).state };
}

function methodOf({ method }) {
  require(method >= 1 && method <= METHODS.length, errors.WrongMethodError, `there is no method ${method}`);
  return METHODS[method - 1];
}

function readState(frame, layout, held, start) {
  const same = equal(frame.digest, layout.digest);
  require(same, errors.WrongLayoutError, "the frame is for another model than this client's");
  if (frame.sections.some((s) => s.role === Role.state && s.codec === GRID)) {
    const found = readPublic(frame, layout, held, start);
    return { ...found, state: checkState(found.state, layout) };
  }
  const state = new Float32Array(layout.size);
  for (const group of layout.groups) {
    const section = stateOf(frame, layout, group);
    const codec = codecOf(section);
    const plain = section.codec !== 8 && (group !== Group.variance || section.codec === 0);
    require(plain, errors.MalformedFrameError, "a state is coded as no state may be");
    layout.part(state, group).set(codec.decode({ ...section, key: frame.noiseKey, limit: Infinity }));
  }
  return { state: checkState(state, layout), kept: null };
}

function checkState(state, layout) {
  require(state.every(Number.isFinite), errors.NonFiniteError, "a value of the state is not finite");
  const positive = layout.part(state, Group.variance).every((x) => x >= 0);
  require(positive, errors.BoundError, "a variance of the state is negative");
  return state;
}

function checkTemplate(template, method) {
  const mask = codecOf(template).check(template.parameters);
  const { codec, group, parameters } = template;
  let allowed;
  if (group === Group.coded) {
    const [number, ...beginning] = CODED[method] ?? [];
    const begins = beginning.every((byte, i) => parameters[i] === byte);
    allowed = MASKED.includes(method) ? isMaskOf(method, codec, parameters, mask) : codec === number && begins;
  } else if (codec === 5) {
    const sideLevels = parameters[0] === 64 && parameters[1] + parameters[2] + parameters[3] === 0;
    allowed = group !== Group.variance && sideLevels && parameters[4] === 127;
  } else {
    allowed = [0, 10, 16].includes(codec);
  }
  require(allowed, errors.WrongTemplateError, `group ${group} is not sent by codec ${codec}, or not so, in ${method}`);
}

function isMaskOf(method, codec, parameters, mask) {
  const random = method.endsWith("-mrc");
  const inner = codec === 12 || codec === 13 ? parameters[0] : codec;
  const known = random ? inner === 11 && codec !== 13 : [1, 9, 14].includes(inner);
  return known && mask.type === (signed(method) ? MaskType.signed : MaskType.binary);
}

// Public models (codec 15): the state as whole numbers of steps, the same for every client of a run (section 2.16).

import { blake2b } from "./blake2b.js";
import { equal, floatBytes, hex, viewOf } from "./bytes.js";
import { readIntegers } from "./codecs/integers.js";
import * as errors from "./errors.js";
import { require } from "./errors.js";
import { Role } from "./frame.js";
import { Group } from "./layout.js";

export const GRID = 15;
const LARGEST = 2 ** 24 - 1;
const SHARED = 4096;
const VARIANCE_STEP = 17;
const LAST_PLACE = 16319;

/** The public models that a client holds: of one run, those that the server may count on. */
export class Held {
  #models = [];

  /** The groups of a model: group -> {steps, numbers}. Raises LostModelError where this client does not hold it. */
  find(run, number, layout) {
    const wanted = (m) => m.run === run && m.number === number && equal(m.digest, layout.digest);
    const model = this.#models.find(wanted);
    require(model !== undefined, errors.LostModelError, `public model ${number} is not held here`);
    return model.groups;
  }

  /** Keep a model of an accepted broadcast; beside it its base, or where it is whole the two that came last. */
  keep({ run, number, base, groups }, layout) {
    const others = this.#models.filter((m) => m.run === run && m.number !== number);
    this.#models = base === null ? others.slice(-2) : others.filter((m) => m.number === base);
    this.#models.push({ run, number, digest: layout.digest.slice(), groups });
  }

  get numbers() {
    return this.#models.map((m) => m.number);
  }
}

function readHeading({ parameters }) {
  require(parameters.length === 33, errors.MalformedFrameError, "a public model has 33 bytes of parameters");
  const view = viewOf(parameters);
  const flags = parameters[0];
  const heading = {
    difference: (flags & 1) > 0,
    fromStart: (flags & 2) > 0,
    number: view.getUint32(1, true),
    base: view.getUint32(5, true),
    run: hex(parameters.subarray(9, 17)),
    start: parameters.subarray(17, 25),
    digest: parameters.subarray(25, 33),
  };
  const clear = (heading.difference || heading.base === 0) && (heading.fromStart || heading.start.every((b) => b === 0));
  require(flags <= 3 && clear, errors.MalformedFrameError, "a public model with flags or fields that are not used");
  return heading;
}

const digestOf = (values) => blake2b(floatBytes(values), 8, "fedmrn-public");

/** The sizes of runs of small tensors, which share a table. */
export function runsOf(sizes) {
  const runs = [];
  let open = 0;
  for (const size of sizes) {
    open += size;
    if (open >= SHARED) {
      runs.push(open);
      open = 0;
    }
  }
  if (open > 0 && runs.length > 0) runs[runs.length - 1] += open;
  else if (open > 0) runs.push(open);
  return runs;
}

function readPoints({ group, body }, layout, most) {
  const sizes = layout.sizes(group);
  require(body.length >= sizes.length, errors.MalformedFrameError, "the steps of a public model do not fit");
  const steps = Int8Array.from(body.subarray(0, sizes.length));
  const inRange = steps.every((e) => (group === Group.variance ? e === VARIANCE_STEP : Math.abs(e) <= 80));
  require(inRange, errors.BoundError, "a step of a public model is out of range");
  const numbers = readIntegers(body.subarray(sizes.length), runsOf(sizes));
  require(numbers.every((n) => Math.abs(n) <= most), errors.BoundError, "a number of a public model is out of range");
  return { steps, numbers };
}

/** The sum of a base, expressed in the steps of a difference, and this; both sides round alike. */
function addTo(base, points, sizes) {
  const numbers = new Int32Array(points.numbers.length);
  let at = 0;
  sizes.forEach((size, j) => {
    const more = base.steps[j] - points.steps[j];
    for (let i = at; i < at + size; i++) {
      const exact = base.numbers[i] * 2 ** more;
      const before = more >= 0 ? exact : Math.floor(exact + 0.5);
      const sum = before + points.numbers[i];
      const held = Math.abs(before) <= LARGEST && Math.abs(sum) <= LARGEST;
      require(held, errors.LostModelError, "the public model that is held here is not the server's");
      numbers[i] = sum;
    }
    at += size;
  });
  return { steps: points.steps, numbers };
}

const placeOf = (bits) => Math.min(Math.floor(((bits === 0x80000000 ? 0 : bits) + 2 ** 16) / 2 ** 17), LAST_PLACE);

/** The float32 values of points. */
function valuesOf({ steps, numbers }, group, layout, start, ErrorClass) {
  const out = new Float32Array(numbers.length);
  if (group === Group.variance) {
    const bits = new Uint32Array(out.buffer);
    const from = start === null ? null : viewOf(floatBytes(start));
    for (let i = 0; i < out.length; i++) {
      const place = (from === null ? 0 : placeOf(from.getUint32(4 * i, true))) + numbers[i];
      require(place >= 0 && place <= LAST_PLACE, ErrorClass, "a variance of a public model is out of range");
      bits[i] = place * 2 ** 17;
    }
    return out;
  }
  let at = 0;
  layout.sizes(group).forEach((size, j) => {
    const step = 2 ** steps[j];
    for (let i = at; i < at + size; i++) out[i] = (start === null ? 0 : start[i]) + numbers[i] * step;
    at += size;
  });
  require(out.every(Number.isFinite), ErrorClass, "a value of a public model is not finite");
  return out;
}

/**
 * The public model of a frame: its flat values, and what a client has to keep.
 * @param {Held} held
 * @param {Float32Array | null} start the run's starting weights, a flat vector, where this client has them
 */
export function readPublic(frame, layout, held, start) {
  const groups = layout.groups;
  const sections = groups.map((group) => stateOf(frame, layout, group));
  const headings = sections.map((section) => {
    require(section.codec === GRID, errors.MalformedFrameError, "not all groups are of a public model");
    return readHeading(section);
  });
  const [{ difference, fromStart, number, base, run }] = headings;
  const one = (h) => h.difference === difference && h.fromStart === fromStart && h.number === number && h.base === base;
  require(headings.every((h) => one(h) && h.run === run), errors.MalformedFrameError, "groups of two public models");
  const starts = groups.map((group) => (fromStart && start !== null ? layout.part(start, group) : null));
  const known = headings.every((h, i) => !fromStart || (starts[i] !== null && equal(digestOf(starts[i]), h.start)));
  require(known, errors.WrongStartError, "the run started with weights that this client does not have");
  const before = difference ? held.find(run, base, layout) : null;
  const points = {};
  for (const section of sections) {
    const { group } = section;
    const read = readPoints(section, layout, difference ? 2 * LARGEST : LARGEST);
    points[group] = difference ? addTo(before[group], read, layout.sizes(group)) : read;
  }
  const OutOfRange = difference ? errors.LostModelError : errors.BoundError;
  const state = new Float32Array(layout.size);
  groups.forEach((group, i) => {
    layout.part(state, group).set(valuesOf(points[group], group, layout, starts[i], OutOfRange));
  });
  const same = headings.every((h, i) => equal(digestOf(layout.part(state, groups[i])), h.digest));
  const Other = difference ? errors.LostModelError : errors.MalformedFrameError;
  require(same, Other, "the values of a public model are not those of its digest");
  return { state, kept: { run, number, base: difference ? base : null, groups: points } };
}

/** A group's section of role state, of the right number of elements. */
export function stateOf(frame, layout, group) {
  const section = frame.sections.find((s) => s.role === Role.state && s.group === group);
  const there = section !== undefined && section.elements === layout.elements(group);
  require(there, errors.MalformedFrameError, `the state of group ${group} is missing, or of another size`);
  return section;
}

// What a server reads: updates and statistics. A client needs none of it; tests do, and whoever looks into a frame.

import { equal } from "./bytes.js";
import { codecOf } from "./codecs/index.js";
import * as errors from "./errors.js";
import { require } from "./errors.js";
import { Kind, LIMITS, readFrame } from "./frame.js";
import { Group } from "./layout.js";

const LARGEST_VARIANCE = 2 ** 126;

function sameKey(frame, asked) {
  return frame.noiseKey.low === asked.noiseKey.low && frame.noiseKey.high === asked.noiseKey.high;
}

/**
 * Read an update as a server does, after the checks of who sent it: the flat vector that it adds up.
 * @param {object} broadcast that it answers, as `readBroadcast` returned it
 */
export function readUpdate(bytes, { frame: asked, templates, terms, state }, layout, limits = LIMITS) {
  const frame = readFrame(bytes, Kind.update, limits);
  require(frame.method === asked.method, errors.WrongMethodError, "an update of another method");
  require(frame.round === asked.round, errors.WrongRoundError, "an update of another round");
  require(equal(frame.digest, layout.digest), errors.WrongLayoutError, "an update of another model");
  require(sameKey(frame, asked), errors.WrongKeyError, "an update with another noise key than was sent");
  const weighs = terms.theta > 0 && frame.weight !== 1;
  require(!weighs, errors.WrongParametersError, "whoever draws private masks, as theta asks for, says weight 1");
  const matches = (section, i) => {
    const { codec, group, elements, parameters } = templates[i] ?? {};
    const same = section.codec === codec && section.group === group && section.elements === elements;
    return same && equal(section.parameters, parameters);
  };
  const whole = frame.sections.length === templates.length && frame.sections.every(matches);
  require(whole, errors.WrongParametersError, "the sections are not those that were asked for");
  const out = new Float32Array(layout.size);
  const tables = frame.sections.map((section) => {
    const shown = layout.part(state, section.group);
    const given = { ...section, key: frame.noiseKey, limit: limits.value, state: shown };
    const codec = codecOf(section);
    const { values, table } = codec.read ? codec.read(given) : { values: codec.decode(given) };
    layout.part(out, section.group).set(values);
    return { table, group: section.group };
  });
  for (const { table, group } of tables) if (table) checkTable(table, layout.sizes(group), terms);
  return { frame, values: out };
}

function checkTable(table, sizes, { scales, caps }) {
  const fits = table.length === sizes.length && sizes.every((size, k) => table[k].size === size);
  require(fits, errors.WrongParametersError, "the runs of scales are not this model's tensors");
  const told = scales === undefined || table.every(({ scale }, k) => scale === 2 ** scales[k]);
  require(told, errors.WrongParametersError, "the scales are not those that were told");
  const capped = caps === undefined || table.every(({ scale }, k) => scale <= 2 ** caps[k]);
  require(capped, errors.BoundError, "a scale is above its cap");
}

/**
 * Read statistics as a server does: the values of groups 2 and 3, joined.
 * @param {object} asked the frame of the model that they answer
 */
export function readStatistics(bytes, asked, layout, limits = LIMITS) {
  const frame = readFrame(bytes, Kind.statistics, limits);
  require(frame.method === asked.method, errors.WrongMethodError, "statistics of another method");
  require(frame.round === asked.round, errors.WrongRoundError, "statistics of another round");
  require(sameKey(frame, asked), errors.WrongKeyError, "statistics with another noise key than was sent");
  require(equal(frame.digest, layout.digest), errors.WrongLayoutError, "statistics of another model");
  const groups = layout.groups.filter((group) => group >= Group.stats);
  const matches = ({ codec, group, elements, parameters }, i) =>
    codec === 0 && group === groups[i] && elements === layout.elements(group) && parameters.length === 0;
  const whole = frame.sections.length === groups.length && frame.sections.every(matches);
  require(whole, errors.MalformedFrameError, "the sections are not those of this model's statistics");
  const out = new Float32Array(layout.size);
  for (const section of frame.sections) {
    const limit = section.group === Group.variance ? LARGEST_VARIANCE : limits.value;
    layout.part(out, section.group).set(codecOf(section).decode({ ...section, limit }));
  }
  const positive = layout.part(out, Group.variance).every((x) => x >= 0);
  require(positive, errors.BoundError, "a variance is negative");
  return { frame, values: out.subarray(layout.elements(Group.coded) + layout.elements(Group.dense)) };
}

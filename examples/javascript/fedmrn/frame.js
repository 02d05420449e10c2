// Frames: a header, sections, a checksum (section 1).

import { concat, setU64, u64, viewOf } from "./bytes.js";
import { crc32 } from "./crc32.js";
import * as errors from "./errors.js";
import { require } from "./errors.js";

export const Kind = Object.freeze({ update: 1, broadcast: 2, model: 3, saved: 4, statistics: 5 });
export const Role = Object.freeze({ update: 0, state: 1, template: 2, terms: 3 });
export const METHODS = Object.freeze([
  "fedavg", "fedmrn", "fedmrn-s", "signsgd", "signsgd-stochastic", "topk", "terngrad", "qsgd", "drive", "drive-mse",
  "eden2", "eden4", "eden-half", "signsgd-vote", "topk-ef", "fedbat", "fedpm", "fedsparsify-global",
  "fedsparsify-local", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post", "fedmrn-mrc", "fedmrn-s-mrc",
]);
/** What a reader takes, where it is told nothing else. */
export const LIMITS = Object.freeze({ bytes: 2 ** 32, sections: 64, weight: 2 ** 20, value: 2 ** 16 });

const MAGIC = [0x46, 0x4d, 0x52, 0x4e];
const HEADER = 56;
const CHECKSUM = 4;
const SECTION = 20;
/** The roles and groups that the sections of a kind may have. */
const ALLOWED = {
  [Kind.update]: { roles: [Role.update], groups: [0, 1, 2, 3] },
  [Kind.broadcast]: { roles: [Role.template, Role.terms, Role.state], groups: [0, 1, 2, 3] },
  [Kind.model]: { roles: [Role.state], groups: [0, 1, 2, 3] },
  [Kind.statistics]: { roles: [Role.state], groups: [2, 3] },
};

/**
 * Cut a frame into its fields; bodies are views of its bytes. The checks are those of section 7, in their order.
 * @param {Uint8Array} bytes
 * @param {number} kind the one that is expected
 */
export function readFrame(bytes, kind, limits = LIMITS) {
  const view = viewOf(bytes);
  const magic = MAGIC.every((byte, i) => i >= bytes.length || bytes[i] === byte);
  require(magic, errors.BadMagicError, "this is no frame of fedmrn");
  require(bytes.length >= HEADER, errors.TruncatedFrameError, `a frame of ${bytes.length} bytes has no whole header`);
  require(bytes[4] === 1, errors.UnsupportedVersionError, `frames of version ${bytes[4]} are not known here`);
  const total = u64(view, 8);
  require(total <= limits.bytes, errors.LimitError, `a frame of ${total} bytes is above the limit`);
  require(bytes.length >= total, errors.TruncatedFrameError, `${bytes.length} of ${total} bytes of a frame came`);
  require(bytes.length <= total, errors.TrailingBytesError, `${bytes.length - total} bytes follow a frame`);
  require(total >= HEADER + CHECKSUM, errors.MalformedFrameError, `no frame has ${total} bytes`);
  const end = total - CHECKSUM;
  const checksum = view.getUint32(end, true);
  require(crc32(bytes.subarray(0, end)) === checksum, errors.ChecksumError, "a frame was damaged on its way");
  require(Object.values(Kind).includes(bytes[5]), errors.MalformedFrameError, `there is no kind ${bytes[5]} of frames`);
  require(bytes[5] === kind, errors.WrongKindError, `a frame of kind ${kind} is expected, not of kind ${bytes[5]}`);
  const count = view.getUint32(20, true);
  require(count <= limits.sections, errors.LimitError, `${count} sections are above the limit`);
  const weight = u64(view, 48);
  require(weight <= limits.weight, errors.LimitError, `a weight of ${weight} is above the limit`);
  const weighs = kind === Kind.update || kind === Kind.statistics;
  require(weight > 0 === weighs, errors.MalformedFrameError, `a frame of kind ${kind} has no weight of ${weight}`);
  return {
    kind,
    method: view.getUint16(6, true),
    round: view.getUint32(16, true),
    noiseKey: { low: view.getUint32(24, true), high: view.getUint32(28, true) },
    digest: bytes.subarray(32, 48),
    weight,
    sections: readSections(bytes, view, end, count, ALLOWED[kind]),
  };
}

function readSections(bytes, view, end, count, allowed) {
  const sections = [];
  const seen = new Set();
  let at = HEADER;
  for (let i = 0; i < count; i++) {
    require(at + SECTION <= end, errors.MalformedFrameError, `section ${i} has no whole header`);
    const [codec, role, group, p] = bytes.subarray(at, at + 4);
    const elements = u64(view, at + 4);
    const b = u64(view, at + 12);
    const start = at + SECTION + p;
    require(start + b <= end, errors.MalformedFrameError, `section ${i} reaches out of the frame`);
    const known = allowed.roles.includes(role) && allowed.groups.includes(group);
    require(known, errors.MalformedFrameError, `section ${i} has a role and group that this kind of frame has not`);
    require(!seen.has(4 * role + group), errors.MalformedFrameError, `section ${i} repeats a role and group`);
    require(role !== Role.template || b === 0, errors.MalformedFrameError, `section ${i} is a template with a body`);
    seen.add(4 * role + group);
    const parameters = bytes.subarray(at + SECTION, start);
    sections.push({ codec, role, group, elements, parameters, body: bytes.subarray(start, start + b) });
    at = start + b;
  }
  require(at === end, errors.MalformedFrameError, `${end - at} bytes follow the last section`);
  return sections;
}

/** The only bytes that say this. */
export function writeFrame({ kind, method, round, noiseKey, digest, weight, sections }) {
  const parts = [new Uint8Array(HEADER)];
  for (const { codec, role, group, elements, parameters, body } of sections) {
    const head = new Uint8Array(SECTION);
    head.set([codec, role, group, parameters.length]);
    setU64(viewOf(head), 4, elements);
    setU64(viewOf(head), 12, body.length);
    parts.push(head, parameters, body);
  }
  parts.push(new Uint8Array(CHECKSUM));
  const bytes = concat(parts);
  const view = viewOf(bytes);
  bytes.set([...MAGIC, 1, kind]);
  view.setUint16(6, method, true);
  setU64(view, 8, bytes.length);
  view.setUint32(16, round, true);
  view.setUint32(20, sections.length, true);
  view.setUint32(24, noiseKey.low, true);
  view.setUint32(28, noiseKey.high, true);
  bytes.set(digest, 32);
  setU64(view, 48, weight);
  view.setUint32(bytes.length - CHECKSUM, crc32(bytes.subarray(0, bytes.length - CHECKSUM)), true);
  return bytes;
}

// What a client sends: an update that answers a broadcast (sections 1.2 and 6.1).

import { concat, floatBytes, viewOf } from "./bytes.js";
import { writeInterleaved } from "./codecs/interleaved.js";
import { pack, readMask } from "./codecs/mask.js";
import { writeTable } from "./codecs/tables.js";
import { Kind, LIMITS, Role, writeFrame } from "./frame.js";
import { Group } from "./layout.js";

/** What a template of group 0 asks for: law and type of the mask, and where its scale comes from. */
export function readTask({ codec, parameters }) {
  const [scales, inner, rest] =
    codec === 12 || codec === 13
      ? [codec === 12 ? "own" : "told", parameters[0], parameters.subarray(1)]
      : ["fixed", codec, parameters];
  return { ...readMask(rest), scales, inner, buckets: rest[6] };
}

/**
 * Write an update.
 * @param {object} broadcast as `readBroadcast` returned it
 * @param {import("./layout.js").Layout} layout
 * @param {{bits: Uint8Array, exponents?: number[], wanted?: number[], side?: Float32Array, weight: number}} result
 *   the mask of group 0; of each coded tensor that is not empty the exponent of its scale, where the client chooses or
 *   is told them, and of the scale that it would have chosen; the changes of groups 1 to 3, joined; the client's weight
 */
export function writeUpdate({ frame, templates }, layout, { bits, exponents = [], wanted = [], side, weight }) {
  const sections = templates.map(({ codec, group, elements, parameters }) => {
    const body =
      group === Group.coded
        ? maskBody({ codec, parameters }, layout, frame.noiseKey, bits, exponents, wanted)
        : sideBody(codec, sidePart(layout, group, side));
    return { codec, role: Role.update, group, elements, parameters, body };
  });
  const { method, round, noiseKey, digest } = frame;
  return writeFrame({ kind: Kind.update, method, round, noiseKey, digest, weight, sections });
}

function maskBody(template, layout, key, bits, exponents, wanted) {
  const task = readTask(template);
  const sizes = layout.sizes(Group.coded);
  const inner = innerBody(task, bits, sizes, key);
  if (task.scales === "fixed") return inner;
  const table = writeTable(sizes.map((size, k) => ({ size, scale: 2 ** exponents[k] })));
  return concat([table, task.scales === "told" ? Uint8Array.from(wanted) : new Uint8Array(0), inner]);
}

/** Codecs 9 and 11 take a plain mask too, after one byte: this client writes nothing shorter by them. */
function innerBody({ inner, buckets, ...mask }, bits, sizes, key) {
  if (inner === 1) return pack(bits);
  if (inner === 14) return writeInterleaved(bits, sizes, buckets, mask, key);
  return concat([new Uint8Array(1), pack(bits)]);
}

function sidePart(layout, group, side) {
  const start = layout.elements(Group.coded);
  const whole = new Float32Array(layout.size);
  whole.set(side, start);
  return layout.part(whole, group);
}

function sideBody(codec, values) {
  if (codec === 0) return floatBytes(values.map((x) => Math.min(Math.max(x, -LIMITS.value), LIMITS.value)));
  if (codec === 10) {
    const out = new Uint8Array(2 * values.length);
    values.forEach((x, i) => viewOf(out).setUint16(2 * i, halfBits(x), true));
    return out;
  }
  throw new Error(`this client writes side data by codecs 0 and 10, not by codec ${codec}`);
}

/** The 16-bit float nearest to a value, ties to even, clipped to 65504. */
export function halfBits(value) {
  const size = Math.min(Math.abs(value), 65504);
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const e = Math.max(Math.floor(Math.log2(size)), -14);
  const scaled = size * 2 ** (10 - e);
  const down = Math.floor(scaled);
  const up = scaled - down > 0.5 || (scaled - down === 0.5 && down % 2 === 1);
  // The significand without its leading one, or all of a subnormal one; rounding up may carry into the exponent.
  return sign | ((e + 14) * 1024 + (down + (up ? 1 : 0)));
}

// Tables of scales: a scale for each run of elements, at the start of the bodies of codecs 2, 4, 12 and 13.

import { setU64, u64, viewOf } from "../bytes.js";
import * as errors from "../errors.js";
import { require } from "../errors.js";

/** A table at the start of a body: rows of a size and a scale, and where it ends. `check` may refuse the body's length. */
export function readTable(body, elements, limit, check = () => {}) {
  require(body.length >= 4, errors.MalformedFrameError, "a table of scales has no head");
  const view = viewOf(body);
  const runs = view.getUint32(0, true);
  const end = 4 + 12 * runs;
  require(end <= body.length, errors.MalformedFrameError, `a table of ${runs} scales does not fit`);
  check(end);
  const table = [];
  let total = 0;
  for (let k = 0; k < runs; k++) {
    const size = u64(view, 4 + 12 * k);
    total += size;
    require(size > 0 && total <= elements, errors.MalformedFrameError, "a run is empty, or the runs are too large");
    table.push({ size, scale: view.getFloat32(12 + 12 * k, true) });
  }
  require(total === elements, errors.MalformedFrameError, `runs of ${total} elements, not ${elements}`);
  const scales = table.map((row) => row.scale);
  require(scales.every(Number.isFinite), errors.NonFiniteError, "a scale is not finite");
  const bounded = scales.every((s) => s >= 0 && !Object.is(s, -0) && s <= limit);
  require(bounded, errors.BoundError, `a scale is negative, or above the limit of ${limit}`);
  return { table, end };
}

/** Multiply each run by its scale. */
export function scaleRuns(values, table) {
  let at = 0;
  for (const { size, scale } of table) {
    for (let i = at; i < at + size; i++) values[i] *= scale;
    at += size;
  }
  return values;
}

/** The bytes of a table. */
export function writeTable(table) {
  const out = new Uint8Array(4 + 12 * table.length);
  const view = viewOf(out);
  view.setUint32(0, table.length, true);
  table.forEach(({ size, scale }, k) => {
    setU64(view, 4 + 12 * k, size);
    view.setFloat32(12 + 12 * k, scale, true);
  });
  return out;
}

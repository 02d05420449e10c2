// What a model is made of: named tensors in four groups, one flat vector (section 6).

import { blake2b } from "./blake2b.js";
import { concat, setU64, viewOf } from "./bytes.js";
import { LayoutError, require } from "./errors.js";

export const Group = Object.freeze({ coded: 0, dense: 1, stats: 2, variance: 3 });
const NAMES = Object.keys(Group);
const LARGEST = 2 ** 40;

/** A layout: its tensors in flat order, the digest that frames carry, and where each group lies. */
export class Layout {
  /** @param {{name: string, shape: number[], group: string}[]} tensors checked by `fromJson` */
  constructor(tensors) {
    let start = 0;
    this.tensors = tensors.map(({ name, shape, group }) => {
      const size = shape.reduce((a, b) => a * b, 1);
      start += size;
      return { name, shape, group: Group[group], size, start: start - size };
    });
    this.size = start;
    this.digest = digestOf(this.tensors);
  }

  /** The layout in a file's text (section 6.2). */
  static fromJson(text) {
    require(text.length <= 2 ** 24, LayoutError, "the layout has too many bytes");
    let rows;
    try {
      rows = JSON.parse(text);
    } catch (error) {
      throw new LayoutError(`the layout is not JSON: ${error.message}`);
    }
    require(Array.isArray(rows) && rows.length <= 65536, LayoutError, "a layout is an array of at most 65,536 tensors");
    rows.forEach(check);
    const names = new Set(rows.map((row) => row.name));
    require(names.size === rows.length, LayoutError, "two tensors have one name");
    const sizes = rows.map((row) => row.shape.reduce((a, b) => a * b, 1));
    require(sizes.reduce((a, b) => a + b, 0) <= LARGEST, LayoutError, "the tensors have too many elements together");
    const groups = rows.map((row) => Group[row.group]);
    require(groups.every((g, i) => i === 0 || groups[i - 1] <= g), LayoutError, "the groups are out of order");
    return new Layout(rows);
  }

  /** The sizes of a group's tensors that are not empty, in order. */
  sizes(group) {
    return this.tensors.filter((t) => t.group === group && t.size > 0).map((t) => t.size);
  }

  elements(group) {
    return this.sizes(group).reduce((a, b) => a + b, 0);
  }

  /** The groups that have elements, in order. */
  get groups() {
    return Object.values(Group).filter((group) => this.elements(group) > 0);
  }

  /** The part of a flat vector that holds a group: a view. */
  part(vector, group) {
    const start = this.tensors.filter((t) => t.group < group).reduce((total, t) => total + t.size, 0);
    return vector.subarray(start, start + this.elements(group));
  }
}

function check(row) {
  const members = row !== null && typeof row === "object" ? Object.keys(row).sort().join() : "";
  require(members === "group,name,shape", LayoutError, "a tensor has a name, a shape and a group, and nothing else");
  const { name, shape, group } = row;
  const whole = typeof name === "string" && name.isWellFormed();
  require(whole && name.length >= 1 && [...name].length <= 1000, LayoutError, "a name has 1 to 1,000 characters");
  require(NAMES.includes(group), LayoutError, `no group is called ${JSON.stringify(group)}`);
  require(Array.isArray(shape) && shape.length <= 16, LayoutError, `the shape of ${name} is no array of up to 16 sizes`);
  const fits = shape.every((n) => Number.isInteger(n) && n >= 0 && n <= LARGEST);
  require(fits, LayoutError, `the shape of ${name} has what is no size`);
}

function digestOf(tensors) {
  const parts = tensors.map(({ name, shape, group }) => {
    const text = new TextEncoder().encode(name);
    const part = new Uint8Array(4 + text.length + 2 + 8 * shape.length);
    const view = viewOf(part);
    view.setUint32(0, text.length, true);
    part.set(text, 4);
    part.set([group, shape.length], 4 + text.length);
    shape.forEach((n, i) => setU64(view, 6 + text.length + 8 * i, n));
    return part;
  });
  return blake2b(concat(parts), 16, "fedmrn-layout");
}

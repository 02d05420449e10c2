// Training through a mask: progressive stochastic masking (Li et al., ACM MM 2024; docs/methods.md, "FedMRN").

import { MaskType } from "./codecs/mask.js";
import { Group } from "./layout.js";
import { Law, noise } from "./noise.js";
import { Purpose, uniforms } from "./philox.js";
import { readTask } from "./update.js";

const SAME_POWER = 3 ** -0.5;
/** The scale of the noise over the mean of |u|, before it is rounded to a power of two. */
const MULTIPLES = {
  [MaskType.binary]: { [Law.uniform]: 4, [Law.gaussian]: 4 * SAME_POWER, [Law.bernoulli]: 4 * SAME_POWER },
  [MaskType.signed]: { [Law.uniform]: 1, [Law.gaussian]: SAME_POWER, [Law.bernoulli]: 2 ** 0.5 },
};

/** A round of one client: its update u, the noise that suits it, and the weights to take each gradient at. */
export class MaskedTraining {
  #task;
  #terms;
  #sizes;
  #unit;
  #key;
  #steps;
  #base;

  /**
   * @param {object} broadcast as `readBroadcast` returned it
   * @param {import("./layout.js").Layout} layout
   * @param {number} steps how many steps the round has
   * @param {{low: number, high: number}} key that only this client knows: masks are drawn from it
   */
  constructor({ frame, state, templates, terms }, layout, steps, key) {
    this.#task = readTask(templates.find((t) => t.group === Group.coded));
    this.#terms = { progressive: 1, stochastic: 1, ...terms };
    this.#sizes = layout.sizes(Group.coded);
    this.#base = layout.part(state, Group.coded);
    this.#unit = noise(frame.noiseKey, this.#task.law, this.#task.scale, this.#base.length);
    this.#key = key;
    this.#steps = steps;
    this.u = new Float32Array(this.#base.length);
  }

  /** The weights of step tau, 1 to steps: w + PSM(u). One draw decides whether to mask, and to what. */
  weights(tau) {
    const q = this.#terms.progressive ? Math.min(tau / this.#steps, 1) : 1;
    const draws = uniforms(this.#key, Purpose.trainMask, tau, this.u.length);
    const n = this.#noise(this.#exponents());
    const out = new Float32Array(this.u.length);
    for (let i = 0; i < out.length; i++) {
      const value = draws[i] < q ? this.#masked(i, n, draws[i], q) : this.#clipped(i, n);
      out[i] = this.#base[i] + value;
    }
    return out;
  }

  /** A step of SGD on u: the gradient at the masked weights is taken for its own, straight through the mask. */
  step(gradient, lr) {
    for (let i = 0; i < this.u.length; i++) this.u[i] -= lr * gradient[i];
  }

  /** What is handed over: a mask drawn afresh, and the exponents of the scales. */
  finish() {
    if (!this.u.every(Number.isFinite)) throw new Error("training diverged: the update is not finite");
    const draws = uniforms(this.#key, Purpose.finalMask, 0, this.u.length);
    const exponents = this.#exponents();
    const n = this.#noise(exponents);
    const bits = Uint8Array.from(this.u, (_, i) => this.#isOne(i, n, draws[i], 1));
    return { bits, exponents, wanted: this.#wanted(), side: new Float32Array(0) };
  }

  /** The exponents of the scales that fit u: the nearest powers of two to a multiple of the mean of |u|. */
  #wanted() {
    let at = 0;
    return this.#sizes.map((size) => {
      let sum = 0;
      for (let i = at; i < at + size; i++) sum += Math.abs(this.u[i]);
      at += size;
      const e = Math.round(Math.log2((MULTIPLES[this.#task.type][this.#task.law] * sum) / size));
      return Math.min(Math.max(Number.isNaN(e) ? 0 : e, -80), 80);
    });
  }

  #exponents() {
    const { scales, caps } = this.#terms;
    if (this.#task.scales === "fixed") return this.#sizes.map(() => 0);
    if (this.#task.scales === "told") return scales;
    return this.#wanted().map((e, k) => Math.min(e, caps?.[k] ?? 80));
  }

  #noise(exponents) {
    const n = this.#unit.slice();
    let at = 0;
    this.#sizes.forEach((size, k) => {
      const scale = 2 ** exponents[k];
      for (let i = at; i < at + size; i++) n[i] *= scale;
      at += size;
    });
    return n;
  }

  #isOne(i, n, draw, q) {
    const ratio = this.u[i] / n[i];
    const p = Math.min(Math.max(this.#task.type === MaskType.signed ? (ratio + 1) / 2 : ratio, 0), 1);
    return this.#terms.stochastic ? draw < q * p : p >= 0.5;
  }

  #masked(i, n, draw, q) {
    if (this.#isOne(i, n, draw, q)) return n[i];
    return this.#task.type === MaskType.signed ? -n[i] : 0;
  }

  #clipped(i, n) {
    const least = this.#task.type === MaskType.signed ? -1 : 0;
    return Math.min(Math.max(this.u[i] / n[i], least), 1) * n[i];
  }
}

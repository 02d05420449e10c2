// Training: gradients against differences, the law of masks, and a whole federation without a network.

import assert from "node:assert/strict";
import { test } from "node:test";

import { readUpdate } from "../fedmrn/answers.js";
import { readBroadcast } from "../fedmrn/broadcast.js";
import { readTraining, train } from "../fedmrn/client.js";
import { floatBytes } from "../fedmrn/bytes.js";
import { Kind, Role, writeFrame } from "../fedmrn/frame.js";
import { Held } from "../fedmrn/grid.js";
import { Layout } from "../fedmrn/layout.js";
import { MaskedTraining } from "../fedmrn/masking.js";
import { Mlp } from "../fedmrn/mlp.js";
import { uniforms } from "../fedmrn/philox.js";

const layoutOf = (...sizes) =>
  new Layout(
    sizes.slice(1).flatMap((outputs, k) => [
      { name: `${2 * k}.weight`, shape: [outputs, sizes[k]], group: "coded" },
      { name: `${2 * k}.bias`, shape: [outputs], group: "coded" },
    ]),
  );

/** Template parameters of a mask: codec 1, or 12 over it. */
const OWN = { signed: [1, 2, 1, 0, 0, 128, 63], binary: [1, 0, 0, 0, 0, 128, 63] };

function broadcastOf(layout, state, mask, { round = 1, key = { low: 7, high: round } } = {}) {
  const elements = layout.size;
  const template = {
    codec: 12, role: Role.template, group: 0, elements, parameters: Uint8Array.from(OWN[mask]), body: new Uint8Array(0),
  };
  const whole = { codec: 0, role: Role.state, group: 0, elements, parameters: new Uint8Array(0), body: floatBytes(state) };
  const bytes = writeFrame({
    kind: Kind.broadcast, method: mask === "signed" ? 3 : 2, round, noiseKey: key, digest: layout.digest, weight: 0,
    sections: [template, whole],
  });
  return readBroadcast(bytes, layout, { held: new Held() });
}

test("private masks are refused before anything is trained", async () => {
  const layout = layoutOf(7, 3);
  const elements = layout.size;
  const value = new DataView(new ArrayBuffer(8));
  value.setFloat64(0, 0.125, true);
  const told = Uint8Array.from([7, 0, 8, 0, 0, 0, ...new Uint8Array(value.buffer)]);
  const section = (codec, role, parameters, body, count = elements) => ({
    codec, role, group: 0, elements: count, parameters: Uint8Array.from(parameters), body,
  });
  const bytes = writeFrame({
    kind: Kind.broadcast, method: 3, round: 1, noiseKey: { low: 7, high: 1 }, digest: layout.digest, weight: 0,
    sections: [
      section(1, Role.template, [2, 1, 0, 0, 128, 63], new Uint8Array(0)),
      section(0, Role.terms, [1], told, 1),
      section(0, Role.state, [], floatBytes(new Float32Array(elements))),
    ],
  });
  const broadcast = readBroadcast(bytes, layout, { held: new Held() });
  assert.equal(broadcast.terms.theta, 0.125);
  const training = readTraining({ lr: 0.3, epochs: 5, batch_size: 16 });
  await assert.rejects(train(broadcast, layout, samples(90, 0), training), (caught) => {
    assert.equal(caught.name, "UnknownTermError");
    assert.match(caught.message, /private masks \(theta = 0\.125\).*does not draw them/);
    return true;
  });
});

/** Blobs that lie in a ring: three classes, seven dimensions. */
function samples(count, index) {
  const draws = uniforms({ low: 1, high: 2 }, 9, index, 8 * count);
  const labels = Array.from({ length: count }, (_, i) => i % 3);
  const at = (i, j) => (j % 3 === labels[i] ? 1 : 0) + draws[8 * i + j] - 0.5;
  return { labels, images: labels.map((_, i) => Float32Array.from({ length: 7 }, (_, j) => at(i, j))) };
}

test("gradients are those of differences", () => {
  const layout = layoutOf(7, 5, 3);
  const model = new Mlp(layout);
  const weights = Float64Array.from(uniforms({ low: 3, high: 4 }, 9, 0, layout.size), (x) => x - 0.5);
  const { images, labels } = samples(6, 1);
  const gradient = new Float64Array(layout.size);
  model.gradient(weights, images, labels, gradient);
  const scratch = new Float64Array(layout.size);
  const loss = (i, by) => {
    const moved = weights.slice();
    moved[i] += by;
    return model.gradient(moved, images, labels, scratch);
  };
  for (let i = 0; i < layout.size; i++) {
    // Activations are float32: a loss near 1 is good to 1e-7, and a difference over 2e-2 of it to 1e-5.
    assert.ok(Math.abs((loss(i, 1e-2) - loss(i, -1e-2)) / 2e-2 - gradient[i]) < 2e-3, `parameter ${i}`);
  }
});

for (const mask of ["signed", "binary"]) {
  test(`a mean of ${mask} masks is the clipped update`, () => {
    const layout = layoutOf(7, 3);
    const broadcast = broadcastOf(layout, new Float32Array(layout.size), mask);
    const u = Float32Array.from({ length: layout.size }, (_, i) => Math.sin(i + 1) / 8);
    const draws = 4000;
    const sum = new Float64Array(layout.size);
    let spread = 0;
    for (let k = 0; k < draws; k++) {
      const rule = new MaskedTraining(broadcast, layout, 1, { low: k, high: 99 });
      rule.step(u.map((x) => -x), 1);
      const w = rule.weights(1); // q = 1: every element is masked
      w.forEach((x, i) => {
        sum[i] += x / draws;
        spread = Math.max(spread, Math.abs(x));
      });
    }
    const first = new MaskedTraining(broadcast, layout, 1e9, { low: 1, high: 1 });
    first.step(u.map((x) => -x), 1);
    const clipped = first.weights(1); // q = 0, nearly: no element is masked
    const bound = (6 * spread) / Math.sqrt(draws); // an element is within its largest magnitude; six deviations
    sum.forEach((mean, i) => assert.ok(Math.abs(mean - clipped[i]) < bound, `element ${i}: ${mean}, ${clipped[i]}`));
  });

  test(`a federation of three learns by ${mask} masks`, async () => {
    const layout = layoutOf(7, 6, 3);
    const model = new Mlp(layout);
    let state = Float32Array.from(uniforms({ low: 5, high: 6 }, 9, 0, layout.size), (x) => x - 0.5);
    const check = samples(300, 50);
    const before = model.evaluate(state, check.images, check.labels).accuracy;
    for (let round = 1; round <= 8; round++) {
      const mean = new Float64Array(layout.size);
      for (let client = 0; client < 3; client++) {
        const broadcast = broadcastOf(layout, state, mask, { round, key: { low: client, high: round } });
        const training = readTraining({ lr: 0.3, epochs: 5, batch_size: 16 });
        const key = { low: round, high: client + 1 };
        const { bytes } = await train(broadcast, layout, samples(90, client), training, { key });
        assert.equal(bytes.length, 56 + 20 + 7 + 4 + 12 * 4 + Math.ceil(layout.size / 8) + 4);
        const { frame, values } = readUpdate(bytes, broadcast, layout);
        assert.equal(frame.weight, 90);
        values.forEach((x, i) => (mean[i] += x / 3));
      }
      state = state.map((x, i) => x + mean[i]);
    }
    const { accuracy } = model.evaluate(state, check.images, check.labels);
    assert.ok(accuracy > 0.9 && accuracy > before, `${before} became ${accuracy}`);
  });
}

test("training that no client should do is refused", () => {
  assert.deepEqual(readTraining({}), { lr: 0.1, epochs: 1, batch_size: 32 });
  for (const config of [{ epochs: 1e6 }, { lr: NaN }, { lr: "1" }, { batch_size: 0.5 }, { epochs: null, lr: -1 }]) {
    assert.throws(() => readTraining(config), /this client has no/);
  }
});

test("a model of other layers is refused", () => {
  const conv = new Layout([
    { name: "conv.weight", shape: [4, 1, 3, 3], group: "coded" },
    { name: "conv.bias", shape: [4], group: "coded" },
  ]);
  assert.throws(() => new Mlp(conv), /conv\.weight/);
});

// Taking part in a federation: ask for work, train or evaluate, answer.

import { readBroadcast, readModel } from "./broadcast.js";
import { require, UnknownTermError } from "./errors.js";
import { Held } from "./grid.js";
import { Layout } from "./layout.js";
import { MaskedTraining } from "./masking.js";
import { Mlp } from "./mlp.js";
import { privateKey, Purpose, words } from "./philox.js";
import { RefusedError, sleep } from "./transport.js";
import { writeUpdate } from "./update.js";

/** The methods that this client trains by. */
export const ACCEPTED = Object.freeze(["fedmrn", "fedmrn-s"]);
/** How it trains where the server tells nothing else, and the range of what it may be told. */
const TRAINING = { lr: [0.1, 1e-6, 10], epochs: [1, 1, 100], batch_size: [32, 1, 4096] };

/** No model of a client of this kind is larger; memory is taken in proportion to what the server says of its model. */
const MOST_PARAMETERS = 2 ** 24;

/** The model of a layout that a server told, if this client can train it on these images. */
function modelOf(layout, { images }) {
  if (layout.size > MOST_PARAMETERS) throw new Error(`this client trains no model of ${layout.size} parameters`);
  const model = new Mlp(layout);
  const pixels = images[0]?.length;
  if (model.inputs !== pixels) throw new Error(`the model takes ${model.inputs} inputs, and an image has ${pixels}`);
  return model;
}

/** What the server tells of training, within bounds: one that asks for a million epochs is refused. */
export function readTraining(config) {
  const found = {};
  for (const [name, [usual, least, most]] of Object.entries(TRAINING)) {
    const value = config[name] ?? usual;
    const possible = typeof value === "number" && value >= least && value <= most;
    if (!possible || (name !== "lr" && !Number.isInteger(value))) throw new Error(`this client has no ${name} of ${value}`);
    found[name] = value;
  }
  return found;
}

/**
 * Refuse what the server asks for and this client does not do: private masks are drawn by another law, after another
 * training, and whoever sends others in their place breaks a promise that the server makes to all clients.
 */
export function checkTerms({ terms }) {
  const text = `the server asks for private masks (theta = ${terms.theta}), and this client does not draw them`;
  require(!(terms.theta > 0), UnknownTermError, `${text}: nothing was trained; take part with a client in Python`);
}

/** The order of samples in an epoch: by random words that only this client knows. */
function shuffled(count, key, epoch) {
  const random = words(key, Purpose.shuffle, epoch, count);
  return Array.from(random, (_, i) => i).sort((a, b) => random[a] - random[b]);
}

/**
 * Train a round on own samples, and return the update's bytes; a broadcast of private masks is refused.
 * @param {object} broadcast as `readBroadcast` returned it
 * @param {{images: Float32Array[], labels: number[]}} samples
 * @param {{lr: number, epochs: number, batch_size: number}} training
 */
export async function train(broadcast, layout, samples, training, { key = privateKey(), rest = async () => {} } = {}) {
  checkTerms(broadcast);
  const model = new Mlp(layout);
  const batch = Math.min(training.batch_size, samples.labels.length);
  const perEpoch = Math.ceil(samples.labels.length / batch);
  const rule = new MaskedTraining(broadcast, layout, training.epochs * perEpoch, key);
  const gradient = new Float32Array(layout.size);
  let [tau, loss] = [0, 0];
  for (let epoch = 0; epoch < training.epochs; epoch++) {
    const order = shuffled(samples.labels.length, key, epoch);
    for (let at = 0; at < order.length; at += batch) {
      const chosen = order.slice(at, at + batch);
      tau += 1;
      const images = chosen.map((i) => samples.images[i]);
      const labels = chosen.map((i) => samples.labels[i]);
      loss += model.gradient(rule.weights(tau), images, labels, gradient) / (training.epochs * perEpoch);
      rule.step(gradient, training.lr);
    }
    await rest();
  }
  const bytes = writeUpdate(broadcast, layout, { ...rule.finish(), weight: samples.labels.length });
  return { bytes, loss };
}

/**
 * Take part until the run is over.
 * @param {import("./transport.js").Transport} transport
 * @param {{train: object, test: object}} data of `readDigits`
 * @param {(event: object) => void} tell of what happens: {type: "run" | "state" | "update" | "refused" | "over", ...}
 */
export async function takePart(transport, data, tell = () => {}, signal = undefined) {
  for (;;) {
    const about = await transport.run();
    const layout = Layout.fromJson(JSON.stringify(about.layout));
    const model = modelOf(layout, data.train);
    tell({ type: "run", method: about.method, rounds: about.rounds, client: about.client, parameters: layout.size });
    const client = { about, layout, model, held: new Held() };
    if (await serve(transport, client, data, tell, signal)) return;
  }
}

/** Do the tasks of one run. Whether the run is over; false where the server began another. */
async function serve(transport, client, data, tell, signal) {
  const most = 2 ** 16 + 64 * client.layout.size; // more than any frame of this layout has
  for (;;) {
    const task = await transport.task(most);
    if (task === null) {
      tell({ type: "over" });
      return true;
    }
    if (task.run !== client.about.run) return false;
    try {
      await perform(transport, client, data, task, tell);
    } catch (error) {
      signal?.throwIfAborted();
      tell({ type: "refused", round: task.round, error });
      if (!(error instanceof RefusedError)) await transport.failure(task.name, error);
      else if (error.status !== 422) throw error; // a refused frame costs a round, and nothing more
      await sleep(0.2, signal);
    }
  }
}

async function perform(transport, { layout, model, held }, data, task, tell) {
  const count = data.train.labels.length;
  if (task.kind === "evaluate") {
    const { state } = readModel(task.body, layout, { held });
    const found = model.evaluate(state, data.test.images, data.test.labels);
    tell({ type: "state", round: task.round, ...found, bytes: task.body.length, final: true });
    await transport.answer(task.name, new Uint8Array(0), { ...found, "num-examples": data.test.labels.length });
    return;
  }
  if (task.kind !== "train") throw new Error(`this client has no task of kind ${task.kind}`);
  const broadcast = readBroadcast(task.body, layout, { held, accept: ACCEPTED });
  const shown = model.evaluate(broadcast.state, data.test.images, data.test.labels);
  tell({ type: "state", round: task.round - 1, ...shown, bytes: task.body.length });
  const rest = () => sleep(0); // a page stays responsive
  const { bytes, loss } = await train(broadcast, layout, data.train, readTraining(task.config), { rest });
  const counts = await transport.answer(task.name, bytes, { train_loss: loss, "num-examples": count });
  tell({ type: "update", round: task.round, loss, bytes: bytes.length, counts });
}

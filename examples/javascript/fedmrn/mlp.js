// A network of linear layers with ReLU between them, and its gradients by hand: softmax regression if there is one layer.

import { Group } from "./layout.js";

/** The layers that a layout's tensors make up: a weight (outputs, inputs), then a bias (outputs), and so on. */
export class Mlp {
  #layers;

  /** @throws {Error} the layout is of another kind of model */
  constructor(layout) {
    const { tensors } = layout;
    const layers = [];
    for (let k = 0; k + 1 < tensors.length; k += 2) {
      const [weight, bias] = [tensors[k], tensors[k + 1]];
      const [outputs, inputs] = weight.shape;
      const linear = weight.shape.length === 2 && bias.shape.length === 1 && bias.shape[0] === outputs;
      const follows = layers.length === 0 || layers.at(-1).outputs === inputs;
      const coded = weight.group === Group.coded && bias.group === Group.coded;
      if (!linear || !follows || !coded) throw new Error(`${weight.name} and ${bias.name} are no linear layer here`);
      layers.push({ outputs, inputs, weight: weight.start, bias: bias.start });
    }
    if (layers.length === 0 || tensors.length % 2) throw new Error("this client trains linear layers with biases only");
    this.#layers = layers;
    this.inputs = layers[0].inputs;
    this.classes = layers.at(-1).outputs;
    this.size = layout.size;
  }

  /** The outputs of every layer for one image; the last are the logits. */
  #forward(weights, image) {
    const outputs = [image];
    this.#layers.forEach((layer, k) => {
      const x = outputs[k];
      const y = new Float32Array(layer.outputs);
      for (let o = 0; o < layer.outputs; o++) {
        let sum = weights[layer.bias + o];
        const row = layer.weight + o * layer.inputs;
        for (let i = 0; i < layer.inputs; i++) sum += weights[row + i] * x[i];
        y[o] = k + 1 < this.#layers.length ? Math.max(sum, 0) : sum;
      }
      outputs.push(y);
    });
    return outputs;
  }

  /** The mean cross-entropy of a batch; its gradient, a flat vector, is written into `gradient`. */
  gradient(weights, images, labels, gradient) {
    gradient.fill(0);
    let loss = 0;
    images.forEach((image, b) => {
      const outputs = this.#forward(weights, image);
      const shares = softmax(outputs.at(-1));
      loss -= Math.log(Math.max(shares[labels[b]], 1e-12)) / images.length;
      let back = shares.map((p, c) => (p - (c === labels[b] ? 1 : 0)) / images.length);
      for (let k = this.#layers.length - 1; k >= 0; k--) {
        const layer = this.#layers[k];
        const x = outputs[k];
        const before = new Float64Array(layer.inputs);
        for (let o = 0; o < layer.outputs; o++) {
          if (back[o] === 0) continue;
          const row = layer.weight + o * layer.inputs;
          gradient[layer.bias + o] += back[o];
          for (let i = 0; i < layer.inputs; i++) {
            gradient[row + i] += back[o] * x[i];
            before[i] += back[o] * weights[row + i];
          }
        }
        back = before.map((g, i) => (x[i] > 0 ? g : 0)); // ReLU's; of the images it is not used
      }
    });
    return loss;
  }

  /** The share of images that get their label, and the mean cross-entropy. */
  evaluate(weights, images, labels) {
    let [right, loss] = [0, 0];
    images.forEach((image, b) => {
      const shares = softmax(this.#forward(weights, image).at(-1));
      if (shares.indexOf(Math.max(...shares)) === labels[b]) right += 1;
      loss -= Math.log(Math.max(shares[labels[b]], 1e-12));
    });
    return { accuracy: right / images.length, loss: loss / images.length };
  }
}

function softmax(logits) {
  const top = Math.max(...logits);
  const powers = Float64Array.from(logits, (x) => Math.exp(x - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

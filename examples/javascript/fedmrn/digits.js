// Pictures and labels from a file that make_digits.py wrote.

/** Images of values from 0 to 1, and their labels. @throws {Error} the file holds something else */
export function readDigits(text) {
  const file = JSON.parse(text);
  const { pixels, largest, classes } = file;
  if (![pixels, largest, classes].every((n) => Number.isInteger(n) && n > 0)) throw new Error("this is no file of digits");
  const part = (name) => {
    const { images, labels } = file[name];
    const fits = images.length === pixels * labels.length && labels.every((c) => Number.isInteger(c) && c >= 0 && c < classes);
    if (!fits || !images.every(Number.isFinite)) throw new Error(`the ${name} part of the file is damaged`);
    const values = Float32Array.from(images, (x) => x / largest);
    return { images: labels.map((_, i) => values.subarray(i * pixels, (i + 1) * pixels)), labels };
  };
  return { train: part("train"), test: part("test") };
}

// What the client in JavaScript says of frames: a line for each line of the standard input.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [, , client, table] = process.argv;
const load = (name) => import(new URL(name, client));
const [{ readUpdate }, { readBroadcast }, { floatBytes, unhex }, { METHODS }, { Held }, { Layout }] =
  await Promise.all(["answers.js", "broadcast.js", "bytes.js", "frame.js", "grid.js", "layout.js"].map(load));
const { setGaussianTable } = await load("noise.js");
setGaussianTable(readFileSync(table));

function verdict({ layout: text, before, broadcast, update }) {
  const layout = Layout.fromJson(text);
  const options = { held: new Held(), accept: METHODS };
  try {
    for (const frame of before) readBroadcast(unhex(frame), layout, options);
    const asked = readBroadcast(unhex(broadcast), layout, options);
    const values = update ? readUpdate(unhex(update), asked, layout).values : asked.state;
    return createHash("sha256").update(floatBytes(values)).digest("hex");
  } catch (error) {
    return error.name;
  }
}

for await (const line of createInterface({ input: process.stdin })) console.log(verdict(JSON.parse(line)));

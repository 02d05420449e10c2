// Take part in a federation from the command line:
//
//     FEDMRN_TOKEN=... node node-client.js http://127.0.0.1:8000 digits/2.json

import { readFileSync } from "node:fs";
import { argv, env, exit } from "node:process";

import { takePart } from "./fedmrn/client.js";
import { readDigits } from "./fedmrn/digits.js";
import { setGaussianTable } from "./fedmrn/noise.js";
import { Transport } from "./fedmrn/transport.js";

const TABLE = new URL("../../src/fedmrn/numerics/gaussian.bin", import.meta.url);

function say(event) {
  if (event.type === "run") {
    console.log(`client ${event.client} of ${event.method}: ${event.parameters} parameters, ${event.rounds} rounds`);
  } else if (event.type === "state") {
    console.log(`after round ${event.round}: accuracy ${event.accuracy.toFixed(4)}, ${event.bytes} bytes came`);
  } else if (event.type === "update") {
    const late = event.counts ? "" : ", too late";
    console.log(`round ${event.round}: loss ${event.loss.toFixed(4)}, ${event.bytes} bytes sent${late}`);
  } else if (event.type === "refused") {
    console.log(`round ${event.round}: ${event.error.name}: ${event.error.message}`);
  }
}

const [server, file] = argv.slice(2);
if (server === undefined || file === undefined || env.FEDMRN_TOKEN === undefined) {
  console.error("usage: FEDMRN_TOKEN=... node node-client.js SERVER DIGITS.json");
  exit(2);
}
try {
  setGaussianTable(readFileSync(TABLE)); // only gaussian noise needs it
  const transport = new Transport(server, env.FEDMRN_TOKEN, { onTrouble: (text) => console.error(text) });
  await takePart(transport, readDigits(readFileSync(file, "utf8")), say);
  console.log(`the run is over: ${transport.down} bytes came, ${transport.up} went`);
} catch (error) {
  console.error(`${error.name}: ${error.message}`);
  exit(1);
}

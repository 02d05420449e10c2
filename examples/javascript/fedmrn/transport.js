// The protocol of docs/http.md: what goes over HTTP, and when to ask again. It knows nothing of frames.

import { concat } from "./bytes.js";

const PROTOCOL = 1;
const AGAIN = new Set([408, 429, 500, 502, 503, 504]);
/** No answer but a task is longer than this. */
const MOST_TEXT = 2 ** 24;

/** A request that will never do. */
export class RefusedError extends Error {
  constructor(status, { error = "", message = "", again = false } = {}) {
    super(`${status} ${error}: ${message}`.trim());
    this.name = "RefusedError";
    this.status = status;
    this.error = error;
    this.again = again;
  }
}

/** Wait, unless the signal says stop: then throw its reason. */
export function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** A federation's server, as one client sees it. */
export class Transport {
  #base;
  #token;
  #signal;

  /**
   * @param {string} base the server's address, such as http://127.0.0.1:8000
   * @param {string} token names this client
   * @param {{signal?: AbortSignal, onTrouble?: (text: string) => void}} options
   */
  constructor(base, token, { signal, onTrouble = () => {} } = {}) {
    if (!/^https?:\/\/./.test(base) || !URL.canParse(base)) {
      throw new TypeError(`a server's address is such as https://host:8000, not ${base}`);
    }
    this.#base = base.replace(/\/+$/, "");
    this.#token = token;
    this.#signal = signal;
    this.onTrouble = onTrouble;
    /** Bytes of bodies, as they went both ways. */
    this.up = 0;
    this.down = 0;
  }

  /** What the run is. */
  async run() {
    const response = await this.#send("GET", "/v1/run");
    const about = JSON.parse(new TextDecoder().decode(await this.#body(response, MOST_TEXT)));
    if (about.protocol !== PROTOCOL) throw new Error(`the server speaks version ${about.protocol} of the protocol`);
    return about;
  }

  /**
   * The next task; null where the run is over. It waits for as long as there is none.
   * @param {number} most the bytes that a task may have
   */
  async task(most) {
    for (;;) {
      const response = await this.#send("GET", "/v1/task?wait=20", {}, [200, 204, 410]);
      if (response.status === 410) return null;
      if (response.status === 204) {
        await sleep(pause(response) ?? 1, this.#signal);
        continue;
      }
      const { headers } = response;
      const config = JSON.parse(headers.get("Fedmrn-Config") || "{}");
      return {
        name: headers.get("Fedmrn-Task"),
        kind: headers.get("Fedmrn-Kind"),
        round: Number(headers.get("Fedmrn-Round")),
        run: headers.get("Fedmrn-Run"),
        config: config !== null && typeof config === "object" ? config : {},
        body: await this.#body(response, most),
      };
    }
  }

  /** Upload an answer. Whether it counts; an answer that came too late does not. */
  async answer(task, body, metrics) {
    const headers = { "Content-Type": "application/octet-stream", "Fedmrn-Metrics": JSON.stringify(metrics) };
    const response = await this.#send("PUT", `/v1/answer/${task}`, { headers, body }, [200, 409]);
    await this.#body(response, MOST_TEXT);
    return response.status === 200;
  }

  /** Say why there is no answer. */
  async failure(task, error) {
    const line = `${error.name}: ${error.message}`.replace(/\s+/g, " ").slice(0, 1000);
    const options = { headers: { "Content-Type": "text/plain; charset=utf-8" }, body: new TextEncoder().encode(line) };
    await this.#body(await this.#send("PUT", `/v1/failure/${task}`, options, [200, 409]), MOST_TEXT);
  }

  /** Send a request until there is an answer that is final. */
  async #send(method, path, { headers = {}, body } = {}, good = [200]) {
    for (let backoff = 1; ; backoff = Math.min(2 * backoff, 60)) {
      let response = null;
      try {
        const all = { Authorization: `Bearer ${this.#token}`, ...headers };
        response = await fetch(this.#base + path, { method, headers: all, body, signal: this.#signal, cache: "no-store" });
      } catch (error) {
        this.#signal?.throwIfAborted();
        this.onTrouble(`no connection (${error.cause?.code ?? error.message}); trying again`);
      }
      if (response !== null && !AGAIN.has(response.status)) {
        this.up += body?.length ?? 0;
        if (good.includes(response.status)) return response;
        throw await this.#refusal(response);
      }
      if (response !== null) this.onTrouble(`the server answers ${response.status}; trying again`);
      await response?.body?.cancel();
      await sleep((response && pause(response)) ?? backoff * (0.5 + Math.random() / 2), this.#signal);
    }
  }

  async #refusal(response) {
    let told = {};
    try {
      told = JSON.parse(new TextDecoder().decode(await this.#body(response, MOST_TEXT)));
    } catch {
      // The status says enough.
    }
    return new RefusedError(response.status, told ?? {});
  }

  /** The bytes of a body, no more than `most`: a longer one is not read to its end. */
  async #body(response, most) {
    const parts = [];
    let size = 0;
    for (const reader = response.body?.getReader(); reader; ) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > most) {
        await reader.cancel();
        throw new Error(`the server sends more than ${most} bytes`);
      }
      parts.push(value);
    }
    this.down += size;
    return concat(parts);
  }
}

function pause(response) {
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return seconds >= 0 && seconds <= 3600 ? seconds : null;
}

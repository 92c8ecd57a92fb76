// The service behind the page: requests, and what goes wrong with them in words.

const SLOW_MS = 2000; // without an answer, before the reader is told what it waits for
const POLL_MS = 500; // between two looks at a job that takes longer than a request may

/** Something that the reader is to know of. */
export class Told extends Error {
  get words() {
    return this.message;
  }
}

/** A request that was not answered as asked. `status`: 0 where nothing answered. */
export class Refused extends Told {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfterS = Number(retryAfter) || 1;
  }

  get words() {
    if (this.status === 0) return "The service does not answer. Is it running?";
    if (this.status === 401) return key ? "The service does not know this key." : "This service needs a key.";
    if (this.status === 429) return `The service is busy (${this.message}).`;
    if (this.status === 503) return `The service cannot answer now: ${this.message}`;
    return this.message.replace(/^body\.[\w.]+: /, ""); // where in the request it was is nothing to a reader
  }
}

/** Server-sent events of an answer, as {event, data}, data parsed. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
        if (fields.event) yield { event: fields.event, data: JSON.parse(fields.data) };
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, String(error)); // the connection broke
  }
}

let key = null;
try {
  key = sessionStorage.getItem("key");
} catch {
  // A browser that stores nothing asks for the key again.
}

/** Use this key from now on; it is forgotten with the tab. value: printable ASCII. */
export function useKey(value) {
  key = value;
  try {
    sessionStorage.setItem("key", value);
  } catch {
    // as above
  }
}

/** Whether requests carry a key. */
export function hasKey() {
  return Boolean(key);
}

/** The answer to a POST of `body`, or to a GET without one. Throws Refused; AbortError when `signal` ends it. */
export async function ask(path, body, { signal, accept = "application/json" } = {}) {
  const waiting = new Waiting();
  try {
    const response = await send(path, body, { signal, accept });
    return response.status === 202 ? await result(response.headers.get("Location"), signal) : response;
  } finally {
    waiting.end();
  }
}

/** What `ask` answers, parsed. */
export async function askJson(path, body, options = {}) {
  const response = await ask(path, body, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, String(error)); // the connection broke
  }
}

/** DELETE what is at `path`, even if the page goes meanwhile. */
export function forget(path) {
  return send(path, undefined, { method: "DELETE", keepalive: true });
}

async function send(path, body, { signal, accept = "application/json", keepalive = false, method }) {
  const headers = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const content = body === undefined ? undefined : JSON.stringify(body);
    const by = method ?? (body === undefined ? "GET" : "POST");
    response = await fetch(path, { method: by, headers, body: content, signal, keepalive });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, String(error));
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401 || (response.status === 403 && key)) document.dispatchEvent(new Event("key-needed"));
    throw new Refused(response.status, problem.detail ?? response.statusText, response.headers.get("Retry-After"));
  }
  return response;
}

/** The result of a job that goes on behind the request, as an answer in place would have it. */
async function result(location, signal) {
  const path = location.replace(/^\//, ""); // relative to the page, which a proxy may have put under a prefix
  try {
    for (;;) {
      const job = await (await send(path, undefined, { signal })).json();
      if (job.state === "done") return Response.json(job.result);
      if (job.error) throw new Refused(job.error.status, job.error.detail);
      if (job.state === "cancelled") throw new Refused(409, "The job was cancelled.");
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  } catch (error) {
    // Nobody waits for it any more; where it has ended meanwhile, there is nothing to cancel.
    if (error.name === "AbortError") forget(path).catch(() => {});
    throw error;
  }
}

/** Tells the reader why an answer is not there after a while, and takes that back when it is. */
class Waiting {
  constructor() {
    this.ended = false;
    this.told = "";
    this.timer = setTimeout(() => this.tell(), SLOW_MS);
  }

  async tell() {
    const ready = await fetch("readyz").catch(() => null);
    if (this.ended) return;
    const away = "No worker is ready. What was asked is kept, and answered when one is.";
    this.told = ready?.status === 503 ? away : "Still waiting …";
    document.dispatchEvent(new CustomEvent("waiting", { detail: { words: this.told, over: false } }));
  }

  end() {
    this.ended = true;
    clearTimeout(this.timer);
    if (this.told) document.dispatchEvent(new CustomEvent("waiting", { detail: { words: this.told, over: true } }));
  }
}

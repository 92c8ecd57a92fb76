// A text that is being written, in colours: of the unit as it reads it back, or of how unlikely each character was.

import { step } from "./colours.js";
import { Ink } from "./ink.js";
import { percent, signed } from "./numbers.js";
import { Reading } from "./reading.js";
import { ask, askJson, events, Refused } from "./service.js";

const READ_MS = 150; // between two readings of what is being written
const UNLIKELY = 5; // nats of a character that has full colour

export class Column {
  /** number: of its elements in the page, mood-N, written-N and said-N. */
  constructor(element, number) {
    const part = (name) => element.querySelector(`#${name}-${number}`);
    this.mood = part("mood");
    this.said = part("said");
    this.ink = new Ink(part("written"));
    this.text = "";
    this.painted = 0; // how much of the text is shown
    this.frame = 0; // the request for the next one
  }

  /** Write as `body`, of a POST /generate, says; in the colours of the unit if it asks for no likelihoods. Throws as `ask`. */
  async write(mood, body, signal) {
    this.begin(mood, body.prompt);
    if (body.best_of > 1) {
      this.said.textContent = `Writing ${body.best_of}, to show the best …`;
      this.end((await askJson("generate", body, { signal })).results[0]);
    } else await this.stream(body, signal);
    await this.judge();
  }

  /** Stop, and colour what is there. */
  async halt() {
    this.said.textContent = "Stopped.";
    if (this.text !== this.prompt) await this.judge();
  }

  async judge() {
    await this.read(true);
    const { end, labels } = this.reading;
    if (!end) return;
    this.said.textContent = `Read again: unit ${signed(end.unit)}, ${labels[1]} ${percent(end.probabilities[1])}`;
  }

  begin(mood, prompt) {
    this.mood.textContent = mood;
    this.said.textContent = "";
    this.prompt = prompt;
    this.text = prompt;
    this.likely = null;
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.stop();
    this.reading = new Reading();
    this.readAt = 0;
    this.paint(0);
  }

  async stream(body, signal) {
    const response = await ask("generate", { ...body, stream: true }, { signal, accept: "text/event-stream" });
    for await (const { event, data } of events(response)) {
      if (event === "token") {
        this.add(data.text);
        if (!body.log_probabilities) this.read(false).catch(unlessOutrun);
      } else if (event === "done") return this.end(data.results[0]);
      else throw new Refused(data.status, data.detail);
    }
    throw new Refused(0, "the stream broke off");
  }

  /** More of the text; what comes between two frames is painted at once. */
  add(text) {
    this.text += text;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.paint(this.painted);
    });
  }

  /** Colour what was read; not more often than the eye sees, unless it is the last time. */
  async read(last) {
    if (!this.text.trim()) return;
    if (!last && (this.reading.inFlight || performance.now() - this.readAt < READ_MS)) return;
    this.readAt = performance.now();
    this.reading.change(this.text);
    const from = await this.reading.update();
    this.paint(from);
  }

  /** Read no more. */
  stop() {
    this.reading?.stop();
  }

  end(sample) {
    this.text = this.prompt + sample.text;
    if (sample.bytes) this.likely = byCharacter(sample.bytes);
    this.paint(0);
  }

  /** Show what is new from `from` on. */
  paint(from) {
    const { text, prompt, reading, likely } = this;
    this.painted = text.length;
    this.ink.show(text, from, (index) => {
      const begun = index < prompt.length ? "begun" : "";
      if (likely) return begun || `l${step(likely[index - prompt.length] / UNLIKELY) - 10}`;
      return index < reading.size ? `${begun} u${step(reading.unit[index])}` : begun;
    });
  }
}

/** How unlikely each character was, in nats, the sum over its bytes, for every UTF-16 unit. */
function byCharacter(bytes) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const found = [];
  let nats = 0;
  for (const { byte, log_probability: of } of bytes) {
    // Bytes that make no character come out before the one that shows it.
    const [...characters] = decoder.decode(Uint8Array.of(byte), { stream: true });
    const last = characters.pop();
    if (last === undefined) nats -= of;
    else {
      for (const _ of characters) found.push(nats);
      const own = characters.length ? -of : nats - of;
      for (let unit = 0; unit < last.length; unit += 1) found.push(own);
      nats = 0;
    }
  }
  return found;
}

function unlessOutrun(error) {
  // A reading on the way that was refused is made up for by the last one, whose error is told.
  if (error.name !== "AbortError" && !(error instanceof Refused)) throw error;
}

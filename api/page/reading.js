// A text that is read while it is typed: what is known of it by character, and the requests for what is not.

import { askJson } from "./service.js";

export const HEAD = "sentiment";

/** [index, step] of the UTF-16 units from `from` on that a trace tells of; the last step of one has the last word. */
export function* byCharacter(bytes, from = 0) {
  let index = from;
  for (const step of bytes) {
    // White space that is not read, before the text, has the value of what follows.
    for (index = Math.min(index, step.start); index < step.end; index += 1) yield [index, step];
  }
}

/** What the unit and the classifier hold after every UTF-16 unit of a text. */
export class Reading {
  constructor() {
    this.text = "";
    this.size = 0; // how much of the text has values
    this.unit = new Float32Array(256); // calibrated, in [-1, 1]
    this.head = new Float32Array(256); // log-odds of the second label
    this.end = null; // after the whole text: {unit, probabilities}
    this.labels = null;
    this.model = null;
    this.inFlight = null;
  }

  /** The text is now this one. Returns how much of what is known stays. */
  change(text) {
    const most = Math.min(this.size, text.length);
    let same = 0;
    while (same < most && text.charCodeAt(same) === this.text.charCodeAt(same)) same += 1;
    this.text = text;
    this.size = same;
    this.end = null;
    return same;
  }

  /** Ask for what is not known. Returns from where on values are new; throws as `ask`, AbortError where it was outrun. */
  async update() {
    this.stop();
    const mine = (this.inFlight = new AbortController());
    const { text, size } = this;
    const request = { text, start: size, offsets: "utf-16", head: HEAD };
    try {
      const answer = await askJson("trace", request, { signal: mine.signal });
      if (mine.signal.aborted || text !== this.text) throw new DOMException("outrun", "AbortError");
      return this.take(answer);
    } finally {
      if (this.inFlight === mine) this.inFlight = null;
    }
  }

  stop() {
    this.inFlight?.abort();
    this.inFlight = null;
  }

  take(answer) {
    const { bytes, labels, model } = answer;
    this.labels = labels;
    this.model = model;
    this.reserve(this.text.length);
    const from = Math.min(bytes[0].start, this.size);
    this.size = from;
    for (const [index, { sentiment, probabilities }] of byCharacter(bytes, from)) {
      this.unit[index] = sentiment;
      this.head[index] = Math.log(probabilities[1] / probabilities[0]);
      this.size = index + 1;
    }
    const last = bytes[bytes.length - 1];
    this.end = { unit: last.sentiment, probabilities: last.probabilities };
    return from;
  }

  reserve(size) {
    for (const name of ["unit", "head"]) {
      if (this[name].length >= size) continue;
      const larger = new Float32Array(2 * size);
      larger.set(this[name]);
      this[name] = larger;
    }
  }
}

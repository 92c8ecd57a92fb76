// Two columns that write at once, and what starts and stops them.

import { Column } from "./column.js";

export class Writers {
  /** numbers: of the columns in the page. halt: the button that stops them. */
  constructor(element, numbers, halt) {
    this.columns = numbers.map((number) => new Column(element, number));
    this.halt = halt;
    this.running = null;
    halt.addEventListener("click", () => this.stop());
  }

  /** A client that goes away cancels its job. */
  stop() {
    this.running?.abort();
    for (const column of this.columns) column.stop();
  }

  /** wishes: for each column {mood, body}. Throws Told where one is refused. */
  async write(wishes) {
    this.stop();
    const mine = (this.running = new AbortController());
    this.halt.disabled = false;
    const done = await Promise.allSettled(
      this.columns.map((column, number) => column.write(wishes[number].mood, wishes[number].body, mine.signal)),
    );
    if (this.running !== mine) return; // another writing took the columns
    this.halt.disabled = true;
    const failed = done.map(({ reason }) => reason).filter((reason) => reason && reason.name !== "AbortError");
    if (failed.length) throw failed[0];
    if (mine.signal.aborted) await Promise.all(this.columns.map((column) => column.halt().catch(unlessOutrun)));
  }
}

function unlessOutrun(error) {
  if (error.name !== "AbortError") throw error;
}

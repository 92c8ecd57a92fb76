// What the reader is told: of each panel its own words, or what all wait for.

import { Told } from "./service.js";

export class Messages {
  /** element: where they are shown. */
  constructor(element) {
    this.element = element;
    this.panel = "";
    this.told = new Map(); // by panel
    this.waiting = []; // for what, by each request that is slow
    document.addEventListener("waiting", ({ detail: { words, over } }) => {
      if (!over) this.waiting.push(words);
      else this.waiting.splice(this.waiting.indexOf(words), 1);
      this.show();
    });
  }

  /** This panel is on screen. */
  open(panel) {
    this.panel = panel;
    this.show();
  }

  show() {
    this.element.textContent = this.told.get(this.panel) || this.waiting[this.waiting.length - 1] || "";
  }

  /** How one panel speaks. */
  of(panel) {
    /** An empty text takes back what was told. */
    const say = (words) => {
      this.told.set(panel, words);
      this.show();
    };

    /** Do it; where the service refuses or the input is of no use, tell the reader. */
    const guarded = async (act) => {
      say("");
      try {
        await act();
      } catch (error) {
        if (!(error instanceof Told)) throw error;
        say(error.words);
      }
    };
    return { say, guarded };
  }
}

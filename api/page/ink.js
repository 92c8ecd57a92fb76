// The colours behind a text: neighbours of one colour are one element, and what does not change is left alone.

// What is written on what stands before it: apart, it would be drawn apart.
const JOINED = /^[\p{M}\u200d\ufe0f\u{1f3fb}-\u{1f3ff}]/u;

export class Ink {
  constructor(element) {
    this.element = element;
    this.runs = []; // {end, span}, in order
    this.tail = document.createElement("br"); // a last empty line has its height
  }

  /** Show `text` whose first `from` units are as they were. name(index): the classes of a unit. */
  show(text, from, name) {
    while (this.runs.length && this.runs[this.runs.length - 1].end > from) this.runs.pop().span.remove();
    let position = this.runs.length ? this.runs[this.runs.length - 1].end : 0;
    const fresh = document.createDocumentFragment();
    while (position < text.length) {
      const classes = name(position);
      let end = position + 1;
      while (end < text.length && (name(end) === classes || joined(text, end))) end += 1;
      const span = document.createElement("span");
      span.className = classes;
      span.textContent = text.slice(position, end);
      fresh.append(span);
      this.runs.push({ end, span });
      position = end;
    }
    fresh.append(this.tail);
    this.element.append(fresh);
  }

  /** Take the colours away from `index` on, until `show` or another `reveal`. */
  reveal(index) {
    for (const { end, span } of this.runs) span.classList.toggle("unread", end > index);
  }

  /** The unit of the text under a point of the window, or null. */
  at(x, y) {
    const found = document.caretPositionFromPoint
      ? document.caretPositionFromPoint(x, y)
      : document.caretRangeFromPoint?.(x, y);
    const node = found?.offsetNode ?? found?.startContainer;
    const span = node?.parentElement;
    const index = this.runs.findIndex((run) => run.span === span);
    if (index < 0) return null;
    return (index ? this.runs[index - 1].end : 0) + (found.offset ?? found.startOffset);
  }
}

function joined(text, index) {
  const code = text.charCodeAt(index);
  if (code < 0x300) return false;
  return (code >= 0xdc00 && code < 0xe000) || text[index - 1] === "\u200d" || JOINED.test(text.slice(index, index + 2));
}

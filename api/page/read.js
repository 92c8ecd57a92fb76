// The panel that reads: a text in the colours of the unit, while it is typed.

import { step } from "./colours.js";
import { Curve } from "./curve.js";
import { EXAMPLES } from "./examples.js";
import { Ink } from "./ink.js";
import { percent, signed } from "./numbers.js";
import { save } from "./picture.js";
import { HEAD, Reading } from "./reading.js";
import { showRequest } from "./request.js";
import { Refused } from "./service.js";

const WAIT_MS = 40; // after a key, for the next one
const SAID_MS = 1200; // without a change, before the verdict is spoken
const FULL_ODDS = 6; // log-odds that have full colour
const REPLAY_MS = 30; // a character
const LONGEST_REPLAY_MS = 7000;

export function start(element, { say, name, guarded }) {
  const part = (name) => element.querySelector(`#${name}`);
  const field = part("text");
  const ink = new Ink(part("ink"));
  const curve = new Curve(part("curve"), ["unit", "head"]);
  const reading = new Reading();
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const showCode = showRequest(part("read-code"), () => ({ path: "trace", body: { text: field.value, head: HEAD } }));
  let typing = 0;
  let speaking = 0;
  let replaying = 0;
  let told = false; // whether the reader was told of an error, which an answer takes back

  const headOf = (index) => Math.max(-1, Math.min(1, reading.head[index] / FULL_ODDS));

  function paint(from) {
    const { text, size } = reading;
    while (from > 0 && /\S/.test(text[from - 1])) from -= 1; // a word that goes on is coloured anew
    let wordEnd = 0;
    ink.show(text, from, (index) => {
      if (index >= size) return "";
      const unit = `u${step(reading.unit[index])}`;
      if (/\s/.test(text[index])) return unit;
      if (index >= wordEnd) {
        wordEnd = index + 1;
        while (wordEnd < size && /\S/.test(text[wordEnd])) wordEnd += 1;
      }
      return `${unit} h${step(headOf(wordEnd - 1))}`;
    });
  }

  /** What the classifier says at the end of each word: within one it wavers. */
  function byWord() {
    const { text, size } = reading;
    const held = new Float32Array(size);
    let inWord = false;
    for (let index = size - 1; index >= 0; index -= 1) {
      const letter = /\S/.test(text[index]);
      held[index] = letter && inWord ? held[index + 1] : headOf(index);
      inWord = letter;
    }
    return (index) => held[index];
  }

  function judge() {
    const { end, labels } = reading;
    const [label, sure, unit] = part("verdict").children;
    part("verdict").classList.remove("former");
    if (end === null || !reading.text.trim()) {
      for (const each of [label, sure, unit]) each.textContent = "";
      return;
    }
    const best = end.probabilities[0] > end.probabilities[1] ? 0 : 1;
    const share = end.probabilities[best];
    const agrees = Math.abs(end.unit) < 0.05 || end.unit > 0 === (best === 1);
    label.textContent = labels[best];
    label.className = best ? "pleased" : "displeased";
    sure.textContent = `${percent(share)} sure, margin ${(2 * share - 1).toFixed(2)}.`;
    unit.textContent = `The unit holds ${signed(end.unit)}${agrees ? "." : ": it leans the other way. The classifier weighs it among others, and decides."}`;
    clearTimeout(speaking);
    speaking = setTimeout(() => (part("verdict-said").textContent = part("verdict").textContent), SAID_MS);
  }

  function point(index) {
    const known = index !== null && index >= 0 && index < reading.size;
    curve.point(known ? index : null);
    if (!known) return;
    const before = reading.text.slice(Math.max(0, index - 24), index + 1);
    const positive = 1 / (1 + Math.exp(-reading.head[index]));
    part("point").textContent =
      `After “${index > 24 ? "…" : ""}${before}”: unit ${signed(reading.unit[index])}, ` +
      `${reading.labels[1]} ${percent(positive)}`;
  }

  async function update() {
    try {
      const from = await reading.update();
      paint(from);
      curve.show(reading.size, [(index) => reading.unit[index], byWord()]);
      judge();
      point(field.selectionStart - 1);
      name(reading.model);
      if (told) say("");
      told = false;
    } catch (error) {
      if (error.name === "AbortError") return false;
      if (!(error instanceof Refused)) throw error;
      say(error.words);
      told = true;
      if (error.status === 429) typing = setTimeout(update, 1000 * error.retryAfterS);
      return false;
    }
    return true;
  }

  function changed() {
    endReplay();
    reading.stop();
    paint(reading.change(field.value));
    showCode();
    clearTimeout(typing);
    if (field.value.trim()) typing = setTimeout(update, WAIT_MS);
    else judge(); // there is nothing to read
    part("verdict").classList.toggle("former", reading.end === null);
  }

  /** The text once more, as the network read it: from the beginning on. */
  function replay() {
    endReplay();
    const { size } = reading;
    if (!size || still.matches) return;
    const began = performance.now();
    const lasts = Math.min(LONGEST_REPLAY_MS, REPLAY_MS * size);
    const frame = (now) => {
      const share = Math.max(0, (now - began) / lasts);
      if (share >= 1) return endReplay();
      const index = Math.floor(share * size);
      ink.reveal(index);
      curve.reveal(share);
      point(index);
      replaying = requestAnimationFrame(frame);
    };
    replaying = requestAnimationFrame(frame);
  }

  function endReplay() {
    if (!replaying) return;
    cancelAnimationFrame(replaying);
    replaying = 0;
    ink.reveal(Infinity);
    curve.reveal(1);
    point(reading.size - 1);
  }

  async function show(text) {
    field.value = text;
    changed();
    clearTimeout(typing);
    if (await update()) replay();
  }

  field.addEventListener("input", changed);
  document.addEventListener("selectionchange", () => {
    if (document.activeElement === field && !replaying) point(field.selectionStart - 1);
  });
  field.addEventListener("pointermove", (event) => {
    if (replaying) return;
    field.classList.add("seen-through");
    const index = ink.at(event.clientX, event.clientY);
    field.classList.remove("seen-through");
    if (index !== null) point(index);
  });
  for (const { name: called, text } of EXAMPLES) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = called;
    button.addEventListener("click", () => show(text));
    part("examples").append(button);
  }
  part("replay").addEventListener("click", replay);
  part("replay").hidden = still.matches;
  for (const kind of ["svg", "png"]) {
    part(`read-${kind}`).addEventListener("click", () => guarded(() => save({ text: field.value }, kind)));
  }
  show(EXAMPLES[0].text);
  return { again: update };
}

// The panel that explores: any unit beside the sentiment unit, held at a value, and which units matter.

import { step } from "./colours.js";
import { Curve } from "./curve.js";
import { EXAMPLES } from "./examples.js";
import { showHistogram } from "./histogram.js";
import { Ink } from "./ink.js";
import { signed } from "./numbers.js";
import { save } from "./picture.js";
import { byCharacter, HEAD } from "./reading.js";
import { showRequest } from "./request.js";
import { askJson, Told } from "./service.js";
import { Writers } from "./writers.js";

const WAIT_MS = 200; // after a key, for the next one
const REACH = 2; // how far beyond what the text shows a unit may be held

export function start(element, { guarded }) {
  const part = (name) => element.querySelector(`#${name}`);
  const { unit: field, text } = part("unit-form").elements;
  const clamp = part("clamp");
  const inks = { unit: new Ink(part("unit-ink")), sentiment: new Ink(part("sentiment-ink")) };
  const curve = new Curve(part("unit-curve"), ["unit", "head"]);
  const writers = new Writers(element, [2, 3], part("clamp-halt"));
  const showCode = showRequest(part("explore-code"), () => ({ path: "trace", body: body() }));
  let model = null;
  let timer = 0;
  let inFlight = null;

  const units = () => [...new Set([Number(field.value), model.sentiment_unit])].filter((unit) => unit !== null);
  const body = () => ({ text: text.value, units: model ? units() : [Number(field.value)] });

  /** The unit that is chosen. Throws Told where there is none of that number. */
  function chosen() {
    if (!field.checkValidity()) throw new Told(`Unit: ${field.validationMessage}`);
    return Number(field.value);
  }

  async function update() {
    inFlight?.abort();
    if (!model) throw new Told("No worker is ready: nothing is known of the units yet.");
    chosen();
    if (!text.value.trim()) return clear();
    const mine = (inFlight = new AbortController());
    const asked = { ...body(), offsets: "utf-16" };
    try {
      const answer = await askJson("trace", asked, { signal: mine.signal });
      if (!mine.signal.aborted) show(asked, answer);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  function clear() {
    for (const ink of Object.values(inks)) ink.show("", 0);
    curve.show(0, [() => 0, () => 0]);
  }

  function show({ text: read, units: [unit, sentiment] }, { bytes }) {
    const columns = [valuesOf(read, bytes, 0), valuesOf(read, bytes, sentiment === undefined ? 0 : 1)];
    const bounds = columns.map((values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1);
    part("unit-name").textContent = `Unit ${unit}${unit === model.sentiment_unit ? ", the sentiment unit" : ""}`;
    part("sentiment-name").textContent = sentiment === undefined ? "" : `Unit ${sentiment}, the sentiment unit`;
    part("unit-key").textContent = `unit ${unit}`;
    ["unit", "sentiment"].forEach((name, number) => {
      inks[name].show(read, 0, (index) => `u${step(columns[number][index], bounds[number])}`);
    });
    for (const alone of [inks.sentiment.element, part("sentiment-name"), part("sentiment-key")]) {
      alone.hidden = sentiment === undefined;
    }
    curve.show(read.length, columns.map((values, number) => (index) => values[index] / bounds[number]));
    const { value } = clamp.elements;
    value.max = (REACH * bounds[0]).toFixed(2);
    value.min = -value.max;
    value.step = "any";
    value.value = bounds[0];
    showClamp();
  }

  function showClamp() {
    const { value } = clamp.elements;
    value.nextElementSibling.textContent = signed(Number(value.value));
  }

  function changed() {
    showCode();
    clearTimeout(timer);
    timer = setTimeout(() => guarded(update), WAIT_MS);
  }

  /** What the service serves. */
  function meet(served) {
    model = served;
    field.max = served.units - 1;
    if (!field.dataset.chosen) field.value = served.sentiment_unit ?? 0;
    const heaviest = served.top_units?.[HEAD] ?? [];
    for (const old of [...part("neighbours").children].slice(1)) old.remove();
    for (const { unit, weights } of heaviest) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${unit} (${signed(weights[0])})`;
      button.setAttribute("aria-label", `Unit ${unit}, weight ${signed(weights[0])}`);
      button.addEventListener("click", () => choose(unit));
      part("neighbours").append(button);
    }
    part("neighbours").hidden = heaviest.length === 0;
    showHistogram(part("histogram"), served.unit_histogram, served.sentiment_unit);
    if (!element.hidden) guarded(update);
  }

  function choose(unit) {
    field.dataset.chosen = "yes";
    field.value = unit;
    changed();
  }

  part("unit-form").addEventListener("submit", (event) => event.preventDefault());
  part("unit-form").addEventListener("input", () => {
    field.dataset.chosen = "yes";
    changed();
  });
  clamp.addEventListener("input", showClamp);
  clamp.addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(async () => {
      const { prompt, value } = clamp.elements;
      const [unit, at] = [chosen(), Number(value.value)];
      const seed = 1 + Math.floor(Math.random() * 2 ** 31);
      const wishes = { prompt: prompt.value, length: 200, temperature: 0.7, seed };
      await writers.write([
        { mood: `Unit ${unit} held at ${signed(at)}`, body: { ...wishes, clamp: { [unit]: at } } },
        { mood: "Free", body: wishes },
      ]);
    });
  });
  for (const kind of ["svg", "png"]) {
    part(`explore-${kind}`).addEventListener("click", () => guarded(() => save(body(), kind)));
  }
  text.value = EXAMPLES[0].text;

  return {
    meet,
    again: () => guarded(update),
    opened: () => guarded(update),
    follow(query) {
      if (query.has("unit")) choose(query.get("unit"));
    },
  };
}

/** The values of a column of a trace after every UTF-16 unit; of white space that is not read, those next to it. */
function valuesOf(text, bytes, column) {
  const values = new Float32Array(text.length);
  let last = -1;
  for (const [index, step] of byCharacter(bytes)) {
    values[index] = step.values[column];
    last = index;
  }
  if (last >= 0) values.fill(values[last], last + 1);
  return values;
}

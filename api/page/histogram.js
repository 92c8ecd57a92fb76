// How often a unit held which value after whole texts, by their labels.

import { signed } from "./numbers.js";

const WIDTH = 1000;
const HEIGHT = 160;
const SVG = "http://www.w3.org/2000/svg";

/** figure: with an SVG, a caption and the two ends of the axis. known: {edges, counts by label, data}; null for none. */
export function showHistogram(figure, known, unit) {
  figure.hidden = !known;
  if (!known) return;
  const { edges, counts, data } = known;
  const most = Math.max(...Object.values(counts).flat()) || 1;
  const svg = figure.querySelector("svg");
  const width = WIDTH / (edges.length - 1);
  const bars = Object.entries(counts).flatMap(([label, of]) =>
    of.map((many, number) => {
      const bar = document.createElementNS(SVG, "rect");
      const height = (HEIGHT * many) / most;
      const at = { x: number * width, y: HEIGHT - height, width, height, class: `of-${label}` };
      for (const [name, value] of Object.entries(at)) bar.setAttribute(name, value);
      return bar;
    }),
  );
  svg.replaceChildren(...bars);
  svg.setAttribute("aria-label", `Histogram of unit ${unit}: ${Object.keys(counts).join(" and ")} texts`);
  const keys = Object.keys(counts).map((label) => {
    const key = document.createElement("span");
    key.className = `key-${label}`;
    return [key, ` ${label} `];
  });
  figure.querySelector("figcaption").replaceChildren(`Unit ${unit} after whole texts (${data}): `, ...keys.flat());
  const [low, high] = figure.querySelectorAll(".axis span");
  low.textContent = signed(edges[0]);
  high.textContent = signed(edges[edges.length - 1]);
}

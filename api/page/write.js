// The panel that writes: the same beginning in two moods, side by side.

import { signed } from "./numbers.js";
import { copyText, showRequest } from "./request.js";
import { Writers } from "./writers.js";

export function start(element, { say, guarded }) {
  const form = element.querySelector("#wishes");
  const part = (name) => element.querySelector(`#${name}`);
  const writers = new Writers(element, [0, 1], part("halt"));
  const showCode = showRequest(part("write-code"), () => ({ path: "generate", body: bodies()[0].body }));

  function wishes() {
    const { prompt, colours, ...numbers } = Object.fromEntries(new FormData(form));
    for (const name of Object.keys(numbers)) numbers[name] = Number(numbers[name]);
    return { prompt, colours, ...numbers };
  }

  function bodies() {
    const { colours, best_of: count, ...asked } = wishes();
    if (colours === "likelihood") asked.log_probabilities = true;
    if (count > 1) Object.assign(asked, { best_of: count, rank_by: "sentiment" });
    return [asked.sentiment, -asked.sentiment || 0].map((sentiment) => ({
      mood: sentiment === 0 ? "Held in the middle" : `Held at ${signed(sentiment)}`,
      body: { ...asked, sentiment },
    }));
  }

  function go() {
    if (!form.reportValidity()) return;
    showCode();
    guarded(async () => {
      await writers.write(bodies());
      part("written-said").textContent = writers.columns.map(({ text }) => text).join(" — ");
    });
  }

  function show() {
    for (const output of form.querySelectorAll("output")) {
      const { name, value } = output.previousElementSibling;
      output.textContent = name === "sentiment" ? signed(Number(value)) : value;
    }
    showCode();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  form.addEventListener("input", show);
  part("other").addEventListener("click", () => {
    form.elements.seed.value = 1 + Math.floor(Math.random() * 999_999_998);
    go();
  });
  part("link").addEventListener("click", async () => {
    const link = new URL(location.href);
    link.hash = `write?${new URLSearchParams(wishes())}`;
    history.replaceState(null, "", link);
    await copyText(link.href);
    say("The link is in the address bar, and was copied.");
  });
  show();

  return {
    /** Fill in what a link says, and write it. */
    follow(query) {
      for (const [name, value] of query) {
        const field = form.elements.namedItem(name); // `length` is a property of the list as well
        if (!field || (field.options && ![...field.options].some((option) => option.value === value))) continue;
        field.value = field.maxLength > 0 ? value.slice(0, field.maxLength) : value;
      }
      show();
      go();
    },
  };
}

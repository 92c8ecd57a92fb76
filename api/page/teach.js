// The panel that teaches: a classifier of the reader's own, from a handful of labelled lines.

import { LESSONS } from "./examples.js";
import { percent } from "./numbers.js";
import { showRequest } from "./request.js";
import { askJson, forget, Told } from "./service.js";
import { examples } from "./table.js";

const UNSURE = 3; // texts that are offered for a label
const AT_ONCE = 256; // texts of a request
const MOST_BYTES = 16 * 2 ** 20; // of a file

export function start(element, { guarded }) {
  const part = (name) => element.querySelector(`#${name}`);
  const lines = part("lines");
  let name = null; // of the head that was fitted last
  let fitted = null;

  const labelled = () => examples(lines.value).filter(({ label }) => label !== null);
  const showCode = showRequest(part("teach-code"), () => ({ path: "heads", body: { name: "mine", examples: labelled() } }));

  async function fit() {
    const known = labelled();
    if (known.length < 2) throw new Told(`${known.length} of the lines have a label, and two at least are needed.`);
    const buttons = element.querySelectorAll("#teaching button, #unsure button");
    part("outcome").textContent = `Fitting ${counted(known)} …`;
    for (const button of buttons) button.disabled = true; // one fit at a time
    try {
      const fresh = `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
      fitted = await askJson("heads", { name: fresh, examples: known });
      const former = name;
      name = fresh;
      show(known);
      await offer(examples(lines.value).filter(({ label, text }) => label === null && text));
      if (former !== null) await remove(former);
    } catch (error) {
      if (part("outcome").textContent.startsWith("Fitting")) part("outcome").textContent = "";
      throw error;
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  }

  async function remove(head) {
    try {
      await forget(`heads/${head}`);
    } catch (error) {
      if (error.status !== 404) throw error; // gone already
    }
  }

  function show(known) {
    const { accuracy, accuracy_interval: interval, folds, nonzero_units: units, top_units: top } = fitted;
    part("outcome").textContent =
      accuracy === null
        ? `Fitted on ${counted(known)}. A label has a single one, so nothing can be said of its accuracy.`
        : `Fitted on ${counted(known)}. Right on ${percent(accuracy)} of the examples, each judged by a classifier that had not seen it (${folds} ` +
          `parts held out by turns). On texts of this kind: between ${percent(interval[0])} and ${percent(interval[1])}. ` +
          `It uses ${units} of the network's units.`;
    part("used").replaceChildren(...top.map(({ unit }) => link(`explore?unit=${unit}`, `unit ${unit}`)));
    confusion();
    part("trial-said").textContent = "";
    part("learned").hidden = false;
  }

  function confusion() {
    const { labels, confusion: counts } = fitted;
    const table = part("confusion");
    table.closest("article").hidden = !counts;
    if (!counts) return;
    const head = row(cell("td", ""), ...labels.map((label) => cell("th", `said ${label}`, "col")));
    const rows = counts.map((of, is) => {
      const cells = of.map((many, said) => cell("td", many));
      cells[is].className = "right";
      return row(cell("th", `is ${labels[is]}`, "row"), ...cells);
    });
    table.tBodies[0].replaceChildren(head, ...rows);
  }

  /** The texts without a label of which the new classifier is least sure. */
  async function offer(texts) {
    part("unsure").replaceChildren();
    const judged = [];
    for (let first = 0; first < texts.length; first += AT_ONCE) {
      const some = texts.slice(first, first + AT_ONCE).map(({ text }) => text);
      const { results } = await askJson("classify", { texts: some, head: name });
      judged.push(...results.map(({ margin, label }, number) => ({ margin, label, text: some[number] })));
    }
    judged.sort((one, other) => one.margin - other.margin);
    for (const { text, label } of judged.slice(0, UNSURE)) {
      const item = document.createElement("li");
      item.append(`“${text}” — perhaps ${label}. It is `);
      for (const known of fitted.labels) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = known;
        button.addEventListener("click", () => guarded(() => learn(text, known)));
        item.append(button, " ");
      }
      part("unsure").append(item);
    }
    part("offer").hidden = judged.length === 0;
  }

  /** One example more, and fit again. */
  async function learn(text, label) {
    const all = examples(lines.value);
    const line = all.find((one) => one.label === null && one.text === text);
    if (!line) throw new Told("That text is not among the lines any more: teach it again.");
    line.label = label;
    // One line each, whatever file they came from.
    const flat = (words) => words.replace(/\s+/g, " ");
    lines.value = all.map((one) => `${one.label === null ? "" : `${flat(one.label)}\t`}${flat(one.text)}`).join("\n");
    showCode();
    await fit();
  }

  async function take(file) {
    if (!file) return;
    if (file.size > MOST_BYTES) throw new Told(`The file has ${file.size} bytes, and ${MOST_BYTES} may be taken here.`);
    try {
      lines.value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      throw new Told("The file is not text in UTF-8.");
    }
    showCode();
  }

  part("teaching").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(fit);
  });
  part("trial").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(async () => {
      const text = new FormData(event.target).get("text");
      const { results } = await askJson("classify", { text, head: name });
      const [{ label, score, margin }] = results;
      part("trial-said").textContent = `${label}, ${percent(score)} sure, margin ${margin.toFixed(2)}`;
    });
  });
  part("file").addEventListener("change", () => guarded(() => take(part("file").files[0])));
  lines.addEventListener("input", showCode);
  lines.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    guarded(() => take(event.dataTransfer.files[0]));
  });
  addEventListener("pagehide", () => {
    if (name !== null) forget(`heads/${name}`).catch(() => {}); // nobody is there to be told
  });
  lines.value = LESSONS;
  return {};
}

/** "10 examples: 5 film, 5 food". */
function counted(known) {
  const counts = new Map();
  for (const { label } of known) counts.set(label, (counts.get(label) ?? 0) + 1);
  return `${known.length} examples: ${[...counts].map(([label, many]) => `${many} ${label}`).join(", ")}`;
}

function link(to, text) {
  const made = document.createElement("a");
  made.href = `#${to}`;
  made.textContent = text;
  return made;
}

/** scope: of a heading, "row" or "col". */
function cell(kind, content, scope) {
  const made = document.createElement(kind);
  made.textContent = content;
  if (scope) made.scope = scope;
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

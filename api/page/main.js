// The page: its panels, the key, the palette, and what the service says of its model.

import { start as startExploring } from "./explore.js";
import { Messages } from "./messages.js";
import { start as startReading } from "./read.js";
import { askJson, useKey } from "./service.js";
import { start as startTeaching } from "./teach.js";
import { start as startWriting } from "./write.js";

const AGAIN_MS = 3000; // until a service without a model is asked again

const part = (name) => document.getElementById(name);
const messages = new Messages(part("status"));
const tabs = [...document.querySelectorAll('[role="tab"]')];

/** Name the model that answered. */
function name(model) {
  part("model").textContent = `${model.name}, step ${model.step}`;
}

const panels = {
  read: startReading(part("read"), { ...messages.of("read"), name }),
  write: startWriting(part("write"), messages.of("write")),
  teach: startTeaching(part("teach"), messages.of("teach")),
  explore: startExploring(part("explore"), messages.of("explore")),
};

function open(panel) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${panel}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    part(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  messages.open(panel);
}

for (const [number, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    history.pushState(null, "", `#${tab.id.slice("tab-".length)}`); // location.hash would move the focus
    follow();
  });
  tab.addEventListener("keydown", ({ key }) => {
    const to = { ArrowRight: number + 1, ArrowLeft: number - 1, Home: 0, End: tabs.length - 1 }[key];
    if (to === undefined) return;
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}

/** What the address says after its #: a panel, and what it is to show. */
function follow() {
  const [panel, query] = location.hash.slice(1).split(/\?(.*)/s);
  if (!Object.hasOwn(panels, panel)) return;
  open(panel);
  if (query) panels[panel].follow?.(new URLSearchParams(query));
  else panels[panel].opened?.();
}

/** Let the panels know which model is served, as soon as one is. */
async function meet() {
  const { models } = await askJson("models");
  if (!models.length) return void setTimeout(meetQuietly, AGAIN_MS);
  name(models[0]);
  panels.explore.meet(models[0]);
}

/** What is wrong with the service, the panels say: each asks it something of its own. */
function meetQuietly() {
  meet().catch(() => setTimeout(meetQuietly, AGAIN_MS));
}

addEventListener("popstate", follow);
document.addEventListener("key-needed", () => {
  part("key").hidden = false;
});
part("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(part("key-field").value);
  part("key-field").value = "";
  part("key").hidden = true;
  tabs.find((tab) => tab.tabIndex === 0).focus();
  for (const panel of Object.values(panels)) panel.again?.();
});

const palette = part("palette");
function paint() {
  document.documentElement.dataset.palette = palette.value;
}
palette.addEventListener("change", () => {
  paint();
  localStorage.setItem("palette", palette.value);
});
try {
  palette.value = localStorage.getItem("palette") ?? "";
} catch {
  // A browser that stores nothing keeps no palette.
}
paint();

open("read");
follow();
meetQuietly();

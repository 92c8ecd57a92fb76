// The request behind what is on screen, as code to take along: curl, Python, JavaScript.

import { hasKey } from "./service.js";

const LONGEST = 2000; // characters of a body that is shown

const LANGUAGES = {
  curl(url, body, secret) {
    const key = secret ? ` \\\n  -H "Authorization: Bearer $NEURON_API_KEY"` : "";
    return `curl -s ${url} -H 'Content-Type: application/json'${key} \\\n  -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
  },
  Python(url, body, secret) {
    const key = secret ? ', headers={"Authorization": f"Bearer {os.environ[\'NEURON_API_KEY\']}"}' : "";
    return `${secret ? "import os\n\n" : ""}import httpx\n\nanswer = httpx.post(\n    "${url}",\n    json=${python(body)},\n    timeout=60${key},\n)\nprint(answer.raise_for_status().json())`;
  },
  JavaScript(url, body, secret) {
    const key = secret ? ", Authorization: `Bearer ${process.env.NEURON_API_KEY}`" : "";
    return `const answer = await fetch("${url}", {\n  method: "POST",\n  headers: { "Content-Type": "application/json"${key} },\n  body: JSON.stringify(${JSON.stringify(body)}),\n});\nconsole.log(await answer.json());`;
  },
};

function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, of]) => `${JSON.stringify(name)}: ${python(of)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** A fold that shows `current()`, {path, body} of a POST, in three languages. */
export function showRequest(place, current) {
  const fold = make("details", "code");
  fold.append(make("summary", "", "This as a request: curl, Python, JavaScript"));
  const blocks = Object.entries(LANGUAGES).map(([name, write]) => {
    const code = make("code");
    const block = make("pre");
    block.tabIndex = 0;
    block.append(code);
    const copy = make("button", "", `Copy ${name}`);
    copy.type = "button";
    copy.addEventListener("click", async () => {
      await copyText(written(write));
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = `Copy ${name}`), 1500);
    });
    fold.append(block, copy);
    return () => (code.textContent = shortened(written(write)));
  });
  const written = (write) => {
    const { path, body } = current();
    return write(new URL(path, document.baseURI).href, body, hasKey());
  };
  fold.addEventListener("toggle", () => fold.open && blocks.forEach((show) => show()));
  place.append(fold);
  return () => fold.open && blocks.forEach((show) => show());
}

function shortened(text) {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} … (all of it is copied)` : text;
}

/** Where a page comes neither by HTTPS nor from this machine, or may not, it has no clipboard: the old way does it. */
export async function copyText(text) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch {
    // as below
  }
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

function make(kind, classes = "", text = "") {
  const made = document.createElement(kind);
  if (classes) made.className = classes;
  made.textContent = text;
  return made;
}

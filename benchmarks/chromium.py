"""The browser that shows the page to tests, measurements and pictures, and when a text has all its colours there."""

import shutil

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox"]  # which root may not use, as in a container

# A function of JavaScript: whether all of the text that is read has its colours and its verdict.
SETTLED = """() => {
  const text = document.querySelector("#text").value;
  const spans = [...document.querySelectorAll("#ink span")].filter((span) => span.className !== "");
  const read = spans.map((span) => span.textContent).join("");
  const verdict = document.querySelector("#verdict");
  return read.trim() === text.trim() && verdict.textContent.trim() !== "" && !verdict.classList.contains("former");
}"""

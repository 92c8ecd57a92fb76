// Heat maps as files, drawn by the service; PNG is made of its SVG here.

import { ask, Told } from "./service.js";

const DENSITY = 2; // pixels of a PNG to one of CSS

/** Save what the service draws for this body of POST /trace. kind: "svg" or "png". */
export async function save(body, kind) {
  const answer = await ask("trace", body, { accept: "image/svg+xml" });
  if (!answer.headers.get("Content-Type").startsWith("image/svg")) {
    throw new Told("The picture takes longer than a request may wait: save one of a shorter text.");
  }
  const svg = await answer.blob();
  const picture = kind === "svg" ? svg : await png(svg);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(picture);
  link.download = `sentiment-neuron.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function png(svg) {
  const tooLarge = new Told("The picture is too large for this browser: save it as SVG.");
  const image = new Image();
  image.src = URL.createObjectURL(svg);
  await image.decode().catch(() => {
    throw tooLarge;
  });
  const canvas = document.createElement("canvas");
  canvas.width = DENSITY * image.naturalWidth;
  canvas.height = DENSITY * image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  const made = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (made === null) throw tooLarge;
  return made;
}

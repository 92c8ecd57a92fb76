// Values after every character as lines, from -1 below to 1 above.

const WIDTH = 1000;
const HEIGHT = 120;
const POINTS = 1000;
const SVG = "http://www.w3.org/2000/svg";

export class Curve {
  /** names: of the lines, which are their classes. */
  constructor(element, names) {
    this.element = element;
    this.zero = this.add("line", { x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2, class: "zero" });
    this.mark = this.add("line", { y1: 0, y2: HEIGHT, class: "mark" });
    this.lines = names.map((name) => this.add("polyline", { class: name }));
    this.size = 0;
    this.point(null);
  }

  add(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    this.element.append(made);
    return made;
  }

  /** values: for each line a function of the index, to a value in [-1, 1]. */
  show(size, values) {
    this.size = size;
    const stride = Math.max(1, Math.ceil(size / POINTS));
    values.forEach((value, number) => {
      const points = [];
      for (let index = 0; index < size; index += stride) {
        const last = Math.min(size - 1, index + stride - 1);
        points.push(`${this.x(last).toFixed(1)},${((1 - value(last)) * 0.5 * HEIGHT).toFixed(1)}`);
      }
      this.lines[number].setAttribute("points", points.join(" "));
    });
  }

  /** Show the first `share` of the lines. */
  reveal(share) {
    for (const line of this.lines) line.style.clipPath = share < 1 ? `inset(-1em ${100 * (1 - share)}% -1em 0)` : "";
  }

  /** Mark one index; null for none. */
  point(index) {
    const x = index === null ? -10 : this.x(index);
    this.mark.setAttribute("x1", x);
    this.mark.setAttribute("x2", x);
  }

  x(index) {
    return (index / Math.max(1, this.size - 1)) * WIDTH;
  }
}

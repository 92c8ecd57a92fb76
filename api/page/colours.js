// Values to colours, which colours.css names for light, dark and each palette: --positive and --negative.

const STEPS = 10; // to each side

/** Which of 21 colours stands for a value between -bound and bound: 0 to 20. */
export function step(value, bound = 1) {
  return Math.round((Math.max(-1, Math.min(1, value / bound)) + 1) * STEPS);
}

/** The rules of the classes u0 to u20, behind letters, h0 to h20, under words, and l0 to l10: how unlikely. */
function rules() {
  const found = [];
  for (let number = 0; number <= 2 * STEPS; number += 1) {
    const side = number < STEPS ? "negative" : "positive";
    const share = (100 * Math.abs(number - STEPS)) / STEPS;
    const colour = `color-mix(in srgb, var(--${side}) ${share}%, transparent)`;
    const strong = `color-mix(in srgb, var(--${side}-strong) ${share}%, transparent)`;
    found.push(`.u${number} { background-color: ${colour}; }`, `.h${number} { box-shadow: inset 0 -0.2em ${strong}; }`);
  }
  for (let number = 0; number <= STEPS; number += 1) {
    const colour = `color-mix(in srgb, var(--unlikely) ${(100 * number) / STEPS}%, transparent)`;
    found.push(`.l${number} { background-color: ${colour}; }`);
  }
  return found.join("\n");
}

const sheet = new CSSStyleSheet();
sheet.replaceSync(rules());
document.adoptedStyleSheets.push(sheet);

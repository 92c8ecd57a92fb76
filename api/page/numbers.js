// Numbers as the page writes them.

export function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

/** A share of 1; never as certain as it is not. */
export function percent(share) {
  const shown = (100 * share).toFixed(1);
  if (shown === "100.0" && share < 1) return "over 99.9 %";
  return shown === "0.0" && share > 0 ? "under 0.1 %" : `${shown} %`;
}

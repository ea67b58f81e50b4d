// Utilisation as colour: blue where there is room, pale at the usual target, orange to red where there is none. Of
// ColorBrewer's RdYlBu, which people with any of the common colour blindnesses tell apart; beside it shapes, rings and
// numbers say the same.

const STOPS = [
  [0, 0x2b, 0x5f, 0xae],
  [0.35, 0x5f, 0x9b, 0xcf],
  [0.6, 0xa9, 0xd8, 0xe8],
  [0.75, 0xfb, 0xf3, 0xbe],
  [0.88, 0xfd, 0xae, 0x61],
  [1, 0xe0, 0x45, 0x2c],
  [1.25, 0xa5, 0x00, 0x26],
];

/** Colours are cut into so many steps, so that what is drawn is drawn together. */
export const STEPS = 32;
/** What the last step stands for. */
export const TOP = 1.25;

function at(value) {
  const upper = STOPS.findIndex((stop) => stop[0] >= value);
  if (upper === 0) return STOPS[0].slice(1);
  if (upper < 0) return STOPS[STOPS.length - 1].slice(1);
  const [low, high] = [STOPS[upper - 1], STOPS[upper]];
  const part = (value - low[0]) / (high[0] - low[0]);
  return [1, 2, 3].map((c) => Math.round(low[c] + (high[c] - low[c]) * part));
}

const COLOURS = Array.from({ length: STEPS }, (_, step) => `rgb(${at((step / (STEPS - 1)) * TOP).join(",")})`);

/** The step of a utilisation. */
export function step(utilisation) {
  const part = Math.min(Math.max(utilisation / TOP, 0), 1);
  return Math.round(part * (STEPS - 1));
}

/** The colour of a step. */
export function colour(of) {
  return COLOURS[of];
}

// Numbers and times as people read them. All texts here are English, so numbers have a point.

/** Requests/s. */
export function rps(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 0 : 1)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size >= 1e5 ? 0 : 1)} k`;
  if (size >= 100) return value.toFixed(0);
  return value.toFixed(size >= 10 || size === 0 ? 0 : 1).replace(/\.0$/, "");
}

/** A part of one. */
export function percent(part) {
  if (part === null || part === undefined || !Number.isFinite(part)) return "–";
  const value = part * 100;
  // Unbreakable: a figure and its sign stay on one line.
  return `${value > 0 && value < 9.95 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0)}\u00a0%`;
}

/** Parts per million. */
export function ppm(value) {
  return percent(value / 1e6);
}

/** A span in milliseconds, by its largest unit. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** A round trip. */
export function rtt(us) {
  return us >= 1000 ? `${(us / 1000).toFixed(us >= 1e4 ? 0 : 1)} ms` : `${us} µs`;
}

/** A distance. */
export function distance(m) {
  if (m === null || m === undefined) return "–";
  return m >= 1000 ? `${(m / 1000).toFixed(m >= 1e5 ? 0 : 1).replace(/\.0$/, "")} km` : `${Math.round(m)} m`;
}

/** A time of day, of the controller's clock. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

/** A day and time, of the controller's clock. */
export function moment(ms) {
  return new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** One or several. */
export function count(number, one, several = `${one}s`) {
  return `${number.toLocaleString("en-GB")} ${number === 1 ? one : several}`;
}

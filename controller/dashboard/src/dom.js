// Elements. Whatever comes from outside becomes a text node or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element. Properties that begin with `on` are listeners; `class` and every other is an attribute, left out when
 * null or false. Children are nodes, texts, or lists of them.
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replaces what is in an element. */
export function set(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/** Sets a text where it differs, so that what did not change is not laid out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A drawn sign of 24 × 24, hidden from screen readers. */
export function icon(path) {
  return s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" }, s("path", { d: path }));
}

export const ICONS = {
  map: "M9 4 3 6.5v13L9 17l6 2.5 6-2.5V4l-6 2.5L9 4Zm0 0v13m6-10.5v13",
  nodes: "M5 7h14M5 12h14M5 17h14",
  services: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
  policies: "M6 4h9l4 4v12H6zM14 4v5h5M9 13h7M9 16.5h5",
  certificates: "M12 3 5 6v5c0 4.5 3 8 7 10 4-2 7-5.500 7-10V6l-7-3Zm-3 9 2.200 2.200L15.500 10",
  events: "M3 12h4l3-8 4 16 3-8h4",
  replays: "M4 20V10m5 10V4m6 16v-7m5 7V7",
  theme: "M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9Z",
  help: "M9.200 9a3 3 0 1 1 4.300 2.700c-.9.45-1.500 1.100-1.500 2.300M12 17.500v.1M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Z",
  leave: "M14 4h5v16h-5M10 8l-4 4 4 4M6 12h9",
  close: "M6 6l12 12M18 6 6 18",
};

// What the page knows, and who is told when it changes.

import * as api from "./api.js";
import { History, frame } from "./history.js";

/** Shortest and longest wait before the controller is asked again after it did not answer. */
const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 15_000;
/** How often the picture is asked for while nobody looks. */
const HIDDEN_MS = 10_000;
/** What a picture costs that is the one before it. */
const SAME_BYTES = 400;

export const state = {
  me: null,
  service: "",
  history: new History(),
  /** The frame that is looked at; the newest unless the scrubber is elsewhere. */
  frame: null,
  /** The time that is looked at; `null` for now. */
  time: null,
  selected: null,
  /** How things stand with the controller. */
  link: { ok: false, since: performance.now(), retryAt: 0, reason: "" },
};

const listeners = new Map();

/** Calls a listener at each `frame`, `link`, `selected`, `me`. */
export function on(what, listener) {
  if (!listeners.has(what)) listeners.set(what, new Set());
  listeners.get(what).add(listener);
  return () => listeners.get(what).delete(listener);
}

export function tell(what) {
  for (const listener of listeners.get(what) ?? []) listener();
}

export function mayWrite() {
  return state.me !== null && state.me.role !== "viewer";
}

export function select(name) {
  state.selected = name;
  tell("selected");
}

/** Looks at a time of the last hour, or at now. */
export function look(time) {
  state.time = time;
  state.frame = time === null ? state.history.last() : state.history.at(time);
  tell("frame");
}

export function choose(service) {
  state.service = service;
  state.history = new History();
  state.time = null;
  tag = null;
  wake();
  tell("service");
}

let tag = null;
let timer = 0;
let failures = 0;
let turn = 0;

/** Asks now, and goes on asking. */
export function wake() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  picture(mine).then((wait) => {
    if (mine === turn) timer = setTimeout(wake, wait);
  });
}

export function rest() {
  clearTimeout(timer);
  turn += 1;
}

async function picture(mine) {
  const service = state.service;
  const path = service === "" ? "/v1/picture" : `/v1/picture?service=${api.part(service)}`;
  try {
    const answer = await api.ask("GET", path, { more: tag === null ? {} : { "if-none-match": tag } });
    if (mine !== turn) return RETRY_MS_MIN;
    failures = 0;
    state.link = { ok: true, since: performance.now(), retryAt: 0, reason: "" };
    if (answer.status === 200) tag = answer.tag;
    // What did not change is the same picture a second later.
    const { history } = state;
    if (answer.status === 200) history.add(frame(answer.value, api.now(), history.last()));
    else history.add({ ...history.last(), at: api.now(), bytes: SAME_BYTES });
    if (state.time === null) state.frame = history.last();
    if (history.frames.length === 1) past(history);
    tell("frame");
    tell("link");
    return document.hidden ? HIDDEN_MS : Math.max(1000, state.frame?.period ?? 1000);
  } catch (error) {
    if (mine !== turn) return RETRY_MS_MIN;
    return failed(error, service);
  }
}

/** Reads what the controller keeps of the time before, the newest first. Without it there is what this page saw. */
async function past(history) {
  // It keeps pictures of all services together alone.
  if (state.service !== "") return;
  try {
    let before = Math.floor(history.frames[0].at);
    while (state.history === history) {
      const { items } = (await api.ask("GET", `/v1/pictures?before=${before}`)).value;
      if (items.length === 0 || state.history !== history) return;
      for (const item of items) {
        if (!history.prepend(frame(item, item.at_ms, history.frames[0]))) return;
      }
      before = items[items.length - 1].at_ms;
      tell("frame");
    }
  } catch {
    // The next picture says how things stand with the controller.
  }
}

function failed(error, service) {
  if (error.status === 400 && service !== "") choose("");
  failures += 1;
  const wait = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.min(failures - 1, 5)) * (0.8 + Math.random() * 0.4);
  const reason = error instanceof api.Problem ? error.message : "its answer could not be read";
  state.link = { ...state.link, ok: false, retryAt: performance.now() + wait, reason };
  tell("link");
  return wait;
}

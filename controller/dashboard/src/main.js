// The page: who looks, at which view, and how things stand with the controller.

import * as api from "./api.js";
import { h, icon, ICONS, say, set } from "./dom.js";
import { clock, span } from "./format.js";
import { on, rest, state, tell, wake } from "./state.js";
import { CertificatesView } from "./views/certificates.js";
import { EventsView } from "./views/events.js";
import { NodesView } from "./views/nodes.js";
import { Overview } from "./views/overview.js";
import { PoliciesView } from "./views/policies.js";
import { ReplaysView } from "./views/replays.js";
import { ServicesView } from "./views/services.js";

/** A browser's clock that is wrong by more than this is spoken of. */
const CLOCK_WRONG_MS = 60_000;

const spoken = h("div", { class: "spoken", "aria-live": "polite" });
const announce = (text) => say(spoken, text);
const go = (view) => {
  location.hash = `#${view}`;
};

const events = new EventsView();
const VIEWS = [
  ["map", "Map", new Overview({ announce })],
  ["nodes", "Nodes", new NodesView({ go })],
  ["services", "Services", new ServicesView({ go })],
  ["policies", "Policies", new PoliciesView({ announce })],
  ["certificates", "Authority", new CertificatesView()],
  ["events", "Events", events],
  ["replays", "Replays", new ReplaysView()],
];

// ---- Theme ----

const THEME = "isobar-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = localStorage.getItem(THEME);

function paint() {
  document.documentElement.dataset.theme = theme ?? (dark.matches ? "dark" : "light");
  dispatchEvent(new Event("isobar-theme"));
}

function turnTheme() {
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  paint();
}

dark.addEventListener("change", paint);

// ---- The frame around all views ----

const main = h("main", { id: "main", tabindex: -1 });
const links = VIEWS.map(([id, label]) => h("a", { href: `#${id}`, "data-view": id }, icon(ICONS[id]), h("span", {}, label)));
const pill = h("div", { class: "pill", role: "status" }, h("i"), h("span"));
const who = h("span", { class: "who" });
const tool = (name, label, act) => h("button", { type: "button", class: "plainbutton", "aria-label": label, title: label, onclick: act }, icon(ICONS[name]));
const leave = tool("leave", "Sign out", () => signOut(""));
const banner = h("div", { class: "banner", role: "alert", hidden: true });

function mark() {
  const sign = icon("M2 15c4-7 8-9 10-9s6 2 10 9M5 18c3-5 5-6.500 7-6.500S16 13 19 18M9 20c1.200-2 2-2.800 3-2.800s1.800.8 3 2.800");
  return h("a", { class: "mark", href: "#map", "aria-label": "Isobar" }, sign, h("b", {}, "Isobar"));
}

function build() {
  document.body.append(
    h("a", { class: "skip", href: "#main", onclick: (event) => {
      event.preventDefault();
      main.focus();
    } }, "Skip to the view"),
    h("header", { class: "top" }, mark(), h("nav", { "aria-label": "Views" }, links),
      h("div", { class: "state" }, pill, who, tool("theme", "Light or dark", turnTheme), tool("help", "Keys and help", help), leave)),
    banner,
    main,
    spoken,
  );
}

let current = null;

function route() {
  const id = location.hash.slice(1) || "map";
  const found = VIEWS.find((view) => view[0] === id) ?? VIEWS[0];
  if (current === found) return;
  current?.[2].leave?.();
  current = found;
  links.forEach((link) => (link.dataset.view === found[0] ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
  document.title = `${found[1]} · Isobar`;
  set(main, found[2].element);
  if (state.me) enter();
}

function enter() {
  current[2].enter?.();
  current[2].show?.();
}

// ---- How things stand with the controller ----

function link() {
  const { ok, retryAt, reason } = state.link;
  const newest = state.history.last();
  const plan = newest ? `${newest.plan.epoch}.${newest.plan.generation}` : "";
  pill.className = `pill ${ok ? "ok" : "gone"}`;
  say(pill.lastChild, ok ? `plan ${plan}` : "controller gone");
  pill.title = ok ? "the controller answers" : reason;
  const lines = [];
  if (!ok && state.me) {
    // Ages are told by what has passed here since, whatever the clocks say.
    const age = performance.now() - state.link.since;
    const again = Math.max(0, retryAt - performance.now());
    const shown = newest ? `Shown is the picture of ${clock(newest.at)}, ${span(age)} old. ` : "";
    lines.push(`The controller is gone: ${reason}. ${shown}Asked again in ${Math.ceil(again / 1000)} s.`);
  }
  const ahead = api.browserAhead();
  if (Math.abs(ahead) > CLOCK_WRONG_MS) {
    lines.push(`This browser's clock is ${span(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} the controller's. Times here are the controller's.`);
  }
  banner.hidden = lines.length === 0;
  banner.classList.toggle("mild", ok);
  say(banner, lines.join(" "));
}

// ---- Signing in ----

let signing = null;

function signIn(reason) {
  if (signing) return;
  const token = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": "Token", placeholder: "credential_…" });
  const error = h("p", { class: "error", role: "alert" }, reason);
  error.hidden = reason === "";
  const form = h(
    "form",
    { method: "dialog", onsubmit: async (event) => {
      event.preventDefault();
      api.setToken(token.value.trim());
      const problem = await greet();
      if (problem === null) {
        signing.close();
        return;
      }
      api.setToken("");
      error.hidden = false;
      say(error, advice(problem));
      token.select();
    } },
    h("h2", {}, "Sign in"),
    h("p", {}, "This controller asks for a token. It stays in this tab and is forgotten with it."),
    token,
    error,
    h("div", { class: "buttons" }, h("button", { class: "primary", type: "submit" }, "Sign in")),
    h("details", {}, h("summary", {}, "Where is there one?"),
      h("p", {}, "The first, an admin's, is in the file admin-token of the controller's data directory. Of it others are made, also such that may read alone:"),
      h("pre", {}, "isobar credential create wall --role viewer")),
  );
  signing = h("dialog", { class: "signin", "aria-label": "Sign in" }, form);
  signing.addEventListener("cancel", (event) => event.preventDefault());
  signing.addEventListener("close", () => {
    signing.remove();
    signing = null;
  });
  document.body.append(signing);
  signing.showModal();
}

/** What to do about a refusal. */
function advice(problem) {
  if (problem.status === 401) return "This token is not one, has expired, or was revoked. Paste it whole, or have a new one made: isobar credential create.";
  if (problem.status === 429) return `${problem.message}.`;
  if (problem.status === 0) return "The controller does not answer. Is it running, and can this machine reach it?";
  return problem.message;
}

function signOut(reason) {
  rest();
  events.end();
  api.setToken("");
  state.me = null;
  tell("me");
  signIn(reason);
}

/** Asks who the token's owner is, and begins; what the controller said against it, or `null`. */
async function greet() {
  try {
    state.me = await api.read("/v1/whoami");
  } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    return error;
  }
  const { name, role } = state.me;
  say(who, name === "anonymous" ? "" : `${name} · ${role}`);
  who.title = name === "anonymous" ? "this controller asks nobody who they are" : `signed in as ${name}, ${role}`;
  leave.hidden = name === "anonymous";
  tell("me");
  wake();
  events.begin();
  enter();
  return null;
}

async function begin() {
  const problem = await greet();
  if (problem === null) return;
  if (problem.status === 401 || problem.status === 429) {
    signIn(api.hasToken() ? advice(problem) : "");
    return;
  }
  state.link = { ...state.link, ok: false, reason: problem.message };
  banner.hidden = false;
  say(banner, `${advice(problem)} Asked again in 3 s.`);
  setTimeout(begin, 3000);
}

api.onRefused((problem) => {
  if (state.me) signOut(advice(problem));
});

// ---- Keys ----

const KEYS = [
  ["?", "this help"],
  ["1 … 7", "map, nodes, services, policies, authority, events, replays"],
  ["arrow keys", "on the map: the next node in that direction; in a table: the next row"],
  ["Enter", "on the map: to the node's panel; in a table: opens the row"],
  ["Shift + arrow keys", "move the map"],
  ["+ − 0", "zoom the map, show all"],
  ["/", "search"],
  ["Esc", "closes what is open"],
  ["t", "light or dark"],
];

function help() {
  const drawn = VIEWS[0][2].map.drawn;
  const mean = drawn.length > 0 ? drawn.reduce((a, b) => a + b, 0) / drawn.length : 0;
  const worst = drawn.reduce((a, b) => Math.max(a, b), 0);
  const { frames, bytes } = state.history;
  const dialog = h("dialog", { class: "help", "aria-label": "Keys and help" }, h("h2", {}, "Keys"),
    h("dl", { class: "keylist" }, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))),
    h("h2", {}, "Drawing"),
    h("p", {}, `The map took ${mean.toFixed(1)} ms a frame lately, ${worst.toFixed(1)} ms at most. The last hour is ${frames.length} pictures in ${(bytes / 1048576).toFixed(1)} MiB.`),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function key(event) {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const view = VIEWS[Number(event.key) - 1];
  if (event.key === "?") help();
  else if (event.key === "t") turnTheme();
  else if (event.key === "/") current[2].search?.focus();
  else if (view && !(event.key === "0")) go(view[0]);
  else return;
  event.preventDefault();
}

build();
paint();
route();
addEventListener("hashchange", route);
addEventListener("keydown", key);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && state.me) wake();
});
on("link", link);
setInterval(() => {
  if (state.me && (!state.link.ok || !banner.hidden)) link();
}, 500);
begin();

// What happens, as it happens.

import * as api from "../api.js";
import { h, say } from "../dom.js";
import { clock, count } from "../format.js";
import { Table } from "../table.js";

const KEPT = 2000;
const RETRY_MS_MAX = 15_000;

const plan = (p) => `${p.epoch}.${p.generation}`;
const WORDS = {
  node_connected: (e) => `${e.node} is connected, version ${e.version}`,
  node_disconnected: (e) => `${e.node}: its control stream has ended`,
  node_present: (e) => `${e.node} is heard of: load may move there`,
  node_silent: (e) => `${e.node} is silent: nobody moves load there any more`,
  plan_told: (e) => `plan ${plan(e.plan)} was told to ${count(e.nodes, "node")}`,
  plan_refused: (e) => `${e.node} refused plan ${plan(e.plan)}: ${e.reason}`,
  resource_changed: (e) => `${e.kind} ${e.name} was ${e.outcome} by ${e.who}`,
  endpoint_expired: (e) => `the endpoint ${e.name} was not heard of in time`,
};
const GRAVE = new Set(["node_silent", "node_disconnected", "plan_refused", "endpoint_expired"]);

/** Two events of one second and one number are the same. */
function key(event) {
  return `${event.at}/${event.number}`;
}

function words(event) {
  const word = WORDS[event.event];
  return word ? word(event) : JSON.stringify(event);
}

export class EventsView {
  constructor() {
    this.kept = [];
    this.known = new Set();
    this.search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search events", oninput: () => this.draw() });
    this.plans = h("input", { type: "checkbox", onchange: () => this.draw() });
    this.status = h("output", { class: "muted" });
    this.table = new Table({
      label: "Events, the newest first",
      key,
      empty: "Nothing has happened yet.",
      columns: [
        { label: "time", width: "84px", text: (e) => clock(Date.parse(e.at)) },
        { label: "event", width: "minmax(120px, 180px)", small: false, cell: (e) => h("span", { class: `tag ${GRAVE.has(e.event) ? "grave" : ""}` }, e.event.replaceAll("_", " ")) },
        { label: "what", width: "minmax(160px, 1fr)", text: words },
      ],
    });
    this.element = h("div", { class: "page" },
      h("div", { class: "tools" }, h("h1", {}, "Events"), this.search, h("label", { class: "flag" }, this.plans, "plans too"), this.status), this.table.element);
  }

  /** Reads until the page is left or signed out. */
  begin() {
    this.end();
    const control = new AbortController();
    this.control = control;
    this.follow(control.signal);
  }

  end() {
    this.control?.abort();
  }

  async follow(signal) {
    let wait = 1000;
    while (!signal.aborted) {
      try {
        say(this.status, "following");
        // From the oldest that is kept, each time: after a restart of the controller numbers begin anew, and what is known
        // already is passed over.
        await api.stream("/v1/events", 0, signal, (name, event) => {
          wait = 1000;
          this.take(name, event);
        });
        say(this.status, "the stream has ended; reading on");
      } catch (error) {
        if (signal.aborted) return;
        say(this.status, `not following: ${error.message}`);
        if (error.status === 401 || error.status === 403) return;
      }
      await new Promise((go) => setTimeout(go, wait));
      wait = Math.min(RETRY_MS_MAX, wait * 2);
    }
  }

  take(name, event) {
    if (name === "lagged") {
      say(this.status, "fell behind: some events are missing");
      return;
    }
    if (this.known.has(key(event))) return;
    this.known.add(key(event));
    this.kept.push(event);
    while (this.kept.length > KEPT) this.known.delete(key(this.kept.shift()));
    if (!this.waiting) {
      this.waiting = true;
      setTimeout(() => {
        this.waiting = false;
        this.draw();
      }, 100);
    }
  }

  enter() {
    this.draw();
  }

  draw() {
    if (!this.element.isConnected) return;
    const text = this.search.value.toLowerCase();
    const fits = (e) => (this.plans.checked || e.event !== "plan_told") && (text === "" || `${e.event} ${words(e)}`.toLowerCase().includes(text));
    this.table.show(this.kept.filter(fits).reverse());
  }
}


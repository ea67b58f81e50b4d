// The panel of one node.

import * as api from "../api.js";
import { Chart } from "../chart.js";
import { colour, step } from "../colour.js";
import { h, icon, ICONS, say, set } from "../dom.js";
import { percent, rps, span } from "../format.js";
import { presence, utilisation } from "../history.js";
import { mayWrite, on, select, state } from "../state.js";
import { act } from "./act.js";
import { explanation } from "./explain.js";

/** How often an explanation is asked for anew. */
const EXPLAIN_MS = 4000;

export class NodePanel {
  constructor() {
    this.onclose = () => {};
    this.title = h("h2", { tabindex: -1 });
    this.badge = h("span", { class: "badge" });
    this.meter = h("div", { class: "meter", role: "meter", "aria-label": "Utilisation", "aria-valuemin": 0, "aria-valuemax": 125 },
      h("i"), h("b"));
    this.used = h("strong", { class: "used" });
    this.facts = h("dl", { class: "facts" });
    this.chart = new Chart({
      label: "Demand, load and capacity of this node over the last hour",
      series: [
        { label: "demand", ink: "--demand" },
        { label: "load", ink: "--load", fill: "--load-soft" },
        { label: "capacity", ink: "--capacity", dash: [6, 4] },
      ],
    });
    this.service = h("select", { "aria-label": "Service that is explained", onchange: () => this.explain(true) });
    this.why = h("div", { class: "why", "aria-live": "off" });
    this.actions = h("div", { class: "actions", role: "group", "aria-label": "Change this node" });
    const close = h("button", { type: "button", class: "plainbutton", "aria-label": "Close", onclick: () => this.close() }, icon(ICONS.close));
    this.element = h(
      "aside",
      { class: "panel", "aria-label": "Node", hidden: true },
      h("header", {}, h("div", {}, this.title, this.badge), close),
      h("div", { class: "utilisation" }, this.used, this.meter),
      this.facts,
      this.chart.element,
      this.actions,
      h("section", { "aria-label": "Why" }, h("div", { class: "whyhead" }, h("h3", {}, "Why"), this.service), this.why),
    );
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
    on("selected", () => this.chosen());
    on("service", () => this.explain(true));
  }

  close() {
    select(null);
    this.onclose();
  }

  focus() {
    if (!this.element.hidden) this.title.focus();
  }

  async chosen() {
    const name = state.selected;
    this.element.hidden = name === null;
    clearInterval(this.timer);
    if (name === null || name === this.name) return (this.name = name);
    this.name = name;
    set(this.why, h("p", { class: "muted" }, "…"));
    this.element.scrollTop = 0;
    this.service.hidden = true;
    set(this.service);
    this.buttons();
    let services = [];
    try {
      const rows = await api.list(`/v1/weights?node=${api.part(name)}`, 2000);
      services = rows.map((row) => row.service);
    } catch (error) {
      if (this.name === name) set(this.why, h("p", { class: "error" }, error.message));
      return undefined;
    }
    if (this.name !== name) return undefined;
    set(this.service, services.map((service) => h("option", { value: service }, service)));
    if (services.includes(state.service)) this.service.value = state.service;
    this.service.hidden = services.length < 2;
    if (services.length === 0) set(this.why, h("p", { class: "muted" }, "It has no service, and none is asked for here."));
    this.explain(true);
    this.timer = setInterval(() => this.explain(false), EXPLAIN_MS);
    return undefined;
  }

  /** Asks why; where the reader is within it, only when asked to. */
  async explain(asked) {
    const [name, service] = [this.name, this.service.value];
    if (name === null || name === undefined || service === "" || document.hidden) return;
    if (!asked && (this.why.contains(document.activeElement) || state.time !== null || !state.link.ok)) return;
    try {
      const why = await api.read(`/v1/explain/${service.split("/").map(api.part).join("/")}/${api.part(name)}`);
      if (this.name !== name || this.service.value !== service) return;
      const open = this.why.querySelector("details")?.open ?? false;
      set(this.why, explanation(why));
      const details = this.why.querySelector("details");
      if (details) details.open = open;
    } catch (error) {
      if (this.name === name) set(this.why, h("p", { class: "error" }, error.message));
    }
  }

  buttons() {
    const name = this.name;
    const change = (verb, label, say) =>
      h("button", { type: "button", disabled: !mayWrite(), onclick: () => act({
        title: `${label} ${name}`, say, method: "POST", path: `/v1/nodes/${api.part(name)}/${verb}`, done: label,
      }) }, label);
    set(this.actions,
      change("cordon", "Cordon", "It takes no load from others any more; its own is still served."),
      change("drain", "Drain", "Its endpoints get nothing any more: what enters here moves to others."),
      change("uncordon", "Uncordon", "It takes load again."),
      !mayWrite() && h("small", { class: "muted" }, "A viewer's token changes nothing."));
  }

  show(frame) {
    const name = state.selected;
    if (name === null) return;
    const n = frame.ground.index.get(name);
    say(this.title, name);
    if (n === undefined) {
      say(this.badge, "not there at this time");
      this.badge.className = "badge silent";
      return;
    }
    const [word, used] = [presence(frame, n), utilisation(frame, n)];
    const state_ = frame.flags[n] & 2 ? "drained" : frame.flags[n] & 1 ? "cordoned" : word;
    say(this.badge, word === "stale" ? "late" : state_);
    this.badge.className = `badge ${state_}`;
    say(this.used, percent(used));
    this.meter.setAttribute("aria-valuenow", Math.round(Math.min(used, 1.25) * 100));
    this.meter.setAttribute("aria-valuetext", `${percent(used)} of its capacity`);
    this.meter.firstChild.style.width = `${Math.min(used / 1.25, 1) * 100}%`;
    this.meter.firstChild.style.background = colour(step(used));
    const { ground } = frame;
    const place = ground.lat[n] === null ? "not known" : `${ground.lat[n].toFixed(3)}, ${ground.lon[n].toFixed(3)}`;
    const facts = [
      ["demand", `${rps(frame.demand_rps[n])}/s`], ["capacity", `${rps(frame.capacity_rps[n])}/s`],
      ["load", `${rps(frame.load_rps[n])}/s`], ["for others", `${rps(frame.moved_in_rps[n])}/s`],
      ["moved away", `${rps(frame.moved_out_rps[n])}/s`], ["refused", `${rps(frame.shed_rps[n])}/s`],
      ["processor", percent(Number.isNaN(frame.cpu[n]) ? null : frame.cpu[n])],
      ["last word", Number.isNaN(frame.age[n]) ? "never" : `${span(frame.age[n])} ago`],
      ["site", ground.site[n] ?? "its own"], ["region", ground.region[n] ?? "none"], ["position", place],
    ];
    set(this.facts, facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
    this.chart.show(state.history.course(name, ["demand_rps", "load_rps", "capacity_rps"]));
  }
}

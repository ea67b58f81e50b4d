// Resources that operators write: read, changed after a dry run, and only if nobody else changed them since.

import * as api from "../api.js";
import { h, say, set } from "../dom.js";
import { mayWrite, on } from "../state.js";
import { act, complaint } from "./act.js";
import { difference } from "./difference.js";

const KINDS = [
  { kind: "WeightPolicy", path: "/v1/weight-policies", spec: { services: [], target_utilisation: 0.75, neighbours: 8 } },
  { kind: "TrafficPolicy", path: "/v1/traffic-policies", spec: { services: [], timeouts: { request: "15s" } } },
  { kind: "AccessPolicy", path: "/v1/access-policies", spec: { services: [], allow: [{ from: [{ namespaces: ["shop"] }] }] } },
  { kind: "HTTPRoute", path: "/v1/http-routes", namespaced: true, spec: { hostnames: ["shop.example"], rules: [{ backendRefs: [{ kind: "Service", name: "cart" }] }] } },
  { kind: "GRPCRoute", path: "/v1/grpc-routes", namespaced: true, spec: { hostnames: ["shop.example"], rules: [{ backendRefs: [{ kind: "Service", name: "cart" }] }] } },
  { kind: "TCPRoute", path: "/v1/tcp-routes", namespaced: true, spec: { parentRefs: [{ name: "isobar", sectionName: "db" }], rules: [{ backendRefs: [{ name: "db" }] }] } },
  { kind: "Service", path: "/v1/services", namespaced: true, spec: {} },
  { kind: "Node", path: "/v1/nodes", spec: {} },
];

/** What a weight policy says most often, as controls beside its text. */
const KNOBS = [
  { field: "algorithm", label: "Algorithm", options: ["convex", "waterfall", "threshold", "static", "off"], value: "convex" },
  { field: "target_utilisation", label: "Target utilisation", min: 0.05, max: 1, step: 0.05, value: 0.75 },
  { field: "ceiling_utilisation", label: "Ceiling", min: 0.05, max: 1, step: 0.05, value: 0.95 },
  { field: "move_max", label: "Most that may leave", min: 0, max: 1, step: 0.05, value: 1 },
  { field: "neighbours", label: "Neighbours", min: 0, max: 64, step: 1, value: 8 },
  { field: "observe_only", label: "Only observe", flag: true, value: false },
];

function name({ metadata }) {
  return metadata.namespace ? `${metadata.namespace}/${metadata.name}` : metadata.name;
}

export class PoliciesView {
  constructor({ announce }) {
    this.announce = announce;
    this.kind = KINDS[0];
    this.kinds = h("select", { "aria-label": "Kind of resource", onchange: () => this.choose(this.kinds.value) }, KINDS.map((k) => h("option", { value: k.kind }, k.kind)));
    this.fresh = h("button", { type: "button", onclick: () => this.begin() }, "New…");
    this.search = h("input", { type: "search", placeholder: "Name", "aria-label": "Search by name", oninput: () => this.draw() });
    this.list = h("ul", { class: "names", "aria-label": "Resources" });
    this.title = h("h2");
    this.hint = h("p", { class: "muted" });
    this.knobs = h("div", { class: "knobs" });
    this.text = h("textarea", { spellcheck: "false", autocomplete: "off", "aria-label": "The resource as JSON", rows: 15, oninput: () => this.edited() });
    this.check = h("button", { type: "button", onclick: () => this.tryOut() }, "Check");
    this.save = h("button", { type: "button", class: "primary", disabled: true, onclick: () => this.write() }, "Save");
    this.remove = h("button", { type: "button", class: "danger", onclick: () => this.erase() }, "Delete…");
    this.found = h("div", { class: "found", role: "status" });
    this.editor = h("section", { class: "editor", "aria-label": "Resource", hidden: true }, this.title, this.hint, this.knobs, this.text,
      h("div", { class: "buttons" }, this.remove, h("span", { class: "grow" }), this.check, this.save), this.found);
    this.blank = h("p", { class: "empty" });
    this.element = h("div", { class: "page" },
      h("div", { class: "tools" }, h("h1", {}, "Policies"), this.kinds, this.fresh, this.search),
      h("div", { class: "split" }, this.list, h("div", { class: "side" }, this.blank, this.editor)));
    this.items = [];
    on("me", () => this.permit());
  }

  enter() {
    this.permit();
    this.load();
  }

  permit() {
    const may = mayWrite();
    this.fresh.disabled = !may;
    this.remove.disabled = !may || this.tag === null;
    this.check.disabled = !may;
    this.text.readOnly = !may;
    if (!may) this.save.disabled = true;
    const all = "What a change would do to the plan is shown before it is saved.";
    say(this.blank, may ? `Choose one from the list, or write a new one. ${all}` : "Choose one from the list. This token may read alone; writing needs the role operator.");
    say(this.hint, may ? "Check shows what the plan would be. Save writes it, unless somebody else changed it since you read it." : "This token may read alone; writing needs the role operator.");
  }

  choose(kind) {
    this.kind = KINDS.find((one) => one.kind === kind);
    this.editor.hidden = true;
    this.blank.hidden = false;
    this.load();
  }

  async load() {
    const { kind } = this;
    try {
      const items = await api.list(kind.path);
      if (kind !== this.kind) return;
      this.items = items;
      this.draw();
    } catch (error) {
      set(this.list, h("li", {}, complaint(error)));
    }
  }

  draw() {
    const words = this.search.value.toLowerCase();
    const fitting = this.items.map(name).filter((one) => one.includes(words));
    const shown = fitting.slice(0, 500);
    const rows = shown.map((one) => h("li", {}, h("button", { type: "button", "aria-current": one === this.name && !this.editor.hidden, onclick: () => this.open(one) }, one)));
    if (rows.length === 0) rows.push(h("li", { class: "muted" }, `No ${this.kind.kind}${words ? " of that name" : " is written"}.`));
    if (fitting.length > shown.length) rows.push(h("li", { class: "muted" }, `and ${fitting.length - shown.length} more: search`));
    set(this.list, rows);
  }

  path(of) {
    return `${this.kind.path}/${of.split("/").map(api.part).join("/")}`;
  }

  async open(one) {
    try {
      const { value, tag } = await api.ask("GET", this.path(one));
      const { status, ...written } = value;
      this.name = one;
      this.edit(written, tag);
    } catch (error) {
      this.editor.hidden = false;
      set(this.found, complaint(error));
    }
  }

  begin() {
    const metadata = this.kind.namespaced ? { name: "new", namespace: "shop" } : { name: "new" };
    this.name = null;
    this.edit({ kind: this.kind.kind, metadata, spec: this.kind.spec }, null);
    this.text.focus();
  }

  edit(resource, tag) {
    this.tag = tag;
    this.checked = null;
    this.editor.hidden = false;
    this.blank.hidden = true;
    say(this.title, tag === null ? `New ${this.kind.kind}` : `${this.kind.kind} ${this.name}`);
    this.text.value = JSON.stringify(resource, null, 2);
    set(this.found);
    this.permit();
    this.edited();
    this.draw();
  }

  edited() {
    this.save.disabled = !mayWrite() || this.checked !== this.text.value;
    this.turn();
  }

  /** The controls say what the text says. */
  turn() {
    this.knobs.hidden = this.kind.kind !== "WeightPolicy";
    const resource = this.parsed();
    if (this.knobs.hidden || this.knobs.contains(document.activeElement) || !resource?.spec) return;
    set(this.knobs, KNOBS.map((knob) => this.knob(knob, resource.spec[knob.field] ?? knob.value)));
  }

  knob(knob, value) {
    const shown = h("output", {}, knob.flag || knob.options ? "" : String(value));
    const change = (next) => {
      const resource = this.parsed();
      if (!resource) return;
      resource.spec = { ...resource.spec, [knob.field]: next };
      this.text.value = JSON.stringify(resource, null, 2);
      if (!knob.flag && !knob.options) say(shown, String(next));
      this.edited();
    };
    const off = !mayWrite();
    if (knob.flag) return h("label", { class: "flag" }, h("input", { type: "checkbox", checked: value, disabled: off, onchange: (e) => change(e.target.checked) }), knob.label);
    const control = knob.options
      ? h("select", { disabled: off, onchange: (e) => change(e.target.value) }, knob.options.map((one) => h("option", { value: one, selected: one === value }, one)))
      : h("input", { type: "range", min: knob.min, max: knob.max, step: knob.step, value, disabled: off, oninput: (e) => change(Number(e.target.value)) });
    return h("label", {}, h("span", {}, knob.label, " ", shown), control);
  }

  parsed() {
    try {
      return JSON.parse(this.text.value);
    } catch {
      return null;
    }
  }

  /** Where the text would be written, and under which condition; `null`, and says so, where it is none. */
  target() {
    let resource;
    try {
      resource = JSON.parse(this.text.value);
    } catch (error) {
      set(this.found, complaint({ message: `This is not JSON: ${error.message}` }));
      return null;
    }
    const named = this.tag === null ? resource?.metadata?.name && name(resource) : this.name;
    if (typeof named !== "string" || named === "") {
      set(this.found, complaint({ message: "metadata.name says how it is called; it is missing." }));
      return null;
    }
    const more = this.tag === null ? { "if-none-match": "*" } : { "if-match": this.tag };
    return { named, path: this.path(named), more };
  }

  async tryOut() {
    const target = this.target();
    if (!target) return;
    const text = this.text.value;
    set(this.found, h("p", { class: "muted" }, "Trying it out…"));
    try {
      const { value } = await api.ask("PUT", `${target.path}?dry_run=true`, { body: text, more: target.more });
      this.checked = text;
      set(this.found, h("h3", {}, "If this is saved"), difference(value.plan));
    } catch (error) {
      this.refuse(error);
    }
    this.edited();
  }

  async write() {
    const target = this.target();
    if (!target) return;
    try {
      const { value, tag } = await api.ask("PUT", target.path, { body: this.text.value, more: target.more });
      const { status, ...written } = value;
      this.name = target.named;
      this.edit(written, tag);
      set(this.found, h("p", { class: "good" }, `${this.kind.kind} ${target.named} is saved and in force.`));
      this.announce(`${target.named} is saved`);
      this.load();
    } catch (error) {
      this.refuse(error);
    }
  }

  refuse(error) {
    const stale = error.status === 412;
    const again = this.tag === null ? null : h("button", { type: "button", onclick: () => this.open(this.name) }, "Read it again (what you wrote here is lost)");
    const told = this.tag === null ? "One of this name is there already: choose it from the list." : "Somebody changed it since you read it. Nothing was written.";
    set(this.found, stale ? [complaint({ message: told }), again] : complaint(error));
  }

  async erase() {
    const made = await act({
      title: `Delete ${this.kind.kind} ${this.name}`, say: "It is gone for good. What the plan would be without it:", method: "DELETE",
      path: this.path(this.name), more: { "if-match": this.tag }, done: "Delete", danger: true,
    });
    if (!made) return;
    this.editor.hidden = true;
    this.blank.hidden = false;
    this.load();
  }
}

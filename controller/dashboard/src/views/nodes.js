// All nodes in a table.

import { h } from "../dom.js";
import { count, percent, rps, span } from "../format.js";
import { presence, utilisation } from "../history.js";
import { on, select, state } from "../state.js";
import { Table } from "../table.js";

export class NodesView {
  constructor({ go }) {
    this.search = h("input", { type: "search", placeholder: "Name, site, region or state", "aria-label": "Search nodes", oninput: () => this.show() });
    this.found = h("output", { class: "muted" });
    const of = (rate) => (n) => this.frame[rate][n];
    const text = (rate) => (n) => rps(this.frame[rate][n]);
    this.table = new Table({
      label: "Nodes",
      key: (n) => this.frame.ground.names[n],
      onopen: (n) => {
        select(this.frame.ground.names[n]);
        go("map");
      },
      sort: -2,
      empty: "No node fits.",
      columns: [
        { label: "node", width: "minmax(110px, 2fr)", text: (n) => this.frame.ground.names[n], sort: (n) => this.frame.ground.names[n] },
        { label: "used", width: "74px", number: true, text: (n) => percent(utilisation(this.frame, n)), sort: (n) => utilisation(this.frame, n) },
        { label: "demand", width: "80px", number: true, text: text("demand_rps"), sort: of("demand_rps") },
        { label: "capacity", width: "84px", number: true, small: false, text: text("capacity_rps"), sort: of("capacity_rps") },
        { label: "load", width: "74px", number: true, small: false, text: text("load_rps"), sort: of("load_rps") },
        { label: "for others", width: "90px", number: true, small: false, text: text("moved_in_rps"), sort: of("moved_in_rps") },
        { label: "moved away", width: "104px", number: true, small: false, text: text("moved_out_rps"), sort: of("moved_out_rps") },
        { label: "refused", width: "80px", number: true, small: false, text: text("shed_rps"), sort: of("shed_rps") },
        { label: "state", width: "minmax(70px, 1fr)", text: (n) => this.word(n), sort: (n) => this.word(n) },
        { label: "last word", width: "90px", number: true, small: false, text: (n) => (Number.isNaN(this.frame.age[n]) ? "–" : span(this.frame.age[n])), sort: (n) => this.frame.age[n] || 0 },
        { label: "site", width: "minmax(80px, 1fr)", small: false, text: (n) => this.frame.ground.site[n] ?? "", sort: (n) => this.frame.ground.site[n] ?? "" },
        { label: "region", width: "minmax(80px, 1fr)", small: false, text: (n) => this.frame.ground.region[n] ?? "", sort: (n) => this.frame.ground.region[n] ?? "" },
      ],
    });
    this.element = h("div", { class: "page" }, h("div", { class: "tools" }, h("h1", {}, "Nodes"), this.search, this.found), this.table.element);
    on("frame", () => this.show());
  }

  word(n) {
    const flag = this.frame.flags[n];
    const word = presence(this.frame, n);
    return flag & 2 ? "drained" : flag & 1 ? "cordoned" : word === "stale" ? "late" : word;
  }

  show() {
    if (!state.frame || !this.element.isConnected) return;
    this.frame = state.frame;
    const { names, site, region } = this.frame.ground;
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [];
    for (let n = 0; n < names.length; n += 1) {
      const text = words.length > 0 ? `${names[n]} ${site[n] ?? ""} ${region[n] ?? ""} ${this.word(n)}` : "";
      if (words.every((word) => text.includes(word))) rows.push(n);
    }
    this.table.show(rows);
    this.found.textContent = rows.length === names.length ? count(rows.length, "node") : `${rows.length.toLocaleString("en-GB")} of ${count(names.length, "node")}`;
  }
}

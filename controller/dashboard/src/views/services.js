// All services in a table; one that is chosen is shown on the map.

import { h } from "../dom.js";
import { percent, rps } from "../format.js";
import { choose, on, state } from "../state.js";
import { Table } from "../table.js";

export class ServicesView {
  constructor({ go }) {
    this.search = h("input", { type: "search", placeholder: "Name, policy or algorithm", "aria-label": "Search services", oninput: () => this.show() });
    const rate = (label, field, small) => ({ label, width: "92px", number: true, small, text: (s) => rps(s[field]), sort: (s) => s[field] });
    this.table = new Table({
      label: "Services",
      key: (s) => s.service,
      onopen: (s) => {
        choose(s.service);
        go("map");
      },
      sort: -4,
      empty: "No service yet: one is here as soon as a proxy or an operator names it.",
      columns: [
        { label: "service", width: "minmax(120px, 2fr)", text: (s) => s.service, sort: (s) => s.service },
        { label: "policy", width: "minmax(80px, 1fr)", small: false, text: (s) => s.policy, sort: (s) => s.policy },
        { label: "algorithm", width: "100px", small: false, text: (s) => s.algorithm, sort: (s) => s.algorithm },
        rate("demand", "demand_rps"),
        rate("capacity", "capacity_rps", false),
        { label: "moved", width: "80px", number: true, text: (s) => percent(s.demand_rps > 0 ? s.moved_rps / s.demand_rps : 0), sort: (s) => s.moved_rps / (s.demand_rps || 1) },
        rate("cloud", "cloud_rps", false),
        rate("refused", "shed_rps", false),
        { label: "hottest", width: "84px", number: true, text: (s) => percent(s.utilisation_max), sort: (s) => s.utilisation_max },
        { label: "nodes", width: "76px", number: true, small: false, text: (s) => String(s.nodes), sort: (s) => s.nodes },
      ],
    });
    this.element = h("div", { class: "page" }, h("div", { class: "tools" }, h("h1", {}, "Services"), this.search), this.table.element);
    on("frame", () => this.show());
  }

  show() {
    if (!state.frame || !this.element.isConnected) return;
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (s) => words.every((word) => `${s.service} ${s.policy} ${s.algorithm}`.includes(word));
    this.table.show(state.frame.services.filter(fits));
  }
}

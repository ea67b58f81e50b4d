// The authority: which roots are believed, how long, and what comes next.

import * as api from "../api.js";
import { h, set } from "../dom.js";
import { count, moment, span } from "../format.js";
import { state } from "../state.js";
import { complaint } from "./act.js";

const STAGES = {
  added: "believed, and signs soon", active: "signs certificates", retiring: "believed until all that it signed has ended",
};

export class CertificatesView {
  constructor() {
    this.body = h("div", { class: "cards" });
    this.element = h("div", { class: "page scroll" }, h("div", { class: "tools" }, h("h1", {}, "Certificates and authority")), this.body);
  }

  enter() {
    this.load();
    clearInterval(this.timer);
    this.timer = setInterval(() => this.load(), 15_000);
  }

  leave() {
    clearInterval(this.timer);
  }

  async load() {
    try {
      const authority = await api.read("/v1/authority");
      const isAdmin = state.me?.role === "admin";
      const tokens = isAdmin ? (await api.read("/v1/tokens")).items : null;
      set(this.body, about(authority), authority.roots.map(root), revoked(authority.revoked), tokens && enrolment(tokens));
    } catch (error) {
      set(this.body, complaint(error));
    }
  }
}

function left(seconds) {
  const ms = seconds * 1000 - api.now();
  const text = ms > 0 ? `in ${span(ms)}, ${moment(seconds * 1000)}` : `ended ${moment(seconds * 1000)}`;
  return h("span", { class: ms < 0 ? "alarm" : ms < 30 * 86_400_000 ? "warn" : "" }, text);
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

function about(a) {
  return h("section", { class: "card" }, h("h2", {}, "Authority"), facts([
    ["trust domain", a.trust_domain],
    ["next", a.next],
    ["nodes", a.nodes_behind > 0 ? `${a.nodes_behind} of ${a.nodes_connected} connected do not know the roots of now yet` : `all ${a.nodes_connected} connected know the roots of now`],
    ["version", String(a.version)],
  ]));
}

function root(r) {
  return h("section", { class: "card" }, h("h2", {}, "Root ", h("span", { class: `badge ${r.stage === "active" ? "live" : "stale"}` }, r.stage)), facts([
    ["it", STAGES[r.stage] ?? r.stage],
    ["ends", left(r.ends_s)],
    ["what signs below it ends", left(r.issuer_ends_s)],
    ["its key", r.has_key ? "is here, sealed" : "stays with who brought it: the next chain must be brought too"],
    ["since", moment(r.since_s * 1000)],
    ["SHA-256", h("code", { class: "hash" }, r.id)],
  ]));
}

function revoked(list) {
  const rows = list.map((one) => h("li", {}, h("b", {}, one.node), ` since ${moment(one.since_s * 1000)}`));
  return h("section", { class: "card" }, h("h2", {}, "Revoked nodes"), rows.length > 0 ? h("ul", { class: "held" }, rows) : h("p", { class: "muted" }, "None."));
}

/** For whom a token is. */
function whose(token) {
  const parts = ["node", "site"].filter((field) => token[field]).map((field) => `${field} ${token[field]}`);
  for (const [label, value] of Object.entries(token.labels ?? {})) parts.push(`label ${label}=${value}`);
  return parts.length > 0 ? `for ${parts.join(", ")}` : "for any node";
}

function enrolment(tokens) {
  const rows = tokens.map((t) => h("li", {}, h("b", {}, t.id), " ", whose(t), h("span", { class: "muted" }, `, used ${t.uses}${t.uses_max ? ` of ${t.uses_max}` : ""} times`),
    t.expires_s ? [", ends ", left(t.expires_s)] : ", does not end"));
  return h("section", { class: "card" }, h("h2", {}, "Enrolment tokens"), h("p", { class: "muted" }, `${count(tokens.length, "token")} let proxies in. New ones: isobar token create.`), h("ul", { class: "held" }, rows));
}

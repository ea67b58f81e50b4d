// How one plan differs from another: what a dry run and "what if" answer with.

import { h } from "../dom.js";
import { count, percent, ppm, rps } from "../format.js";

/** Seats that are listed; the rest is counted. */
const SEATS = 100;

export function difference(plan) {
  if (plan.services.length === 0 && plan.seats.length === 0) {
    return h("p", { class: "good" }, "The plan stays as it is: nothing that enters now would go elsewhere.");
  }
  const hidden = plan.seats_left_out + Math.max(0, plan.seats.length - SEATS);
  return h(
    "div",
    { class: "difference" },
    h("p", {}, `${count(plan.services.length, "service")} and ${count(plan.seats.length + plan.seats_left_out, "row")} of the plan would differ.`),
    h("div", { class: "sideways", tabindex: 0, role: "region", "aria-label": "Services that would differ" }, services(plan.services)),
    plan.seats.length > 0 && h("div", { class: "sideways", tabindex: 0, role: "region", "aria-label": "Rows that would differ" }, seats(plan.seats.slice(0, SEATS))),
    hidden > 0 && h("p", { class: "muted" }, `and ${count(hidden, "row")} more`),
  );
}

/** Before and after, with an arrow where they differ. */
function pair(before, after, text, kind = "") {
  const [a, b] = [before === null ? "not there" : text(before), after === null ? "gone" : text(after)];
  if (a === b) return h("td", { class: kind }, a);
  return h("td", { class: `changed ${kind}` }, h("del", {}, a), " → ", h("ins", {}, b));
}

function table(heads, rows) {
  return h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col", class: text.startsWith("where") ? "text" : "" }, text)))), h("tbody", {}, rows));
}

function services(list) {
  const rows = list.map(({ service, before, after }) =>
    h("tr", {}, h("th", { scope: "row" }, service),
      pair(before, after, (t) => t.policy),
      pair(before, after, (t) => `${rps(t.moved_rps)}/s`),
      pair(before, after, (t) => `${rps(t.cloud_rps)}/s`),
      pair(before, after, (t) => `${rps(t.shed_rps)}/s`),
      pair(before, after, (t) => percent(t.utilisation_max))));
  return table(["service", "policy", "moved", "cloud", "refused", "hottest node"], rows);
}

function goes(row) {
  const parts = [`${ppm(row.home_ppm)} here`, ...row.moves.map((move) => `${ppm(move.weight_ppm)} ${move.to}`)];
  if (row.cloud_ppm > 0) parts.push(`${ppm(row.cloud_ppm)} cloud`);
  if (row.shed_ppm > 0) parts.push(`${ppm(row.shed_ppm)} refused`);
  return parts.join(", ");
}

function seats(list) {
  const rows = list.map(({ service, node, before, after }) =>
    h("tr", {}, h("th", { scope: "row" }, node, h("small", {}, service)),
      pair(before, after, (load) => percent(load.planned_utilisation)),
      pair(before, after, (load) => goes(load.row), "text")));
  return table(["node", "utilisation", "where its demand goes"], rows);
}

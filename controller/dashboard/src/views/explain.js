// Why a node's weights are as they are, in words.

import { h } from "../dom.js";
import { count, distance, percent, ppm, rps, rtt, span } from "../format.js";
import { select } from "../state.js";

const OBTAINED = {
  declared: "as declared", reported: "as its endpoints report", learned: "as learned from its latency", unknown: "not known yet",
};

/** Paragraphs that tell an explanation of `GET /v1/explain`. */
export function words(why) {
  const { demand, capacity, policy } = why;
  const paragraphs = [];
  const rest = Math.abs(demand.planned_rps - demand.entered_rps) >= 0.5
    ? `; the plan counts with ${rps(demand.planned_rps)}, since a demand within its noise is left as it was`
    : "";
  paragraphs.push(`${rps(demand.entered_rps)} requests/s enter here${rest}.`);
  const workers = capacity.workers > 0 ? `, ${count(capacity.workers, "request")} at once` : "";
  const rank = capacity.cpu_factor !== capacity.node_cpu_factor ? `, at its priority of ${capacity.priority}` : "";
  const busy = capacity.cpu_factor < 0.995 ? ` Its busy processors leave ${percent(capacity.cpu_factor)} of that${rank}.` : "";
  paragraphs.push(capacity.planned_rps > 0
    ? `Its endpoints can serve ${rps(capacity.planned_rps)} requests/s, ${OBTAINED[capacity.obtained] ?? capacity.obtained}${workers}.${busy}`
    : "It has nothing that could serve: no endpoint is up, or its capacity is not known.");
  paragraphs.push(where(why));
  const { spec } = policy;
  const limits = spec
    ? ` It moves load by ${spec.algorithm}, above ${percent(spec.target_utilisation)} of the capacity, and plans nobody above ${percent(spec.ceiling_utilisation)}.`
    : "";
  const by = policy.name === "default" ? "No policy was written for this service, so the defaults decide." : `The policy ${policy.name} decides: ${policy.because}.`;
  paragraphs.push(by + limits);
  return paragraphs;
}

/** Where what enters goes. */
function where({ row, load_rps: load, moved_in_rps: movedIn, capacity }) {
  const parts = [`${ppm(row.home_ppm)} is served here`];
  for (const move of row.moves) parts.push(`${ppm(move.weight_ppm)} goes to ${move.to}`);
  if (row.cloud_ppm > 0) parts.push(`${ppm(row.cloud_ppm)} goes to the upstream of last resort`);
  const all = row.moves.length === 0 && row.cloud_ppm === 0 ? "All of it is served here" : `Of what enters, ${listed(parts)}`;
  const shed = row.shed_ppm > 0 ? `; ${ppm(row.shed_ppm)} of all is refused, since nobody has room` : "";
  const others = movedIn > 0 ? `, ${rps(movedIn)} requests/s of it for others` : "";
  const used = capacity.planned_rps > 0 ? ` The node's load is then ${rps(load)} requests/s, ${percent(load / capacity.planned_rps)} of its capacity${others}.` : "";
  return `${all}${shed}.${used}`;
}

function listed(parts) {
  if (parts.length === 1) return parts[0];
  return `${parts.slice(0, -1).join(", ")} and ${parts[parts.length - 1]}`;
}

/** The whole explanation as elements. */
export function explanation(why) {
  const held = why.held_by.map((binding) =>
    h("li", {}, h("b", {}, binding.constraint.replaceAll("_", " ")), " ", binding.because));
  return [
    words(why).map((text) => h("p", {}, text)),
    held.length > 0 && [h("h4", {}, "What holds it there"), h("ul", { class: "held" }, held)],
    h("h4", {}, `Neighbours (${why.neighbours.length})`),
    why.neighbours.length > 0 ? neighbours(why) : h("p", { class: "muted" }, "It may move load to nobody."),
    why.others.length > 0 && others(why.others),
  ];
}

function link(name) {
  return h("button", { type: "button", class: "link", onclick: () => select(name) }, name);
}

function neighbours(why) {
  const heads = ["node", "away", "load", "room", "credit", "weight"];
  const rows = why.neighbours.map((n) => {
    const measured = n.rtt_measured ? "measured" : "estimated from the distance";
    const planned = n.planned_ppm !== n.weight_ppm ? ` → ${ppm(n.planned_ppm)}` : "";
    const silent = n.presence === "live" ? "" : `, ${n.presence}`;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, link(n.node), h("small", {}, `${distance(n.distance_m)}${silent}`)),
      h("td", { title: `round trip ${measured}` }, `${n.rtt_measured ? "" : "≈ "}${rtt(n.rtt_us)}`),
      h("td", {}, n.capacity_rps > 0 ? percent(n.load_rps / n.capacity_rps) : "–"),
      h("td", {}, rps(n.headroom_rps)),
      h("td", {}, rps(n.credit_rps)),
      h("td", { class: n.weight_ppm > 0 ? "strong" : "" }, ppm(n.weight_ppm) + planned),
    );
  });
  return h(
    "div",
    { class: "sideways", tabindex: 0, role: "region", "aria-label": "Neighbours" },
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows)),
  );
}

function others(list) {
  const rows = list.map((other) => h("li", {}, link(other.node), ` ${distance(other.distance_m)}: ${other.because}`));
  return h("details", {}, h("summary", {}, `Why not others (${list.length})`), h("ul", { class: "held" }, rows));
}

/** How old a node's last word is, in words. */
export function lastWord(presence, age) {
  if (presence === "absent") return "never heard of";
  return Number.isNaN(age) ? presence : `${presence}, ${span(age)} ago`;
}

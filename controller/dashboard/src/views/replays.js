// Replays side by side: what `isobar replay --json FILE` wrote, read from this machine and sent nowhere.

import { h, set } from "../dom.js";
import { count, percent } from "../format.js";

/** Longest file, and most runs of one. */
const BYTES_MAX = 32 << 20;
const RUNS_MAX = 10_000;

const share = (of, by) => (run) => (run[by] > 0 ? run[of] / run[by] : NaN);
const field = (name) => (run) => (typeof run[name] === "number" ? run[name] : NaN);
const ms = (value) => `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
const FIGURES = [
  { label: "failed", value: share("failures", "requests"), text: percent, plot: true },
  { label: "failed, hot homes", value: share("hot_failures", "hot_requests"), text: percent },
  { label: "median", value: field("p50_ms"), text: ms },
  { label: "99th percentile", value: field("p99_ms"), text: ms, plot: true },
  { label: "99th percentile, hot homes", value: field("hot_p99_ms"), text: ms, plot: true },
  { label: "moved", value: field("moved_share"), text: percent, plot: true, neutral: true },
  { label: "moved by the plan", value: field("moved_by_plan_share"), text: percent, neutral: true },
  { label: "moved by spill", value: field("moved_by_spill_share"), text: percent, neutral: true },
  { label: "moved needlessly", value: field("needless_share"), text: percent },
  { label: "reversals", value: field("reversals"), text: (v) => v.toFixed(1) },
  { label: "settled after", value: field("settle_s"), text: (v) => `${v.toFixed(1)} s` },
  { label: "highest plan", value: field("max_planned_utilisation"), text: percent },
  { label: "requests", value: field("requests"), text: (v) => Math.round(v).toLocaleString("en-GB"), neutral: true },
];

/** Runs by policy, in the file's order; throws a sentence where it is no replay. */
export function parse(text) {
  let runs;
  try {
    runs = JSON.parse(text);
  } catch (error) {
    throw new Error(`this is not JSON (${error.message}); isobar replay --json FILE writes what is read here`);
  }
  if (!Array.isArray(runs) || runs.length === 0) throw new Error("this has no list of runs; isobar replay --json FILE writes one");
  if (runs.length > RUNS_MAX) throw new Error(`this has ${runs.length} runs; ${RUNS_MAX} are read at most`);
  const policies = new Map();
  runs.forEach((run, at) => {
    if (typeof run?.policy !== "string" || typeof run.requests !== "number") throw new Error(`run ${at + 1} has no policy or no requests; isobar replay --json FILE writes both`);
    if (!policies.has(run.policy)) policies.set(run.policy, []);
    policies.get(run.policy).push(run);
  });
  return policies;
}

function mean(runs, figure) {
  const values = runs.map(figure.value).filter((value) => Number.isFinite(value));
  return values.length === 0 ? NaN : values.reduce((sum, value) => sum + value, 0) / values.length;
}

export class ReplaysView {
  constructor() {
    this.files = [null, null];
    this.slots = ["A", "B"].map((letter, at) => this.slot(letter, at));
    this.result = h("div", { class: "result" });
    this.element = h("div", { class: "page scroll" },
      h("div", { class: "tools" }, h("h1", {}, "Replays")),
      h("p", { class: "muted" }, "Load what isobar replay --json FILE wrote, one or two of them. Files stay on this machine."),
      h("div", { class: "slots" }, this.slots.map((slot) => slot.element)), this.result);
  }

  slot(letter, at) {
    const told = h("p", { class: "muted", role: "status" }, "no file yet");
    const input = h("input", { type: "file", accept: ".json,application/json", "aria-label": `Replay ${letter}`, onchange: () => this.load(at, input.files[0]) });
    const element = h("div", { class: "card slot" }, h("h2", {}, h("span", { class: `letter ${letter.toLowerCase()}` }, letter), " Replay"), input, told);
    element.addEventListener("dragover", (event) => event.preventDefault());
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.load(at, event.dataTransfer.files[0]);
    });
    return { element, told };
  }

  async load(at, file) {
    if (!file) return;
    const { told } = this.slots[at];
    try {
      if (file.size > BYTES_MAX) throw new Error(`it has ${file.size >> 20} MiB; ${BYTES_MAX >> 20} are read at most`);
      const policies = parse(await file.text());
      this.files[at] = { name: file.name, policies };
      const runs = [...policies.values()].reduce((sum, list) => sum + list.length, 0);
      set(told, `${file.name}: ${count(policies.size, "policy", "policies")}, ${count(runs, "run")}`);
      told.className = "muted";
    } catch (error) {
      this.files[at] = null;
      set(told, `${file.name}: ${error.message}`);
      told.className = "error";
    }
    this.draw();
  }

  draw() {
    const loaded = this.files.map((file, at) => file && { ...file, letter: "AB"[at] }).filter(Boolean);
    if (loaded.length === 0) return set(this.result);
    const columns = [];
    const names = new Set(loaded.flatMap((file) => [...file.policies.keys()]));
    for (const policy of names) for (const file of loaded) if (file.policies.has(policy)) columns.push({ policy, letter: file.letter, runs: file.policies.get(policy) });
    return set(this.result, h("div", { class: "plots" }, FIGURES.filter((f) => f.plot).map((figure) => plot(figure, columns))),
      h("div", { class: "sideways", tabindex: 0, role: "region", "aria-label": "All figures" }, table(columns)));
  }
}

function letter(column) {
  return h("span", { class: `letter ${column.letter.toLowerCase()}` }, column.letter);
}

function table(columns) {
  const head = h("tr", {}, h("th", { scope: "col" }, "mean of runs"), columns.map((c) => h("th", { scope: "col" }, letter(c), " ", c.policy, h("small", {}, count(c.runs.length, "seed")))));
  const rows = FIGURES.map((figure) => {
    const values = columns.map((column) => mean(column.runs, figure));
    const best = figure.neutral ? NaN : Math.min(...values.filter(Number.isFinite));
    return h("tr", {}, h("th", { scope: "row" }, figure.label), values.map((value) =>
      h("td", { class: value === best ? "strong" : "" }, Number.isFinite(value) ? figure.text(value) : "–")));
  });
  return h("table", { class: "plain" }, h("thead", {}, head), h("tbody", {}, rows));
}

/** Bars, one a policy and replay. */
function plot(figure, columns) {
  const values = columns.map((column) => mean(column.runs, figure));
  const most = Math.max(...values.filter(Number.isFinite), 1e-12);
  const rows = columns.map((column, at) => {
    const bar = h("i", { class: column.letter.toLowerCase() });
    bar.style.width = `${Number.isFinite(values[at]) ? Math.max(0.4, (values[at] / most) * 100) : 0}%`;
    return h("div", { class: "barrow" }, h("span", { class: "barname" }, letter(column), " ", column.policy), h("span", { class: "bartrack" }, bar),
      h("span", { class: "barvalue" }, Number.isFinite(values[at]) ? figure.text(values[at]) : "–"));
  });
  return h("figure", { class: "card" }, h("figcaption", {}, figure.label), rows);
}

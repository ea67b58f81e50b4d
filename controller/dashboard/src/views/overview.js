// The map with what belongs to it: figures of the whole mesh, the legend, the scrubber, the panel of a node.

import { TOP, STEPS, colour } from "../colour.js";
import { h, say, set } from "../dom.js";
import { clock, count, percent, rps, span } from "../format.js";
import { MeshMap } from "../map.js";
import { choose, look, on, select, state } from "../state.js";
import { NodePanel } from "./node.js";

/** How far an arrow key goes in time. */
const STEP_MS = 1000;

export class Overview {
  constructor({ announce }) {
    this.map = new MeshMap({ onselect: select, announce });
    this.panel = new NodePanel();
    this.figures = h("dl", { class: "figures overlay" });
    this.notes = h("p", { class: "notes", role: "status", hidden: true });
    this.service = h("select", { "aria-label": "Service shown on the map", onchange: () => choose(this.service.value) }, h("option", { value: "" }, "All services"));
    this.ruler = h("div", { class: "ruler", "aria-hidden": "true" });
    this.stage = h("div", { class: "stage" }, this.map.element, h("div", { class: "top overlay" }, this.service, this.figures),
      this.zooms(), h("div", { class: "under" }, this.legend(), this.ruler), this.notes);
    this.scrubber = this.timeline();
    this.element = h("div", { class: "overview" }, h("div", { class: "left" }, this.stage, this.scrubber), this.panel.element);
    this.map.element.addEventListener("enter", () => this.panel.focus());
    this.panel.onclose = () => this.map.element.focus();
    for (const what of ["frame", "selected", "service"]) on(what, () => this.show());
    on("link", () => this.liven());
    addEventListener("isobar-theme", () => this.map.repaint());
  }

  zooms() {
    const button = (text, label, act) =>
      h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    return h(
      "div",
      { class: "zooms overlay", role: "group", "aria-label": "Zoom" },
      button("+", "Zoom in", () => this.map.zoom(1.6)),
      button("−", "Zoom out", () => this.map.zoom(1 / 1.6)),
      button("⤢", "Show all nodes", () => this.map.fit()),
    );
  }

  legend() {
    const steps = Array.from({ length: STEPS }, (_, at) => {
      const bar = h("i");
      bar.style.background = colour(at);
      return bar;
    });
    const marks = [0, 0.5, 0.75, 1, TOP].map((value) => {
      const mark = h("span", {}, value === TOP ? "125 %" : percent(value));
      mark.style.left = `${(value / TOP) * 100}%`;
      return mark;
    });
    const sign = (kind, text) => h("span", { class: "key" }, h("i", { class: `sign ${kind}` }), text);
    return h(
      "details",
      { class: "legend overlay", open: matchMedia("(min-width: 700px)").matches },
      h("summary", {}, "Utilisation"),
      h("div", { class: "bar" }, steps),
      h("div", { class: "marks" }, marks),
      h("div", { class: "keys" }, sign("live", "live"), sign("stale", "late"), sign("silent", "silent"),
        sign("cordoned", "cordoned"), sign("hot", "above 95 %"), sign("arc", "load that moves")),
    );
  }

  timeline() {
    this.trace = h("canvas", { class: "trace", "aria-hidden": "true" });
    this.range = h("input", {
      type: "range", min: 0, max: 1, value: 1, step: STEP_MS, "aria-label": "Time within the last hour",
      oninput: () => this.scrub(),
    });
    this.when = h("output", { class: "when" }, "live");
    this.live = h("button", { type: "button", class: "live", onclick: () => look(null) }, "Live");
    this.play = h("button", { type: "button", onclick: () => this.toggle() }, "Play");
    this.since = h("span", { class: "since" });
    return h(
      "div",
      { class: "scrubber", role: "group", "aria-label": "Time" },
      this.play,
      h("div", { class: "track" }, this.trace, this.range, h("div", { class: "ends" }, this.since, h("span", {}, "now"))),
      h("div", { class: "at" }, this.when, this.live),
    );
  }

  scrub() {
    const { frames } = state.history;
    const at = Number(this.range.value);
    // The last step may not be a whole one.
    look(at > frames[frames.length - 1].at - STEP_MS ? null : at);
  }

  /** Runs through what was seen, a minute in five seconds. */
  toggle() {
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = null;
    } else if (state.history.frames.length > 1) {
      if (state.time === null) look(state.history.frames[0].at);
      this.playing = setInterval(() => {
        const next = (state.time ?? Infinity) + 1200;
        const over = next >= state.history.last().at;
        look(over ? null : next);
        if (over) this.toggle();
      }, 100);
    }
    say(this.play, this.playing ? "Pause" : "Play");
  }

  show() {
    const { frame } = state;
    if (!frame || !this.element.isConnected) return;
    this.map.show(frame, state.selected);
    this.liven();
    this.summary(frame);
    this.choices(frame);
    this.draw(frame);
    this.panel.show(frame);
    this.element.classList.toggle("with-panel", state.selected !== null);
    const { scale } = this.map;
    if (scale) {
      say(this.ruler, scale.text);
      this.ruler.style.width = `${scale.pixels}px`;
    }
  }

  /** Only what is now runs. */
  liven() {
    const { ok } = state.link;
    this.map.setLive(ok && state.time === null);
    this.stage.classList.toggle("stopped", !ok);
  }

  summary(frame) {
    const { sums } = frame;
    const [, stale, silent, absent] = sums.presence;
    const missing = [stale > 0 && `${stale} late`, silent + absent > 0 && `${silent + absent} silent`].filter(Boolean);
    const figure = (label, value, note = "", alarm = false) =>
      h("div", { class: alarm ? "alarm" : "" }, h("dt", {}, label), h("dd", {}, value), note && h("dd", { class: "note" }, note));
    set(
      this.figures,
      figure("nodes", `${frame.presence.length.toLocaleString("en-GB")}`, missing.join(" · ") || "all live", silent > 0),
      figure("demand", rps(sums.demand), `of ${rps(sums.capacity)} requests/s`),
      figure("moved", sums.demand > 0 ? percent(sums.moved / sums.demand) : "0 %", `${rps(sums.moved)}/s in ${count(frame.rps.length, "arc")}`),
      figure("hottest", percent(sums.hottest), sums.hot > 0 ? `${count(sums.hot, "node")} above 95 %` : "none above 95 %", sums.hot > 0),
      figure("refused", `${rps(sums.shed)}/s`, sums.shed > 0 ? "nobody has room" : "nothing", sums.shed > 0),
    );
    const unplaced = frame.ground.lat.filter((lat) => lat === null).length;
    const notes = [];
    if (frame.ground.names.length === 0) notes.push("No node has come yet. A proxy appears here when its control stream opens.");
    if (unplaced > 0) notes.push(`${count(unplaced, "node")} without a position: in the list of nodes alone.`);
    if (frame.leftOut.nodes > 0) notes.push(`${count(frame.leftOut.nodes, "node")} more than a picture holds.`);
    if (frame.leftOut.arcs > 0) notes.push(`${count(frame.leftOut.arcs, "arc")} more, of little load.`);
    say(this.notes, notes.join(" "));
    this.notes.hidden = notes.length === 0;
  }

  choices(frame) {
    const names = frame.services.map((service) => service.service);
    const known = [...this.service.options].slice(1).map((option) => option.value);
    if (names.join(" ") !== known.join(" ")) {
      set(this.service, h("option", { value: "" }, "All services"), names.map((name) => h("option", { value: name }, name)));
    }
    this.service.value = state.service;
  }

  draw(frame) {
    const { frames } = state.history;
    const [first, last] = [frames[0].at, frames[frames.length - 1].at];
    this.range.min = first;
    this.range.max = Math.max(last, first + 1);
    this.range.value = state.time ?? this.range.max;
    const isNow = state.time === null;
    say(this.when, isNow ? clock(last) : `${clock(frame.at)}, ${span(last - frame.at)} ago`);
    this.range.setAttribute("aria-valuetext", isNow ? "now" : `${clock(frame.at)}, ${span(last - frame.at)} ago`);
    say(this.since, `${span(last - first)} ago`);
    this.live.classList.toggle("on", isNow);
    this.live.setAttribute("aria-pressed", isNow);
    this.element.classList.toggle("past", !isNow);
    trace(this.trace, frames, first, last);
  }
}

/** How much moved, and how hot the hottest was, behind the scrubber. */
function trace(canvas, frames, first, last) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const ratio = Math.min(devicePixelRatio || 1, 2);
  if (canvas.width !== Math.round(width * ratio)) [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const most = frames.reduce((top, frame) => Math.max(top, frame.sums.moved), 1);
  const x = (frame) => ((frame.at - first) / Math.max(1, last - first)) * width;
  context.beginPath();
  context.moveTo(0, height);
  frames.forEach((frame) => context.lineTo(x(frame), height - (frame.sums.moved / most) * (height - 2)));
  context.lineTo(width, height - (frames[frames.length - 1].sums.moved / most) * (height - 2));
  context.lineTo(width, height);
  context.fillStyle = style.getPropertyValue("--arc-soft");
  context.fill();
  context.beginPath();
  frames.forEach((frame, at) => {
    const y = height - 1 - (Math.min(frame.sums.hottest, TOP) / TOP) * (height - 3);
    if (at === 0) context.moveTo(x(frame), y);
    else context.lineTo(x(frame), y);
  });
  context.strokeStyle = style.getPropertyValue("--hot");
  context.lineWidth = 1.5;
  context.stroke();
}


// The map: nodes coloured by utilisation, arcs of moved load.
//
// Four canvases lie on each other: land, which changes when the view does; arcs, drawn anew with each picture; dots that run
// along them, drawn each frame, unless less motion is asked for or the picture is an old one; and nodes. Places are projected once into a plane
// of 256 × 256 (d3-geo's Mercator); a view is a scale and a shift of it.

import { geoDistance, geoMercator, geoPath } from "d3-geo";
import outline from "land";
import { STEPS, colour, step } from "./colour.js";
import { h } from "./dom.js";
import { distance, percent } from "./format.js";
import { presence, utilisation } from "./history.js";

const PLANE = 256;
const EARTH_M = 6_371_008.8;
/** Nearest and farthest view. */
const SCALE_MIN = 1;
const SCALE_MAX = 2 ** 20;
/** With so many nodes in sight or fewer, each has its name and figure beside it. */
const LABELS_MAX = 60;
/** Widths of arcs. */
const WIDTHS = [0.7, 1.2, 1.9, 2.8, 4, 5.5];
/** Arcs drawn as one path. */
const ARCS_A_PATH = 16;
/** How far a pointer may be off a node, pixels. */
const REACH = 16;
/** Times of drawing that are remembered. */
const DRAWN = 240;

const projection = geoMercator().scale(PLANE / (2 * Math.PI)).translate([PLANE / 2, PLANE / 2]);
const land = { type: "MultiPolygon", coordinates: outline.map((polygon) => polygon.map(unpacked)) };

function unpacked(deltas) {
  const ring = [];
  let [x, y] = [0, 0];
  for (let at = 0; at < deltas.length; at += 2) {
    x += deltas[at];
    y += deltas[at + 1];
    ring.push([x / 10, y / 10]);
  }
  return ring;
}

export class MeshMap {
  /** `onselect` is called with the name that is chosen, or `null`. */
  constructor({ onselect, announce }) {
    this.onselect = onselect;
    this.announce = announce;
    this.layers = ["land", "arcs", "dots", "nodes"].map((name) => h("canvas", { class: `layer ${name}`, "aria-hidden": "true" }));
    this.tip = h("div", { class: "tip", hidden: true });
    this.element = h(
      "div",
      {
        class: "map",
        tabindex: 0,
        role: "application",
        "aria-roledescription": "map",
        "aria-label": "Map of nodes. Arrow keys go from node to node, Enter shows the node, plus and minus zoom, 0 shows all.",
      },
      this.layers,
      this.tip,
    );
    [this.landAt, this.arcsAt, this.dotsAt, this.nodesAt] = this.layers.map((layer) => layer.getContext("2d"));
    this.shape = new Path2D(geoPath(projection)(land));
    this.view = { k: 2, x: 0, y: 0 };
    /** Whether somebody moved the view; until then it shows all nodes, whatever the size. */
    this.touched = false;
    /** Whether what is shown is what is. */
    this.live = true;
    this.frame = null;
    this.ground = null;
    this.selected = null;
    this.drawn = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.size = { width: 0, height: 0, ratio: 1 };
    new ResizeObserver(() => this.resized()).observe(this.element);
    this.still.addEventListener("change", () => this.run());
    this.listen();
  }

  /** Draws this picture from now on. */
  show(frame, selected) {
    this.frame = frame;
    this.selected = selected;
    if (frame && frame.ground !== this.ground) this.place(frame.ground);
    this.drawMesh();
  }

  /** The theme changed. */
  repaint() {
    this.drawLand();
    this.drawMesh();
  }

  /** Whether what is shown is what is: where it is not, nothing runs. */
  setLive(live) {
    this.live = live;
    this.run();
  }

  place(ground) {
    const before = this.ground?.lat.length ?? 0;
    this.ground = ground;
    const count = ground.names.length;
    this.px = new Float64Array(count).fill(NaN);
    this.py = new Float64Array(count).fill(NaN);
    this.turn = new Float32Array(count).fill(NaN);
    const spots = new Map();
    for (let n = 0; n < count; n += 1) {
      if (ground.lat[n] === null || ground.lon[n] === null) continue;
      const lat = Math.max(-85, Math.min(85, ground.lat[n]));
      [this.px[n], this.py[n]] = projection([ground.lon[n], lat]);
      const spot = `${ground.lat[n]},${ground.lon[n]}`;
      if (!spots.has(spot)) spots.set(spot, []);
      spots.get(spot).push(n);
    }
    // Nodes of one place stand around it.
    for (const here of spots.values()) {
      if (here.length > 1) here.forEach((n, at) => (this.turn[n] = (2 * Math.PI * at) / here.length));
    }
    if (!this.touched && before !== count) this.fit();
  }

  /** Shows all nodes. */
  fit() {
    const { width, height } = this.size;
    if (width === 0) return;
    this.touched = false;
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let n = 0; n < (this.px?.length ?? 0); n += 1) {
      if (Number.isNaN(this.px[n])) continue;
      [left, right] = [Math.min(left, this.px[n]), Math.max(right, this.px[n])];
      [top, bottom] = [Math.min(top, this.py[n]), Math.max(bottom, this.py[n])];
    }
    if (left > right) [left, right, top, bottom] = [0, PLANE, 40, PLANE - 60];
    const least = PLANE / SCALE_MAX;
    const [across, down] = [Math.max(right - left, least), Math.max(bottom - top, least)];
    // What lies on the map's edges covers no node.
    const [padX, padY] = [Math.min(70, width * 0.12), Math.min(110, height * 0.2)];
    const k = Math.min((width - 2 * padX) / across, (height - 2 * padY) / down, 400_000);
    this.view.k = Math.max(SCALE_MIN, k);
    this.fitK = this.view.k;
    this.view.x = width / 2 - ((left + right) / 2) * this.view.k;
    this.view.y = height / 2 - ((top + bottom) / 2) * this.view.k;
    this.repaint();
  }

  zoom(times, x = this.size.width / 2, y = this.size.height / 2) {
    const { view } = this;
    this.touched = true;
    const k = Math.max(SCALE_MIN, Math.min(SCALE_MAX, view.k * times));
    view.x = x - ((x - view.x) * k) / view.k;
    view.y = y - ((y - view.y) * k) / view.k;
    view.k = k;
    this.soon();
  }

  pan(dx, dy) {
    this.touched = true;
    this.view.x += dx;
    this.view.y += dy;
    this.soon();
  }

  /** Draws everything with the next frame, once. */
  soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.repaint();
    });
  }

  resized() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.size = { width, height, ratio };
    for (const layer of this.layers) {
      layer.width = Math.round(width * ratio);
      layer.height = Math.round(height * ratio);
    }
    if (this.touched) this.repaint();
    else this.fit();
  }

  ink() {
    const style = getComputedStyle(this.element);
    const of = (name) => style.getPropertyValue(name).trim();
    return {
      land: of("--land"), coast: of("--coast"), grid: of("--grid"), text: of("--text"), halo: of("--land"),
      arc: of("--arc"), edge: of("--edge"), dot: of("--dot"), muted: of("--muted"), accent: of("--accent"),
    };
  }

  clear(context) {
    const { width, height, ratio } = this.size;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
  }

  drawLand() {
    const { width, height, ratio } = this.size;
    if (width === 0) return;
    const [context, ink, view] = [this.landAt, this.ink(), this.view];
    this.clear(context);
    context.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * view.x, ratio * view.y);
    context.fillStyle = ink.land;
    context.fill(this.shape);
    context.strokeStyle = ink.coast;
    context.lineWidth = 1 / view.k;
    context.stroke(this.shape);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawGrid(context, ink);
  }

  drawGrid(context, ink) {
    const { width, height } = this.size;
    const at = (x, y) => projection.invert([(x - this.view.x) / this.view.k, (y - this.view.y) / this.view.k]);
    // Not by `invert`, which begins anew at 180 degrees.
    const [west, east] = [0, width].map((x) => ((x - this.view.x) / this.view.k / PLANE) * 360 - 180);
    const [north, south] = [at(0, 0)[1], at(0, height)[1]];
    const steps = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
    const every = steps.find((degrees) => (east - west) / degrees > 4) ?? 0.001;
    context.strokeStyle = ink.grid;
    context.lineWidth = 1;
    context.beginPath();
    for (let lon = Math.ceil(Math.max(west, -180) / every) * every; lon <= Math.min(east, 180); lon += every) {
      const x = Math.round(projection([lon, 0])[0] * this.view.k + this.view.x) + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, height);
    }
    for (let lat = Math.ceil(Math.max(south, -80) / every) * every; lat <= Math.min(north, 80); lat += every) {
      const y = Math.round(projection([0, lat])[1] * this.view.k + this.view.y) + 0.5;
      context.moveTo(0, y);
      context.lineTo(width, y);
    }
    context.stroke();
    this.scale = this.ruler(at);
  }

  /** A length that is round in kilometres and at most 130 pixels long. */
  ruler(at) {
    const { width, height } = this.size;
    const metres = geoDistance(at(width / 2 - 50, height / 2), at(width / 2 + 50, height / 2)) * EARTH_M / 100;
    const wanted = metres * 130;
    const power = 10 ** Math.floor(Math.log10(wanted));
    const round = [5, 2, 1].map((times) => times * power).find((length) => length <= wanted);
    return { pixels: round / metres, text: distance(round) };
  }

  radius() {
    const base = this.px.length > 2000 ? 2.6 : this.px.length > 400 ? 4 : this.px.length > 80 ? 6 : 8;
    return base * Math.min(2.2, Math.max(0.8, Math.sqrt(this.view.k / (this.fitK ?? this.view.k))));
  }

  /** Where nodes are on the screen, and how large. */
  layout() {
    const { view } = this;
    const radius = this.radius();
    const count = this.px.length;
    if (this.sx?.length !== count) [this.sx, this.sy] = [new Float32Array(count), new Float32Array(count)];
    for (let n = 0; n < count; n += 1) {
      this.sx[n] = this.px[n] * view.k + view.x;
      this.sy[n] = this.py[n] * view.k + view.y;
      if (!Number.isNaN(this.turn[n])) {
        this.sx[n] += Math.cos(this.turn[n]) * radius * 1.7;
        this.sy[n] += Math.sin(this.turn[n]) * radius * 1.7;
      }
    }
    return radius;
  }

  drawMesh() {
    const { frame } = this;
    const { width } = this.size;
    if (!frame || width === 0) return;
    const began = performance.now();
    const context = this.nodesAt;
    this.clear(this.arcsAt);
    this.clear(context);
    const ink = this.ink();
    const radius = this.layout();
    const chosen = this.selected === null ? -1 : frame.ground.index.get(this.selected) ?? -1;
    this.drawArcs(this.arcsAt, ink, chosen);
    this.drawNodes(context, ink, radius, chosen);
    this.drawLabels(context, ink, radius, chosen);
    this.dotInk = ink.dot;
    this.remember(performance.now() - began);
    this.run();
  }

  remember(ms) {
    this.drawn.push(ms);
    if (this.drawn.length > DRAWN) this.drawn.shift();
  }

  /** Arcs bow to the right of their way, so that both ways between two nodes are seen. */
  bend(from, to) {
    const [dx, dy] = [this.sx[to] - this.sx[from], this.sy[to] - this.sy[from]];
    return [(this.sx[from] + this.sx[to]) / 2 - dy * 0.18, (this.sy[from] + this.sy[to]) / 2 + dx * 0.18];
  }

  drawArcs(context, ink, chosen) {
    const { from, to, rps } = this.frame;
    const { width, height } = this.size;
    const most = rps.reduce((a, b) => Math.max(a, b), 1e-9);
    const [near, far] = [WIDTHS.map(() => []), WIDTHS.map(() => [])];
    this.visible = [];
    for (let a = 0; a < rps.length; a += 1) {
      const [x0, y0, x1, y1] = [this.sx[from[a]], this.sy[from[a]], this.sx[to[a]], this.sy[to[a]]];
      if (Number.isNaN(x0 + x1) || Math.max(x0, x1) < 0 || Math.min(x0, x1) > width) continue;
      if (Math.max(y0, y1) < 0 || Math.min(y0, y1) > height) continue;
      const wide = Math.min(WIDTHS.length - 1, Math.floor(Math.sqrt(rps[a] / most) * WIDTHS.length));
      const touches = chosen < 0 || from[a] === chosen || to[a] === chosen;
      (touches ? near : far)[wide].push(a);
      if (touches) this.visible.push(a);
    }
    // Where there are many, each is thinner and fainter.
    const crowd = Math.min(1, Math.max(0.3, Math.sqrt(500 / Math.max(1, rps.length))));
    context.strokeStyle = ink.arc;
    context.lineCap = "butt";
    WIDTHS.forEach((width, at) => {
      context.lineWidth = Math.max(0.6, width * crowd);
      context.globalAlpha = Math.max(0.1, 0.16 * crowd);
      this.strokeArcs(context, far[at]);
      context.globalAlpha = chosen < 0 ? 0.25 + 0.4 * crowd : 0.9;
      this.strokeArcs(context, near[at]);
    });
    context.globalAlpha = 1;
  }

  /** A path of few arcs is drawn much faster than one of many. */
  strokeArcs(context, arcs) {
    const { from, to } = this.frame;
    for (let first = 0; first < arcs.length; first += ARCS_A_PATH) {
      context.beginPath();
      for (let at = first; at < Math.min(arcs.length, first + ARCS_A_PATH); at += 1) {
        const [f, t] = [from[arcs[at]], to[arcs[at]]];
        const [cx, cy] = this.bend(f, t);
        context.moveTo(this.sx[f], this.sy[f]);
        context.quadraticCurveTo(cx, cy, this.sx[t], this.sy[t]);
      }
      context.stroke();
    }
  }

  drawNodes(context, ink, radius, chosen) {
    const { frame } = this;
    const fills = Array.from({ length: STEPS }, () => new Path2D());
    const [hot, gone] = [new Path2D(), new Path2D()];
    for (let n = 0; n < this.sx.length; n += 1) {
      const [x, y] = [this.sx[n], this.sy[n]];
      if (Number.isNaN(x)) continue;
      const used = utilisation(frame, n);
      const known = frame.presence[n];
      if (known >= 2) cross(gone, x, y, radius * 0.8);
      else if (known === 1) diamond(fills[step(used)], x, y, radius * 1.25);
      else if (frame.flags[n] > 0) square(fills[step(used)], x, y, radius);
      else circle(fills[step(used)], x, y, radius);
      if (known < 2 && used > 0.95) circle(hot, x, y, radius + 3);
    }
    context.lineWidth = radius > 5 ? 1.5 : 1;
    context.strokeStyle = ink.edge;
    fills.forEach((path, at) => {
      context.fillStyle = colour(at);
      context.fill(path);
      context.stroke(path);
    });
    context.strokeStyle = colour(STEPS - 4);
    context.lineWidth = 2;
    context.stroke(hot);
    context.strokeStyle = ink.muted;
    context.lineWidth = Math.max(1.5, radius / 3);
    context.stroke(gone);
    if (chosen >= 0 && !Number.isNaN(this.sx[chosen])) {
      const ring = new Path2D();
      circle(ring, this.sx[chosen], this.sy[chosen], radius + 6);
      context.strokeStyle = ink.accent;
      context.lineWidth = 3;
      context.stroke(ring);
    }
  }

  drawLabels(context, ink, radius, chosen) {
    const { frame } = this;
    const { width, height } = this.size;
    const inSight = [];
    for (let n = 0; n < this.sx.length && inSight.length <= LABELS_MAX; n += 1) {
      const seen = this.sx[n] > 0 && this.sx[n] < width && this.sy[n] > 0 && this.sy[n] < height;
      if (seen) inSight.push(n);
    }
    const labelled = inSight.length <= LABELS_MAX ? inSight : chosen >= 0 ? [chosen] : [];
    // The fullest first: where there is no room for all, they have theirs.
    labelled.sort((a, b) => (b === chosen) - (a === chosen) || utilisation(frame, b) - utilisation(frame, a));
    const r = radius + 1;
    const taken = labelled.map((n) => [this.sx[n] - r, this.sy[n] - r, this.sx[n] + r, this.sy[n] + r]);
    context.textAlign = "center";
    context.textBaseline = "top";
    context.lineJoin = "round";
    for (const n of labelled) {
      const name = frame.ground.names[n];
      const short = name.length > 18 ? `${name.slice(0, 17)}…` : name;
      const figure = frame.presence[n] >= 2 ? presence(frame, n) : percent(utilisation(frame, n));
      context.font = "600 11px system-ui, sans-serif";
      const half = Math.max(context.measureText(short).width, context.measureText(figure).width) / 2 + 2;
      const [cx, cy, off] = [this.sx[n], this.sy[n], radius + 4];
      const spots = [[cx, cy + off], [cx, cy - off - 26], [cx + off + half, cy - 13], [cx - off - half, cy - 13]];
      const boxed = spots.map(([x, y]) => [x - half, y, x + half, y + 26]);
      const free = boxed.findIndex((box) => !taken.some((other) => overlap(box, other)));
      if (free < 0 && n !== chosen) continue;
      const [x, y] = spots[Math.max(0, free)];
      taken.push(boxed[Math.max(0, free)]);
      context.strokeStyle = ink.halo;
      context.lineWidth = 3;
      context.strokeText(figure, x, y);
      context.fillStyle = ink.text;
      context.fillText(figure, x, y);
      context.font = "10.5px system-ui, sans-serif";
      context.strokeText(short, x, y + 13);
      context.fillStyle = ink.muted;
      context.fillText(short, x, y + 13);
    }
  }

  runs() {
    return this.live && !this.still.matches && this.visible?.length > 0 && this.element.isConnected && !document.hidden;
  }

  /** Keeps dots running while there is something to run along and motion is welcome. */
  run() {
    const runs = this.runs();
    if (!runs) this.clear(this.dotsAt);
    if (!runs || this.running) return;
    this.running = true;
    const each = (time) => {
      this.running = this.runs();
      if (!this.running) return this.clear(this.dotsAt);
      this.drawDots(time);
      return requestAnimationFrame(each);
    };
    requestAnimationFrame(each);
  }

  drawDots(time) {
    const began = performance.now();
    const context = this.dotsAt;
    const { from, to } = this.frame;
    this.clear(context);
    context.fillStyle = this.dotInk;
    const few = this.visible.length <= 200;
    const large = few ? 3.2 : this.visible.length > 1500 ? 1.5 : 2.4;
    const dots = few ? 3 : 1;
    for (let dot = 0; dot < dots * this.visible.length; dot += 1) {
      const a = this.visible[Math.floor(dot / dots)];
      const [f, t] = [from[a], to[a]];
      const part = (time / 2400 + ((f * 7919 + t * 104_729) % 1000) / 1000 + (dot % dots) / dots) % 1;
      const rest = 1 - part;
      const [cx, cy] = this.bend(f, t);
      const x = rest * rest * this.sx[f] + 2 * rest * part * cx + part * part * this.sx[t];
      const y = rest * rest * this.sy[f] + 2 * rest * part * cy + part * part * this.sy[t];
      context.fillRect(x - large / 2, y - large / 2, large, large);
    }
    this.remember(performance.now() - began);
  }

  /** The node at a place of the screen, or -1. */
  near(x, y) {
    let [best, least] = [-1, REACH ** 2];
    for (let n = 0; n < (this.sx?.length ?? 0); n += 1) {
      const off = (this.sx[n] - x) ** 2 + (this.sy[n] - y) ** 2;
      if (off < least) [best, least] = [n, off];
    }
    return best;
  }

  /** The next node in a direction from the selected one; the fullest when none is selected. */
  towards(dx, dy) {
    const { frame } = this;
    const here = this.selected === null ? -1 : frame.ground.index.get(this.selected) ?? -1;
    let [best, least] = [-1, Infinity];
    for (let n = 0; n < this.sx.length; n += 1) {
      if (n === here || Number.isNaN(this.sx[n])) continue;
      if (here < 0) {
        const room = -utilisation(frame, n);
        if (room < least) [best, least] = [n, room];
        continue;
      }
      const [x, y] = [this.sx[n] - this.sx[here], this.sy[n] - this.sy[here]];
      const along = x * dx + y * dy;
      const across = Math.abs(x * dy - y * dx);
      if (along > 0.5 && along + 2 * across < least) [best, least] = [n, along + 2 * across];
    }
    return best;
  }

  pick(n) {
    const name = this.frame.ground.names[n];
    this.onselect(name);
    this.announce(this.words(n));
    const [x, y, { width, height }] = [this.sx[n], this.sy[n], this.size];
    if (x < 30 || y < 30 || x > width - 30 || y > height - 30) this.pan(width / 2 - x, height / 2 - y);
  }

  words(n) {
    const { frame } = this;
    const name = frame.ground.names[n];
    return `${name}: ${percent(utilisation(frame, n))} of its capacity, ${presence(frame, n)}`;
  }

  listen() {
    const { element } = this;
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = element.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    const fingers = new Map();
    let travelled = 0;
    element.addEventListener("pointerdown", (event) => {
      if (event.target.closest(".overlay")) return;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 1) travelled = 0;
      element.setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return this.hover(event);
      const apart = spread(fingers);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      travelled += Math.abs(dx) + Math.abs(dy);
      if (travelled < 5) return undefined;
      this.pan(dx / fingers.size, dy / fingers.size);
      if (fingers.size === 2 && apart > 0) {
        const box = element.getBoundingClientRect();
        const points = [...fingers.values()];
        const middle = [0, 1].map((axis) => (points[0][axis] + points[1][axis]) / 2);
        this.zoom(spread(fingers) / apart, middle[0] - box.left, middle[1] - box.top);
      }
      return undefined;
    });
    const up = (event) => {
      const clicked = fingers.delete(event.pointerId) && travelled < 5 && event.type === "pointerup";
      if (!clicked) return;
      const box = element.getBoundingClientRect();
      const n = this.near(event.clientX - box.left, event.clientY - box.top);
      if (n >= 0) this.pick(n);
      else this.onselect(null);
    };
    element.addEventListener("pointerup", up);
    element.addEventListener("pointercancel", up);
    element.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }

  hover(event) {
    const box = this.element.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const n = event.pointerType === "mouse" ? this.near(x, y) : -1;
    this.tip.hidden = n < 0;
    this.element.classList.toggle("over", n >= 0);
    if (n < 0) return;
    this.tip.textContent = this.words(n);
    this.tip.style.left = `${Math.min(x + 14, this.size.width - 240)}px`;
    this.tip.style.top = `${y + 14}px`;
  }

  /** What keys zoom around: the selected node, else the middle. */
  middle() {
    const n = this.selected === null ? undefined : this.frame.ground.index.get(this.selected);
    const known = n !== undefined && !Number.isNaN(this.sx[n]);
    return known ? [this.sx[n], this.sy[n]] : [this.size.width / 2, this.size.height / 2];
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (event.target !== this.element || !this.frame || event.ctrlKey || event.metaKey || event.altKey) return;
    if (way && event.shiftKey) this.pan(-60 * way[0], -60 * way[1]);
    else if (way) {
      const n = this.towards(...way);
      if (n >= 0) this.pick(n);
    } else if (event.key === "+" || event.key === "=") this.zoom(1.5, ...this.middle());
    else if (event.key === "-") this.zoom(1 / 1.5, ...this.middle());
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") this.element.dispatchEvent(new CustomEvent("enter"));
    else if (event.key === "Escape") this.onselect(null);
    else return;
    event.preventDefault();
  }
}

function spread(fingers) {
  const [a, b] = [...fingers.values()];
  return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0;
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

function circle(path, x, y, r) {
  path.moveTo(x + r, y);
  path.arc(x, y, r, 0, 2 * Math.PI);
}

function diamond(path, x, y, r) {
  path.moveTo(x, y - r);
  path.lineTo(x + r, y);
  path.lineTo(x, y + r);
  path.lineTo(x - r, y);
  path.closePath();
}

function square(path, x, y, r) {
  path.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
}

function cross(path, x, y, r) {
  path.moveTo(x - r, y - r);
  path.lineTo(x + r, y + r);
  path.moveTo(x + r, y - r);
  path.lineTo(x - r, y + r);
}

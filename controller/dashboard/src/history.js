// What was seen, for the time scrubber. A frame is one picture in typed arrays; names and places are shared by all frames
// that have the same ones.
//
// The history holds an hour and BYTES_MAX, whichever is less: beyond, of the older half every second frame goes, so that
// the last minutes stay whole and what is long ago becomes coarse.

const SPAN_MS = 3_600_000;
export const BYTES_MAX = 48 << 20;
const PRESENCES = ["live", "stale", "silent", "absent"];
const RATES = ["demand_rps", "capacity_rps", "load_rps", "moved_in_rps", "moved_out_rps", "shed_rps"];

/** Whether two lists say the same. */
function same(a, b) {
  return a.length === b.length && a.every((value, at) => value === b[at]);
}

/** What does not change from one second to the next. */
function ground(nodes, before) {
  const columns = [nodes.node, nodes.lat_deg, nodes.lon_deg, nodes.site, nodes.region];
  if (before && columns.every((column, at) => same(column, before.columns[at]))) return before;
  const [names, lat, lon, site, region] = columns;
  return { columns, names, lat, lon, site, region, index: new Map(names.map((name, at) => [name, at])) };
}

/** A picture as it came, as a frame. `at` is the controller's time. */
export function frame(picture, at, before) {
  const { nodes, arcs, services } = picture;
  const made = { at, plan: picture.plan, period: picture.period_ms, services, ground: ground(nodes, before?.ground) };
  for (const rate of RATES) made[rate] = Float32Array.from(nodes[rate]);
  made.presence = Uint8Array.from(nodes.presence, (word) => Math.max(0, PRESENCES.indexOf(word)));
  made.flags = Uint8Array.from(nodes.cordoned, (cordoned, n) => (cordoned ? 1 : 0) | (nodes.drained[n] ? 2 : 0));
  made.cpu = Float32Array.from(nodes.cpu_ratio, (ratio) => ratio ?? NaN);
  made.age = Float32Array.from(nodes.age_ms, (age) => age ?? NaN);
  made.from = Uint32Array.from(arcs.from);
  made.to = Uint32Array.from(arcs.to);
  made.rps = Float32Array.from(arcs.rps);
  made.leftOut = { nodes: nodes.left_out, arcs: arcs.left_out };
  made.sums = sums(made);
  const { names } = made.ground;
  made.bytes = names.length * (4 * (RATES.length + 2) + 2) + made.rps.length * 12 + services.length * 300 + 400;
  return made;
}

function sums(frame) {
  const found = { demand: 0, capacity: 0, moved: 0, shed: 0, hottest: 0, hot: 0, presence: [0, 0, 0, 0] };
  for (let n = 0; n < frame.presence.length; n += 1) {
    found.demand += frame.demand_rps[n];
    found.capacity += frame.capacity_rps[n];
    found.moved += frame.moved_out_rps[n];
    found.shed += frame.shed_rps[n];
    const used = utilisation(frame, n);
    found.hottest = Math.max(found.hottest, used);
    if (used > 0.95) found.hot += 1;
    found.presence[frame.presence[n]] += 1;
  }
  return found;
}

/** Load by capacity; without capacity 0, or more than full where there is load all the same. */
export function utilisation(frame, n) {
  const capacity = frame.capacity_rps[n];
  if (capacity > 0) return frame.load_rps[n] / capacity;
  return frame.load_rps[n] > 0 ? 9.99 : 0;
}

export function presence(frame, n) {
  return PRESENCES[frame.presence[n]];
}

export class History {
  constructor(bytesMax = BYTES_MAX) {
    this.frames = [];
    this.bytes = 0;
    this.bytesMax = bytesMax;
  }

  add(frame) {
    this.frames.push(frame);
    this.bytes += frame.bytes;
    const oldest = frame.at - SPAN_MS;
    while (this.frames[0].at < oldest) this.bytes -= this.frames.shift().bytes;
    while (this.bytes > this.bytesMax && this.frames.length > 8) this.thin();
  }

  /** Adds one from before all others; `false`: it is older than what is kept. */
  prepend(frame) {
    if (this.frames.length > 0 && frame.at < this.last().at - SPAN_MS) return false;
    if (this.frames.length > 0 && frame.at >= this.frames[0].at) return true;
    this.frames.unshift(frame);
    this.bytes += frame.bytes;
    while (this.bytes > this.bytesMax && this.frames.length > 8) this.thin();
    return true;
  }

  /** Every second frame of the older half goes. */
  thin() {
    const half = this.frames.length >> 1;
    this.frames = this.frames.filter((_, at) => at >= half || at % 2 === 0);
    this.bytes = this.frames.reduce((sum, frame) => sum + frame.bytes, 0);
  }

  last() {
    return this.frames[this.frames.length - 1] ?? null;
  }

  /** The frame that was the newest at a time. */
  at(time) {
    let [low, high] = [0, this.frames.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.frames[middle].at <= time) low = middle;
      else high = middle - 1;
    }
    return this.frames[low] ?? null;
  }

  /** A node's course: times in seconds and a list of values for each of `rates`. */
  course(name, rates) {
    const times = [];
    const values = rates.map(() => []);
    for (const frame of this.frames) {
      const n = frame.ground.index.get(name);
      times.push(frame.at / 1000);
      rates.forEach((rate, at) => values[at].push(n === undefined ? null : frame[rate][n]));
    }
    return [times, ...values];
  }
}

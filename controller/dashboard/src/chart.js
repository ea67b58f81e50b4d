// A course over time, by uPlot, in the page's own colours.

import uPlot from "uplot";
import { h } from "./dom.js";
import { rps } from "./format.js";

/** `series` are `{ label, ink, dash?, fill? }`; `ink` names a custom property of the style sheet. */
export class Chart {
  constructor({ label, series, height = 150 }) {
    this.series = series;
    this.height = height;
    this.element = h("div", { class: "chart", role: "img", "aria-label": label });
    this.data = null;
    this.drawn = null;
    new ResizeObserver(() => this.resize()).observe(this.element);
    addEventListener("isobar-theme", () => this.rebuild());
  }

  show(data) {
    this.data = data;
    if (this.plot) this.plot.setData(data);
    else this.rebuild();
    this.legend();
  }

  /** Where nobody points, the legend has the newest figures. */
  legend() {
    if (this.plot && (this.plot.cursor.idx ?? null) === null) this.plot.setLegend({ idx: this.data[0].length - 1 });
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.element.clientWidth;
    if (!this.data || width === 0) return;
    const style = getComputedStyle(this.element);
    const ink = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: ink("--muted"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    this.plot = new uPlot(
      {
        width,
        height: this.height,
        cursor: { y: false, points: { size: 5 } },
        legend: { live: true },
        scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.12, 1)] } },
        axes: [
          { ...axis, space: 70, size: 28, values: (_, at) => at.map((s) => new Date(s * 1000).toLocaleTimeString("en-GB").slice(0, 8)) },
          { ...axis, size: 44, values: (_, at) => at.map(rps) },
        ],
        series: [
          { label: "time", value: (_, s) => (s === null ? "–" : new Date(s * 1000).toLocaleTimeString("en-GB")) },
          ...this.series.map((one) => ({
            label: one.label,
            stroke: ink(one.ink),
            width: 2,
            dash: one.dash,
            fill: one.fill ? ink(one.fill) : undefined,
            points: { show: false },
            value: (_, value) => rps(value),
          })),
        ],
      },
      this.data,
      this.element,
    );
    this.legend();
  }

  resize() {
    if (!this.plot) return this.rebuild();
    this.plot.setSize({ width: this.element.clientWidth, height: this.height });
    return undefined;
  }
}

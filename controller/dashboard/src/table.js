// A table of any length: only the rows in sight are elements.

import { h, say, set } from "./dom.js";

const ROW = 36;
/** Rows beyond the edges that are there already. */
const SPARE = 6;

/**
 * `columns` are `{ label, width, text(row), sort?(row), number?, small?, cell?(row) }`; `small: false` leaves a column out
 * on a phone. `key(row)` is a row's name, `onopen(row)` is called for the one that is chosen.
 */
export class Table {
  constructor({ label, columns, key, onopen, sort = null, empty = "Nothing here yet." }) {
    Object.assign(this, { columns, key, onopen, emptyText: empty });
    this.rows = [];
    this.order = sort === null ? null : { column: Math.abs(sort) - 1, down: sort < 0 };
    this.active = null;
    this.heads = columns.map((column, at) => this.head(column, at));
    this.body = h("div", { class: "rows", role: "rowgroup" });
    this.empty = h("p", { class: "empty", role: "presentation" }, empty);
    this.scroller = h("div", { class: "scroller", onscroll: () => this.draw() }, this.body, this.empty);
    this.element = h(
      "div",
      { class: "table", role: "table", "aria-label": label, tabindex: 0, onkeydown: (event) => this.press(event) },
      h("div", { role: "rowgroup" }, h("div", { class: "row head", role: "row", "aria-rowindex": 1 }, this.heads)),
      this.scroller,
    );
    this.element.style.setProperty("--columns", columns.map((c) => c.width).join(" "));
    const small = columns.filter((c) => c.small !== false);
    this.element.style.setProperty("--columns-small", small.map((c) => c.width).join(" "));
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  head(column, at) {
    const classes = `cell${column.number ? " number" : ""}${column.small === false ? " wide" : ""}`;
    if (!column.sort) return h("div", { role: "columnheader", class: classes }, column.label);
    const button = h("button", { type: "button", class: "sort", onclick: () => this.sortBy(at) }, column.label);
    return h("div", { role: "columnheader", class: classes }, button);
  }

  sortBy(at) {
    const same = this.order?.column === at;
    this.order = { column: at, down: same ? !this.order.down : Boolean(this.columns[at].number) };
    this.show(this.rows);
  }

  /** Shows these rows, in the table's order where it has one. */
  show(rows) {
    this.rows = rows;
    this.shown = rows;
    this.heads.forEach((head, at) => {
      const own = this.order?.column === at;
      const word = own ? (this.order.down ? "descending" : "ascending") : "none";
      if (this.columns[at].sort) head.setAttribute("aria-sort", word);
    });
    if (this.order) {
      const value = this.columns[this.order.column].sort;
      const sign = this.order.down ? -1 : 1;
      const keyed = rows.map((row) => [value(row), row]);
      keyed.sort(([a], [b]) => sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en")));
      this.shown = keyed.map(([, row]) => row);
    }
    this.element.setAttribute("aria-rowcount", this.shown.length + 1);
    this.empty.hidden = this.shown.length > 0;
    this.body.style.height = `${this.shown.length * ROW}px`;
    this.draw();
  }

  draw() {
    const rows = this.shown ?? [];
    const height = this.scroller.clientHeight;
    // Where rows became fewer, the browser has not scrolled back yet.
    const top = Math.max(0, Math.min(this.scroller.scrollTop, rows.length * ROW - height));
    const first = Math.max(0, Math.floor(top / ROW) - SPARE);
    const last = Math.min(rows.length, Math.ceil((top + height) / ROW) + SPARE);
    const old = [...this.body.children];
    const wanted = last - first;
    for (let extra = old.length; extra < wanted; extra += 1) this.body.append(this.row());
    for (let extra = old.length; extra > wanted; extra -= 1) this.body.lastChild.remove();
    [...this.body.children].forEach((element, at) => this.fill(element, rows[first + at], first + at));
  }

  row() {
    const cells = this.columns.map((c) =>
      h("div", { role: "cell", class: `cell${c.number ? " number" : ""}${c.small === false ? " wide" : ""}` }));
    const element = h("div", { class: "row", role: "row" }, cells);
    element.addEventListener("click", () => {
      this.active = this.key(element.item);
      this.draw();
      this.onopen?.(element.item);
    });
    return element;
  }

  fill(element, item, at) {
    element.item = item;
    element.style.transform = `translateY(${at * ROW}px)`;
    element.setAttribute("aria-rowindex", at + 2);
    element.id = `${this.prefix ?? (this.prefix = `t${Math.random().toString(36).slice(2, 8)}`)}-${at}`;
    const active = this.key(item) === this.active;
    element.classList.toggle("active", active);
    element.classList.toggle("odd", at % 2 === 1);
    element.classList.toggle("opens", Boolean(this.onopen));
    if (active) this.element.setAttribute("aria-activedescendant", element.id);
    this.columns.forEach((column, c) => {
      const cell = element.children[c];
      if (column.cell) set(cell, column.cell(item));
      else {
        say(cell, column.text(item));
        cell.title = cell.textContent;
      }
    });
  }

  press(event) {
    const rows = this.shown ?? [];
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 1);
    const ways = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.target !== this.element || rows.length === 0) return;
    if (event.key in ways) {
      const here = rows.findIndex((row) => this.key(row) === this.active);
      const next = Math.max(0, Math.min(rows.length - 1, here < 0 ? 0 : here + ways[event.key]));
      this.active = this.key(rows[next]);
      const top = next * ROW;
      const view = this.scroller.scrollTop;
      if (top < view) this.scroller.scrollTop = top;
      if (top + ROW > view + this.scroller.clientHeight) this.scroller.scrollTop = top + ROW - this.scroller.clientHeight;
      this.draw();
      event.preventDefault();
    } else if (event.key === "Enter") {
      const row = rows.find((one) => this.key(one) === this.active);
      if (row) this.onopen?.(row);
      event.preventDefault();
    }
  }
}

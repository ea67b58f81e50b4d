// How the page asks the controller. The token stays in this tab: sessionStorage, and a header of each request.

const KEY = "isobar-token";
/** Longest wait for an answer. */
const WAIT_MS = 10_000;

/** What the controller said instead, RFC 9457; `status` is 0 where it said nothing. */
export class Problem extends Error {
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

let token = sessionStorage.getItem(KEY) ?? "";
let refused = () => {};

/** Calls this when the controller asks for a token, or for another one. */
export function onRefused(listener) {
  refused = listener;
}

export function hasToken() {
  return token !== "";
}

export function setToken(text) {
  token = text;
  if (text === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, text);
}

// The controller's clock, from the Date of its answers. It is cut to whole seconds, so of several answers the latest is
// right. The browser's own clock is not asked: it may be wrong.
let offset = null;

function heard(response) {
  const said = Date.parse(response.headers.get("date") ?? "");
  if (Number.isNaN(said)) return;
  const found = said - performance.now();
  if (offset === null || found > offset || offset - found > 5000) offset = found;
}

/** The controller's time now, milliseconds since 1970; `null` before its first answer. */
export function now() {
  return offset === null ? null : offset + performance.now();
}

/** How far this browser's clock is ahead of the controller's, milliseconds. */
export function browserAhead() {
  return offset === null ? 0 : Date.now() - now();
}

function headers(more) {
  const all = { ...more };
  if (token !== "") all.authorization = `Bearer ${token}`;
  return all;
}

async function send(method, path, { body, more = {}, signal } = {}) {
  const init = { method, headers: headers(more), cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) {
    init.body = body;
    init.headers["content-type"] = "application/json";
  }
  init.signal = signal ?? AbortSignal.timeout(WAIT_MS);
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "the controller does not answer");
  }
  heard(response);
  if (response.ok || response.status === 304) return response;
  throw await problem(response);
}

async function problem(response) {
  const said = await response.json().catch(() => ({}));
  const detail = typeof said.detail === "string" ? said.detail : `the controller answered ${response.status}`;
  const found = new Problem(response.status, detail, Array.isArray(said.errors) ? said.errors : []);
  if (response.status === 401 || response.status === 429) refused(found);
  return found;
}

/** A request with a JSON answer: `{ status, tag, value }`; `value` is `null` where nothing came. */
export async function ask(method, path, options = {}) {
  const response = await send(method, path, options);
  const text = response.status === 204 || response.status === 304 ? "" : await response.text();
  return { status: response.status, tag: response.headers.get("etag"), value: text === "" ? null : JSON.parse(text) };
}

export async function read(path, options) {
  return (await ask("GET", path, options)).value;
}

/** All items of a list, at most `most` of them. */
export async function list(path, most = 20_000) {
  const items = [];
  let after = null;
  do {
    const query = after === null ? "limit=1000" : `limit=1000&after=${encodeURIComponent(after)}`;
    const page = await read(`${path}${path.includes("?") ? "&" : "?"}${query}`);
    items.push(...page.items);
    after = page.after ?? null;
  } while (after !== null && items.length < most);
  return items;
}

/** Reads events after the one of number `last` until the stream ends. EventSource sends no headers, so this reads the stream itself. */
export async function stream(path, last, signal, each) {
  const more = { "last-event-id": String(last) };
  const response = await send("GET", path, { more, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: "));
      const name = /^event: (.*)$/m.exec(block)?.[1] ?? "message";
      if (data.length > 0) each(name, JSON.parse(data.map((line) => line.slice(6)).join("\n")));
    }
  }
}

/** A part of a path. */
export function part(text) {
  return encodeURIComponent(text);
}

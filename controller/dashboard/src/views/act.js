// A change that is first tried out: what the plan would be is shown, then it is made or left.

import * as api from "../api.js";
import { h, set } from "../dom.js";
import { difference } from "./difference.js";

/** Errors as the controller names them: the sentence, then field by field. */
export function complaint(error) {
  const fields = (error.errors ?? []).map((one) => h("li", {}, h("code", {}, one.pointer), " ", one.detail));
  return h("div", { class: "error", role: "alert" }, h("p", {}, error.message), fields.length > 0 && h("ul", {}, fields));
}

/** Asks about one change and makes it. `more` are headers; returns what the change answered, or `null`. */
export function act({ title, say, method, path, done, body, more = {}, danger = false }) {
  return new Promise((resolve) => {
    const found = h("div", { class: "found" }, h("p", { class: "muted" }, "Trying it out…"));
    const go = h("button", { type: "button", class: danger ? "danger" : "primary", disabled: true, onclick: () => make() }, done);
    const leave = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const dialog = h("dialog", { "aria-label": title, class: "wide" }, h("h2", {}, title), h("p", {}, say), found,
      h("div", { class: "buttons" }, leave, go));
    let result = null;
    const make = async () => {
      go.disabled = true;
      try {
        result = await api.ask(method, path, { body, more });
        dialog.close();
      } catch (error) {
        set(found, complaint(error));
      }
    };
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    api.ask(method, `${path}?dry_run=true`, { body, more }).then(
      (tried) => {
        set(found, difference(tried.value.plan));
        go.disabled = false;
        go.focus();
      },
      (error) => set(found, complaint(error)),
    );
  });
}

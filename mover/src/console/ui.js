// Parts that all views share: states, notices, questions, errors, pages of a list.

import { api } from "./api.js";
import { h } from "./dom.js";
import { words } from "./format.js";
import { icon } from "./icons.js";

export const STATES = ["queued", "estimating", "running", "verifying", "completed", "completed_with_errors", "failed",
  "aborted", "cancelled", "skipped", "expired"];
export const ACTIVE = ["estimating", "running", "verifying"];

const TONES = {
  queued: "quiet", estimating: "active", running: "active", verifying: "active", completed: "good",
  completed_with_errors: "warn", failed: "bad", aborted: "bad", cancelled: "quiet", skipped: "warn", expired: "bad",
  connected: "good", draining: "warn", away: "bad", revoked: "quiet",
};

/** A state by colour, sign and word. */
export function badge(state, text = words(state)) {
  return h("span", { class: `badge ${TONES[state] ?? "quiet"}`, "data-state": state }, icon(state === "revoked" ? "cancelled" : state), text);
}

/** A mark beside something. */
export const mark = (text, title) => h("span", { class: "mark", title }, text);

/** The mark of jobs that read everything (S-059). */
export const fullScan = () => mark("full scan", "Everything is read, nothing is taken over or left out");

/** Says something for a while; for screen readers too. */
export function notice(text, tone = "good") {
  const shown = h("p", { class: `notice ${tone}` }, text);
  document.getElementById("notices").append(shown);
  setTimeout(() => shown.remove(), tone === "bad" ? 12000 : 6000);
}

/** What went wrong, in place. */
export function trouble(error, again) {
  return h("div", { class: "trouble", role: "alert" }, icon("warning"),
    h("p", {}, error.message),
    again ? h("button", { type: "button", onclick: again }, "Try again") : null);
}

/** A dialog: Escape and Cancel close it. `act` does it; what it throws is shown inside. */
export function ask(title, content, action, act, { danger = false } = {}) {
  const error = h("div", { class: "trouble", role: "alert", hidden: true });
  const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const close = () => dialog.close();
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      if ((await act(form, dialog)) !== false) close();
    } catch (problem) {
      error.replaceChildren(icon("warning"), h("p", {}, problem.message));
      error.hidden = false;
    }
    button.disabled = false;
  };
  const form = h("form", { onsubmit: submit, novalidate: true },
    h("h2", { id: "dialog-title" }, title), content, error,
    h("div", { class: "buttons" }, button, h("button", { type: "button", onclick: close }, "Cancel")));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Something that is shown once, with a button to copy it. */
export function secret(label, id, text) {
  const area = h("textarea", { id, readonly: true, rows: 1 + Math.ceil(text.length / 45), spellcheck: "false", value: text });
  const copy = async () => {
    area.select();
    try {
      await navigator.clipboard.writeText(text);
      notice("Copied.");
    } catch {
      notice("Select it and copy it: this browser does not let the page do it.", "warn");
    }
  };
  return h("div", { class: "field" }, h("label", { for: id }, label), area, h("button", { type: "button", onclick: copy }, "Copy"));
}

/** A dialog that only shows something. */
export function show(title, content) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() },
    h("h2", { id: "dialog-title" }, title), content,
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Done")));
  document.body.append(dialog);
  dialog.showModal();
}

/** A button that asks the server for something and says what came of it. */
export function action(label, key, work, { tone } = {}) {
  const press = async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      notice(error.message, "bad");
    }
    button.disabled = false;
  };
  return h("button", { type: "button", class: tone, "data-key": key, onclick: press }, label);
}

/** The head of a view. */
export function heading(title, ...beside) {
  document.title = `${title} · mover`;
  return h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, title), beside);
}

/** Pages of a list: `more` is the button for the next one, `load` begins anew and keeps what was opened. */
export class Pages {
  constructor(path, signal) {
    Object.assign(this, { path, signal, items: [], next: null, pages: 1 });
  }

  async load() {
    const items = [];
    let cursor = "";
    for (let page = 0; page < this.pages && cursor !== null; page += 1) {
      const joint = this.path.includes("?") ? "&" : "?";
      const got = await api.get(`${this.path}${cursor ? `${joint}cursor=${encodeURIComponent(cursor)}` : ""}`, this.signal);
      items.push(...got.items);
      cursor = got.next;
    }
    this.items = items;
    this.next = cursor;
  }

  more(after) {
    if (this.next === null) return null;
    return action("Show more", "more", async () => {
      this.pages += 1;
      await this.load();
      after();
    });
  }
}

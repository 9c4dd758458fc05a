// The way in: a token opens a session, and is not kept by the page.

import { api } from "../api.js";
import { field, h, refuse } from "../dom.js";
import { heading } from "../ui.js";

export function login(main, signedIn, message) {
  const input = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const labelled = field("Token", input);
  const button = h("button", { type: "submit", class: "primary" }, "Log in");
  const submit = async (event) => {
    event.preventDefault();
    const token = input.value.trim();
    if (token === "") {
      refuse(labelled, "Paste a token here.");
      input.focus();
      return;
    }
    button.disabled = true;
    try {
      const me = await api.post("/session", { token });
      input.value = "";
      signedIn(me);
    } catch (error) {
      refuse(labelled, error.message);
      input.focus();
    }
    button.disabled = false;
  };
  main.replaceChildren(h("div", { class: "login" }, heading("Log in"),
    message ? h("p", { class: "note", role: "alert" }, message) : null,
    h("form", { onsubmit: submit, novalidate: true }, labelled, button),
    h("details", {}, h("summary", {}, "No token?"),
      h("p", {}, "The first start of ", h("code", {}, "mover serve"), " shows an admin token once. An admin makes more here or with ",
        h("code", {}, "mover token create"), ". If all are lost, start the server with ", h("code", {}, "--new-admin-token"), "."))));
  input.focus();
}

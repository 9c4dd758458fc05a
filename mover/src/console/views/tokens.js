// Tokens of people and scripts, and the sessions opened with them. A secret is shown once.

import { all, api } from "../api.js";
import { field, h, select, swap, table } from "../dom.js";
import { ago } from "../format.js";
import { can } from "../session.js";
import { ask, badge, heading, notice, secret, show, trouble } from "../ui.js";

const DAY_MS = 86_400_000;
const ROLES = [["viewer", "viewer: looks"], ["operator", "operator: runs, cancels, restores"], ["admin", "admin: everything"]];

function create(refresh) {
  const name = h("input", { id: "name", required: true, autocomplete: "off" });
  const role = select("role", ROLES, "viewer");
  const days = h("input", { id: "days", type: "number", min: 1, max: 3650, placeholder: "never" });
  const content = [
    field("Name", name, { hint: "Whose it is: the name in the audit log." }), field("Role", role),
    field("Ends after, in days", days, { hint: "Empty: it ends when it is revoked." }),
  ];
  ask("Make a token", content, "Make it", async () => {
    const expires = days.value === "" ? null : Date.now() + Number(days.value) * DAY_MS;
    const made = await api.post("/tokens", { name: name.value.trim(), role: role.value, expires_at: expires });
    setTimeout(() => show(`Token of ${made.name}`, [h("p", {}, "It is shown once, and kept here only as a hash."), secret("Token", "secret", made.secret)]));
    await refresh();
  });
}

function revoke(token, refresh) {
  const work = async () => {
    await api.post(`/tokens/${encodeURIComponent(token.id)}/revoke`);
    notice(`The token of ${token.name} is revoked.`);
    await refresh();
  };
  ask(`Revoke the ${token.parent ? "session" : "token"} of ${token.name}?`, h("p", {}, "It and its sessions end at once."), "Revoke", work, { danger: true });
}

export async function tokens(place, { signal }) {
  if (!can("admin")) throw new Error("Tokens are for admins; ask one of them.");
  const list = h("div");
  const hasEnded = (token) => token.expires_at !== null && token.expires_at < Date.now();
  const stateOf = (token) => (token.revoked ? badge("revoked") : hasEnded(token) ? badge("expired") : badge("completed", "valid"));
  const columns = (refresh) => [
    { label: "Name", kind: "wide", cell: (token) => h("b", {}, token.name) },
    { label: "Kind", cell: (token) => (token.parent ? "session" : "token") },
    { label: "Role", cell: (token) => token.role },
    { label: "State", cell: stateOf },
    { label: "Made", cell: (token) => ago(token.created_at) },
    { label: "Ends", cell: (token) => ago(token.expires_at, "when revoked") },
    { label: "Actions", kind: "actions", cell: (token) => (token.revoked || hasEnded(token) ? null : h("button", { type: "button", class: "danger", "data-key": `revoke-${token.id}`, "aria-label": `Revoke ${token.name}`, onclick: () => revoke(token, refresh) }, "Revoke")) },
  ];
  const refresh = async () => {
    try {
      swap(list, table("Tokens and sessions", columns(refresh), await all("/tokens", signal), h("p", {}, "No token.")));
    } catch (error) {
      if (!signal.aborted) swap(list, trouble(error, refresh));
    }
  };
  await refresh();
  place.replaceChildren(heading("Tokens", h("button", { type: "button", class: "primary", id: "make", onclick: () => create(refresh) }, "Make a token")), list);
}

// Agents: who is there, what each can do, and how another one joins.

import { all, api } from "../api.js";
import { field, h, renew, table } from "../dom.js";
import { ago, bytes } from "../format.js";
import { can } from "../session.js";
import { action, ask, badge, heading, notice, secret, show, trouble } from "../ui.js";

const REFRESH_MS = 5000;

const stateOf = (agent) => (agent.revoked ? "revoked" : !agent.connected ? "away" : agent.draining ? "draining" : "connected");

function enrol() {
  const pool = h("input", { id: "pool", value: "main", required: true });
  const hours = h("input", { id: "hours", type: "number", min: 1, max: 168, value: 1, required: true });
  const content = [
    field("Pool", pool, { hint: "Agents of a pool take each other's work." }),
    field("Token counts for, in hours", hours, { hint: "One agent joins with it, once." }),
  ];
  ask("Enrol an agent", content, "Make a token", async () => {
    const made = await api.post("/enrolments", { pool: pool.value.trim(), life_seconds: Math.round(Number(hours.value) * 3600) });
    setTimeout(() => show("Paste this on the new agent's host", [
      h("p", {}, "It is shown once. The agent checks the server by the fingerprint in it."), secret("Command", "command", made.command)]));
  });
}

function revoke(agent, refresh) {
  const work = async () => {
    await api.post(api.agent(agent.id, "/revoke"));
    notice(`${agent.name} is revoked.`);
    await refresh();
  };
  ask(`Revoke ${agent.name}?`, h("p", {}, "Its certificate counts no more, for ever. Its jobs go to other agents of the pool that reach the source; a host's own files wait."), "Revoke", work, { danger: true });
}

function remove(agent, refresh) {
  const work = async () => {
    await api.remove(api.agent(agent.id));
    await refresh();
  };
  ask(`Remove ${agent.name}?`, h("p", {}, "It is revoked already; this takes it out of the list."), "Remove", work, { danger: true });
}

function actions(agent, refresh) {
  const switchTo = (verb, done) => async () => {
    await api.post(api.agent(agent.id, `/${verb}`));
    notice(`${agent.name} ${done}.`);
    await refresh();
  };
  if (agent.revoked) return can("admin") ? h("button", { type: "button", "data-key": `remove-${agent.id}`, onclick: () => remove(agent, refresh), "aria-label": `Remove ${agent.name}` }, "Remove") : null;
  const drain = agent.draining
    ? action("Undrain", `drain-${agent.id}`, switchTo("undrain", "takes work again"))
    : action("Drain", `drain-${agent.id}`, switchTo("drain", "finishes what it has and takes nothing new"));
  drain.setAttribute("aria-label", `${drain.textContent} ${agent.name}`);
  return [
    can("operator") ? drain : null,
    can("admin") ? h("button", { type: "button", class: "danger", "data-key": `revoke-${agent.id}`, "aria-label": `Revoke ${agent.name}`, onclick: () => revoke(agent, refresh) }, "Revoke") : null,
  ];
}

export async function agents(place, { signal }) {
  const list = h("div");
  const columns = (refresh) => [
    { label: "Agent", kind: "wide", cell: (agent) => h("b", {}, agent.name) },
    { label: "State", cell: (agent) => badge(stateOf(agent)) },
    { label: "Pool", cell: (agent) => agent.pool },
    { label: "Slots", kind: "number", cell: (agent) => `${agent.running} of ${agent.slots} in use` },
    { label: "Version", cell: (agent) => agent.description.version },
    { label: "Machine", cell: (agent) => `${agent.description.cores} cores, ${bytes(agent.description.memory_bytes)}` },
    { label: "Reaches", cell: (agent) => agent.description.reaches.join(", ") || h("span", { class: "dim" }, "its own files") },
    { label: "Heard", cell: (agent) => ago(agent.last_seen) },
    { label: "Actions", kind: "actions", cell: (agent) => actions(agent, refresh) },
  ];
  const empty = [
    h("p", {}, "No agents yet. Agents do the work; the server only decides."),
    can("admin") ? h("p", {}, "Press ", h("b", {}, "Enrol an agent"), " and paste the line on a host, or run ", h("code", {}, "mover agent enrol"), " there.") : h("p", {}, "An admin can enrol one."),
  ];
  const refresh = async () => {
    try {
      renew(list, table("Agents", columns(refresh), await all("/agents", signal), empty));
    } catch (error) {
      if (!signal.aborted) renew(list, trouble(error, refresh));
    }
  };
  await refresh();
  place.replaceChildren(heading("Agents", can("admin") ? h("button", { type: "button", class: "primary", id: "enrol", onclick: enrol }, "Enrol an agent") : null), list);
  const timer = setInterval(refresh, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

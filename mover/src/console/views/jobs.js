// The queue and the history: jobs, newest first, by state, policy and set.

import { all, query } from "../api.js";
import { field, h, renew, select, settle, table } from "../dom.js";
import { ago, words } from "../format.js";
import { live } from "../live.js";
import { ACTIVE, Pages, STATES, badge, fullScan, heading, trouble } from "../ui.js";
import { bottleneck, exceptionsOf, filesetOf, share, speed } from "./progress.js";

/** Whether a job reads everything: a restore of everything, or a full backup. */
export const isFullScan = (job) =>
  job.kind === "restore" ? (job.order.restore?.paths ?? []).length === 0 : job.order.full || job.outcome?.full === true;

function waits(job) {
  if (job.state !== "queued" || !job.waits_on) return null;
  const [kind, ...rest] = job.waits_on.split(":");
  return kind === "time" ? "waits for its time" : `waits for ${kind} ${rest.join(":")}`;
}

function how(job) {
  if (!ACTIVE.includes(job.state)) {
    return [job.message ? h("span", { class: "message" }, job.message) : waits(job), exceptionsOf(job.outcome?.exceptions_total ?? 0)];
  }
  const part = share(job.kind, job.progress);
  return h("span", { class: "going" }, part === null ? null : h("span", {}, `${Math.floor(part * 100)} %`), speed(job.id, job.progress), bottleneck(job.progress));
}

/** The columns of a list of jobs. */
export function jobColumns(policies, agents) {
  return [
    { label: "Job", kind: "wide", cell: (job) => [h("a", { href: `#/jobs/${job.id}` }, job.set), " ", h("small", {}, job.kind), " ", isFullScan(job) ? fullScan() : null] },
    { label: "State", cell: (job) => [badge(job.state), ACTIVE.includes(job.state) ? h("small", { class: "below" }, filesetOf(job.progress)) : null] },
    { label: "How it goes", kind: "wide", cell: how },
    { label: "Policy", cell: (job) => (job.policy ? h("a", { href: `#/policies/${job.policy}` }, policies.get(job.policy) ?? job.policy) : h("span", { class: "dim" }, `by ${job.requested_by}`)) },
    { label: "Agent", cell: (job) => (job.agent ? (agents.get(job.agent) ?? job.agent) : null) },
    { label: "When", cell: (job) => ago(job.ended_at ?? job.started_at ?? job.created_at) },
  ];
}

/** Names of policies and agents by their ids. */
export async function names(signal) {
  const [policies, agents] = await Promise.all([all("/policies", signal), all("/agents", signal)]);
  return {
    policies: new Map(policies.map(({ id, policy }) => [id, policy.name])),
    agents: new Map(agents.map(({ id, name }) => [id, name])),
  };
}

export async function jobs(place, route) {
  const { signal } = route;
  const wanted = { state: route.query.get("state") ?? "", policy: route.query.get("policy") ?? "", set: route.query.get("set") ?? "" };
  const pages = new Pages(`/jobs${query({ ...wanted, limit: 50 })}`, signal);
  const [known] = await Promise.all([names(signal), pages.load()]);
  const list = h("div");
  const set = h("input", { id: "filter-set", type: "search", value: wanted.set, placeholder: "exact name" });
  const form = h("form", { class: "filters", "aria-label": "Filter jobs" },
    field("State", select("filter-state", [["", "any"], ...STATES.map((state) => [state, words(state)])], wanted.state)),
    field("Policy", select("filter-policy", [["", "any"], ...known.policies], wanted.policy)),
    field("Set", set), h("button", { type: "submit" }, "Filter"));
  const apply = (event) => {
    event.preventDefault();
    const values = ["state", "policy", "set"].map((name) => [name, form.querySelector(`#filter-${name}`).value.trim()]);
    location.hash = `#/jobs${query(Object.fromEntries(values))}`;
  };
  form.addEventListener("submit", apply);
  form.addEventListener("change", (event) => event.target !== set && apply(event));
  const isFiltered = Object.values(wanted).some((value) => value !== "");
  const empty = isFiltered
    ? [h("p", {}, "No job is like this."), h("p", {}, h("a", { href: "#/jobs" }, "Show all"))]
    : [h("p", {}, "No job yet."), h("p", {}, h("a", { href: "#/policies" }, "Run a policy"), ", or ", h("code", {}, "mover job submit"), ".")];
  const draw = () => renew(list, table("Jobs, newest first", jobColumns(known.policies, known.agents), pages.items, empty), pages.more(draw));
  const refresh = async () => {
    try {
      await pages.load();
      draw();
    } catch (error) {
      if (!signal.aborted) renew(list, trouble(error, refresh));
    }
  };
  draw();
  place.replaceChildren(heading("Jobs"), form, list);
  live.addEventListener("job", settle(refresh, 400), { signal });
  live.addEventListener("progress", ({ detail }) => {
    const now = new Map(detail.map((running) => [running.job, running]));
    const shown = pages.items.filter((job) => now.has(job.id));
    for (const job of shown) Object.assign(job, { progress: now.get(job.id).progress, state: now.get(job.id).state });
    if (shown.length > 0) draw();
  }, { signal });
}

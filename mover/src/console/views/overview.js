// Everything at a glance: warnings first, then what runs, then what is protected.

import { all, api } from "../api.js";
import { h, panel, renew, settle, table } from "../dom.js";
import { ago, duration, number, plural, rate, words } from "../format.js";
import { sparkline } from "../icons.js";
import { live } from "../live.js";
import { can } from "../session.js";
import { ACTIVE, STATES, badge, heading, trouble } from "../ui.js";
import { bar, bottleneck, exceptionsOf, filesetOf, speed } from "./progress.js";

const REFRESH_MS = 15000;
const DAY_MS = 86_400_000;
/** A policy that runs by a calendar and had no success for so long is told. */
const STALE_MS = 2 * DAY_MS;
/** A job that could begin and waits for so long is told. */
const WAIT_MS = 15 * 60_000;
/** States of jobs that did not do what they were for. */
const BROKEN = ["failed", "aborted", "expired"];
/** Jobs of each list that are named. */
const SHOWN = 10;

function tile(label, value, beside, href) {
  const content = [h("span", { class: "tile-label" }, label), h("strong", {}, value), h("span", { class: "tile-beside" }, beside)];
  return href ? h("a", { class: "tile", href }, content) : h("div", { class: "tile" }, content);
}

function tiles(told) {
  const count = Object.fromEntries(told.jobs.map(({ state, count: jobs }) => [state, jobs]));
  const waits = told.waiting_since ? `oldest waits ${duration(told.at - told.waiting_since)}` : told.queued > 0 ? "none could begin yet" : "nothing waits";
  const running = count.estimating + count.running + count.verifying;
  const stages = ACTIVE.filter((state) => count[state] > 0).map((state) => `${count[state]} ${state}`).join(", ");
  return h("div", { class: "tiles" },
    tile("Throughput", rate(told.bytes_per_second), sparkline(live.total.length > 0 ? live.total : [told.bytes_per_second])),
    tile("Running", number(running), running === 0 ? "nothing runs" : stages, "#/jobs?state=running"),
    tile("Queued", number(told.queued), waits, "#/jobs?state=queued"),
    tile("Agents", `${told.agents_connected} of ${told.agents}`, told.agents === 0 ? "none yet" : "connected", "#/agents"));
}

function counts(told) {
  const item = ({ state, count }) => h("li", {}, h("a", { href: `#/jobs?state=${state}` }, badge(state), h("b", {}, number(count))));
  return panel("Jobs by state", h("ul", { class: "counts" }, STATES.map((state) => item(told.jobs.find((entry) => entry.state === state)))));
}

function runningTable(running, agents) {
  const name = (id) => agents.get(id)?.name ?? id;
  const columns = [
    { label: "Set", kind: "wide", cell: (job) => [h("a", { href: `#/jobs/${job.job}` }, job.set), " ", h("small", {}, job.kind)] },
    { label: "State", cell: (job) => [badge(job.state), h("small", { class: "below" }, filesetOf(job.progress))] },
    { label: "Progress", kind: "wide", cell: (job) => [bar(job.kind, job.progress), exceptionsOf(job.progress.exceptions)] },
    { label: "Throughput", cell: (job) => speed(job.job, job.progress) },
    { label: "Bottleneck", cell: (job) => bottleneck(job.progress) },
    { label: "Agent", cell: (job) => (job.agent ? name(job.agent) : null) },
  ];
  const empty = [h("p", {}, "Nothing runs now."), h("p", {}, h("a", { href: "#/policies" }, "Run a policy"), " or wait for the next one that is due.")];
  return table("Jobs that run", columns, running, empty);
}

function policyTable(policies) {
  const columns = [
    { label: "Policy", kind: "wide", cell: ({ id, policy }) => h("a", { href: `#/policies/${id}` }, policy.name) },
    { label: "Last success", cell: ({ last_success }) => ago(last_success, "never yet") },
    { label: "Next run", cell: ({ enabled, next_due }) => (enabled ? ago(next_due, "on demand only") : h("span", { class: "dim" }, "disabled")) },
    { label: "Last job", cell: ({ last_job }) => (last_job ? h("a", { href: `#/jobs/${last_job}` }, "show") : null) },
  ];
  const empty = h("p", {}, "No policy yet, so nothing is protected by itself. ", can("admin") ? h("a", { href: "#/policies/new" }, "Make one") : "An admin can make one.");
  return table("Policies and their last success", columns, policies, empty);
}

function warnings(told, policies, agents, failed, partial) {
  const found = [];
  const warn = (text, href, link) => found.push(h("li", {}, text, " ", href ? h("a", { href }, link) : null));
  const away = [...agents.values()].filter((agent) => !agent.connected && !agent.revoked);
  if (told.agents === 0) warn("No agent has joined yet, so no job can run.", "#/agents", "Enrol one");
  else if (told.agents_connected === 0) warn("No agent is connected: nothing can run.", "#/agents", "Agents");
  else if (away.length > 0) warn(`Away: ${away.slice(0, 4).map((agent) => agent.name).join(", ")}${away.length > 4 ? ` and ${away.length - 4} more` : ""}.`, "#/agents", "Agents");
  if (told.waiting_since && told.at - told.waiting_since > WAIT_MS) {
    warn(`A job that could begin has waited for ${duration(told.at - told.waiting_since)}.`, "#/jobs?state=queued", "Queue");
  }
  for (const { id, policy, enabled, last_success: last, created_at: made, skips } of policies) {
    const since = told.at - (last ?? made);
    if (enabled && policy.when.schedules.length > 0 && since > STALE_MS) {
      warn(`${policy.name}: no success ${last ? `for ${duration(since)}` : "ever"}.`, `#/policies/${id}`, "Policy");
    }
    if (skips > 0) warn(`${policy.name}: ${plural(skips, "run")} skipped in a row, its agent is away.`, `#/policies/${id}`, "Policy");
  }
  for (const job of failed.slice(0, SHOWN)) {
    warn(`${job.set}: ${job.kind} ${words(job.state)}${job.message ? ` – ${job.message}` : ""}`.replace(/[^.?!]$/, "$&."), `#/jobs/${job.id}`, "Job");
  }
  const more = failed.length - SHOWN;
  if (more > 0) warn(`${plural(more, "more job")} failed, aborted or expired in the last 24 hours.`, "#/jobs", "Jobs");
  const calm = "No warnings: agents are connected, and no job failed, was aborted or expired in the last 24 hours.";
  const first = found.length === 0 ? h("p", { class: "calm" }, calm)
    : h("section", { class: "panel warnings", "aria-labelledby": "warnings" }, h("h2", { id: "warnings" }, `Warnings (${found.length})`), h("ul", {}, found));
  return partial.length === 0 ? [first] : [first, incomplete(partial)];
}

/** They have their recovery point, and not all that should be in it. */
function incomplete(partial) {
  const item = (job) => h("li", {}, `${job.set}: ${job.kind} with `, exceptionsOf(job.outcome?.exceptions_total ?? job.progress.exceptions) ?? "exceptions", " ",
    h("a", { href: `#/jobs/${job.id}` }, "Job"));
  return panel("Completed with exceptions in the last 24 hours", h("ul", {}, partial.slice(0, SHOWN).map(item)),
    partial.length > SHOWN ? h("p", {}, h("a", { href: "#/jobs?state=completed_with_errors" }, `and ${partial.length - SHOWN} more`)) : null);
}

/**
 * What of the last day ended without what it was for, and what ended with exceptions: of each set and kind the last one,
 * unless a later success has made it good.
 */
async function troubles(at, signal) {
  const ask = (state, limit) => api.get(`/jobs?state=${state}&limit=${limit}`, signal).then(({ items }) => items);
  const [done, partial, ...broken] = await Promise.all([ask("completed", 200), ask("completed_with_errors", 200), ...BROKEN.map((state) => ask(state, 200))]);
  const last = (jobs, better) => {
    const isOpen = (job) => at - (job.ended_at ?? job.created_at) < DAY_MS &&
      !better.some((good) => good.set === job.set && good.kind === job.kind && good.created_at > job.created_at);
    const seen = new Set();
    return jobs.sort((a, b) => b.created_at - a.created_at).filter((job) => {
      const key = `${job.kind} ${job.set}`;
      return isOpen(job) && !seen.has(key) && seen.add(key);
    });
  };
  return { failed: last(broken.flat(), [...done, ...partial]), partial: last(partial, done) };
}

export async function overview(place, { signal }) {
  const slots = ["warnings", "tiles", "running", "counts", "policies"].map((name) => h("div", { class: `slot-${name}` }));
  const [warned, top, running, counted, protectedBy] = slots;
  let agents = new Map();
  let told = null;
  const refresh = async () => {
    try {
      const [overviewNow, policies, known] = await Promise.all([api.get("/overview", signal), all("/policies", signal), all("/agents", signal)]);
      const { failed, partial } = await troubles(overviewNow.at, signal);
      told = overviewNow;
      agents = new Map(known.map((agent) => [agent.id, agent]));
      renew(warned, ...warnings(told, policies, agents, failed, partial));
      renew(top, tiles(told));
      renew(running, panel("Running now", runningTable(told.running, agents)));
      renew(counted, counts(told));
      renew(protectedBy, panel("Last success per policy", policyTable(policies)));
    } catch (error) {
      if (signal.aborted) return;
      if (told === null) throw error;
      renew(warned, trouble(error, refresh));
    }
  };
  await refresh();
  place.replaceChildren(heading("Overview"), ...slots);
  live.addEventListener("progress", ({ detail }) => {
    told.running = detail;
    told.bytes_per_second = detail.reduce((sum, { progress }) => sum + progress.bytes_per_second, 0);
    renew(top, tiles(told));
    renew(running, panel("Running now", runningTable(detail, agents)));
  }, { signal });
  live.addEventListener("job", settle(refresh, 500), { signal });
  const timer = setInterval(refresh, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

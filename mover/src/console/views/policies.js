// Policies: what is protected when; run, switch on and off, change.

import { all, api, newKey } from "../api.js";
import { facts, field, h, panel, renew, settle, table } from "../dom.js";
import { ago, plural, relative, time, words } from "../format.js";
import { live } from "../live.js";
import { can } from "../session.js";
import { action, ask, badge, heading, notice, trouble } from "../ui.js";
import { jobColumns, names } from "./jobs.js";

const days = (list) => (list.length === 0 ? "every day" : list.join(", "));

/** A schedule in words. */
function scheduleWords({ days: week, month_days: month, at, every_minutes: every }) {
  const when = every ? `every ${plural(every, "minute")}` : `at ${at.join(", ")}`;
  const on = month.length > 0 ? `on day ${month.map((day) => (day === -1 ? "last" : day)).join(", ")} of the month` : "";
  return [week.length > 0 || !on ? days(week) : "", on, when].filter(Boolean).join(" ");
}

const spanWords = ({ days: week, begin, end }) => `${days(week)} ${begin}–${end}`;

/** When a policy runs, in words. */
export function calendar({ zone, schedules }) {
  if (schedules.length === 0) return "on demand only";
  return `${schedules.map(scheduleWords).join("; ")} (${zone})`;
}

function keepWords(keep) {
  if (!keep) return "everything";
  const parts = ["last", "hourly", "daily", "weekly", "monthly", "yearly"].filter((name) => keep[name] > 0).map((name) => `${keep[name]} ${name}`);
  return `${parts.join(", ")}${keep.prune ? ", and space is freed" : ""}`;
}

/** A dialog that runs a policy now. */
export function runNow(stored) {
  const key = newKey();
  const full = h("input", { type: "checkbox", id: "full" });
  const wait = h("input", { type: "checkbox", id: "wait" });
  const bandwidth = h("input", { id: "bandwidth", placeholder: stored.policy.how.bandwidth ?? "no limit of the policy" });
  const content = [
    h("div", { class: "choice" }, full, h("label", { for: "full" }, "Full scan: read everything anew")),
    h("div", { class: "choice" }, wait, h("label", { for: "wait" }, "Wait for the agent if it is away")),
    field("Another bandwidth limit", bandwidth, { hint: "Empty: that of the policy. “unlimited” lifts it." }),
  ];
  ask(`Run ${stored.policy.name} now?`, content, "Run now", async () => {
    const made = await api.once(api.policy(stored.id, "/run"), { full: full.checked, wait: wait.checked, bandwidth: bandwidth.value.trim() || null }, key);
    notice(`${stored.policy.name} is submitted.`);
    location.hash = `#/jobs/${made.id}`;
  });
}

function buttons(stored, refresh) {
  const { id, enabled, policy: { name } } = stored;
  const verb = enabled ? "disable" : "enable";
  const toggle = action(enabled ? "Disable" : "Enable", `switch-${id}`, async () => {
    await api.post(api.policy(id, `/${verb}`));
    notice(`${name} is ${verb}d.`);
    await refresh();
  });
  toggle.setAttribute("aria-label", `${enabled ? "Disable" : "Enable"} ${name}`);
  return [
    can("operator") ? h("button", { type: "button", "data-key": `run-${id}`, "aria-label": `Run ${name} now`, onclick: () => runNow(stored) }, "Run now") : null,
    can("operator") ? toggle : null,
    can("admin") ? h("a", { class: "button", href: `#/policies/${id}/edit`, "aria-label": `Edit ${name}` }, "Edit") : null,
  ];
}

export async function policies(place, { signal }) {
  const list = h("div");
  const columns = (refresh) => [
    { label: "Policy", kind: "wide", cell: ({ id, policy: { name } }) => h("a", { href: `#/policies/${id}` }, name) },
    { label: "Calendar", cell: ({ enabled }) => (enabled ? badge("completed", "enabled") : badge("cancelled", "disabled")) },
    { label: "Runs", kind: "wide", cell: ({ policy: { when } }) => calendar(when) },
    { label: "Next run", cell: ({ enabled, next_due }) => (enabled ? ago(next_due, "none") : null) },
    { label: "Last success", cell: ({ last_success }) => ago(last_success, "never yet") },
    { label: "Actions", kind: "actions", cell: (stored) => buttons(stored, refresh) },
  ];
  const empty = [h("p", {}, "No policies yet. A policy says what is protected, when, how, and for how long."),
    can("admin") ? h("p", {}, h("a", { href: "#/policies/new" }, "Make the first one")) : h("p", {}, "An admin can make one.")];
  const refresh = async () => {
    try {
      renew(list, table("Policies", columns(refresh), await all("/policies", signal), empty));
    } catch (error) {
      if (!signal.aborted) renew(list, trouble(error, refresh));
    }
  };
  await refresh();
  place.replaceChildren(heading("Policies", can("admin") ? h("a", { class: "button", href: "#/policies/new" }, "New policy") : null), list);
  live.addEventListener("job", settle(refresh, 800), { signal });
}

function whatPanel({ what, how, keep, verify_percent: verify }) {
  const place = what.place.host ? `host ${what.place.host.agent}` : `pool ${what.place.pool.pool}${what.place.pool.reach ? `, agents that reach ${what.place.pool.reach}` : ""}`;
  const columns = [
    { label: "Fileset", cell: ({ name }) => name },
    { label: "Paths", kind: "wide", cell: ({ paths }) => paths.map((path) => h("div", {}, h("code", { class: "path" }, path))) },
    { label: "Left out", kind: "wide", cell: ({ exclude }) => (exclude.length > 0 ? exclude.map((rule) => h("div", {}, h("code", {}, rule))) : h("span", { class: "dim" }, "nothing")) },
  ];
  return panel("What and how", facts([
    ["Source", `${what.source} (${words(what.workload)})`], ["Done by", place],
    ["Repository", h("code", { class: "path" }, what.repository)], ["Set", what.set],
    ["Bandwidth", how.bandwidth ?? "no limit of its own"],
    ["Attempts", `${how.attempts}, ${how.retry_pause_seconds} s between`],
    ["Priority", String(how.priority)], ["Kept", keepWords(keep)],
    ["Proof", verify > 0 ? `${verify} % of the stored data is read and compared in each run` : "none"],
  ]), table("Filesets, in order", columns, what.filesets, ""));
}

function whenPanel({ when }, enabled, runs) {
  const next = !enabled ? h("p", {}, "Disabled: no run comes by itself.")
    : runs.length === 0 ? h("p", {}, "No run comes by itself: it runs on demand.")
      : h("ol", {}, runs.map(({ begins }) => h("li", {}, time(begins), " ", h("small", {}, relative(begins)))));
  return panel("Next runs", facts([
    ["Calendar", calendar(when)],
    ["Only within", when.windows.map(spanWords).join("; ")], ["Never within", when.blackouts.map(spanWords).join("; ")],
    ["Missed runs", when.catch_up === "once" ? "one run for all of them" : "are left out"],
  ]), next);
}

export async function policy(place, { id, signal }) {
  const body = h("div");
  const refresh = async () => {
    const [stored, runs, jobs, known] = await Promise.all([
      api.get(api.policy(id), signal), api.get(api.policy(id, "/runs?limit=8"), signal),
      api.get(`/jobs?policy=${encodeURIComponent(id)}&limit=10`, signal), names(signal),
    ]);
    const remove = async () => {
      await api.remove(api.policy(id));
      notice(`${stored.policy.name} is removed.`);
      location.hash = "#/policies";
    };
    const removal = () => ask(`Remove ${stored.policy.name}?`, h("p", {}, "Nothing runs by it any more. Its jobs and recovery points stay."), "Remove", remove, { danger: true });
    const open = body.querySelector("details")?.open;
    renew(body,
      heading(stored.policy.name, stored.enabled ? badge("completed", "enabled") : badge("cancelled", "disabled"),
        h("div", { class: "buttons" }, buttons(stored, refresh), can("admin") ? h("button", { type: "button", class: "danger", id: "remove", onclick: removal }, "Remove") : null)),
      h("div", { class: "columns" }, h("div", {}, whatPanel(stored.policy)),
        h("div", {}, whenPanel(stored.policy, stored.enabled, runs.items), panel("Facts", facts([
          ["Last success", stored.last_success ? time(stored.last_success) : "never yet"],
          ["Skipped in a row", stored.skips > 0 ? String(stored.skips) : null],
          ["Version", String(stored.version)], ["Changed", time(stored.updated_at)],
          ["Recovery points", h("a", { href: `#/points?set=${encodeURIComponent(stored.policy.what.set ?? stored.policy.name)}` }, "of its set")],
        ])))),
      panel("Its last jobs", table("Last jobs of the policy", jobColumns(known.policies, known.agents), jobs.items, h("p", {}, "It has not run yet.")),
        jobs.next ? h("p", {}, h("a", { href: `#/jobs?policy=${encodeURIComponent(id)}` }, "All of its jobs")) : null),
      h("details", { class: "panel", open }, h("summary", {}, "As JSON"), h("pre", { tabindex: "0", "aria-label": "The policy as JSON" }, JSON.stringify(stored.policy, null, 2))));
  };
  await refresh();
  place.replaceChildren(h("p", { class: "crumbs" }, h("a", { href: "#/policies" }, "Policies")), body);
  live.addEventListener("job", settle(() => refresh().catch((error) => signal.aborted || notice(error.message, "bad")), 500), { signal });
}

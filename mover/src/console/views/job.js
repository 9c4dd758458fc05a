// One job: how far it is, what it moved, what was left out, what went wrong, what happened when.

import { all, api, newKey } from "../api.js";
import { facts, h, panel, renew, settle, table } from "../dom.js";
import { bytes, duration, number, plural, time, words } from "../format.js";
import { live } from "../live.js";
import { can } from "../session.js";
import { ACTIVE, ask, badge, fullScan, heading, notice, trouble } from "../ui.js";
import { isFullScan } from "./jobs.js";
import { bar, bottleneck, exceptionsOf, filesetOf, speed } from "./progress.js";

const CLASSES = [
  ["read", "Read", "from the source, or from the repository by a restore"],
  ["unchanged", "Unchanged", "taken over unread from the recovery point before"],
  ["new", "New", "not in the repository before"],
  ["stored", "Stored", "compressed and sealed"],
  ["restored", "Restored", "written to the target"],
  ["verified", "Verified", "read again and compared"],
];

function progressPanel(job) {
  const { progress } = job;
  const isActive = ACTIVE.includes(job.state);
  const waits = job.state === "queued"
    ? h("p", {}, job.waits_on && job.waits_on !== "time" ? `Waits for another job: ${job.waits_on}.` : "Waits for an agent that can do it, or for its time.")
    : null;
  const files = progress.files_estimated > 0 ? `${number(progress.files)} of ${number(progress.files_estimated)} estimated` : number(progress.files);
  return panel("Progress", waits, isActive ? bar(job.kind, progress) : null,
    job.stop ? h("p", { class: "text-warn" }, `Asked to stop: ${job.stop}`) : null,
    facts([
      ["Fileset", filesetOf(progress)?.replace("fileset ", "")],
      ["Files", files],
      ["Throughput", isActive ? speed(job.id, progress) : null],
      ["Bottleneck", isActive || progress.bottleneck ? bottleneck(progress) : null],
      ["Exceptions so far", isActive ? (exceptionsOf(progress.exceptions) ?? "none") : null],
    ]));
}

function bytesPanel(job) {
  const moved = (job.outcome ?? job).progress.bytes;
  const rows = CLASSES.filter(([name]) => moved[name] > 0);
  const columns = [
    { label: "Class", cell: ([, label]) => label },
    { label: "Bytes", kind: "number", cell: ([name]) => h("span", { title: `${number(moved[name])} bytes` }, bytes(moved[name])) },
    { label: "What it is", kind: "wide", cell: ([, , what]) => what },
  ];
  return panel("Bytes by class", table("Bytes by class", columns, rows, h("p", {}, "Nothing moved yet.")));
}

function excludedPanel(job) {
  const left = Object.entries(job.outcome?.excluded ?? {});
  const rules = job.order.filesets.flatMap((set) => [...set.exclude, ...set.exclude_if_present, ...(set.exclude_caches ? ["caches"] : [])]);
  if (left.length === 0 && rules.length === 0) return null;
  const total = left.reduce((sum, [, count]) => sum + count, 0);
  const columns = [
    { label: "Filter", kind: "wide", cell: ([rule]) => h("code", {}, rule) },
    { label: "Files and directories", kind: "number", cell: ([, count]) => number(count) },
  ];
  const words = job.outcome ? `${plural(total, "file or directory", "files and directories")} left out by filters.` : "Counted when the job has ended.";
  return panel("Left out by filters", h("p", {}, words), left.length > 0 ? table("Left out by filters", columns, left, "") : null);
}

function exceptionsPanel(job) {
  const { outcome } = job;
  if (!outcome || outcome.exceptions_total === 0) return null;
  const columns = [
    { label: "Path", kind: "wide", cell: ({ path }) => h("code", { class: "path" }, path) },
    { label: "Why", kind: "wide", cell: ({ cause }) => cause },
  ];
  const shown = outcome.exceptions.length < outcome.exceptions_total ? `The first ${number(outcome.exceptions.length)} of ${number(outcome.exceptions_total)} are kept here.` : null;
  return panel(`Exceptions (${number(outcome.exceptions_total)})`, shown ? h("p", {}, shown) : null, table("Exceptions", columns, outcome.exceptions, "None is kept here."));
}

function orderPanel(job) {
  const { restore, filesets } = job.order;
  if (restore) {
    return panel("What is restored", facts([
      ["From", h("code", {}, restore.point)],
      ["What", restore.paths.length === 0 ? ["everything ", fullScan()] : h("ul", { class: "plain" }, restore.paths.map((path) => h("li", {}, h("code", { class: "path" }, path))))],
      ["To", restore.target ? h("code", { class: "path" }, restore.target) : "in place"],
      ["Existing files", { always: "are replaced", "if-changed": "are replaced if they differ", "if-newer": "are replaced if they are older", never: "stay" }[restore.overwrite] ?? "as the command line does"],
      ["Afterwards", restore.verify ? "read back and compared" : null],
    ]));
  }
  if (filesets.length === 0) return null;
  const columns = [
    { label: "Fileset", cell: ({ name }) => name },
    { label: "Paths", kind: "wide", cell: ({ paths }) => paths.map((path) => h("div", {}, h("code", { class: "path" }, path))) },
  ];
  return panel("Filesets, in order", table("Filesets", columns, filesets, ""));
}

function factsPanel(job, agents) {
  const place = job.lane.startsWith("host:") ? (agents.get(job.lane.slice(5)) ?? job.lane.slice(5)) : job.lane.replace("pool:", "pool ");
  const ended = job.ended_at && job.started_at ? `${duration(job.ended_at - job.started_at)}` : null;
  return panel("Facts", facts([
    ["Source", `${job.source} (${words(job.workload)})`],
    ["Repository", h("code", { class: "path" }, job.repository)],
    ["Set", h("a", { href: `#/points?set=${encodeURIComponent(job.set)}` }, job.set)],
    ["Policy", job.policy ? h("a", { href: `#/policies/${job.policy}` }, "show") : null],
    ["Asked for by", `${job.requested_by}, ${job.origin === "scheduled" ? "scheduled" : "on demand"}`],
    ["Done by", place],
    ["Agent", job.agent ? (agents.get(job.agent) ?? job.agent) : null],
    ["Attempt", job.attempt > 0 ? `${job.attempt} of ${job.order.attempts}` : null],
    ["Priority", job.priority === 0 ? null : String(job.priority)],
    ["Bandwidth", job.order.bandwidth],
    ["Asked for", time(job.created_at)],
    ["Not before", job.state === "queued" ? time(job.not_before) : null],
    ["Window ends", time(job.expires_at)],
    ["Began", time(job.started_at)],
    ["Ended", time(job.ended_at)],
    ["Took", ended],
    ["Recovery point", job.recovery_point ? h("a", { href: `#/points/${job.id}` }, job.recovery_point) : null],
    ["Id", h("code", {}, job.id)],
  ]));
}

function historyPanel(events, agents) {
  const columns = [
    { label: "When", cell: (event) => time(event.at) },
    { label: "State", cell: (event) => badge(event.state) },
    { label: "What", kind: "wide", cell: (event) => (event.kind === "state" ? event.message : [words(event.kind), event.message ? `: ${event.message}` : ""]) },
    { label: "Agent", cell: (event) => (event.agent ? (agents.get(event.agent) ?? event.agent) : null) },
  ];
  return panel("History", table("History of the job, oldest first", columns, events, h("p", {}, "Nothing happened yet.")));
}

function buttons(job, refresh) {
  if (!can("operator")) return null;
  const hasEnded = job.state !== "queued" && !ACTIVE.includes(job.state);
  if (hasEnded) {
    const key = newKey();
    const again = async () => {
      const made = await api.once(api.job(job.id, "/retry"), undefined, key);
      notice("Submitted once more.");
      location.hash = `#/jobs/${made.id}`;
    };
    return h("button", { type: "button", id: "retry", onclick: () => ask("Run this job once more?", h("p", {}, `A new job with the same order: ${job.kind} of ${job.set}.`), "Run it again", again) }, "Retry");
  }
  const cancel = async () => {
    await api.post(api.job(job.id, "/cancel"));
    notice("The job was asked to stop.");
    await refresh();
  };
  const words = job.state === "queued" ? "It has not begun." : "Its agent stops at the next step. What is durable already is used by the next backup.";
  return h("button", { type: "button", id: "cancel", class: "danger", disabled: job.stop !== null, onclick: () => ask("Cancel this job?", h("p", {}, words), "Cancel the job", cancel, { danger: true }) }, job.stop ? "Stopping …" : "Cancel job");
}

export async function job(place, { id, signal }) {
  const body = h("div");
  let told = null;
  let known = new Map();
  let events = [];
  const draw = () => renew(body,
    heading(`${words(told.kind)[0].toUpperCase()}${told.kind.slice(1)} of ${told.set}`, badge(told.state), isFullScan(told) ? fullScan() : null, buttons(told, refresh)),
    told.message ? h("p", { class: `note ${["failed", "aborted", "expired"].includes(told.state) ? "bad" : ""}` }, told.message) : null,
    h("div", { class: "columns" },
      h("div", {}, progressPanel(told), exceptionsPanel(told), bytesPanel(told), excludedPanel(told), orderPanel(told)),
      h("div", {}, factsPanel(told, known))),
    historyPanel(events, known));
  async function refresh() {
    try {
      const [now, agents, happened] = await Promise.all([api.get(api.job(id), signal), all("/agents", signal), all(api.job(id, "/events"), signal, 500)]);
      told = now;
      known = new Map(agents.map((agent) => [agent.id, agent.name]));
      events = happened;
      draw();
    } catch (error) {
      if (signal.aborted) return;
      if (told === null) throw error;
      notice(error.message, "bad");
    }
  }
  try {
    await refresh();
  } catch (error) {
    place.replaceChildren(heading("Job"), trouble(error, error.status === 404 ? null : () => job(place, { id, signal })), h("p", {}, h("a", { href: "#/jobs" }, "All jobs")));
    return;
  }
  place.replaceChildren(h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs")), body);
  const soon = settle(refresh, 300);
  live.addEventListener("job", ({ detail }) => (detail === null || detail.job === id) && soon(), { signal });
  live.addEventListener("progress", ({ detail }) => {
    const now = detail.find((running) => running.job === id);
    if (!now) return;
    Object.assign(told, { progress: now.progress, state: now.state });
    draw();
  }, { signal });
}

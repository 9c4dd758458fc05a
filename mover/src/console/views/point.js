// One recovery point: its directories, what is chosen of them, and the restore of it.

import { all, api, newKey, query } from "../api.js";
import { facts, field, h, panel, refuse, select, swap, table } from "../dom.js";
import { bytes, number, plural, time, words } from "../format.js";
import { icon } from "../icons.js";
import { can } from "../session.js";
import { ask, fullScan, heading, mark, notice, trouble } from "../ui.js";
import { grade } from "./points.js";
import { exceptionsOf } from "./progress.js";

/** Entries of one look; an agent tells no more. */
const ENTRIES_MAX = 1000;
const ICONS = { directory: "folder", symlink: "link", "hard link": "link" };
const OVERWRITE = [
  ["always", "Replace all"], ["if-changed", "Replace those that differ"], ["if-newer", "Replace those that are older"], ["never", "Keep all"],
];

const parentOf = (path) => path.slice(0, path.lastIndexOf("/")) || "/";
const isBelow = (path, above) => above === "/" || path === above || path.startsWith(`${above}/`);

/** Entries of `path`, directories first; of the roots only those that are below no other. */
function within(items, path) {
  const own = items.filter((entry) => entry.path !== path);
  const roots = path === "/" ? own.filter((entry) => !own.some((other) => other !== entry && isBelow(entry.path, other.path))) : own;
  const isFolder = (entry) => entry.kind === "directory";
  return roots.sort((a, b) => isFolder(b) - isFolder(a) || a.path.localeCompare(b.path));
}

class Browser {
  constructor(job, signal, changed) {
    Object.assign(this, { job, signal, changed, path: "/", chosen: new Set() });
    this.list = h("div");
    this.element = panel("Files", this.list);
  }

  async open(path) {
    this.path = path;
    swap(this.list, h("p", { class: "dim", role: "status" }, `Asking an agent for ${path} …`));
    const asked = query({ repository: this.job.repository, point: this.job.recovery_point, path: path === "/" ? null : path, limit: ENTRIES_MAX });
    try {
      const { items } = await api.get(`/repository/browse${asked}`, this.signal);
      if (this.path !== path) return;
      this.isCut = items.length >= ENTRIES_MAX;
      this.entries = within(items, path);
      this.draw();
    } catch (error) {
      if (!this.signal.aborted) swap(this.list, this.crumbs(), trouble(error, () => this.open(path)));
    }
  }

  choose(path, isChosen) {
    if (isChosen) this.chosen.add(path);
    else this.chosen.delete(path);
    this.changed();
  }

  crumbs() {
    const parts = this.path.split("/").filter(Boolean);
    const link = (label, path) => h("li", {}, path === this.path
      ? h("span", { "aria-current": "location" }, label)
      : h("button", { type: "button", class: "linklike", "data-key": `crumb-${path}`, onclick: () => this.open(path) }, label));
    const items = parts.map((part, index) => link(part, `/${parts.slice(0, index + 1).join("/")}`));
    return h("nav", { "aria-label": "Path", class: "crumbs" }, h("ol", {}, link("All", "/"), items));
  }

  name(entry) {
    const label = entry.path === this.path || parentOf(entry.path) !== this.path ? entry.path : entry.path.slice(entry.path.lastIndexOf("/") + 1);
    const shown = [icon(ICONS[entry.kind] ?? "file"), h("span", { class: "path" }, label)];
    const marks = [entry.torn ? mark("torn", "It changed while it was read") : null, entry.unread ? mark("not read", "It could not be read when the backup was made") : null];
    return entry.kind === "directory"
      ? [h("button", { type: "button", class: "linklike entry", "data-key": `open-${entry.path}`, onclick: () => this.open(entry.path) }, shown), marks]
      : [h("span", { class: "entry" }, shown), marks];
  }

  box(entry) {
    // A name that is no text cannot be sent as one: its directory can be chosen.
    const isText = !entry.path_hex;
    const change = (event) => this.choose(entry.path, event.target.checked);
    return h("input", { type: "checkbox", "data-key": `box-${entry.path}`, checked: this.chosen.has(entry.path), disabled: !isText,
      title: isText ? null : "Its name is no UTF-8: choose its directory", "aria-label": `Restore ${entry.path}`, onchange: change });
  }

  draw() {
    const columns = [
      { label: "Name", kind: "wide", cell: (entry) => h("div", { class: "name" }, can("operator") ? this.box(entry) : null, this.name(entry)) },
      { label: "Modified", cell: (entry) => time(entry.mtime) },
      { label: "Size", kind: "number", cell: (entry) => (entry.kind === "directory" ? null : h("span", { title: plural(entry.bytes, "byte") }, bytes(entry.bytes))) },
      { label: "Owner", cell: (entry) => `${entry.uid}:${entry.gid} ${entry.mode}` },
    ];
    swap(this.list, this.crumbs(),
      this.isCut ? h("p", { class: "note" }, `Only the first ${number(ENTRIES_MAX)} entries are shown. A path below can be restored by typing it in the form.`) : null,
      table(`Entries of ${this.path}`, columns, this.entries, h("p", {}, "This directory is empty.")));
  }
}

function destinations(job, agents) {
  const place = job.lane.startsWith("host:") ? { host: { agent: job.lane.slice(5) } }
    : { pool: { pool: job.pool, reach: job.lane.slice(`pool:${job.pool}`.length + 1) || null, preferred: null } };
  const origin = place.host ? (agents.find(({ id }) => id === place.host.agent)?.name ?? place.host.agent)
    : `pool ${job.pool}${place.pool.reach ? `, reaching ${place.pool.reach}` : ""}`;
  const first = `where it came from: ${origin}`;
  const others = agents.filter((agent) => !agent.revoked && agent.id !== place.host?.agent)
    .map((agent) => [{ host: { agent: agent.id } }, `${agent.name}${agent.connected ? "" : " (away now)"}`]);
  return [[place, first], ...others];
}

function restoreForm(job, agents, browser, signal) {
  const key = newKey();
  const places = destinations(job, agents);
  const to = select("destination", places.map(([, label], index) => [String(index), label]), "0");
  const target = h("input", { id: "target", placeholder: "/srv/restored", spellcheck: "false" });
  const inPlace = h("input", { type: "radio", name: "where", id: "where-place", value: "place" });
  const elsewhere = h("input", { type: "radio", name: "where", id: "where-directory", value: "directory", checked: true });
  const targetField = field("Directory", target, { hint: "It is made if it is not there." });
  const overwrite = select("overwrite", OVERWRITE, "always");
  const verify = h("input", { type: "checkbox", id: "verify" });
  const typed = h("input", { id: "typed", placeholder: "/srv/data/file", spellcheck: "false" });
  const what = h("div");
  const error = h("div");
  const drawWhat = () => {
    const line = (path) => h("li", {}, h("code", { class: "path" }, path), h("button", { type: "button", class: "linklike", "aria-label": `Do not restore ${path}`, "data-key": `drop-${path}`,
      onclick: () => { browser.choose(path, false); if (browser.entries) browser.draw(); } }, "remove"));
    swap(what, browser.chosen.size === 0 ? h("p", { id: "what" }, "Everything ", fullScan()) : h("ul", { class: "chosen", id: "what" }, [...browser.chosen].map(line)));
  };
  browser.changed = drawWhat;
  const add = () => {
    const path = typed.value.trim();
    if (!path.startsWith("/")) return refuse(typedField, "A path begins with /.");
    refuse(typedField, null);
    typed.value = "";
    browser.choose(path, true);
    if (browser.entries) browser.draw();
  };
  const typedField = field("Another path", typed);
  const switched = () => (targetField.hidden = inPlace.checked);
  inPlace.addEventListener("change", switched);
  elsewhere.addEventListener("change", switched);

  const submit = async () => {
    const body = {
      repository: job.repository, set: job.set, workload: job.workload, place: places[Number(to.value)][0],
      target: inPlace.checked ? null : target.value.trim(), paths: [...browser.chosen], overwrite: overwrite.value, verify: verify.checked,
    };
    const made = await api.once(`/points/${encodeURIComponent(job.recovery_point)}/restore`, body, key);
    notice("The restore is submitted.");
    location.hash = `#/jobs/${made.id}`;
  };
  const pressed = async (event) => {
    event.preventDefault();
    error.replaceChildren();
    const isMissing = !inPlace.checked && !target.value.trim().startsWith("/");
    refuse(targetField, isMissing ? "Say where to: a path that begins with /." : null);
    if (isMissing) return target.focus();
    if (inPlace.checked && overwrite.value !== "never") {
      const count = browser.chosen.size === 0 ? "everything" : plural(browser.chosen.size, "path");
      ask("Restore in place?", h("p", {}, `This puts ${count} back where it came from. ${OVERWRITE.find(([name]) => name === overwrite.value)[1]}: what is there now is lost.`), "Restore in place", submit, { danger: true });
      return;
    }
    try {
      await submit();
    } catch (problem) {
      if (!signal.aborted) error.replaceChildren(trouble(problem));
    }
  };
  drawWhat();
  switched();
  return panel("Restore", h("form", { onsubmit: pressed, novalidate: true, id: "restore" },
    h("fieldset", {}, h("legend", {}, "What"), what, typedField, h("button", { type: "button", onclick: add }, "Add path")),
    h("fieldset", {}, h("legend", {}, "Where to"), field("Done by", to),
      h("div", { class: "choice" }, elsewhere, h("label", { for: "where-directory" }, "Into a directory")),
      targetField,
      h("div", { class: "choice" }, inPlace, h("label", { for: "where-place" }, "In place, where it came from"))),
    field("Files that exist there", overwrite),
    h("div", { class: "choice" }, verify, h("label", { for: "verify" }, "Read back and compare")),
    error, h("button", { type: "submit", class: "primary" }, "Restore")));
}

export async function point(place, { id, signal }) {
  const [job, agents] = await Promise.all([api.get(api.job(id), signal), all("/agents", signal)]);
  if (!job.recovery_point) throw new Error("This job made no recovery point.");
  const browser = new Browser(job, signal, () => {});
  const moved = (job.outcome ?? job).progress;
  const about = panel("Facts", facts([
    ["Finished", time(job.ended_at)], ["Grade", grade(job.ended_at)], ["Set", job.set],
    ["Source", `${job.source} (${words(job.workload)})`], ["Repository", h("code", { class: "path" }, job.repository)],
    ["Files", number(moved.files)], ["New", bytes(moved.bytes.new)], ["Stored", bytes(moved.bytes.stored)],
    ["Exceptions", exceptionsOf(job.outcome?.exceptions_total ?? 0) ?? "none"],
    ["Made by", h("a", { href: `#/jobs/${job.id}` }, "its job")], ["Id", h("code", { class: "path" }, job.recovery_point)],
  ]));
  const form = can("operator") ? restoreForm(job, agents, browser, signal) : null;
  place.replaceChildren(
    h("p", { class: "crumbs" }, h("a", { href: "#/points" }, "Recovery points")),
    heading(`Recovery point of ${job.set}`, grade(job.ended_at)),
    h("div", { class: "columns" }, h("div", {}, browser.element), h("div", {}, form, about)));
  browser.open("/");
}

// A policy as a form and as JSON: two views of one document. What the form does not show stays as it is.

import { all, api } from "../api.js";
import { field, h, panel, refuse, select, swap } from "../dom.js";
import { localZone, moment } from "../format.js";
import { can } from "../session.js";
import { heading, notice, trouble } from "../ui.js";
import { refusals } from "./refusals.js";

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const WORKLOADS = [
  ["file_server", "File server: the agent's own files"], ["nas", "NAS share, read by a proxy"], ["sql_server", "Microsoft SQL Server"],
  ["hyper_v", "Hyper-V host"], ["virtual_machine", "Virtual machines, read by a proxy"], ["oracle_direct", "Oracle, direct"],
  ["oracle_store", "Oracle, by a mounted store"], ["database", "Another database"], ["disk", "Block device or image"],
];
const KEPT = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const list = (text) => text.split(/[\s,;]+/).filter(Boolean);
const whole = (text, otherwise = null) => (text.trim() === "" ? otherwise : Number(text));

function blank() {
  return {
    name: "",
    what: { workload: "file_server", place: { pool: { pool: "main", reach: null, preferred: null } }, source: "", repository: "", set: null, filesets: [{ name: "files", paths: [] }] },
    when: { zone: localZone(), schedules: [{ days: [], month_days: [], at: ["22:00"], every_minutes: null }], windows: [], blackouts: [], jitter_seconds: 0, catch_up: "once" },
    how: {}, keep: null, verify_percent: 0, notify: [],
  };
}

/** Controls that write into the document as they are changed. */
class Form {
  constructor(document, agents) {
    Object.assign(this, { document, agents, count: 0 });
  }

  id(name) {
    this.count += 1;
    return `${name}-${this.count}`;
  }

  text(label, place, value, put, { hint, rows, kind = "text", min, max, options } = {}) {
    const id = this.id("field");
    const properties = { id, value: value ?? "", spellcheck: "false", oninput: (event) => put(event.target.value) };
    const control = rows ? h("textarea", { ...properties, rows }) : h("input", { ...properties, type: kind, min, max, list: options });
    return field(label, control, { hint, place });
  }

  pick(label, place, options, value, put, hint) {
    return field(label, select(this.id("field"), options, value, { onchange: (event) => put(event.target.value) }), { hint, place });
  }

  tick(label, checked, put) {
    const id = this.id("tick");
    return h("div", { class: "choice" }, h("input", { type: "checkbox", id, checked, onchange: (event) => put(event.target.checked) }), h("label", { for: id }, label));
  }

  week(chosen, put) {
    const boxes = DAYS.map((day) => this.tick(day, chosen.includes(day), (isOn) => put(DAYS.filter((other) => (other === day ? isOn : chosen.includes(other))))));
    return h("fieldset", {}, h("legend", {}, "Days of the week (none: all)"), h("div", { class: "choices" }, boxes));
  }

  /** Rows that can be added and removed. */
  rows(items, one, draw, fresh, add) {
    const drop = (index) => () => {
      items.splice(index, 1);
      draw();
    };
    const more = () => {
      items.push(fresh());
      draw();
    };
    return [items.map((item, index) => h("div", { class: "row" }, one(item, index), h("button", { type: "button", onclick: drop(index) }, "Remove"))),
      h("div", { class: "buttons" }, h("button", { type: "button", "data-key": add, onclick: more }, add))];
  }

  what(draw) {
    const { what } = this.document;
    const pool = what.place.pool;
    const hosts = this.agents.map(({ id, name }) => [id, name]);
    const where = (kind) => {
      what.place = kind === "host" ? { host: { agent: hosts[0]?.[0] ?? "" } } : { pool: { pool: "main", reach: null, preferred: null } };
      draw();
    };
    const fileset = (set) => [
      h("div", { class: "grid" },
        this.text("Fileset", "what.filesets", set.name, (text) => (set.name = text)),
        this.text("Paths, one a line", "what.filesets", set.paths.join("\n"), (text) => (set.paths = lines(text)), { rows: 3 }),
        this.text("Leave out, one pattern a line", "what.filesets", (set.exclude ?? []).join("\n"), (text) => (set.exclude = lines(text)), { rows: 3, hint: "Each is counted and shown with the job." })),
      h("div", { class: "choices" },
        this.tick("Stay on the file system of each path", set.one_file_system, (isOn) => (set.one_file_system = isOn)),
        this.tick("Leave out caches", set.exclude_caches, (isOn) => (set.exclude_caches = isOn))),
    ];
    return panel("What", h("div", { class: "grid" },
      this.text("Name", "name", this.document.name, (text) => (this.document.name = text)),
      this.pick("Kind", "what.workload", WORKLOADS, what.workload, (value) => (what.workload = value)),
      this.text("Source", "what.source", what.source, (text) => (what.source = text), { hint: "A host, a share, a database." }),
      this.text("Repository", "what.repository", what.repository, (text) => (what.repository = text), { hint: "/srv/backup, s3://bucket/prefix" }),
      this.text("Set", "what.set", what.set, (text) => (what.set = text || null), { hint: "Empty: the name of the policy." }),
      this.pick("Done by", "what.place", [["pool", "Any agent of a pool"], ["host", "One host"]], pool ? "pool" : "host", where),
      pool ? [this.text("Pool", "what.place", pool.pool, (text) => (pool.pool = text)),
        this.text("Only agents that reach", "what.place", pool.reach, (text) => (pool.reach = text || null), { hint: "Empty: all of the pool." })]
        : this.pick("Host", "what.place", hosts, what.place.host.agent, (value) => (what.place.host.agent = value), hosts.length === 0 ? "No agent has joined yet." : undefined)),
    h("h3", {}, "Filesets, moved in this order"),
    this.rows(what.filesets, fileset, draw, () => ({ name: `files ${what.filesets.length + 1}`, paths: [] }), "Add a fileset"));
  }

  when(draw) {
    const { when } = this.document;
    const schedule = (one) => [this.week(one.days ?? [], (days) => { one.days = days; draw(); }), h("div", { class: "grid" },
      this.text("Days of the month", "when.schedules", (one.month_days ?? []).join(", "), (text) => (one.month_days = list(text).map(Number)), { hint: "−1 is the last; empty: all." }),
      this.text("At", "when.schedules", (one.at ?? []).join(", "), (text) => (one.at = list(text)), { hint: "22:00, 04:30" }),
      this.text("Or every so many minutes", "when.schedules", one.every_minutes, (text) => (one.every_minutes = whole(text)), { kind: "number", min: 1, max: 1440 }))];
    const span = (name) => (one) => [this.week(one.days ?? [], (days) => { one.days = days; draw(); }), h("div", { class: "grid" },
      this.text("From", name, one.begin, (text) => (one.begin = text)), this.text("To", name, one.end, (text) => (one.end = text), { hint: "Before the begin: on the day after." }))];
    const fresh = () => ({ days: [], begin: "20:00", end: "06:00" });
    const zones = Intl.supportedValuesOf?.("timeZone") ?? [];
    return panel("When",
      h("datalist", { id: "zones" }, ["UTC", ...zones].map((zone) => h("option", { value: zone }))),
      h("div", { class: "grid" },
        this.text("Time zone of all times here", "when.zone", when.zone, (text) => (when.zone = text), { options: "zones" }),
        this.text("Spread the begin over, in seconds", "when.jitter_seconds", when.jitter_seconds ?? 0, (text) => (when.jitter_seconds = whole(text, 0)), { kind: "number", min: 0, max: 86400 }),
        this.pick("Runs missed while no server was there", "when.catch_up", [["once", "One run for all of them"], ["skip", "Are left out"]], when.catch_up ?? "once", (value) => (when.catch_up = value))),
      h("h3", {}, "Runs"), this.rows(when.schedules, schedule, draw, () => ({ days: [], month_days: [], at: ["22:00"], every_minutes: null }), "Add times"),
      h("h3", {}, "Begins only within"), this.rows(when.windows, span("when.windows"), draw, fresh, "Add a window"),
      h("h3", {}, "Never begins within"), this.rows(when.blackouts, span("when.blackouts"), draw, fresh, "Add a blackout"));
  }

  how() {
    const how = (this.document.how ??= {});
    const count = (label, name, otherwise, more) => this.text(label, `how.${name}`, how[name] ?? otherwise, (text) => (how[name] = whole(text, otherwise)), { kind: "number", ...more });
    return panel("How", h("div", { class: "grid" },
      this.text("Bandwidth", "how.bandwidth", how.bandwidth, (text) => (how.bandwidth = text || null), { hint: "mon-fri 08:00-18:00 = 20MiB/s, else unlimited" }),
      count("Attempts in all", "attempts", 3, { min: 1 }), count("Pause between two, in seconds", "retry_pause_seconds", 300, { min: 0 }),
      count("Priority", "priority", 0, { hint: "Higher goes first." }), count("Weight of its fair share", "weight", 1, { min: 1, max: 1000 }),
      count("Jobs of the source at once", "source_limit", null, { min: 1, hint: "Empty: no limit." }),
      count("Jobs of the repository at once", "repository_limit", null, { min: 1, hint: "Empty: no limit." }),
      this.pick("When the host restarts", "how.restart", [["resume", "Go on from what is durable"], ["abort", "Abort; the next run follows the calendar"]], how.restart ?? "resume", (value) => (how.restart = value))),
    h("p", { class: "dim" }, `Commands before and after: ${(how.before ?? []).length} and ${(how.after ?? []).length}; change them as JSON.`));
  }

  keep(draw) {
    const { document } = this;
    const switched = (isOn) => {
      document.keep = isOn ? { last: 0, hourly: 0, daily: 14, weekly: 8, monthly: 12, yearly: 0, prune: true } : null;
      draw();
    };
    const count = (name) => this.text(name[0].toUpperCase() + name.slice(1), `keep.${name}`, document.keep[name] ?? 0, (text) => (document.keep[name] = whole(text, 0)), { kind: "number", min: 0 });
    return panel("How long, and proof",
      h("div", { "data-place": "keep" }, this.tick("Forget recovery points by rules (else everything is kept)", document.keep !== null && document.keep !== undefined, switched), h("p", { class: "field-error", hidden: true })),
      document.keep ? [h("div", { class: "grid" }, KEPT.map(count)), this.tick("Free the space of what is forgotten", document.keep.prune, (isOn) => (document.keep.prune = isOn))] : null,
      h("div", { class: "grid" }, this.text("Read and compare in each run, in percent", "verify_percent", document.verify_percent ?? 0, (text) => (document.verify_percent = whole(text, 0)), { kind: "number", min: 0, max: 100 })),
      h("p", { class: "dim" }, `Notifications: ${(document.notify ?? []).length}; change them as JSON.`));
  }
}

/** Shows each refusal at its field; what has no field stands on top. */
function showRefusals(form, top, problem) {
  form.querySelectorAll(".field[data-place], [data-place=keep]").forEach((element) => refuse(element, null));
  const rest = [];
  let first = null;
  for (const { place, reason } of refusals(problem.message)) {
    const at = place && form.querySelector(`[data-place="${CSS.escape(place)}"]`);
    if (!at) {
      rest.push(place ? `${place}: ${reason}` : reason);
      continue;
    }
    refuse(at, reason);
    first ??= at.querySelector("input, select, textarea");
  }
  const said = rest.length > 0 ? rest.join("; ") : "The server refused it: see the marked fields.";
  swap(top, trouble(new Error(said)));
  (first ?? top).focus?.();
}

export async function policyForm(place, { id, edit, signal }) {
  if (!can("admin")) throw new Error("Policies are changed by admins; ask one of them.");
  const [stored, agents] = await Promise.all([edit ? api.get(api.policy(id), signal) : null, all("/agents", signal)]);
  let document_ = stored ? structuredClone(stored.policy) : blank();
  let isJson = false;
  const top = h("div", { tabindex: "-1" });
  const body = h("div");
  const area = h("textarea", { id: "document", class: "document", spellcheck: "false" });
  const toggle = h("button", { type: "button", id: "toggle", onclick: () => switchView() });

  const draw = () => {
    toggle.textContent = isJson ? "Edit as a form" : "Edit as JSON";
    if (isJson) return swap(body, panel("JSON", field("Policy", area)));
    const form = new Form(document_, agents.filter((agent) => !agent.revoked));
    return swap(body, form.what(draw), form.when(draw), form.how(), form.keep(draw));
  };
  const read = () => {
    if (!isJson) return true;
    try {
      document_ = JSON.parse(area.value);
      return true;
    } catch (error) {
      swap(top, trouble(new Error(`This is no JSON: ${error.message}`)));
      return false;
    }
  };
  function switchView() {
    if (!read()) return;
    isJson = !isJson;
    if (isJson) area.value = JSON.stringify(document_, null, 2);
    top.replaceChildren();
    try {
      draw();
    } catch {
      isJson = true;
      draw();
      swap(top, trouble(new Error("The form needs what, when and their lists: they are missing in this JSON.")));
    }
  }
  const check = async () => {
    if (!read()) return;
    try {
      const verdict = await api.post("/policies/validate", document_);
      if (!verdict.valid) return showRefusals(body, top, new Error(verdict.reason));
      body.querySelectorAll(".field[data-place]").forEach((element) => refuse(element, null));
      const next = verdict.next.length === 0 ? h("p", {}, "It runs on demand only.") : h("ul", {}, verdict.next.map((begins) => h("li", {}, moment(begins))));
      swap(top, h("div", { class: "note", role: "status" }, h("b", {}, "It could work. Its first runs:"), next));
    } catch (error) {
      showRefusals(body, top, error);
    }
  };
  const save = async (event) => {
    event.preventDefault();
    if (!read()) return;
    try {
      const saved = stored
        ? await api.put(api.policy(id), document_, { "if-match": `"${stored.version}"` })
        : await api.post("/policies", document_);
      notice(`${saved.policy.name} is saved.`);
      location.hash = `#/policies/${saved.id}`;
    } catch (error) {
      showRefusals(body, top, error);
    }
  };
  draw();
  place.replaceChildren(
    h("p", { class: "crumbs" }, h("a", { href: "#/policies" }, "Policies")),
    heading(stored ? `Edit ${stored.policy.name}` : "New policy", toggle),
    h("form", { onsubmit: save, novalidate: true, id: "policy" }, top, body,
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Save"),
        h("button", { type: "button", onclick: check }, "Check without saving"),
        h("a", { class: "button", href: stored ? `#/policies/${id}` : "#/policies" }, "Cancel"))));
}

// The audit log: who did what, newest first.

import { h, swap, table } from "../dom.js";
import { time } from "../format.js";
import { Pages, heading } from "../ui.js";

function object(act) {
  const id = act.object;
  const isDone = act.outcome === "done" && act.action !== "policy.remove";
  // What runs a policy or restores makes a job.
  const noun = ["policy.run", "point.restore"].includes(act.action) ? "job" : act.action.split(".")[0];
  const href = { job: `#/jobs/${id}`, policy: `#/policies/${id}` }[noun];
  return href && id && isDone ? h("a", { href, class: "id" }, id) : h("code", { class: "path" }, id || "–");
}

export async function audit(place, { signal }) {
  const pages = new Pages("/audit?limit=100", signal);
  await pages.load();
  const list = h("div");
  const columns = [
    { label: "When", cell: (act) => time(act.at) },
    { label: "Who", cell: (act) => [act.who, " ", h("small", {}, act.role)] },
    { label: "What", cell: (act) => act.action },
    { label: "To what", kind: "wide", cell: object },
    { label: "Outcome", kind: "wide", cell: (act) => [act.outcome === "done" ? h("span", { class: "dim" }, "done") : h("span", { class: "text-warn" }, act.outcome), act.detail ? h("small", { class: "below path" }, act.detail) : null] },
  ];
  const draw = () => swap(list, table("Acts, newest first", columns, pages.items, h("p", {}, "Nothing was done yet.")), pages.more(draw));
  draw();
  place.replaceChildren(heading("Audit log"), list);
}

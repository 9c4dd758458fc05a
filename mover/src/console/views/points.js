// Recovery points that jobs made, by set, with their grade.

import { query } from "../api.js";
import { field, h, panel, renew, settle, table } from "../dom.js";
import { ago, bytes, number } from "../format.js";
import { live } from "../live.js";
import { can } from "../session.js";
import { Pages, heading, trouble } from "../ui.js";
import { exceptionsOf } from "./progress.js";

const WARM_MS = 90 * 86_400_000;

/** Warm up to 90 days, then cold; hot is what a cache holds, which only the server could tell (S-007). */
export function grade(finished, tier) {
  const name = tier ?? (Date.now() - finished <= WARM_MS ? "warm" : "cold");
  const says = { hot: "on the cache", warm: "up to 90 days old: restores directly", cold: "older than 90 days: may have to be recalled first" };
  return h("span", { class: `grade ${name}`, title: says[name] }, name);
}

function pointColumns() {
  return [
    { label: "Finished", cell: (point) => h("a", { href: `#/points/${point.job}` }, ago(point.finished_at, "unknown")) },
    { label: "Grade", cell: (point) => grade(point.finished_at, point.tier) },
    { label: "Files", kind: "number", cell: (point) => number(point.files) },
    { label: "New", kind: "number", cell: (point) => bytes(point.bytes_new) },
    { label: "Stored", kind: "number", cell: (point) => bytes(point.bytes_stored) },
    { label: "Exceptions", cell: (point) => exceptionsOf(point.exceptions) ?? h("span", { class: "dim" }, "none") },
    { label: "Source", cell: (point) => point.source },
    { label: "Actions", kind: "actions", cell: (point) => h("a", { class: "button", href: `#/points/${point.job}` }, can("operator") ? "Browse, restore" : "Browse", h("span", { class: "hidden" }, ` ${point.id}`)) },
  ];
}

export async function points(place, route) {
  const { signal } = route;
  const wanted = { set: route.query.get("set") ?? "", repository: route.query.get("repository") ?? "" };
  const pages = new Pages(`/points${query({ ...wanted, limit: 200 })}`, signal);
  await pages.load();
  const list = h("div");
  const set = h("input", { id: "filter-set", type: "search", value: wanted.set, placeholder: "exact name" });
  const repository = h("input", { id: "filter-repository", type: "search", value: wanted.repository, placeholder: "exact place" });
  const apply = (event) => {
    event.preventDefault();
    location.hash = `#/points${query({ set: set.value.trim(), repository: repository.value.trim() })}`;
  };
  const form = h("form", { class: "filters", "aria-label": "Filter recovery points", onsubmit: apply }, field("Set", set), field("Repository", repository), h("button", { type: "submit" }, "Filter"));
  const draw = () => {
    const sets = Map.groupBy ? Map.groupBy(pages.items, (point) => `${point.set}\n${point.repository}`) : new Map([["\n", pages.items]]);
    const groups = [...sets].sort(([a], [b]) => a.localeCompare(b)).map(([, group]) =>
      panel(group[0].set, h("p", { class: "dim path" }, group[0].repository), table(`Recovery points of ${group[0].set}`, pointColumns(), group, "")));
    const empty = h("div", { class: "empty" }, h("p", {}, wanted.set || wanted.repository ? "No recovery point is like this." : "No recovery point yet: each backup that succeeds makes one."),
      h("p", {}, h("a", { href: "#/policies" }, "Run a policy")));
    renew(list, groups.length > 0 ? groups : empty, pages.more(draw));
  };
  draw();
  place.replaceChildren(heading("Recovery points"), form, list);
  const refresh = async () => {
    try {
      await pages.load();
      draw();
    } catch (error) {
      if (!signal.aborted) renew(list, trouble(error, refresh));
    }
  };
  live.addEventListener("job", settle(refresh, 800), { signal });
}

// The console: who is there, which view is shown, how news arrive. Each view is a module that fills `main`.

import { api, onSignedOut } from "./api.js";
import { h, select } from "./dom.js";
import { localZone, setZone, zone } from "./format.js";
import { icon } from "./icons.js";
import { live } from "./live.js";
import { can, session } from "./session.js";
import { heading, notice, trouble } from "./ui.js";
import { agents } from "./views/agents.js";
import { audit } from "./views/audit.js";
import { job } from "./views/job.js";
import { jobs } from "./views/jobs.js";
import { login } from "./views/login.js";
import { overview } from "./views/overview.js";
import { point } from "./views/point.js";
import { points } from "./views/points.js";
import { policies, policy } from "./views/policies.js";
import { policyForm } from "./views/policy_form.js";
import { tokens } from "./views/tokens.js";

const NAVIGATION = [
  ["overview", "Overview", "viewer"], ["jobs", "Jobs", "viewer"], ["agents", "Agents", "viewer"],
  ["policies", "Policies", "viewer"], ["points", "Recovery points", "viewer"], ["audit", "Audit log", "viewer"],
  ["tokens", "Tokens", "admin"],
];

/** Path of a view, and what fills it; `*` is one segment. */
const ROUTES = [
  ["overview", overview], ["jobs", jobs], ["jobs/*", job], ["agents", agents], ["policies", policies],
  ["policies/new", policyForm], ["policies/*", policy], ["policies/*/edit", policyForm], ["points", points],
  ["points/*", point], ["audit", audit], ["tokens", tokens],
];

const LINKS = {
  connecting: ["quiet", "connecting …"],
  live: ["good", "live"],
  polling: ["warn", "every 5 s"],
  away: ["bad", "server away"],
};

const main = document.getElementById("main");
const top = document.getElementById("top");
let leaving = new AbortController();

function match() {
  const [path, search] = (location.hash.replace(/^#\/?/, "") || "overview").split("?");
  const given = path.split("/").map(decodeURIComponent);
  const found = ROUTES.find(([pattern]) => {
    const wanted = pattern.split("/");
    return wanted.length === given.length && wanted.every((part, index) => part === "*" || part === given[index]);
  });
  return { view: found?.[1], first: given[0], id: given[1], edit: given[2] === "edit", query: new URLSearchParams(search) };
}

/** Fills the view of this address. The focus follows, unless the page has just been opened: then it begins at its top. */
async function show({ isOpening = false } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  const route = { ...match(), signal };
  top.querySelector("nav")?.classList.remove("open");
  top.querySelector("#menu")?.setAttribute("aria-expanded", "false");
  for (const link of top.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${route.first}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const place = h("div", { class: "view" }, h("p", { class: "dim loading" }, "Loading …"));
  main.replaceChildren(place);
  try {
    if (!route.view) throw new Error("There is no such page in this console.");
    await route.view(place, route);
  } catch (error) {
    if (signal.aborted) return;
    place.replaceChildren(heading("Not shown"), trouble(error, () => show()));
  }
  if (!signal.aborted && !isOpening) main.querySelector("h1")?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function linkState() {
  const [tone, text] = LINKS[live.link];
  return h("span", { class: `link ${tone}`, id: "link", role: "status", title: "How news arrive here" }, h("i", { "aria-hidden": "true" }), text);
}

function zones() {
  const local = localZone();
  const change = (event) => {
    setZone(event.target.value);
    show();
  };
  const options = local === "UTC" ? [["UTC", "UTC"]] : [["local", local], ["UTC", "UTC"]];
  const chosen = zone() === "UTC" ? "UTC" : "local";
  return h("span", { class: "zone" }, h("label", { for: "zone", class: "hidden" }, "Time zone"), select("zone", options, chosen, { onchange: change }));
}

async function signOut() {
  try {
    await api.remove("/session");
  } catch (error) {
    if (error.status !== 401) return notice(error.message, "bad");
  }
  // Who comes next begins at the overview, not where this one was.
  history.replaceState(null, "", "#/overview");
  return signedOut();
}

function frame() {
  const nav = h("nav", { "aria-label": "Views", id: "views" },
    NAVIGATION.filter(([, , role]) => can(role)).map(([path, title]) => h("a", { href: `#/${path}` }, title)));
  const toggle = (event) => event.currentTarget.setAttribute("aria-expanded", String(nav.classList.toggle("open")));
  const menu = h("button", { type: "button", id: "menu", "aria-expanded": "false", "aria-controls": "views", onclick: toggle }, icon("menu"), "Menu");
  const { name, role } = session.me;
  top.replaceChildren(
    h("a", { href: "#/overview", class: "brand" }, icon("mover"), "mover"), linkState(), menu, nav,
    h("div", { class: "who" }, zones(), h("span", { class: "me" }, h("b", {}, name), " ", h("span", { class: "dim" }, role)),
      h("button", { type: "button", class: "plain", onclick: signOut }, "Log out")));
  nav.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !nav.classList.contains("open")) return;
    nav.classList.remove("open");
    menu.setAttribute("aria-expanded", "false");
    menu.focus();
  });
}

function signedIn(me, isOpening = false) {
  session.me = me;
  frame();
  live.start();
  show({ isOpening });
}

function signedOut(message) {
  if (!session.me && top.childElementCount > 0) return;
  session.me = null;
  live.stop();
  leaving.abort();
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  top.replaceChildren(h("span", { class: "brand" }, icon("mover"), "mover"));
  login(main, (me) => signedIn(me), message);
}

async function begin() {
  try {
    signedIn(await api.get("/session"), true);
  } catch (error) {
    if (error.status === 401) signedOut();
    else main.replaceChildren(heading("mover"), trouble(error, begin));
  }
}

onSignedOut(() => session.me && signedOut("Your session has ended. Log in again."));
live.addEventListener("link", () => document.getElementById("link")?.replaceWith(linkState()));
window.addEventListener("hashchange", () => session.me && show());
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
begin();

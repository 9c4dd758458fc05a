// Scenarios of the console in a real Chromium: `node console.mjs SCENARIO`, with MOVER_CONSOLE_TEST as JSON: where the
// server is, tokens by role, what was made before. Ends with 0 if all is as it should be; else says what is not.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

import { contrast, structure, width } from "./checks.mjs";

const { chromium } = createRequire(join(process.env.MOVER_TEST_PLAYWRIGHT, "x.js"))("playwright-core");
const given = JSON.parse(process.env.MOVER_CONSOLE_TEST);
const VIEWS = ["Overview", "Jobs", "Agents", "Policies", "Recovery points", "Audit log", "Tokens"];
/** No wait of a scenario is longer. */
const PATIENCE_MS = 60_000;

mkdirSync(given.screenshots, { recursive: true });

/** A page that notes what must not happen. `expected` are messages of the browser that belong to the scenario. */
async function open(browser, options = {}, expected = []) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 }, timezoneId: "Europe/Berlin", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const wrong = [];
  // The first look at the session finds none.
  const allowed = [/401 .*\/api\/v1\/session$/, ...expected];
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(given.url).origin) wrong.push(`a request leaves the origin: ${request.url()}`);
  });
  page.on("pageerror", (error) => wrong.push(`page error: ${error.message}`));
  page.on("console", (message) => {
    const text = `${message.text()} ${message.location().url}`;
    if (["error", "warning"].includes(message.type()) && !allowed.some((pattern) => pattern.test(text))) wrong.push(`console: ${text}`);
  });
  await page.goto(given.url);
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  return { page, wrong };
}

async function logIn(page, role = "admin") {
  await page.getByLabel("Token", { exact: true }).fill(given.tokens[role]);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
}

async function checked(page, name) {
  assert.deepEqual(await structure(page), [], name);
  assert.deepEqual(await width(page), [], name);
  assert.deepEqual(await contrast(page), [], name);
}

const shot = (page, name) => page.screenshot({ path: join(given.screenshots, `${name}.png`), fullPage: true });

/** Goes to a view by its address and waits until it is shown. */
async function visit(page, path, title) {
  await page.evaluate((hash) => { location.hash = hash; }, `#/${path}`);
  await page.getByRole("heading", { level: 1, name: title }).first().waitFor();
  await page.locator(".loading").waitFor({ state: "detached" });
}

const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  return { name: (element.getAttribute("aria-label") ?? element.textContent).trim(), tag: element.tagName, id: element.id,
    isOutlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
});

/** Presses Tab until `wanted` has the focus; each stop on the way must be seen. */
async function tabTo(page, wanted, limit = 80) {
  const seen = [];
  for (let press = 0; press < limit; press += 1) {
    await page.keyboard.press("Tab");
    const now = await focused(page);
    if (now.tag !== "BODY") assert.ok(now.isOutlined, `the focus is not seen on ${now.tag} ${now.name}`);
    if (wanted(now)) return now;
    seen.push(`${now.tag} ${now.name.slice(0, 20)}`);
  }
  return assert.fail(`the keyboard does not come there: ${seen.join(", ")}`);
}

const scenarios = {
  /** Nothing but the keyboard, from the token to every view. */
  async keyboard(browser) {
    const { page, wrong } = await open(browser);
    await checked(page, "log in");
    await shot(page, "login");
    assert.equal((await focused(page)).id, "token", "the token can be typed at once");
    await page.keyboard.type(given.tokens.admin);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
    for (const title of VIEWS) {
      await page.evaluate(() => document.activeElement.blur());
      await tabTo(page, ({ tag, name }) => tag === "A" && name === title);
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { level: 1, name: title }).waitFor();
      await page.locator(".loading").waitFor({ state: "detached" });
      assert.equal((await focused(page)).tag, "H1", `${title}: the focus follows`);
      await checked(page, title);
      await shot(page, `wide-${title.toLowerCase().replaceAll(" ", "-")}`);
    }
    await page.reload();
    await page.getByRole("heading", { level: 1, name: "Tokens" }).waitFor();
    await page.keyboard.press("Tab");
    assert.equal((await focused(page)).name, "Skip to content");
    await page.keyboard.press("Enter");
    assert.equal((await focused(page)).id, "main");
    await tabTo(page, ({ id }) => id === "make");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await checked(page, "dialog");
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    assert.equal((await focused(page)).id, "make", "the focus goes back to where the dialog came from");
    return wrong;
  },

  /** 360 px, light and dark: every view and the pages of single things, with nothing over the edge. */
  async phone(browser) {
    const paths = [["overview", "Overview"], ["jobs", "Jobs"], [`jobs/${given.completed}`, "Backup of"], [`jobs/${given.failed}`, "Backup of"],
      [`jobs/${given.running}`, "Backup of"], ["agents", "Agents"], ["policies", "Policies"], [`policies/${given.policy}`, "nightly"],
      ["policies/new", "New policy"], [`policies/${given.policy}/edit`, "Edit"], ["points", "Recovery points"],
      [`points/${given.completed}`, "Recovery point of"], ["audit", "Audit log"], ["tokens", "Tokens"]];
    const found = [];
    for (const [name, options] of [["phone", { viewport: { width: 360, height: 740 }, hasTouch: true }], ["phone-dark", { viewport: { width: 360, height: 740 }, colorScheme: "dark" }], ["wide-dark", { colorScheme: "dark" }]]) {
      const { page, wrong } = await open(browser, options);
      await logIn(page);
      for (const [path, title] of paths) {
        await visit(page, path, title);
        if (path.startsWith("points/")) await page.getByRole("table", { name: /Entries of/ }).waitFor();
        await checked(page, `${name} ${path}`);
        await shot(page, `${name}-${path.split("/").map((part) => (Object.values(given).includes(part) ? "one" : part)).join("-")}${path.endsWith(given.failed) ? "-failed" : path.endsWith(given.running) ? "-running" : ""}`);
      }
      if (name.startsWith("phone")) {
        await page.getByRole("button", { name: "Menu" }).click();
        await page.getByRole("link", { name: "Agents", exact: true }).waitFor();
        await page.getByRole("button", { name: "Log out" }).click();
        await page.getByRole("heading", { name: "Log in" }).waitFor();
      }
      found.push(...wrong);
      await page.context().close();
    }
    return found;
  },

  /** What is known of a job is shown: filesets, bytes, filters, exceptions, history; and it can be done once more. */
  async job(browser) {
    const { page, wrong } = await open(browser);
    await logIn(page, "operator");
    await visit(page, `jobs/${given.completed}`, "Backup of files");
    const text = await page.locator("main").innerText();
    for (const part of ["completed with errors", "2 of 2", "Unchanged", "1.0 GiB", "7 files and directories left out", "*.tmp", "/srv/files/locked.db", "locked by another program"]) {
      assert.ok(text.includes(part), `${part} in ${text}`);
    }
    assert.match(text, /\d\d:\d\d:\d\d CES?T/, "times show their zone");
    await shot(page, "job-completed");
    await visit(page, `jobs/${given.running}`, "Backup of");
    const running = await page.locator("main").innerText();
    for (const part of ["1 of 2", "the source", "50.0 MiB/s", "25 %"]) assert.ok(running.includes(part), `${part} in ${running}`);
    await shot(page, "job-running");
    await visit(page, `jobs/${given.failed}`, "Backup of");
    await page.getByText("the repository refused the password").first().waitFor();
    await page.getByRole("button", { name: "Retry" }).click();
    await page.getByRole("button", { name: "Run it again" }).click();
    await page.waitForURL((url) => url.hash.startsWith("#/jobs/") && !url.hash.endsWith(given.failed));
    await page.getByRole("button", { name: "Cancel job" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel the job" }).click();
    await page.locator(".heading .badge[data-state=cancelled]").waitFor();
    return wrong;
  },

  /** Browse, choose, restore: a job comes of it. */
  async restore(browser) {
    const { page, wrong } = await open(browser);
    await logIn(page, "operator");
    await visit(page, "points", "Recovery points");
    await page.locator(".grade.warm").first().waitFor();
    await visit(page, `points/${given.completed}`, "Recovery point of files");
    await page.locator("#what").getByText("full scan").waitFor();
    await page.getByRole("button", { name: "/srv/files" }).click();
    const row = page.getByRole("row", { name: /a name that is long/ });
    await row.waitFor();
    for (const part of ["1.2 MiB", "2026-03-01 13:30:05 CET"]) assert.ok((await row.innerText()).includes(part), part);
    await row.getByRole("checkbox").check();
    assert.equal(await page.locator("#what").getByText("full scan").count(), 0);
    await shot(page, "restore");
    await page.getByRole("button", { name: "Restore", exact: true }).click();
    await page.getByText("Say where to").waitFor();
    await page.getByLabel("Directory", { exact: true }).fill("/srv/restored");
    await page.getByLabel("Files that exist there").selectOption("never");
    await page.getByRole("button", { name: "Restore", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: "Restore of files" }).waitFor();
    const text = await page.locator("main").innerText();
    for (const part of ["/srv/restored", "a name that is long", "stay"]) assert.ok(text.includes(part), part);
    await shot(page, "restore-job");
    return wrong;
  },

  /** What others do is seen without a reload; a server that is away is told, and found again. */
  async live(browser) {
    const { page, wrong } = await open(browser, {}, [/ERR_INTERNET_DISCONNECTED/, /ERR_NETWORK/]);
    await logIn(page);
    await page.locator("#link.good").waitFor();
    await visit(page, "jobs", "Jobs");
    let loads = 0;
    page.on("load", () => (loads += 1));
    const made = await page.context().request.post(`${given.url}/api/v1/jobs`, { data: given.order, headers: { authorization: `Bearer ${given.tokens.admin}` } });
    assert.equal(made.status(), 201, await made.text());
    await page.getByRole("link", { name: given.order.set, exact: true }).waitFor();
    assert.equal(loads, 0);
    await page.context().setOffline(true);
    await visit(page, "agents", "Agents");
    await page.getByText("the server does not answer").first().waitFor();
    await page.context().setOffline(false);
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByRole("table", { name: "Agents" }).waitFor();
    return wrong;
  },

  /** Where no stream of events comes through, the console looks every few seconds and says so; and listens when it can. */
  async polling(browser) {
    const { page, wrong } = await open(browser, {}, [/\/api\/v1\/events/]);
    let refused = 0;
    let looks = 0;
    page.on("request", (request) => { if (request.url().endsWith("/api/v1/overview")) looks += 1; });
    await page.route("**/api/v1/events", (route) => {
      refused += 1;
      return route.abort("connectionreset");
    });
    await logIn(page);
    await page.locator("#link.warn").getByText("every 5 s").waitFor();
    assert.ok(refused >= 1);
    await visit(page, "jobs", "Jobs");
    const before = looks;
    const made = await page.context().request.post(`${given.url}/api/v1/jobs`, { data: given.order, headers: { authorization: `Bearer ${given.tokens.admin}` } });
    assert.equal(made.status(), 201, await made.text());
    await page.getByRole("link", { name: given.order.set, exact: true }).waitFor();
    assert.ok(looks > before, "the job was seen by a look");
    await shot(page, "polling");
    await page.unroute("**/api/v1/events");
    await page.locator("#link.good").getByText("live").waitFor();
    // Refused for good, a browser does not come again by itself: the console looks until it may listen.
    await page.route("**/api/v1/events", (route) => route.fulfill({ status: 429, contentType: "application/problem+json", body: "{}" }));
    await page.reload();
    await page.locator("#link.warn").getByText("every 5 s").waitFor();
    return wrong;
  },

  /** A policy by the form: refusals at their fields, then saved, run, switched off. */
  async policy(browser) {
    const { page, wrong } = await open(browser, {}, [/422 .*\/api\/v1\/policies/]);
    await logIn(page);
    await visit(page, "policies/new", "New policy");
    await page.getByLabel("Name", { exact: true }).fill("by hand");
    await page.getByLabel("Time zone of all times here").fill("Mars/Olympus");
    await page.getByRole("button", { name: "Save" }).click();
    const refusal = (place) => page.locator(`[data-place="${place}"] .field-error:visible`).first();
    await refusal("what.source").waitFor();
    assert.match(await refusal("when.zone").innerText(), /no IANA time zone/);
    await checked(page, "refused policy");
    await shot(page, "policy-refused");
    await page.getByLabel("Source", { exact: true }).fill("files");
    await page.getByLabel("Repository", { exact: true }).fill("/srv/backup");
    await page.getByLabel("Paths, one a line").fill("/srv/files");
    await page.getByLabel("Time zone of all times here").fill("Europe/Berlin");
    await page.getByLabel("At", { exact: true }).fill("02:30");
    await page.getByRole("button", { name: "Check without saving" }).click();
    await page.getByText("It could work").waitFor();
    await page.getByRole("button", { name: "Edit as JSON" }).click();
    const document = JSON.parse(await page.getByLabel("Policy", { exact: true }).inputValue());
    assert.deepEqual([document.what.filesets[0].paths, document.when.schedules[0].at], [["/srv/files"], ["02:30"]]);
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("heading", { level: 1, name: "by hand" }).waitFor();
    await page.getByRole("button", { name: "Disable by hand" }).click();
    await page.getByText("Disabled: no run comes by itself").waitFor();
    await page.getByRole("button", { name: "Run by hand now" }).click();
    await page.getByLabel("Wait for the agent if it is away").check();
    await page.getByRole("dialog").getByRole("button", { name: "Run now" }).click();
    await page.getByRole("heading", { level: 1, name: "Backup of by hand" }).waitFor();
    return wrong;
  },

  /** The night that nobody watched: what was aborted and what expired are warnings, what has exceptions stands apart. */
  async night(browser) {
    const { page, wrong } = await open(browser);
    await logIn(page, "viewer");
    const warned = page.getByRole("region", { name: /^Warnings/ });
    for (const text of ["databases: backup aborted", "archive: backup expired"]) await warned.getByText(text).waitFor();
    assert.equal(await warned.getByText("machines").count(), 0, "it has its recovery point");
    const partial = page.getByRole("region", { name: "Completed with exceptions in the last 24 hours" });
    await partial.getByText("machines: backup with").waitFor();
    await partial.getByText("3 exceptions").waitFor();
    assert.equal(await page.getByText("No warnings").count(), 0);
    await checked(page, "night");
    await shot(page, "night");
    return wrong;
  },

  /** Roles: a viewer is offered nothing that the server would refuse; an empty server says what to do. */
  async empty(browser) {
    const { page, wrong } = await open(browser, {}, [/401 .*/]);
    await page.getByLabel("Token", { exact: true }).fill("wrong");
    await page.keyboard.press("Enter");
    await page.locator("#token-error:visible").waitFor();
    await logIn(page, "viewer");
    for (const [path, title, says] of [["overview", "Overview", "No agent has joined yet"], ["jobs", "Jobs", "No job yet"], ["agents", "Agents", "No agents yet"],
      ["policies", "Policies", "No policies yet"], ["points", "Recovery points", "No recovery point yet"], ["nowhere", "Not shown", "no such page"]]) {
      await visit(page, path, title);
      await page.getByText(says).first().waitFor();
      await checked(page, path);
      await shot(page, `empty-${path}`);
    }
    assert.equal(await page.getByRole("link", { name: "Tokens" }).count(), 0);
    for (const name of ["Enrol an agent", "New policy"]) assert.equal(await page.getByText(name).count(), 0, name);
    await page.getByRole("button", { name: "Log out" }).click();
    await logIn(page, "admin");
    await visit(page, "agents", "Agents");
    await page.getByRole("button", { name: "Enrol an agent" }).click();
    await page.getByRole("button", { name: "Make a token" }).click();
    assert.match(await page.getByLabel("Command").inputValue(), /^mover agent enrol --server https:\S+ --ca-fingerprint \S+ --token mve_\S+$/);
    await shot(page, "enrol");
    return wrong;
  },
};

const browser = await chromium.launch({
  executablePath: process.env.MOVER_TEST_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"],
});
try {
  assert.deepEqual(await scenarios[process.argv[2]](browser), []);
} finally {
  await browser.close();
}

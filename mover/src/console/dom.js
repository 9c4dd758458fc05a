// Elements, made without markup in strings: nothing that a server says is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: name, attributes (`on…` are listeners), children. */
export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An SVG element. */
export function s(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

const keyOf = (element) => element?.id || element?.getAttribute?.("href") || element?.getAttribute?.("data-key");

/** Replaces what is in `container` and keeps the focus on the element that stands for the same thing. */
export function swap(container, ...children) {
  const active = container.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  container.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (!active) return;
  const candidates = container.querySelectorAll("a, button, input, select, textarea, [tabindex]");
  [...candidates].find((element) => keyOf(element) === active)?.focus({ preventScroll: true });
}

const HELD_MS = 300;
const held = new Map();
let isPressed = false;
addEventListener("pointerdown", () => (isPressed = true), true);
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => setTimeout(() => (isPressed = false)), true);

function isHeld(container) {
  const selection = document.getSelection();
  return isPressed || (!selection.isCollapsed && container.contains(selection.anchorNode) && !container.contains(document.activeElement));
}

/** As `swap`, for news: never under a finger that presses, nor under text that is selected; then a moment later. */
export function renew(container, ...children) {
  if (!isHeld(container)) {
    held.delete(container);
    swap(container, ...children);
    return;
  }
  const isWaiting = held.has(container);
  held.set(container, children);
  if (isWaiting) return;
  setTimeout(() => {
    const last = held.get(container);
    held.delete(container);
    if (last && container.isConnected) renew(container, ...last);
  }, HELD_MS);
}

/** A heading with its content, as a landmark. */
export function panel(title, ...children) {
  const id = `panel-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), children);
}

/**
 * A table that becomes a list of cards on a narrow screen. A column is `{ label, cell, kind }`, where kind is `number`,
 * `actions` or `wide`; the first column heads its row.
 */
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return h("div", { class: "empty" }, empty);
  const head = columns.map(({ label, kind }) =>
    h("th", { scope: "col", role: "columnheader", class: kind },
      kind === "actions" ? h("span", { class: "hidden" }, label) : label));
  const line = (row) => columns.map(({ label, cell, kind }, index) => {
    const content = cell(row) ?? "–";
    return index === 0
      ? h("th", { scope: "row", role: "rowheader", class: kind }, content)
      : h("td", { role: "cell", class: kind, "data-label": kind === "actions" ? null : label },
        kind === "actions" ? content : h("div", {}, content));
  });
  return h("table", { role: "table" },
    h("caption", { class: "hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, line(row)))));
}

/** Terms with their values; those without a value are left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, known.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** A labelled control with a place for a hint and for a refusal. */
export function field(label, control, { hint, place, id } = {}) {
  const name = id ?? control.id;
  control.id = name;
  const described = [];
  const parts = [h("label", { for: name }, label), control];
  if (hint) {
    described.push(`${name}-hint`);
    parts.push(h("p", { class: "hint", id: `${name}-hint` }, hint));
  }
  described.push(`${name}-error`);
  parts.push(h("p", { class: "field-error", id: `${name}-error`, hidden: true }));
  control.setAttribute("aria-describedby", described.join(" "));
  return h("div", { class: "field", "data-place": place }, parts);
}

/** Shows a refusal at a field, or takes it away. */
export function refuse(container, reason) {
  const control = container.querySelector("input, select, textarea");
  const error = container.querySelector(".field-error");
  if (!error) return;
  error.textContent = reason ?? "";
  error.hidden = !reason;
  if (control && reason) control.setAttribute("aria-invalid", "true");
  else control?.removeAttribute("aria-invalid");
}

/** A choice among `[value, label]` pairs. */
export function select(id, options, value, properties = {}) {
  const made = options.map(([key, label]) => h("option", { value: key, selected: key === value }, label));
  return h("select", { id, ...properties }, made);
}

/** Calls `work` once, a moment after the last of many calls. */
export function settle(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

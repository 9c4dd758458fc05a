// What holds on every page: names of controls, headings, contrast, width. Each check gives back what is wrong.

/** Contrast of text against its ground, by the palette of the page (WCAG 2.2, 1.4.3). */
const PAIRS = [
  ["text", "ground"], ["text", "panel"], ["dim", "ground"], ["dim", "panel"], ["link", "ground"], ["link", "panel"], ["text", "hover"],
  ["dim", "hover"], ["link", "hover"], ["on-primary", "primary"], ["text", "field"], ["dim", "field"], ["good", "good-ground"],
  ["warn", "warn-ground"], ["text", "warn-ground"], ["link", "warn-ground"], ["bad", "bad-ground"], ["active", "active-ground"],
  ["text", "active-ground"], ["quiet", "quiet-ground"], ["good", "panel"], ["warn", "panel"], ["bad", "panel"], ["good", "ground"],
  ["warn", "hover"], ["bad", "hover"], ["quiet", "panel"], ["active", "panel"],
];
const CONTRAST_MIN = 4.5;
/** Of a control against its surroundings (1.4.11). */
const EDGES = [["field-line", "panel"], ["field-line", "field"], ["focus", "panel"], ["focus", "ground"]];
const EDGE_MIN = 3;

export async function contrast(page) {
  return page.evaluate(({ pairs, edges, least, edge }) => {
    const style = getComputedStyle(document.documentElement);
    const luminance = (name) => {
      const hex = style.getPropertyValue(`--${name}`).trim();
      if (!/^#[0-9a-f]{6}$/i.test(hex)) throw new Error(`--${name} is ${hex}`);
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => {
      const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
      return (high + 0.05) / (low + 0.05);
    };
    const weak = (list, limit) => list.filter(([a, b]) => ratio(a, b) < limit).map(([a, b]) => `${a} on ${b}: ${ratio(a, b).toFixed(2)} < ${limit}`);
    return [...weak(pairs, least), ...weak(edges, edge)];
  }, { pairs: PAIRS, edges: EDGES, least: CONTRAST_MIN, edge: EDGE_MIN });
}

/** Labels, headings, landmarks, ids, names: what a screen reader needs. */
export async function structure(page) {
  return page.evaluate(() => {
    const wrong = [];
    const isShown = (element) => element.checkVisibility({ checkOpacity: false });
    const nameOf = (element) => element.getAttribute("aria-label") || element.labels?.[0]?.textContent || element.textContent || element.title || "";
    for (const control of document.querySelectorAll("input, select, textarea")) {
      if (isShown(control) && !(control.labels?.length > 0 || control.getAttribute("aria-label"))) wrong.push(`no label: ${control.outerHTML}`);
    }
    for (const control of document.querySelectorAll("button, a, summary")) {
      if (isShown(control) && nameOf(control).trim() === "") wrong.push(`no name: ${control.outerHTML}`);
    }
    const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
    wrong.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `id twice: ${id}`));
    for (const element of document.querySelectorAll("[aria-describedby], [aria-labelledby], [aria-controls]")) {
      for (const name of ["aria-describedby", "aria-labelledby", "aria-controls"]) {
        for (const id of (element.getAttribute(name) ?? "").split(" ").filter(Boolean)) {
          if (!document.getElementById(id)) wrong.push(`${name} leads nowhere: ${id}`);
        }
      }
    }
    const count = document.querySelectorAll("h1").length;
    if (count !== 1) wrong.push(`${count} headings of the first level`);
    let level = 1;
    for (const heading of document.querySelectorAll("main h1, main h2, main h3")) {
      const next = Number(heading.tagName[1]);
      if (next > level + 1) wrong.push(`a heading is left out before ${heading.textContent}`);
      level = next;
    }
    for (const landmark of ["main", "header"]) {
      if (document.querySelectorAll(landmark).length !== 1) wrong.push(`not one ${landmark}`);
    }
    if (!document.documentElement.lang || !document.title) wrong.push("no language or no title");
    for (const table of document.querySelectorAll("table")) if (!table.caption) wrong.push("a table without a caption");
    if (document.querySelector("[style], main script")) wrong.push("a style or a script inside the page");
    if (document.querySelector("main").textContent.trim() === "") wrong.push("a blank page");
    if (document.querySelector("[tabindex]:not([tabindex='0'], [tabindex='-1'])")) wrong.push("an order of its own for the keyboard");
    if (/undefined|NaN|\[object/.test(document.querySelector("main").innerText)) wrong.push(`leaks a value of the program: ${document.querySelector("main").innerText.match(/.{0,40}(undefined|NaN|\[object).{0,40}/)[0]}`);
    return wrong;
  });
}

/** What stands out over the right edge. */
export async function width(page) {
  return page.evaluate(() => {
    const root = document.documentElement;
    if (root.scrollWidth <= root.clientWidth) return [];
    const out = [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > root.clientWidth + 1);
    return [`${root.scrollWidth} wide in ${root.clientWidth}: ${out.slice(0, 3).map((element) => element.outerHTML.slice(0, 80)).join(" | ")}`];
  });
}

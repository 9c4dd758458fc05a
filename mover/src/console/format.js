// Bytes, rates, times and durations as people read them. Times always show their zone.

import { h } from "./dom.js";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const ZONE_KEY = "mover.zone";

/** 1536 → 1.5 KiB. */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Bytes a second. */
export const rate = (perSecond) => `${bytes(perSecond)}/s`;

/** 12345 → 12,345. */
export const number = (count) => (count ?? 0).toLocaleString("en");

/** `1 file`, `2 files`. */
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** 3725 s → 1 h 2 min. */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([count]) => count > 0).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** The zone of this browser. */
export const localZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

/** The zone that times are shown in. */
export const zone = () => (localStorage.getItem(ZONE_KEY) === "UTC" ? "UTC" : localZone());

/** Shows times in UTC, or in the zone of this browser. */
export const setZone = (name) => localStorage.setItem(ZONE_KEY, name);

function parts(date) {
  const format = new Intl.DateTimeFormat("en-GB", {
    timeZone: zone(), year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
    second: "2-digit", hourCycle: "h23", timeZoneName: "short",
  });
  return Object.fromEntries(format.formatToParts(date).map(({ type, value }) => [type, value]));
}

/** 2026-11-26 18:54:42 CET, from unix milliseconds or RFC 3339. */
export function moment(when) {
  const date = new Date(when);
  if (Number.isNaN(date.getTime())) return String(when);
  const p = parts(date);
  return `${p.year}-${p.month}-${p.day} ${p.hour}:${p.minute}:${p.second} ${p.timeZoneName}`;
}

/** 3 min ago; in 2 h. */
export function relative(when, now = Date.now()) {
  const distance = new Date(when).getTime() - now;
  if (Math.abs(distance) < 5000) return "now";
  const text = duration(Math.abs(distance)).split(" ").slice(0, 2).join(" ");
  return distance < 0 ? `${text} ago` : `in ${text}`;
}

/** A time, whole. */
export function time(when) {
  if (when === null || when === undefined) return null;
  return h("time", { datetime: new Date(when).toISOString(), title: relative(when) }, moment(when));
}

/** A time as its distance, with the whole in small beside it. */
export function ago(when, missing = "never") {
  if (when === null || when === undefined) return h("span", { class: "dim" }, missing);
  return h("time", { datetime: new Date(when).toISOString(), class: "ago" },
    h("span", {}, relative(when)), h("small", {}, moment(when)));
}

/** `completed_with_errors` → completed with errors. */
export const words = (name) => String(name).replaceAll("_", " ");

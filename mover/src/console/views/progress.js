// How far a job is: the same words and bars in the overview and on the page of a job.

import { h } from "../dom.js";
import { bytes, duration, plural, rate, words } from "../format.js";
import { sparkline } from "../icons.js";
import { live } from "../live.js";

/** Bytes that a job of this kind has behind it. */
export function bytesDone(kind, progress) {
  if (kind === "restore") return progress.bytes.restored || progress.bytes.read;
  if (kind === "verify") return progress.bytes.verified;
  return progress.bytes.read + progress.bytes.unchanged;
}

/** From 0 to 1; null where nothing was estimated yet. */
export function share(kind, progress) {
  if (progress.bytes_estimated > 0) return Math.min(1, bytesDone(kind, progress) / progress.bytes_estimated);
  if (progress.files_estimated > 0) return Math.min(1, progress.files / progress.files_estimated);
  return null;
}

/** A bar with its words. */
export function bar(kind, progress) {
  const part = share(kind, progress);
  const done = bytesDone(kind, progress);
  const percent = part === null ? null : Math.floor(part * 100);
  const left = part !== null && progress.bytes_per_second > 0 ? (progress.bytes_estimated - done) / progress.bytes_per_second : null;
  const text = [
    percent === null ? bytes(done) : `${percent} % · ${bytes(done)} of ${bytes(progress.bytes_estimated)}`,
    left > 0 ? `${duration(left * 1000)} left` : null,
  ].filter(Boolean).join(" · ");
  return h("div", { class: "bar" },
    h("progress", { max: 100, value: percent ?? undefined, "aria-label": "Done so far", "aria-valuetext": text }),
    h("small", {}, text));
}

/** The rate of a job now, and its last minutes. */
export function speed(id, progress) {
  return h("span", { class: "speed" }, sparkline(live.rates.get(id) ?? [progress.bytes_per_second]), h("span", {}, rate(progress.bytes_per_second)));
}

/** `fileset 2 of 5`. */
export const filesetOf = ({ fileset, filesets }) => (filesets > 0 ? `fileset ${fileset} of ${filesets}` : null);

const WAITS = {
  source: "the source", repository: "the repository", target: "the target",
};

/** The stage that all others wait for. */
export function bottleneck(progress) {
  const name = progress.bottleneck;
  if (!name) return h("span", { class: "dim" }, "not known yet");
  return h("span", { class: "bottleneck", title: "All other stages wait for this one" }, WAITS[name] ?? words(name));
}

export const exceptionsOf = (count) => (count > 0 ? h("span", { class: "text-warn" }, plural(count, "exception")) : null);

// The icons: one stroke each, drawn in the colour of the text, told to nobody who listens.

import { s } from "./dom.js";

const PATHS = {
  queued: "M8 4.5V8l2.5 1.5M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0Z",
  estimating: "M3 13V9m3.3 4V5m3.4 8V7M13 13V3",
  running: "M5 3.5v9L12.5 8 5 3.5Z",
  verifying: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10Zm3.6-1.4L14 14",
  completed: "m3 8.5 3.3 3.3L13 4.5",
  completed_with_errors: "M8 5.5v3.2m0 2.3v.1M8 2 1.5 13.5h13L8 2Z",
  failed: "m4 4 8 8m0-8-8 8",
  aborted: "M5.2 2h5.6L14 5.2v5.6L10.8 14H5.2L2 10.8V5.2L5.2 2Zm.6 6h4.4",
  cancelled: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0ZM4 12l8-8",
  skipped: "m3 4 5 4-5 4V4Zm6 0 4 4-4 4",
  expired: "M4 2h8M4 14h8M5 2v2.5L8 8l3-3.5V2M5 14v-2.5L8 8l3 3.5V14",
  away: "M2 2l12 12M8 12.5v.1M5.2 9.8a4 4 0 0 1 4-1M2.6 7a7.6 7.6 0 0 1 3-1.8M8.6 4.6A7.6 7.6 0 0 1 13.4 7",
  connected: "M8 12.5v.1M5.2 9.8a4 4 0 0 1 5.6 0M2.6 7a7.6 7.6 0 0 1 10.8 0",
  draining: "M8 2v8m-3-3 3 3 3-3M3 13.5h10",
  warning: "M8 5.5v3.2m0 2.3v.1M8 2 1.5 13.5h13L8 2Z",
  folder: "M2 4.5v8h12v-6.5H8L6.5 4.5H2Z",
  file: "M4 2h5l3 3v9H4V2Zm5 0v3h3",
  link: "M6.5 9.5 9.5 6.5M7 4.5 8.5 3a3 3 0 0 1 4.3 4.3L11.3 8.8M9 11.5 7.5 13a3 3 0 0 1-4.3-4.3l1.5-1.5",
  menu: "M2.5 4.5h11m-11 3.5h11m-11 3.5h11",
  mover: "M2.5 4.5h6m-6 3.5h10.5m-3.5-3.5L13 8l-3.5 3.5m-7 0h6",
};

/** An icon of this name. */
export function icon(name) {
  const path = s("path", { d: PATHS[name] ?? PATHS.file });
  return s("svg", { class: "icon", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", focusable: "false" }, path);
}

const WIDTH = 96;
const HEIGHT = 22;

/** A small line of the last values, from 0 to the largest; what it says stands beside it in words. One value is no line. */
export function sparkline(values) {
  if (values.length < 2) return null;
  const most = Math.max(1, ...values);
  const step = WIDTH / (values.length - 1);
  const point = (value, index) => `${(index * step).toFixed(1)},${(HEIGHT - 2 - (value / most) * (HEIGHT - 4)).toFixed(1)}`;
  const line = values.map(point).join(" ");
  const area = s("polygon", { points: `0,${HEIGHT} ${line} ${WIDTH},${HEIGHT}` });
  return s("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true", focusable: "false" },
    area, s("polyline", { points: line }));
}

// What happens now: server-sent events, and where they do not come through, a look every few seconds.
//
// Tells `job` (an event of a job), `progress` (all running jobs) and `link` (how news arrive). Keeps the last rates of
// each running job, for their small lines.

import { api } from "./api.js";

const POLL_MS = 5000;
const RETRY_MS = 30000;
const SAMPLES = 60;

class Live extends EventTarget {
  constructor() {
    super();
    this.link = "connecting";
    this.rates = new Map();
    this.total = [];
    this.running = [];
  }

  start() {
    this.stop();
    this.source = new EventSource("/api/v1/events");
    this.source.addEventListener("open", () => this.arrived());
    this.source.addEventListener("job", (event) => this.tell("job", JSON.parse(event.data)));
    this.source.addEventListener("progress", (event) => this.progress(JSON.parse(event.data)));
    this.source.addEventListener("error", () => {
      this.timer ??= setInterval(() => this.look(), POLL_MS);
      this.look();
      // A browser comes again by itself, unless the server refused; then it is asked again later.
      if (this.source?.readyState === EventSource.CLOSED) this.retry = setTimeout(() => this.start(), RETRY_MS);
    });
  }

  stop() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.retry);
    clearInterval(this.timer);
    this.timer = null;
  }

  arrived() {
    clearInterval(this.timer);
    this.timer = null;
    // What happened while nobody listened is in the lists.
    if (this.link === "polling" || this.link === "away") this.tell("job", null);
    this.linked("live");
  }

  linked(link) {
    if (this.link === link) return;
    this.link = link;
    this.tell("link", link);
  }

  async look() {
    try {
      const overview = await api.get("/overview");
      if (this.timer === null) return;
      this.linked("polling");
      this.progress(overview.running);
      this.tell("job", null);
    } catch {
      if (this.timer !== null) this.linked("away");
    }
  }

  progress(running) {
    const seen = new Set();
    for (const { job, progress } of running) {
      seen.add(job);
      const rates = this.rates.get(job) ?? [];
      rates.push(progress.bytes_per_second);
      this.rates.set(job, rates.slice(-SAMPLES));
    }
    for (const job of this.rates.keys()) if (!seen.has(job)) this.rates.delete(job);
    this.total.push(running.reduce((sum, { progress }) => sum + progress.bytes_per_second, 0));
    this.total = this.total.slice(-SAMPLES);
    this.running = running;
    this.tell("progress", running);
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

export const live = new Live();

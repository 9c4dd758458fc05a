//! Progress as a person or a program wants it: a bar with rate and ETA on a terminal, plain lines
//! every few seconds elsewhere, JSON lines with `--json`, nothing with `--quiet`.
//!
//! It only reads counters, on its own thread named `progress`; a job never waits for it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::output::Output;
use super::units::{human_bytes, human_count, human_duration};

/// Time between two looks at the counters for a bar.
const BAR_TICK: Duration = Duration::from_millis(100);

/// What the counters say at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Files done, or what `unit` names.
    pub files: u64,
    /// What is counted beside bytes.
    pub unit: &'static str,
    /// Bytes done (read, compared or written): the rate and the ETA go by these.
    pub bytes: u64,
    /// Bytes expected, once that is known or can be guessed.
    pub bytes_expected: Option<u64>,
    /// Bytes that were new to the repository, where that has a meaning.
    pub bytes_new: Option<u64>,
    /// Bytes handed to the repository, where that has a meaning.
    pub bytes_stored: Option<u64>,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot { files: 0, unit: "files", bytes: 0, bytes_expected: None, bytes_new: None, bytes_stored: None }
    }
}

/// A running view; dropped, it clears its bar and ends.
pub struct ProgressView {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressView {
    /// Starts to show `read` under `title`; plain and JSON lines come every `interval`.
    pub fn start(
        output: &Arc<Output>,
        title: &'static str,
        interval: Duration,
        read: impl Fn() -> Snapshot + Send + 'static,
    ) -> ProgressView {
        if output.quiet {
            return ProgressView { stop: None, thread: None };
        }
        let (stop, stopped) = channel::<()>();
        let output = Arc::clone(output);
        let bar = (!output.json && std::io::stderr().is_terminal()).then(|| new_bar(title));
        let interval = if bar.is_some() { BAR_TICK } else { interval.max(BAR_TICK) };
        let show = move || {
            let started = Instant::now();
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let snapshot = read();
                match &bar {
                    Some(bar) => draw(bar, &snapshot),
                    None if output.json => emit(&output, title, &snapshot, started.elapsed()),
                    None => eprintln!("{}", plain_line(title, &snapshot, started.elapsed())),
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        ProgressView { stop: Some(stop), thread }
    }
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn new_bar(title: &'static str) -> ProgressBar {
    // shown only once it has its style and title
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    bar.set_style(spinner_style());
    bar.set_prefix(title);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bar_style() -> ProgressStyle {
    let template = "{prefix} [{bar:28}] {percent:>3}%  {binary_bytes} of {binary_total_bytes}  \
                    {binary_bytes_per_sec}  ETA {eta}  {msg}";
    ProgressStyle::with_template(template)
        .map(|style| style.progress_chars("=> "))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn draw(bar: &ProgressBar, snapshot: &Snapshot) {
    if let Some(expected) = snapshot.bytes_expected.filter(|expected| *expected > 0) {
        if bar.length().is_none() {
            bar.set_style(bar_style());
        }
        bar.set_length(expected.max(snapshot.bytes));
    }
    bar.set_position(snapshot.bytes);
    let new = snapshot.bytes_new.map(|bytes| format!(", {} new", human_bytes(bytes))).unwrap_or_default();
    bar.set_message(format!("{} {}{new}", human_count(snapshot.files), snapshot.unit));
    bar.tick();
}

fn remaining(snapshot: &Snapshot, elapsed: Duration) -> Option<Duration> {
    let expected = snapshot.bytes_expected.filter(|expected| *expected > snapshot.bytes)?;
    let rate = snapshot.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    (rate >= 1.0).then(|| Duration::from_secs_f64(((expected - snapshot.bytes) as f64 / rate).min(1e9)))
}

fn plain_line(title: &str, snapshot: &Snapshot, elapsed: Duration) -> String {
    let rate = snapshot.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!("{title}: {} {}", human_count(snapshot.files), snapshot.unit);
    line.push_str(&format!(", {}", human_bytes(snapshot.bytes)));
    if let Some(expected) = snapshot.bytes_expected.filter(|expected| *expected > 0) {
        let percent = (snapshot.bytes as f64 * 100.0 / expected as f64).min(100.0);
        line.push_str(&format!(" of {} ({percent:.0}%)", human_bytes(expected)));
    }
    line.push_str(&format!(", {}/s", human_bytes(rate as u64)));
    if let Some(bytes) = snapshot.bytes_new {
        line.push_str(&format!(", {} new", human_bytes(bytes)));
    }
    if let Some(left) = remaining(snapshot, elapsed) {
        line.push_str(&format!(", {} left", human_duration(left)));
    }
    line
}

fn emit(output: &Output, title: &str, snapshot: &Snapshot, elapsed: Duration) {
    let fields = json!({
        "step": title,
        snapshot.unit: snapshot.files,
        "bytes": snapshot.bytes,
        "bytes_expected": snapshot.bytes_expected,
        "bytes_new": snapshot.bytes_new,
        "bytes_stored": snapshot.bytes_stored,
        "seconds": elapsed.as_secs_f64(),
        "seconds_left": remaining(snapshot, elapsed).map(|left| left.as_secs()),
    });
    let _ = output.object("progress", fields);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_tells_rate_and_time_left() {
        let snapshot =
            Snapshot { files: 1200, bytes: 50 << 20, bytes_expected: Some(200 << 20), ..Snapshot::default() };
        let line = plain_line("backup", &snapshot, Duration::from_secs(5));
        assert_eq!(line, "backup: 1,200 files, 50.0 MiB of 200.0 MiB (25%), 10.0 MiB/s, 15.0s left");
        let unknown = Snapshot { bytes: 10, bytes_new: Some(4), ..Snapshot::default() };
        assert_eq!(plain_line("backup", &unknown, Duration::from_secs(1)), "backup: 0 files, 10 B, 10 B/s, 4 B new");
    }

    #[test]
    fn a_view_ends_at_once_when_dropped() {
        let output = Arc::new(Output::new(false, false));
        let started = Instant::now();
        drop(ProgressView::start(&output, "backup", Duration::from_secs(3600), Snapshot::default));
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}

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
use serde_json::{Value, json};

use super::output::Output;
use super::rate::Rate;
use super::terminal;
use super::units::{human_bytes, human_count, human_duration};

/// Time between two looks at the counters for a bar.
const BAR_TICK: Duration = Duration::from_millis(100);
/// Length of the drawn bar.
const GRAPHIC_COLUMNS: usize = 20;

/// What the counters say at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Files done, or what `unit` names.
    pub files: u64,
    /// Files expected, once that is known or can be guessed.
    pub files_expected: Option<u64>,
    /// What is counted beside bytes.
    pub unit: &'static str,
    /// Bytes done (read, compared or written): the rate and the ETA go by these.
    pub bytes: u64,
    /// Bytes expected, once that is known or can be guessed.
    pub bytes_expected: Option<u64>,
    /// The fileset in work, from 1, and how many there are; 0 where that has no meaning.
    pub fileset: (u64, u64),
    /// Bytes that were new to the repository, where that has a meaning.
    pub bytes_new: Option<u64>,
    /// Bytes handed to the repository, where that has a meaning.
    pub bytes_stored: Option<u64>,
    /// What has limited the job so far, where that is known, and how much of the limit it is, 0 to 1.
    pub bottleneck: Option<(String, f64)>,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot {
            files: 0,
            files_expected: None,
            unit: "files",
            bytes: 0,
            fileset: (0, 0),
            bytes_expected: None,
            bytes_new: None,
            bytes_stored: None,
            bottleneck: None,
        }
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
            let mut rate = Rate::default();
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let (snapshot, elapsed) = (read(), started.elapsed());
                rate.update(elapsed, snapshot.bytes);
                match &bar {
                    Some(bar) => bar.set_message(bar_line(title, &snapshot, &rate, terminal::columns())),
                    None if output.json => emit(&output, title, &snapshot, elapsed, &rate),
                    None => terminal::say(&plain_line(title, &snapshot, &rate)),
                }
            }
            if let Some(bar) = bar {
                terminal::lower();
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
    // the line is made to fit; if the terminal shrinks meanwhile, it is cut rather than wrapped
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style);
    bar.set_message(title);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    terminal::raise(&bar);
    bar
}

/// Share done, if anything is known of the whole.
fn share(snapshot: &Snapshot) -> Option<(f64, u64)> {
    let expected = snapshot.bytes_expected.filter(|expected| *expected > 0)?.max(snapshot.bytes);
    Some((snapshot.bytes as f64 / expected as f64, expected))
}

/// The line of a bar in `columns` columns: what matters least is left out where it does not fit.
fn bar_line(title: &str, snapshot: &Snapshot, rate: &Rate, columns: usize) -> String {
    let rate_text = format!("{}/s", human_bytes(rate.per_second() as u64));
    let eta = rate.remaining(snapshot.bytes_expected).map(|left| format!("ETA {}", human_duration(left)));
    let files = format!("{} {}", human_count(snapshot.files), snapshot.unit);
    let new = snapshot.bytes_new.map(|bytes| format!("{} new", human_bytes(bytes)));
    let (done, graphic) = match share(snapshot) {
        Some((share, expected)) => {
            let done = format!("{:>3.0}%  {} of {}", share * 100.0, human_bytes(snapshot.bytes), human_bytes(expected));
            let filled = (share * GRAPHIC_COLUMNS as f64) as usize;
            (done, Some(format!("[{:<GRAPHIC_COLUMNS$}]", "=".repeat(filled))))
        }
        None => (human_bytes(snapshot.bytes), None),
    };
    // as they stand in the line, each with its importance: 0 always stays
    let fields = [
        (0, Some(title.to_owned())),
        (4, graphic),
        (0, Some(done)),
        (2, Some(rate_text)),
        (1, eta),
        (3, Some(files)),
        (5, new),
    ];
    for least in (0..=5).rev() {
        let shown = fields.iter().filter(|(importance, _)| *importance <= least);
        let line = shown.filter_map(|(_, text)| text.as_deref()).collect::<Vec<_>>().join("  ");
        if line.len() < columns || least == 0 {
            return line;
        }
    }
    String::new()
}

fn plain_line(title: &str, snapshot: &Snapshot, rate: &Rate) -> String {
    let mut line = format!("{title}: {} {}", human_count(snapshot.files), snapshot.unit);
    line.push_str(&format!(", {}", human_bytes(snapshot.bytes)));
    if let Some((share, expected)) = share(snapshot) {
        line.push_str(&format!(" of {} ({:.0}%)", human_bytes(expected), share * 100.0));
    }
    line.push_str(&format!(", {}/s", human_bytes(rate.per_second() as u64)));
    if let Some(bytes) = snapshot.bytes_new {
        line.push_str(&format!(", {} new", human_bytes(bytes)));
    }
    if let Some(left) = rate.remaining(snapshot.bytes_expected) {
        line.push_str(&format!(", {} left", human_duration(left)));
    }
    line
}

fn emit(output: &Output, title: &str, snapshot: &Snapshot, elapsed: Duration, rate: &Rate) {
    let _ = output.object("progress", json_line(title, snapshot, elapsed, rate));
}

/// What a line of `--json` says.
fn json_line(title: &str, snapshot: &Snapshot, elapsed: Duration, rate: &Rate) -> Value {
    // As the summary has it, less of it.
    let bottleneck = snapshot.bottleneck.as_ref().map(|(limit, share)| json!({ "limit": limit, "limit_share": share }));
    json!({
        "step": title,
        snapshot.unit: snapshot.files,
        "bytes": snapshot.bytes,
        "fileset": snapshot.fileset.0,
        "filesets": snapshot.fileset.1,
        "bytes_per_second": rate.per_second() as u64,
        "files_expected": snapshot.files_expected,
        "bytes_expected": snapshot.bytes_expected,
        "bytes_new": snapshot.bytes_new,
        "bytes_stored": snapshot.bytes_stored,
        "bottleneck": bottleneck,
        "seconds": elapsed.as_secs_f64(),
        "seconds_left": rate.remaining(snapshot.bytes_expected).map(|left| left.as_secs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 MiB a second for five seconds.
    fn steady() -> Rate {
        let mut rate = Rate::default();
        (1..=5u32).for_each(|second| rate.update(Duration::from_secs(second.into()), u64::from(second) * (10 << 20)));
        rate
    }

    fn snapshot() -> Snapshot {
        Snapshot { files: 1200, bytes: 50 << 20, bytes_expected: Some(200 << 20), ..Snapshot::default() }
    }

    #[test]
    fn a_plain_line_tells_rate_and_time_left() {
        let line = plain_line("backup", &snapshot(), &steady());
        assert_eq!(line, "backup: 1,200 files, 50.0 MiB of 200.0 MiB (25%), 10.0 MiB/s, 15.0s left");
        let unknown = Snapshot { bytes: 10, bytes_new: Some(4), ..Snapshot::default() };
        let mut rate = Rate::default();
        rate.update(Duration::from_secs(1), 10);
        assert_eq!(plain_line("backup", &unknown, &rate), "backup: 0 files, 10 B, 10 B/s, 4 B new");
    }

    /// Who watched a job was told what limits it when it was over.
    #[test]
    fn a_json_line_tells_what_limits_the_job_so_far() {
        let line = |snapshot: &Snapshot| json_line("backup", snapshot, Duration::from_secs(5), &steady());
        assert!(line(&snapshot())["bottleneck"].is_null(), "nothing has moved yet");
        let limited = Snapshot { bottleneck: Some(("the source".to_owned(), 0.9)), ..snapshot() };
        assert_eq!(line(&limited)["bottleneck"], json!({ "limit": "the source", "limit_share": 0.9 }));
    }

    /// At 80 columns the bar wrapped, and every redraw left a line behind.
    #[test]
    fn a_bar_fits_its_terminal_and_keeps_what_matters_most() {
        let full = Snapshot { bytes_new: Some(20 << 20), ..snapshot() };
        let line = |columns| bar_line("backup", &full, &steady(), columns);
        let all = "backup  [=====               ]   25%  50.0 MiB of 200.0 MiB  10.0 MiB/s  ETA 15.0s  1,200 files  20.0 MiB new";
        assert_eq!(line(120), all);
        assert_eq!(line(80), "backup   25%  50.0 MiB of 200.0 MiB  10.0 MiB/s  ETA 15.0s  1,200 files");
        assert_eq!(line(60), "backup   25%  50.0 MiB of 200.0 MiB  10.0 MiB/s  ETA 15.0s");
        for columns in 40..200 {
            assert!(line(columns).len() < columns, "{columns}");
        }
    }

    #[test]
    fn a_view_ends_at_once_when_dropped() {
        let output = Arc::new(Output::new(false, false));
        let started = Instant::now();
        drop(ProgressView::start(&output, "backup", Duration::from_secs(3600), Snapshot::default));
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}

//! Runs jobs on the shards: progress on one side, interruption on the other.
//!
//! The shards are started once a process and serve all its jobs, one after another.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mover_actors::bottleneck::Stopwatch;
use mover_actors::error::Failure;
use mover_actors::progress::{self, Progress, Slowed};
use mover_actors::runtime::{ShardOptions, ShardRuntime, Shards, StopSignal};

use super::Session;
use super::error::{CliError, Result};
use super::interrupt;
use super::progress_view::{ProgressView, Snapshot};
use super::terminal;

/// The shards of this process.
pub struct Engine {
    shards: Shards,
}

/// What a job shows while it runs.
pub struct View {
    /// Its name, the first word of a bar or line.
    pub title: &'static str,
    /// What is said when the first signal asks it to stop.
    pub on_interrupt: &'static str,
    /// Bytes that are expected, as far as anybody but the job itself knows; asked again and again.
    pub bytes_expected: Box<dyn Fn() -> Option<u64> + Send>,
    /// An actor that is slowed down on purpose.
    pub slowed: Option<Slowed>,
}

impl Engine {
    /// Starts the shards.
    ///
    /// # Errors
    /// If the kernel refuses an executor.
    pub fn start(session: &Session) -> Result<Engine> {
        let options = ShardOptions { shards: session.resolved.shards };
        let shards = Shards::start(options).map_err(|error| {
            let help = error.guidance().unwrap_or_else(|| "`mover doctor` looks for the cause".to_owned());
            CliError::failed(error.to_string(), help)
        })?;
        Ok(Engine { shards })
    }

    /// Runs one job to its end, shows its progress, and passes the first signal on to it.
    pub fn run<T, F, Fut>(&self, session: &Session, view: View, make: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(ShardRuntime, Arc<Progress>, StopSignal) -> Fut + Send + 'static,
        Fut: Future<Output = std::result::Result<T, Failure>> + 'static,
    {
        let progress = Progress::with_slowed(view.slowed);
        let stop = StopSignal::new();
        let to_stop = stop.clone();
        let on_interrupt = view.on_interrupt;
        let _graceful = interrupt::graceful(move || {
            terminal::say(&format!("interrupted: {on_interrupt} (once more to stop at once)"));
            to_stop.request();
        });
        let interval = session.resolved.settings.progress_interval.map_or(Duration::from_secs(5), |p| p.0);
        let shown = Arc::clone(&progress);
        let from_outside = view.bytes_expected;
        // A look at all threads; only lines for programs have room for what it tells.
        let watch = session.output.json.then(|| Watch::start(session.resolved.shards));
        let bar = ProgressView::start(&session.output, view.title, interval, move || {
            let now = shown.snapshot();
            Snapshot {
                bottleneck: watch.as_ref().and_then(|watch| watch.bottleneck(&now)),
                ..snapshot(&now, &*from_outside)
            }
        });
        let result = self.shards.run(move |runtime| make(runtime, progress, stop));
        drop(bar);
        Ok(result?)
    }
}

/// Follows what limits a job while it runs.
struct Watch {
    began: Instant,
    stopwatch: Stopwatch,
    shards: usize,
}

impl Watch {
    fn start(shards: usize) -> Watch {
        Watch { began: Instant::now(), stopwatch: Stopwatch::start(Duration::ZERO), shards }
    }

    /// From the beginning until now; nothing before anything has moved.
    fn bottleneck(&self, now: &progress::Snapshot) -> Option<(String, f64)> {
        let has_moved = now.actors.iter().any(|actor| actor.messages > 0);
        let found = has_moved.then(|| self.stopwatch.stop(self.began.elapsed(), self.shards, &now.actors))?;
        Some((found.limit.to_string(), found.limit_share))
    }
}

fn snapshot(now: &progress::Snapshot, from_outside: &dyn Fn() -> Option<u64>) -> Snapshot {
    let known = |count: u64| (count > 0).then_some(count);
    // What is counted beside the work is better than what there was the last time.
    let guess = || from_outside().or(known(now.bytes_earlier)).map(|bytes| bytes.max(now.bytes_expected));
    let bytes_expected = if now.scan_finished { known(now.bytes_expected) } else { guess() };
    let files_guess = if now.files_earlier > 0 { now.files_earlier.max(now.files_expected) } else { 0 };
    Snapshot {
        files: now.counts.files,
        files_expected: known(if now.scan_finished { now.files_expected } else { files_guess }),
        unit: "files",
        bytes: now.bytes_done(),
        fileset: ((now.fileset + 1).min(now.filesets), now.filesets),
        bytes_expected,
        bytes_new: Some(now.counts.bytes_new).filter(|bytes| *bytes > 0),
        bytes_stored: Some(now.counts.bytes_stored),
        bottleneck: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limits_a_job_is_told_once_something_has_moved() {
        let (watch, progress) = (Watch::start(2), Progress::new());
        assert_eq!(watch.bottleneck(&progress.snapshot()), None);
        progress.register_actor("chunker", 0).count_message();
        let (limit, share) = watch.bottleneck(&progress.snapshot()).expect("known");
        assert!(!limit.is_empty() && (0.0..=1.0).contains(&share), "{limit} {share}");
    }
}

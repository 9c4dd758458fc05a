//! How far a job is: one source for progress bars, `--json`, metrics and the report.
//!
//! Relaxed atomics, written by any shard, read by any thread. Must never be used to decide anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::runtime::{ActorStats, stats::ActorSnapshot};

/// What the job is doing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Opens the repository, loads the index.
    Preparing = 0,
    /// Moves data.
    Moving = 1,
    /// Waits for storage, writes index and record.
    Finishing = 2,
    /// Over.
    Done = 3,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident, $add:ident;)*) => {
        #[derive(Debug, Default)]
        struct Counters { $($name: AtomicU64,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Progress {
            $($(#[$doc])* pub fn $add(&self, more: u64) {
                self.counters.$name.fetch_add(more, Ordering::Relaxed);
            })*

            /// The counters now.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.counters.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Counts {
            /// The counters by name, for metrics (`mover_<name>_total`) and `--json`.
            pub fn by_name(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Files that are through (taken over or read; in a restore: written).
    files, add_files;
    /// Directories that are through.
    directories, add_directories;
    /// Other entries that are through: links, fifos, devices.
    others, add_others;
    /// Files that were taken over from the parent unread.
    files_reused, add_files_reused;
    /// Bytes of files that are through, read or not.
    bytes, add_bytes;
    /// Bytes read from the source (in a restore: from the repository).
    bytes_read, add_bytes_read;
    /// Plain bytes of chunks that the repository lacked.
    bytes_new, add_bytes_new;
    /// Sealed bytes that were stored (in a restore: written to the target).
    bytes_stored, add_bytes_stored;
    /// Chunks seen.
    chunks, add_chunks;
    /// Chunks that the repository lacked.
    chunks_new, add_chunks_new;
    /// Frames sealed (in a restore: opened).
    frames, add_frames;
    /// Packs that are durable (in a restore: read from).
    packs, add_packs;
    /// Objects that could not be read or written; listed in the report.
    problems, add_problems;
    /// Repository calls that were made again.
    retries, add_retries;
    /// Files that changed while they were read.
    files_torn, add_files_torn;
    /// Files that could not be read.
    files_unreadable, add_files_unreadable;
}

/// Live figures of one job.
#[derive(Debug, Default)]
pub struct Progress {
    counters: Counters,
    files_expected: AtomicU64,
    bytes_expected: AtomicU64,
    files_earlier: AtomicU64,
    bytes_earlier: AtomicU64,
    scan_finished: AtomicU64,
    memory_in_use_bytes: AtomicU64,
    phase: AtomicU8,
    filesets: AtomicU64,
    fileset: AtomicU64,
    is_restore: AtomicBool,
    actors: Mutex<Vec<Arc<ActorStats>>>,
    slowed: Option<Slowed>,
}

/// An actor that is made to need more CPU time than its work does, to see what the bottleneck report is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Slowed {
    /// Name of the actor.
    pub actor: String,
    /// How many times its CPU time; 1 changes nothing.
    pub factor: f64,
}

impl Progress {
    /// All zero.
    pub fn new() -> Arc<Progress> {
        Arc::default()
    }

    /// All zero, of a job in which one actor may be slowed down.
    pub fn with_slowed(slowed: Option<Slowed>) -> Arc<Progress> {
        Arc::new(Progress { slowed, ..Progress::default() })
    }

    /// Raises the estimate of what there is to do, as the scan goes on.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.files_expected.fetch_add(files, Ordering::Relaxed);
        self.bytes_expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what the recovery point before this one holds: about as much as this one will, before anything is counted.
    pub fn set_earlier(&self, files: u64, bytes: u64) {
        self.files_earlier.store(files, Ordering::Relaxed);
        self.bytes_earlier.store(bytes, Ordering::Relaxed);
    }

    /// The estimate is final from now on.
    pub fn set_scan_finished(&self) {
        self.scan_finished.store(1, Ordering::Relaxed);
    }

    /// Says what the job as a whole does now.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Says that the job writes to a target what it reads from the repository.
    pub fn set_restore(&self) {
        self.is_restore.store(true, Ordering::Relaxed);
    }

    /// Says which of how many filesets is being moved, from 0.
    pub fn set_fileset(&self, fileset: u64, filesets: u64) {
        self.fileset.store(fileset, Ordering::Relaxed);
        self.filesets.store(filesets, Ordering::Relaxed);
    }

    /// Says how much of the memory budget is lent out, in bytes.
    pub fn set_memory_in_use(&self, bytes: u64) {
        self.memory_in_use_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Makes the counters of an actor part of this job.
    pub fn register_actor(&self, name: &'static str, shard: usize) -> Arc<ActorStats> {
        let slowed = self.slowed.as_ref().filter(|slowed| slowed.actor == name);
        let stats = ActorStats::slowed(name, shard, slowed.map_or(1.0, |slowed| slowed.factor));
        self.actors.lock().push(stats.clone());
        stats
    }

    /// Hands the figures to the process's recorder of metrics, if there is one: `mover_<thing>_<unit>_total`.
    pub fn publish(&self) {
        for (name, value) in self.counts().by_name() {
            metrics::counter!(format!("mover_{name}_total")).absolute(value);
        }
        metrics::gauge!("mover_memory_in_use_bytes").set(self.memory_in_use_bytes.load(Ordering::Relaxed) as f64);
        for actor in self.actors.lock().iter().map(|stats| stats.snapshot()) {
            let labels = [("actor", actor.name.to_owned()), ("shard", actor.shard.to_string())];
            for (name, time) in [
                ("busy", actor.busy),
                ("starved", actor.starved),
                ("blocked", actor.blocked),
                ("waiting", actor.waiting),
            ] {
                metrics::gauge!(format!("mover_actor_{name}_seconds"), &labels).set(time.as_secs_f64());
            }
        }
    }

    /// All figures now.
    pub fn snapshot(&self) -> Snapshot {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Preparing,
            1 => Phase::Moving,
            2 => Phase::Finishing,
            _ => Phase::Done,
        };
        Snapshot {
            counts: self.counts(),
            phase,
            files_expected: self.files_expected.load(Ordering::Relaxed),
            bytes_expected: self.bytes_expected.load(Ordering::Relaxed),
            files_earlier: self.files_earlier.load(Ordering::Relaxed),
            bytes_earlier: self.bytes_earlier.load(Ordering::Relaxed),
            scan_finished: self.scan_finished.load(Ordering::Relaxed) == 1,
            fileset: self.fileset.load(Ordering::Relaxed),
            filesets: self.filesets.load(Ordering::Relaxed),
            memory_in_use_bytes: self.memory_in_use_bytes.load(Ordering::Relaxed),
            is_restore: self.is_restore.load(Ordering::Relaxed),
            actors: self.actors.lock().iter().map(|stats| stats.snapshot()).collect(),
        }
    }
}

/// The figures of a job at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The counters.
    pub counts: Counts,
    /// What the job does.
    pub phase: Phase,
    /// Files found so far.
    pub files_expected: u64,
    /// Bytes found so far.
    pub bytes_expected: u64,
    /// Files of the recovery point before this one; 0 if there is none.
    pub files_earlier: u64,
    /// Its bytes.
    pub bytes_earlier: u64,
    /// True once what was found is final.
    pub scan_finished: bool,
    /// The fileset being moved, from 0.
    pub fileset: u64,
    /// How many filesets there are.
    pub filesets: u64,
    /// Bytes of the budget that are lent out.
    pub memory_in_use_bytes: u64,
    /// The job is a restore.
    pub is_restore: bool,
    /// Every actor on every shard.
    pub actors: Vec<ActorSnapshot>,
}

impl Snapshot {
    /// Plain bytes that are done, of those expected. A large file counts as done at its end; what was moved of it before
    /// that is progress too. What a restore reads is sealed, and other bytes than those that it restores.
    pub fn bytes_done(&self) -> u64 {
        let moved = if self.is_restore { self.counts.bytes_stored } else { self.counts.bytes_read };
        self.counts.bytes.max(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is told, by name.
    #[derive(Default)]
    struct Told(Mutex<Vec<(String, Arc<AtomicU64>)>>);

    impl metrics::Recorder for Told {
        fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
        fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
        fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
        fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
            let value = Arc::new(AtomicU64::new(0));
            self.0.lock().push((key.name().to_owned(), value.clone()));
            metrics::Counter::from_arc(value)
        }
        fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
            self.0.lock().push((key.name().to_owned(), Arc::default()));
            metrics::Gauge::noop()
        }
        fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
            metrics::Histogram::noop()
        }
    }

    #[test]
    fn the_same_figures_reach_the_metrics() {
        let (told, progress) = (Told::default(), Progress::new());
        progress.add_bytes_read(77);
        progress.register_actor("chunker", 0);
        metrics::with_local_recorder(&told, || progress.publish());
        let told = told.0.lock();
        let value = |name| told.iter().find(|(told, _)| told == name).map(|(_, value)| value.load(Ordering::Relaxed));
        assert_eq!(value("mover_bytes_read_total"), Some(77));
        assert!(value("mover_actor_busy_seconds").is_some());
    }

    /// A restore showed "121.1 MiB of 118.6 MiB": the sealed bytes that it read were taken for restored ones.
    #[test]
    fn a_restore_is_as_far_as_its_plain_bytes() {
        let progress = Progress::new();
        progress.add_bytes_read(121);
        progress.add_bytes(60);
        progress.add_bytes_stored(70);
        assert_eq!(progress.snapshot().bytes_done(), 121);
        progress.set_restore();
        assert_eq!(progress.snapshot().bytes_done(), 70);
        progress.add_bytes(58);
        assert_eq!(progress.snapshot().bytes_done(), 118);
    }

    #[test]
    fn counters_add_up_and_carry_their_names() {
        let progress = Progress::new();
        progress.add_files(2);
        progress.add_files(3);
        progress.add_bytes_new(1 << 40);
        progress.expect(10, 100);
        progress.set_scan_finished();
        progress.set_phase(Phase::Finishing);
        progress.register_actor("chunker", 1);
        let snapshot = progress.snapshot();
        assert_eq!((snapshot.counts.files, snapshot.counts.bytes_new), (5, 1 << 40));
        assert_eq!((snapshot.files_expected, snapshot.scan_finished), (10, true));
        assert_eq!(snapshot.phase, Phase::Finishing);
        assert_eq!(snapshot.actors[0].name, "chunker");
        assert!(snapshot.counts.by_name().contains(&("files", 5)));
    }
}

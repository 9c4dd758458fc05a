//! What a restore did, and what it could not do.
//!
//! [`Tally`] is shared by all shards of one restore; [`RestoreReport`] is what it comes to at the end. Limits: at
//! most [`LISTED_MAX`] problems of each kind are kept with their text, all are counted. Must never lose a problem:
//! an entry is restored, skipped by rule, or listed. Any thread.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::bottleneck::Bottleneck;
use crate::restore::target::{AttributeProblem, Overwrite};
use crate::runtime::stats::ActorSnapshot;

/// Problems of each kind that are kept with their text.
pub const LISTED_MAX: usize = 10_000;

/// An entry that was not restored, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path below the target.
    pub path: Vec<u8>,
    /// The cause in words.
    pub cause: String,
}

/// How a restore ended.
#[derive(Debug, Clone, Default)]
pub struct RestoreReport {
    /// What was done, or in a dry run would be.
    pub totals: RestoreTotals,
    /// The first [`LISTED_MAX`] entries that were not restored.
    pub problems: Vec<Problem>,
    /// All of them.
    pub problems_count: u64,
    /// The first [`LISTED_MAX`] attributes that could not be set on entries that are otherwise restored.
    pub attributes: Vec<AttributeProblem>,
    /// All of them.
    pub attributes_count: u64,
    /// A stop was asked for before everything was restored; running the same restore again completes it.
    pub stopped: bool,
    /// Nothing was written: the totals are a plan.
    pub dry_run: bool,
    /// The rule for entries that exist.
    pub overwrite: Overwrite,
    /// Room that the target had before the first byte.
    pub free_bytes: u64,
    /// What `--verify` compared.
    pub verified: Option<Verified>,
    /// Busy, starved and blocked time of each actor.
    pub actors: Vec<ActorSnapshot>,
    /// What limited it.
    pub bottleneck: Option<Bottleneck>,
}

impl RestoreReport {
    /// True if all that was selected is there with all its attributes, and what was verified is equal.
    pub fn is_clean(&self) -> bool {
        let equal = self.verified.as_ref().is_none_or(|verified| verified.different == 0);
        !self.stopped && self.problems_count == 0 && self.attributes_count == 0 && equal
    }
}

/// Counts of a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreTotals {
    /// Regular files with content of their own.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Fifos and device nodes.
    pub nodes: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Entries that the overwrite rule kept as they are.
    pub skipped: u64,
    /// Logical bytes of the files.
    pub bytes: u64,
    /// Bytes that were written; holes are not.
    pub bytes_written: u64,
    /// Sealed bytes that were read from the repository.
    pub bytes_read: u64,
    /// Range requests to the repository.
    pub requests: u64,
    /// Chunks that were damaged where they were first looked for, and whole elsewhere.
    pub chunks_rescued: u64,
    /// Files that a stop left out.
    pub unfinished: u64,
}

/// What `--verify` read back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files compared, by name: a file with several names counts once for each.
    pub files: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Files whose bytes are not those of the recovery point; each is listed as a problem.
    pub different: u64,
    /// Files and directories that could not be read when they were backed up: there is nothing to compare them with.
    pub unreadable: u64,
}

/// Entries of one fileset that are not of this restore, because the overwrite rule kept what is there or because they
/// are listed already: one bit for each entry, by its number in the walk.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftOut {
    bits: Vec<u64>,
    /// The numbers of this walk mean nothing to another one.
    is_unknown: bool,
}

impl LeftOut {
    /// Notes an entry.
    pub(super) fn insert(&mut self, number: u64) {
        let word = (number / 64) as usize;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (number % 64);
    }

    /// A page of the manifest was passed over, so that another walk may count otherwise.
    pub(super) fn set_unknown(&mut self) {
        self.is_unknown = true;
    }

    /// Whether the entry is left out; `None` if that cannot be told.
    pub(super) fn contains(&self, number: u64) -> Option<bool> {
        let word = self.bits.get((number / 64) as usize).copied().unwrap_or(0);
        (!self.is_unknown).then_some(word >> (number % 64) & 1 == 1)
    }
}

/// A list that keeps its first entries and counts all.
#[derive(Debug)]
struct Listed<T> {
    first: Vec<T>,
    count: u64,
}

impl<T> Listed<T> {
    const fn new() -> Self {
        Listed { first: Vec::new(), count: 0 }
    }

    fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < LISTED_MAX {
            self.first.push(item);
        }
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The running counts of one restore.
        #[derive(Debug)]
        pub struct Tally {
            $(pub(super) $name: AtomicU64,)*
            problems: Mutex<Listed<Problem>>,
            attributes: Mutex<Listed<AttributeProblem>>,
            /// Paths with several names whose content could not be restored: nothing may be linked to them.
            lost_firsts: Mutex<HashSet<Vec<u8>>>,
            left_out: Mutex<HashMap<usize, LeftOut>>,
            stopped: AtomicBool,
        }

        impl Default for Tally {
            fn default() -> Self {
                Tally {
                    $($name: AtomicU64::new(0),)*
                    problems: Mutex::new(Listed::new()),
                    attributes: Mutex::new(Listed::new()),
                    lost_firsts: Mutex::default(),
                    left_out: Mutex::default(),
                    stopped: AtomicBool::new(false),
                }
            }
        }

        impl Tally {
            /// The counts as they are now.
            pub fn totals(&self) -> RestoreTotals {
                RestoreTotals { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters!(
    files,
    directories,
    symlinks,
    nodes,
    hard_links,
    skipped,
    bytes,
    bytes_written,
    bytes_read,
    requests,
    chunks_rescued,
    unfinished,
);

impl Tally {
    /// Lists an entry that is not restored.
    pub(super) fn problem(&self, path: &[u8], cause: impl Into<String>) {
        let cause = cause.into();
        tracing::warn!(path = %String::from_utf8_lossy(path), %cause, "not restored");
        self.problems.lock().push(Problem { path: path.to_vec(), cause });
    }

    /// Lists attributes that could not be set.
    pub(super) fn attributes(&self, problems: Vec<AttributeProblem>) {
        if problems.is_empty() {
            return;
        }
        let mut attributes = self.attributes.lock();
        problems.into_iter().for_each(|problem| attributes.push(problem));
    }

    /// Notes that a file with several names is not restored.
    pub(super) fn lose_first(&self, path: &[u8]) {
        self.lost_firsts.lock().insert(path.to_vec());
    }

    /// True if the content of `path` could not be restored.
    pub(super) fn is_lost(&self, path: &[u8]) -> bool {
        self.lost_firsts.lock().contains(path)
    }

    /// Notes what of a fileset is not of this restore.
    pub(super) fn leave_out(&self, fileset: usize, left_out: LeftOut) {
        self.left_out.lock().insert(fileset, left_out);
    }

    /// What of a fileset is not of this restore.
    pub(super) fn left_out(&self, fileset: usize) -> LeftOut {
        self.left_out.lock().get(&fileset).cloned().unwrap_or_default()
    }

    /// Notes that a stop left something out.
    pub(super) fn stopped_early(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Paths that are listed as problems so far.
    pub(super) fn problem_paths(&self) -> HashSet<Vec<u8>> {
        self.problems.lock().first.iter().map(|problem| problem.path.clone()).collect()
    }

    /// The report so far.
    pub(super) fn report(&self) -> RestoreReport {
        let problems = self.problems.lock();
        let attributes = self.attributes.lock();
        RestoreReport {
            totals: self.totals(),
            problems: problems.first.clone(),
            problems_count: problems.count,
            attributes: attributes.first.clone(),
            attributes_count: attributes.count,
            stopped: self.stopped.load(Ordering::Relaxed),
            ..RestoreReport::default()
        }
    }
}

/// Adds to a counter of the tally.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_beyond_the_listed_are_counted() {
        let tally = Tally::default();
        for number in 0..LISTED_MAX + 3 {
            tally.problem(format!("f{number}").as_bytes(), "damaged");
        }
        let report = tally.report();
        assert_eq!(report.problems.len(), LISTED_MAX);
        assert_eq!(report.problems_count, LISTED_MAX as u64 + 3);
        assert!(!report.is_clean());
    }
}

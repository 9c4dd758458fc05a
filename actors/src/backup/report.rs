//! What a backup has to say about itself when it is over.
//!
//! Filled from all shards, read once. Counts are exact; lists are bounded by [`LISTED_MAX`], and
//! say how much they leave out. Must never drop a problem without counting it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use mover_repository::log::{Grade, Totals};
use mover_repository::manifest::{Entry, Kind};
use parking_lot::Mutex;

use crate::source::{Excluded, SourceError};

/// Problems, torn files, excluded paths and notes kept by name, each.
pub const LISTED_MAX: usize = 10_000;

/// What one zstd level was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelUse {
    /// The level; 0 stands for frames stored raw.
    pub level: i32,
    /// Frames stored at it.
    pub frames: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
}

/// One object of the source that is not in the recovery point as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path within its fileset when it is told, the whole path when it is listed.
    pub path: Vec<u8>,
    /// What went wrong, as a sentence without its path.
    pub cause: String,
}

impl Problem {
    /// A problem of our own wording.
    pub fn new(path: Vec<u8>, cause: impl Into<String>) -> Self {
        Self { path, cause: cause.into() }
    }

    /// What the source said.
    pub fn source(error: &SourceError) -> Self {
        Self { path: error.path.clone(), cause: format!("{}: {}", error.operation, error.cause) }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Report {
    lists: Mutex<Lists>,
    /// Where the present fileset is rooted: what is listed is listed by its whole path.
    root: Mutex<Vec<u8>>,
    /// Reset when a fileset begins.
    fileset: Mutex<Totals>,
    frames_verified: AtomicU64,
    frame_mismatches: AtomicU64,
    /// Frames by zstd level; 0 stands for raw.
    levels: Mutex<BTreeMap<i32, LevelUse>>,
}

/// The lists of a report.
#[derive(Debug, Default, Clone)]
pub struct Lists {
    /// What could not be read, or read well.
    pub problems: Vec<Problem>,
    /// Problems beyond [`LISTED_MAX`].
    pub problems_unlisted: u64,
    /// Paths of torn files.
    pub torn: Vec<Vec<u8>>,
    /// What filters left out.
    pub excluded: Excluded,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

impl Report {
    /// A fileset begins: names what its paths are below.
    pub fn begin_fileset(&self, root_path: Vec<u8>) {
        *self.root.lock() = root_path;
    }

    fn whole_path(&self, path: &[u8]) -> Vec<u8> {
        let mut whole = self.root.lock().clone();
        if !path.is_empty() {
            if !whole.ends_with(b"/") {
                whole.push(b'/');
            }
            whole.extend_from_slice(path);
        }
        whole
    }

    /// Adds to the problems.
    pub fn problem(&self, problem: Problem) {
        let problem = Problem { path: self.whole_path(&problem.path), ..problem };
        let mut lists = self.lists.lock();
        if lists.problems.len() < LISTED_MAX {
            lists.problems.push(problem);
        } else {
            lists.problems_unlisted += 1;
        }
    }

    /// A problem that left an entry without its content.
    pub fn unread(&self, problem: Problem) {
        self.fileset.lock().files_unreadable += 1;
        self.problem(problem);
    }

    /// A file that never stood still.
    pub fn torn(&self, path: &[u8]) {
        let path = self.whole_path(path);
        let mut lists = self.lists.lock();
        if lists.torn.len() < LISTED_MAX {
            lists.torn.push(path);
        }
    }

    /// What a listing left out.
    pub fn excluded(&self, mut excluded: Excluded) {
        if excluded == Excluded::default() {
            return;
        }
        self.fileset.lock().excluded += excluded.entries;
        let mut lists = self.lists.lock();
        let room = LISTED_MAX.saturating_sub(lists.excluded.paths.len());
        excluded.paths.truncate(room);
        lists.excluded.merge(excluded);
    }

    /// A sentence for the user, said once.
    pub fn note(&self, note: String) {
        let mut lists = self.lists.lock();
        if lists.notes.len() < LISTED_MAX && !lists.notes.contains(&note) {
            lists.notes.push(note);
        }
    }

    /// A socket was skipped.
    pub fn socket(&self) {
        self.fileset.lock().sockets_skipped += 1;
    }

    /// An entry went into the manifest.
    pub fn entry(&self, entry: &Entry) {
        let mut totals = self.fileset.lock();
        match entry.kind {
            Kind::File => {
                totals.files += 1;
                totals.bytes += entry.meta.size;
                totals.files_torn += u64::from(entry.grade == Grade::Torn && !entry.error);
            }
            Kind::Directory => totals.directories += 1,
            _ => totals.others += 1,
        }
    }

    /// A frame was decoded before upload.
    pub fn frame_verified(&self) {
        self.frames_verified.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame did not decode to what went in; it was stored raw.
    pub fn frame_mismatch(&self) {
        self.frame_mismatches.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame of so many plain bytes was stored, compressed at `level` or raw.
    pub fn frame_stored(&self, level: Option<i32>, plain_bytes: usize) {
        let level = level.unwrap_or(0);
        let mut levels = self.levels.lock();
        let used = levels.entry(level).or_insert(LevelUse { level, frames: 0, plain_bytes: 0 });
        used.frames += 1;
        used.plain_bytes += plain_bytes as u64;
    }

    /// What each zstd level was used for, in ascending order.
    pub fn levels(&self) -> Vec<LevelUse> {
        self.levels.lock().values().copied().collect()
    }

    /// Frames decoded before upload, and how many of them were wrong.
    pub fn verified_frames(&self) -> (u64, u64) {
        (self.frames_verified.load(Ordering::Relaxed), self.frame_mismatches.load(Ordering::Relaxed))
    }

    /// Totals of the fileset that has just ended; the next one starts from zero.
    pub fn take_fileset(&self) -> Totals {
        std::mem::take(&mut *self.fileset.lock())
    }

    /// The lists as they are now.
    pub fn lists(&self) -> Lists {
        self.lists.lock().clone()
    }
}

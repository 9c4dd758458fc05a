//! Compares two trees of files: every byte and every attribute that a restore must bring back.
//!
//! Type, mode with set-id and sticky bits, owner, group, mtime to the nanosecond, size, content,
//! symlink target, extended attributes (POSIX ACLs are two of them), device numbers, hard-link
//! groups, and the hole map as far as two file systems can agree on it. Not compared: atime, ctime,
//! inode numbers, sizes of directories.
//!
//! Limits: [`DIFFERENCES_KEPT_MAX`] differences are kept, all are counted. Independent of the
//! actors on purpose: it judges their work. Runs on plain threads; must never follow a symbolic link
//! inside the trees and never write to either.

mod content;
mod entry;
#[cfg(test)]
mod tests;
mod work;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mover_repository::ids::UnixNanos;

use entry::{Facts, InodeKey};
use work::{Queue, Work};

/// Differences that are kept with their text.
pub const DIFFERENCES_KEPT_MAX: usize = 1000;

/// What to compare and what to expect.
#[derive(Default)]
pub struct CompareOptions {
    /// Threads to use, at least 1.
    pub threads: usize,
    /// Absolute paths in the original tree that are left out.
    pub exclude: Vec<PathBuf>,
    /// A difference of a file that changed at or after this time is explained by that.
    pub changed_since: Option<UnixNanos>,
    /// What could not be read, by absolute path of the original: it explains every difference there
    /// and below.
    pub unread: HashMap<Vec<u8>, String>,
    /// Attributes that could not be set, by absolute path: they explain differences of attributes, not
    /// of content, of that entry alone.
    pub attributes: HashMap<Vec<u8>, String>,
    /// Set from outside, it ends the comparison early.
    pub stop: Arc<AtomicBool>,
    /// Told about every byte compared.
    pub progress: Option<Arc<AtomicU64>>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path below the roots; empty for the roots themselves.
    pub path: Vec<u8>,
    /// What differs, with both values.
    pub what: String,
    /// Why this is no fault, if it is none.
    pub explanation: Option<String>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct CompareReport {
    /// Entries of any kind that were compared.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of content compared.
    pub bytes: u64,
    /// Sockets of the original; a backup does not take them.
    pub sockets: u64,
    /// Differences that nothing explains.
    pub unexplained: u64,
    /// Differences that are explained.
    pub explained: u64,
    /// The first of both, sorted by path.
    pub differences: Vec<Difference>,
}

/// Compares `original` with `copy`.
///
/// # Errors
/// Only if one of the roots cannot be opened; whatever fails below is a difference.
pub fn compare_trees(original: &Path, copy: &Path, options: CompareOptions) -> io::Result<CompareReport> {
    let comparison = Comparison {
        original: Root::open(original)?,
        copy: Root::open(copy)?,
        original_path: original.to_owned(),
        options,
        report: Mutex::default(),
        links: Mutex::default(),
        entries: AtomicU64::new(0),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let queue = Queue::new(Work::Root);
    let threads = comparison.options.threads.max(1);
    std::thread::scope(|scope| {
        for number in 0..threads {
            let worker = || queue.run(|work| comparison.work(work, &queue));
            std::thread::Builder::new()
                .name(format!("compare {number}"))
                .spawn_scoped(scope, worker)
                .map(drop)
                .unwrap_or_else(|_| queue.run(|work| comparison.work(work, &queue)));
        }
    });
    let mut report = comparison.report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.entries = comparison.entries.into_inner();
    report.files = comparison.files.into_inner();
    report.bytes = comparison.bytes.into_inner();
    report.differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(report)
}

/// One of the two trees: a directory, or a single file below its parent.
struct Root {
    directory: File,
    name: Vec<u8>,
}

impl Root {
    fn open(path: &Path) -> io::Result<Root> {
        let metadata = std::fs::symlink_metadata(path)?;
        if metadata.is_dir() {
            return Ok(Root { directory: File::open(path)?, name: b".".to_vec() });
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Root { directory: File::open(parent)?, name: name.as_bytes().to_vec() })
    }
}

/// Which group of hard links each inode belongs to, as seen from both sides.
#[derive(Default)]
struct LinkGroups {
    copy_of: HashMap<InodeKey, InodeKey>,
    original_of: HashMap<InodeKey, InodeKey>,
}

/// One running comparison, shared by its threads.
struct Comparison {
    original: Root,
    copy: Root,
    original_path: PathBuf,
    options: CompareOptions,
    report: Mutex<CompareReport>,
    links: Mutex<LinkGroups>,
    entries: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Comparison {
    fn absolute(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            return self.original_path.clone();
        }
        self.original_path.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Records a difference of `path`. `facts` are those of the original, if it is there.
    fn differ(&self, path: &[u8], facts: Option<&Facts>, what: String) {
        let explanation = self.explain(path, facts, &what);
        let mut report = self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match explanation {
            Some(_) => report.explained += 1,
            None => report.unexplained += 1,
        }
        // an explained difference must not push out one that is not
        if report.differences.len() >= DIFFERENCES_KEPT_MAX {
            let replaceable = report.differences.iter().position(|difference| difference.explanation.is_some());
            match replaceable {
                Some(position) if explanation.is_none() => drop(report.differences.swap_remove(position)),
                _ => return,
            }
        }
        report.differences.push(Difference { path: path.to_vec(), what, explanation });
    }

    fn explain(&self, path: &[u8], facts: Option<&Facts>, what: &str) -> Option<String> {
        let absolute = self.absolute(path);
        let is_content = what.starts_with("content") || what.starts_with("size") || what.starts_with("only in");
        if let Some(problem) = self.options.attributes.get(absolute.as_os_str().as_bytes())
            && !is_content
        {
            return Some(problem.clone());
        }
        if !self.options.unread.is_empty() {
            let unread = |place: &Path| self.options.unread.get(place.as_os_str().as_bytes());
            if let Some(problem) = absolute.ancestors().find_map(unread) {
                return Some(problem.clone());
            }
        }
        let since = self.options.changed_since?;
        // the facts may be older than the change that made the difference: look again
        let now = entry::facts_at(&self.original, path).ok();
        let newest = now.iter().chain(facts).map(|facts| facts.ctime).max();
        match newest {
            Some(ctime) if ctime >= since => Some("it changed meanwhile".to_owned()),
            Some(_) => None,
            None => self.vanished(path, since).then(|| "it vanished meanwhile".to_owned()),
        }
    }

    /// Whether the directory that held `path` changed since then (or is gone as well).
    fn vanished(&self, path: &[u8], since: UnixNanos) -> bool {
        let Some(parent_end) = path.iter().rposition(|byte| *byte == b'/') else {
            return entry::facts_at(&self.original, b"").map_or(true, |facts| facts.ctime >= since);
        };
        match entry::facts_at(&self.original, &path[..parent_end]) {
            Ok(facts) => facts.ctime >= since,
            Err(_) => self.vanished(&path[..parent_end], since),
        }
    }

    fn count_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(progress) = &self.options.progress {
            progress.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

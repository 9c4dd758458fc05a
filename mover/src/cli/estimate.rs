//! How much there is below some paths, counted beside the work: for an ETA, and to check free space
//! before `try` begins. An estimate, never a promise: filters are not applied, errors are skipped.
//!
//! Runs on an own thread named `estimate`, one directory at a time, follows no link.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Running counts.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    bytes_allocated: AtomicU64,
    entries: AtomicU64,
    finished: AtomicBool,
    cancelled: AtomicBool,
}

/// A walk in progress; dropped, it ends soon.
pub struct Estimate {
    counts: Arc<Counts>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Logical bytes of regular files.
    pub bytes: u64,
    /// Bytes that they take on the disk.
    pub bytes_allocated: u64,
    /// Entries of all kinds.
    pub entries: u64,
}

impl Estimate {
    /// Begins to walk.
    pub fn start(paths: Vec<PathBuf>) -> Estimate {
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("estimate".to_owned()).spawn(move || walk(paths, &shared)).ok();
        Estimate { counts, thread }
    }

    /// Asks for the bytes as they are known at each call; `None` until the walk has ended.
    pub fn bytes(&self) -> impl Fn() -> Option<u64> + Send + 'static {
        let counts = Arc::clone(&self.counts);
        move || counts.finished.load(Ordering::Acquire).then(|| counts.bytes.load(Ordering::Relaxed))
    }

    /// Waits for the end of the walk.
    pub fn wait(mut self) -> Found {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Found {
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            bytes_allocated: self.counts.bytes_allocated.load(Ordering::Relaxed),
            entries: self.counts.entries.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Estimate {
    fn drop(&mut self) {
        self.counts.cancelled.store(true, Ordering::Relaxed);
    }
}

fn walk(paths: Vec<PathBuf>, counts: &Counts) {
    let mut directories = Vec::new();
    for path in paths {
        if let Ok(metadata) = std::fs::symlink_metadata(&path) {
            count(&metadata, counts);
            directories.extend(metadata.is_dir().then_some(path));
        }
    }
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if counts.cancelled.load(Ordering::Relaxed) {
                return;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            count(&metadata, counts);
            directories.extend(metadata.is_dir().then(|| entry.path()));
        }
    }
    counts.finished.store(true, Ordering::Release);
}

fn count(metadata: &std::fs::Metadata, counts: &Counts) {
    counts.entries.fetch_add(1, Ordering::Relaxed);
    if metadata.is_file() {
        // each further name of a file costs nothing
        counts.bytes.fetch_add(metadata.len() / metadata.nlink().max(1), Ordering::Relaxed);
        counts.bytes_allocated.fetch_add(metadata.blocks() * 512 / metadata.nlink().max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_is_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("inner")).unwrap();
        std::fs::write(directory.path().join("inner/file"), vec![1; 10_000]).unwrap();
        std::fs::hard_link(directory.path().join("inner/file"), directory.path().join("other")).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
        let estimate = Estimate::start(vec![directory.path().to_owned(), "/no/such/path".into()]);
        let bytes = estimate.bytes();
        let found = estimate.wait();
        assert_eq!((found.bytes, found.entries), (10_000, 5));
        assert_eq!(bytes(), Some(10_000));
    }
}

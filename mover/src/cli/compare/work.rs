//! The work queue of a comparison and what each item does. Last in, first out: the queue stays as
//! short as the trees are deep times wide, and no descriptor is held for an item that waits.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Comparison, Root, content, entry};

/// Names in one item.
const BATCH_NAMES: usize = 256;
/// Bytes of one file in one item.
const RANGE_BYTES: u64 = 64 << 20;

/// One piece of work; paths are relative to the roots.
pub enum Work {
    /// The two roots.
    Root,
    /// The children of a directory that both sides have.
    Directory(Vec<u8>),
    /// Some children of a directory.
    Names(Vec<u8>, Vec<Vec<u8>>),
    /// A part of a large file.
    Range(Vec<u8>, std::ops::Range<u64>),
}

struct State {
    waiting: Vec<Work>,
    busy: usize,
}

/// Items that wait, and how many are being worked on.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// A queue with its first item.
    pub fn new(first: Work) -> Queue {
        Queue { state: Mutex::new(State { waiting: vec![first], busy: 0 }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item.
    pub fn push(&self, work: Work) {
        self.lock().waiting.push(work);
        self.changed.notify_one();
    }

    /// Works until nothing is left and nobody can add anything.
    pub fn run(&self, mut each: impl FnMut(Work)) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop() {
                state.busy += 1;
                drop(state);
                let _done = Busy(self);
                each(work);
                drop(_done);
                state = self.lock();
            } else if state.busy == 0 {
                self.changed.notify_all();
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Counts an item as done even if it panics, so that the other threads come to their end.
struct Busy<'q>(&'q Queue);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

impl Comparison {
    /// Does one item.
    pub fn work(&self, work: Work, queue: &Queue) {
        if self.options.stop.load(Ordering::Relaxed) {
            return;
        }
        match work {
            Work::Root => self.pair(&self.original.directory, &self.copy.directory, b"", queue),
            Work::Directory(path) => self.directory(&path, queue),
            Work::Names(path, names) => self.names(&path, &names, queue),
            Work::Range(path, range) => content::compare_range(self, &path, range),
        }
    }

    /// Both directories opened, or the difference recorded.
    fn open_both(&self, path: &[u8]) -> Option<(File, File)> {
        let open = |root: &Root, side: &str| {
            entry::open_directory(root, path)
                .map_err(|error| self.differ(path, None, format!("cannot open the {side}: {error}")))
                .ok()
        };
        Some((open(&self.original, "original")?, open(&self.copy, "copy")?))
    }

    fn directory(&self, path: &[u8], queue: &Queue) {
        let Some((original, copy)) = self.open_both(path) else { return };
        let names_of = |directory: &File, side: &str| {
            entry::names(directory)
                .map_err(|error| self.differ(path, None, format!("cannot list the {side}: {error}")))
                .ok()
        };
        let Some(original_names) = names_of(&original, "original") else { return };
        let Some(copy_names) = names_of(&copy, "copy") else { return };
        let all: BTreeSet<Vec<u8>> = original_names.into_iter().chain(copy_names).collect();
        let names: Vec<Vec<u8>> = all.into_iter().collect();
        for batch in names.chunks(BATCH_NAMES).skip(1) {
            queue.push(Work::Names(path.to_vec(), batch.to_vec()));
        }
        for name in names.iter().take(BATCH_NAMES) {
            self.pair(&original, &copy, &join(path, name), queue);
        }
    }

    fn names(&self, path: &[u8], names: &[Vec<u8>], queue: &Queue) {
        let Some((original, copy)) = self.open_both(path) else { return };
        for name in names {
            self.pair(&original, &copy, &join(path, name), queue);
        }
    }

    /// Compares one entry; directories and large files become items of their own.
    fn pair(&self, original: &File, copy: &File, path: &[u8], queue: &Queue) {
        if !self.options.exclude.is_empty() && self.options.exclude.contains(&self.absolute(path)) {
            return;
        }
        let Some(facts) = entry::compare(self, original, copy, path) else { return };
        if facts.is_directory() {
            queue.push(Work::Directory(path.to_vec()));
        } else if facts.is_file() {
            let mut start = RANGE_BYTES;
            while start < facts.size {
                queue.push(Work::Range(path.to_vec(), start..facts.size.min(start + RANGE_BYTES)));
                start += RANGE_BYTES;
            }
            content::compare_file(self, original, copy, path, &facts, RANGE_BYTES);
        }
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

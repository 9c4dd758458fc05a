//! Sorts more chunk ids than fit the memory: sorted runs in unlinked temporary files, merged when read.
//!
//! The ids are keyed hashes: on a disk they tell nothing without the repository's secrets. Blocks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::ids::ChunkId;

const ID_BYTES: usize = 32;
/// Ids read from a run at a time.
const READ_IDS: usize = 2048;

/// Collects ids in any order, with repetitions.
pub(super) struct IdSorter {
    held: Vec<ChunkId>,
    held_max: usize,
    runs: Vec<File>,
    scratch: PathBuf,
}

impl IdSorter {
    /// Holds about `memory_bytes`; what is more goes to files below `scratch`.
    pub(super) fn new(memory_bytes: usize, scratch: &Path) -> Self {
        let held_max = (memory_bytes / ID_BYTES).max(1024);
        Self { held: Vec::new(), held_max, runs: Vec::new(), scratch: scratch.to_owned() }
    }

    pub(super) fn push(&mut self, id: ChunkId) -> io::Result<()> {
        self.held.push(id);
        if self.held.len() < self.held_max {
            return Ok(());
        }
        self.sort();
        // Few distinct ids, pushed often, need no file.
        if self.held.len() > self.held_max / 2 {
            self.spill()?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.held.sort_unstable();
        self.held.dedup();
    }

    fn spill(&mut self) -> io::Result<()> {
        let run = tempfile::tempfile_in(&self.scratch)?;
        let mut offset = 0;
        for part in self.held.chunks(READ_IDS) {
            let bytes: Vec<u8> = part.iter().flat_map(|id| id.0).collect();
            run.write_all_at(&bytes, offset)?;
            offset += bytes.len() as u64;
        }
        self.held.clear();
        self.runs.push(run);
        Ok(())
    }

    /// Ends the collection.
    pub(super) fn finish(mut self) -> SortedIds {
        self.sort();
        SortedIds { held: self.held, runs: self.runs }
    }
}

/// Ids in order, each once; may be read several times.
pub(super) struct SortedIds {
    held: Vec<ChunkId>,
    runs: Vec<File>,
}

impl SortedIds {
    /// From the first id on.
    pub(super) fn iter(&self) -> SortedIter<'_> {
        let runs = self.runs.iter().map(|file| Run { file, offset: 0, ready: Vec::new() }).collect();
        SortedIter { held: self.held.iter(), runs, heads: BinaryHeap::new(), last: None, is_started: false }
    }
}

struct Run<'a> {
    file: &'a File,
    offset: u64,
    /// Read and not yet given, last first.
    ready: Vec<ChunkId>,
}

impl Run<'_> {
    fn next(&mut self) -> io::Result<Option<ChunkId>> {
        if self.ready.is_empty() {
            let mut bytes = vec![0; READ_IDS * ID_BYTES];
            let mut filled = 0;
            while filled < bytes.len() {
                match self.file.read_at(&mut bytes[filled..], self.offset)? {
                    0 => break,
                    read => {
                        filled += read;
                        self.offset += read as u64;
                    }
                }
            }
            self.ready = bytes[..filled].as_chunks::<ID_BYTES>().0.iter().rev().map(|id| ChunkId(*id)).collect();
        }
        Ok(self.ready.pop())
    }
}

/// See [`SortedIds::iter`].
pub(super) struct SortedIter<'a> {
    held: std::slice::Iter<'a, ChunkId>,
    runs: Vec<Run<'a>>,
    /// The next id of each source; the last source is what is held in memory.
    heads: BinaryHeap<Reverse<(ChunkId, usize)>>,
    last: Option<ChunkId>,
    is_started: bool,
}

impl SortedIter<'_> {
    /// The next id, each once; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<ChunkId>> {
        if !self.is_started {
            self.is_started = true;
            for source in 0..=self.runs.len() {
                self.refill(source)?;
            }
        }
        while let Some(Reverse((id, source))) = self.heads.pop() {
            self.refill(source)?;
            if self.last != Some(id) {
                self.last = Some(id);
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn refill(&mut self, source: usize) -> io::Result<()> {
        let next = match self.runs.get_mut(source) {
            Some(run) => run.next()?,
            None => self.held.next().copied(),
        };
        self.heads.extend(next.map(|id| Reverse((id, source))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chunk_id;

    fn sorted(seeds: impl Iterator<Item = u64>, memory_bytes: usize) -> (Vec<ChunkId>, usize) {
        let scratch = tempfile::tempdir().unwrap();
        let mut sorter = IdSorter::new(memory_bytes, scratch.path());
        seeds.for_each(|seed| sorter.push(chunk_id(seed)).unwrap());
        let ids = sorter.finish();
        let read = || {
            let mut iter = ids.iter();
            std::iter::from_fn(|| iter.next().unwrap()).collect::<Vec<_>>()
        };
        let found = read();
        assert_eq!(found, read(), "a second reading gives the same");
        (found, ids.runs.len())
    }

    #[test]
    fn ids_come_in_order_and_once_whether_they_fit_or_not() {
        let mut expected: Vec<ChunkId> = (0..10_000).map(chunk_id).collect();
        expected.sort_unstable();
        for (memory_bytes, spills) in [(1 << 20, false), (64 << 10, true)] {
            let seeds = (0..10_000).chain((0..10_000).rev());
            let (found, runs) = sorted(seeds, memory_bytes);
            assert_eq!(found, expected);
            assert_eq!(runs > 0, spills, "{runs} runs");
        }
        assert!(sorted(std::iter::empty(), 0).0.is_empty());
        let (found, runs) = sorted((0..100_000).map(|seed| seed % 7), 32 << 10);
        assert_eq!((found.len(), runs), (7, 0), "what repeats needs no file");
    }
}

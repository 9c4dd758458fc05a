//! Hard links: which path named an inode first.
//!
//! Asked by the scanner for every entry with more than one name, in path order. Lives on the
//! scanner's shard.
//!
//! Names are kept in memory up to a bound; then they go, sorted by inode, to one run in sealed
//! scratch. A run keeps in memory the first inode of each block and a filter of one byte an
//! inode, so that an inode met for the first time costs no read and any other one block. At most
//! [`RUNS_MAX`] runs lie side by side, then they become one.
//!
//! Limits: `memory_bytes` for names, and about 1.3 bytes for each inode that was spilled. Must
//! never: forget a first name, for the file would be stored as two; nor take two files for one. A look into scratch blocks
//! for some microseconds (16 KiB from the page cache), which only trees with more linked files
//! than fit the bound ever see.

use std::collections::HashMap;
use std::sync::Arc;

use mover_repository::codec::{DecodeError, Decoder, Encoder};

use crate::error::Failure;
use crate::scratch::{SCRATCH_BLOCK_BYTES_MAX, Scratch, ScratchError, ScratchFile};
use crate::source::Stat;

/// Runs that lie side by side before they are merged.
const RUNS_MAX: usize = 8;
/// Plain bytes at which a block of a run is closed.
const BLOCK_BYTES: usize = 16 << 10;
/// Bookkeeping that a name in memory is charged with.
const NAME_OVERHEAD_BYTES: usize = 96;
/// Bits of the filter that an inode sets, of eight that it is given.
const FILTER_PROBES: u64 = 4;

/// Device and inode number.
type Inode = (u64, u64);

/// What the scanner learns about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkOf {
    /// No earlier name: this one holds the content.
    First,
    /// The inode has been met under another name.
    Other {
        /// Sequence of the first name.
        sequence: u64,
        /// Path of the first name.
        path: Vec<u8>,
    },
}

/// A first name: its sequence and its path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FirstName {
    sequence: u64,
    path: Vec<u8>,
    /// Tells the inode from a later one with the same number.
    lineage: u64,
}

/// See the module.
pub struct HardLinks {
    scratch: Arc<dyn Scratch>,
    memory_bytes_max: usize,
    memory_bytes: usize,
    firsts: HashMap<Inode, FirstName>,
    runs: Vec<Run>,
}

impl HardLinks {
    /// An empty map that keeps about `memory_bytes` of names in memory.
    pub fn new(scratch: Arc<dyn Scratch>, memory_bytes: usize) -> Self {
        let memory_bytes_max = memory_bytes.max(64 << 10);
        Self { scratch, memory_bytes_max, memory_bytes: 0, firsts: HashMap::new(), runs: Vec::new() }
    }

    /// Meets a name of an inode; the first one is remembered. A number that was used again for another inode since it
    /// was met begins anew: its earlier names are none of the new file.
    pub fn meet(&mut self, stat: &Stat, sequence: u64, path: &[u8]) -> Result<LinkOf, Failure> {
        let failed = |error: ScratchError| {
            Failure::internal("remember hard links", "", error).with_guidance("set TMPDIR to a directory with room")
        };
        let (key, lineage) = ((stat.device, stat.inode), stat.lineage());
        if let Some(first) = self.find(key).map_err(failed)?.filter(|first| first.lineage == lineage) {
            return Ok(LinkOf::Other { sequence: first.sequence, path: first.path });
        }
        self.memory_bytes += path.len() + NAME_OVERHEAD_BYTES;
        self.firsts.insert(key, FirstName { sequence, path: path.to_vec(), lineage });
        if self.memory_bytes > self.memory_bytes_max {
            self.spill().map_err(failed)?;
        }
        Ok(LinkOf::First)
    }

    fn find(&mut self, key: Inode) -> Result<Option<FirstName>, ScratchError> {
        if let Some(first) = self.firsts.get(&key) {
            return Ok(Some(first.clone()));
        }
        for run in self.runs.iter_mut().rev() {
            if let Some(first) = run.find(key)? {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    fn spill(&mut self) -> Result<(), ScratchError> {
        let mut names: Vec<(Inode, FirstName)> = std::mem::take(&mut self.firsts).into_iter().collect();
        self.memory_bytes = 0;
        names.sort_unstable_by_key(|(key, _)| *key);
        let mut writer = RunWriter::new(self.scratch.open()?, names.len());
        for (key, first) in &names {
            writer.push(*key, first)?;
        }
        self.runs.push(writer.finish()?);
        if self.runs.len() > RUNS_MAX {
            self.merge()?;
        }
        Ok(())
    }

    fn merge(&mut self) -> Result<(), ScratchError> {
        let names = self.runs.iter().map(|run| run.names).sum();
        let mut writer = RunWriter::new(self.scratch.open()?, names);
        let mut cursors: Vec<Cursor> = std::mem::take(&mut self.runs).into_iter().map(Cursor::new).collect();
        loop {
            for cursor in &mut cursors {
                cursor.fill()?;
            }
            cursors.retain(|cursor| !cursor.loaded.is_empty());
            let head = |cursor: &Cursor| cursor.loaded.last().map(|(key, _)| *key);
            let Some(smallest) = cursors.iter_mut().min_by_key(|cursor| head(cursor)) else { break };
            let (key, mut first) = smallest.loaded.pop().expect("empty cursors were dropped");
            // Of a number that was used again the latest file counts; runs lie in the order of their making.
            for later in cursors.iter_mut().filter(|cursor| head(cursor) == Some(key)) {
                first = later.loaded.pop().expect("it has a head").1;
            }
            writer.push(key, &first)?;
        }
        self.runs.push(writer.finish()?);
        Ok(())
    }
}

/// A sorted run in a scratch file of its own.
struct Run {
    file: ScratchFile,
    /// The first inode of each block, in order.
    fences: Vec<Inode>,
    filter: Filter,
    names: usize,
    /// The block that was read last: links of one tree come in the order of another.
    last: Option<(usize, Vec<(Inode, FirstName)>)>,
}

impl Run {
    fn find(&mut self, key: Inode) -> Result<Option<FirstName>, ScratchError> {
        if !self.filter.may_hold(key) {
            return Ok(None);
        }
        let Some(block) = self.fences.partition_point(|fence| *fence <= key).checked_sub(1) else { return Ok(None) };
        if self.last.as_ref().is_none_or(|(loaded, _)| *loaded != block) {
            self.last = Some((block, read_block(&self.file, block)?));
        }
        let (_, names) = self.last.as_ref().expect("loaded above");
        let found = names.binary_search_by_key(&key, |(other, _)| *other);
        Ok(found.ok().map(|at| names[at].1.clone()))
    }
}

fn read_block(file: &ScratchFile, block: usize) -> Result<Vec<(Inode, FirstName)>, ScratchError> {
    let plain = file.read(block as u64)?;
    // The block is authenticated, so what does not decode is our own bug.
    Ok(decode_block(&plain).expect("a scratch block holds whole names"))
}

fn decode_block(plain: &[u8]) -> Result<Vec<(Inode, FirstName)>, DecodeError> {
    let mut decoder = Decoder::new(plain);
    let mut names = Vec::new();
    while decoder.remaining() > 0 {
        let key = (decoder.u64()?, decoder.u64()?);
        let (sequence, lineage) = (decoder.u64()?, decoder.u64()?);
        let path = decoder.string(SCRATCH_BLOCK_BYTES_MAX, "path")?.to_vec();
        names.push((key, FirstName { sequence, path, lineage }));
    }
    Ok(names)
}

/// Reads a run from its beginning to its end.
struct Cursor {
    run: Run,
    next_block: usize,
    /// Names of the loaded block, the next one last.
    loaded: Vec<(Inode, FirstName)>,
}

impl Cursor {
    fn new(run: Run) -> Self {
        Self { run, next_block: 0, loaded: Vec::new() }
    }

    fn fill(&mut self) -> Result<(), ScratchError> {
        if self.loaded.is_empty() && self.next_block < self.run.fences.len() {
            self.loaded = read_block(&self.run.file, self.next_block)?;
            self.loaded.reverse();
            self.run.file.discard(self.next_block as u64);
            self.next_block += 1;
        }
        Ok(())
    }
}

struct RunWriter {
    run: Run,
    encoder: Encoder,
    first: Option<Inode>,
}

impl RunWriter {
    fn new(file: ScratchFile, names: usize) -> Self {
        let run = Run { file, fences: Vec::new(), filter: Filter::new(names), names, last: None };
        Self { run, encoder: Encoder::new(), first: None }
    }

    fn push(&mut self, key: Inode, name: &FirstName) -> Result<(), ScratchError> {
        self.run.filter.add(key);
        self.first.get_or_insert(key);
        self.encoder.u64(key.0);
        self.encoder.u64(key.1);
        self.encoder.u64(name.sequence);
        self.encoder.u64(name.lineage);
        self.encoder.string(&name.path);
        if self.encoder.len() >= BLOCK_BYTES {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), ScratchError> {
        let Some(first) = self.first.take() else { return Ok(()) };
        let block = std::mem::take(&mut self.encoder).finish();
        self.run.file.append(&block)?;
        self.run.fences.push(first);
        Ok(())
    }

    fn finish(mut self) -> Result<Run, ScratchError> {
        self.close_block()?;
        Ok(self.run)
    }
}

/// A Bloom filter of eight bits an inode: one inode in forty that is not there looks as if it was.
struct Filter {
    bits: Vec<u64>,
}

impl Filter {
    fn new(names: usize) -> Self {
        Self { bits: vec![0; names.div_ceil(8).max(1)] }
    }

    fn add(&mut self, key: Inode) {
        for (word, bit) in self.places(key) {
            self.bits[word] |= bit;
        }
    }

    fn may_hold(&self, key: Inode) -> bool {
        self.places(key).all(|(word, bit)| self.bits[word] & bit != 0)
    }

    fn places(&self, key: Inode) -> impl Iterator<Item = (usize, u64)> + use<> {
        let hash = mix(mix(key.1).wrapping_add(key.0));
        let (start, step) = (hash & 0xffff_ffff, hash >> 32 | 1);
        let bits = self.bits.len() as u64 * 64;
        (0..FILTER_PROBES).map(move |probe| {
            let place = start.wrapping_add(step.wrapping_mul(probe)) % bits;
            ((place / 64) as usize, 1 << (place % 64))
        })
    }
}

/// The finaliser of splitmix64: inodes are dense, their hashes must not be.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::MemoryScratch;
    use mover_repository::ids::UnixNanos;
    use proptest::prelude::*;

    fn links(memory_bytes: usize) -> HardLinks {
        HardLinks::new(Arc::new(MemoryScratch::default()), memory_bytes)
    }

    fn stat(device: u64, inode: u64, birth: i128) -> Stat {
        Stat { device, inode, birth: Some(UnixNanos(birth)), ..crate::backup::early::tests::stat() }
    }

    /// A backup took hours; a file with two names was removed after it had been listed, its inode number was given to
    /// a new one with two names, and those were stored as links to the old content.
    #[test]
    fn an_inode_number_that_is_used_again_is_another_file() {
        let mut links = links(0);
        let other = |sequence: u64, path: &[u8]| LinkOf::Other { sequence, path: path.to_vec() };
        assert_eq!(links.meet(&stat(1, 5, 100), 0, b"a/f").unwrap(), LinkOf::First);
        assert_eq!(links.meet(&stat(1, 5, 100), 1, b"a/g").unwrap(), other(0, b"a/f"));
        assert_eq!(links.meet(&stat(1, 5, 200), 2, b"z/n").unwrap(), LinkOf::First);
        assert_eq!(links.meet(&stat(1, 5, 200), 3, b"z/o").unwrap(), other(2, b"z/n"));
        // The same with both in scratch, apart and merged.
        for filler in 0..200_000 {
            links.meet(&stat(2, filler, 0), filler, b"some/longer/path/that/fills/the/memory").unwrap();
            if filler % 10_000 == 0 {
                assert_eq!(links.meet(&stat(1, 5, 200), 4, b"z/p").unwrap(), other(2, b"z/n"));
                let renewed = stat(1, 9, i128::from(filler));
                assert_eq!(links.meet(&renewed, filler, b"again").unwrap(), LinkOf::First);
                assert_eq!(links.meet(&renewed, 0, b"other").unwrap(), other(filler, b"again"));
            }
        }
        assert!(!links.runs.is_empty());
    }

    #[test]
    fn the_first_name_of_each_inode_is_found_in_memory_and_in_scratch() {
        let mut links = links(0);
        let path = |inode: u64| format!("some/directory/file {inode}").into_bytes();
        let count = 20_000u64;
        for inode in 0..count {
            assert_eq!(links.meet(&stat(inode % 3, inode, 0), inode * 2, &path(inode)).unwrap(), LinkOf::First);
        }
        assert!(!links.runs.is_empty() && links.runs.len() <= RUNS_MAX);
        assert!(links.memory_bytes <= links.memory_bytes_max);
        for inode in (0..count).rev() {
            let found = links.meet(&stat(inode % 3, inode, 0), u64::MAX, b"another").unwrap();
            assert_eq!(found, LinkOf::Other { sequence: inode * 2, path: path(inode) });
        }
        assert_eq!(links.meet(&stat(9, 1, 0), 0, b"other device").unwrap(), LinkOf::First);
    }

    #[test]
    fn the_filter_spares_most_reads() {
        let mut filter = Filter::new(10_000);
        (0..10_000).for_each(|inode| filter.add((1, inode)));
        assert!((0..10_000).all(|inode| filter.may_hold((1, inode))));
        let mistaken = (10_000..20_000).filter(|inode| filter.may_hold((1, *inode))).count();
        assert!(mistaken < 500, "{mistaken} of 10000");
    }

    #[test]
    fn a_full_disk_is_an_error_not_a_second_first_name() {
        let mut links = HardLinks::new(Arc::new(MemoryScratch::with_room(1000)), 0);
        let failed = (0..100_000).find_map(|inode| links.meet(&stat(1, inode, 0), inode, b"path").err());
        assert!(failed.is_some_and(|failure| failure.to_string().contains("hard links")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// It answers as a HashMap does.
        #[test]
        fn it_behaves_like_a_hash_map(names in prop::collection::vec((0u64..2, 0u64..900, 0usize..200), 1..4000)) {
            let mut links = links(0);
            let mut model: HashMap<Inode, (u64, Vec<u8>)> = HashMap::new();
            for (sequence, (device, inode, bytes)) in names.into_iter().enumerate() {
                let path = vec![b'p'; bytes];
                let expected = match model.get(&(device, inode)) {
                    Some((sequence, path)) => LinkOf::Other { sequence: *sequence, path: path.clone() },
                    None => LinkOf::First,
                };
                prop_assert_eq!(links.meet(&stat(device, inode, 0), sequence as u64, &path).unwrap(), expected);
                model.entry((device, inode)).or_insert((sequence as u64, path));
            }
        }
    }
}

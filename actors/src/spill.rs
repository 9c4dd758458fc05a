//! A priority queue that is bounded by disk, not by memory: [`SortedSpill`].
//!
//! Records are pushed in any order and popped in the order of their keys; pushes and pops may alternate (the
//! recorder pops what is next while later files still arrive), and records of equal keys come out in the order
//! they went in. What exceeds the memory given is written to sealed scratch: the half with the largest keys, as
//! one sorted run. More than [`FAN_IN`] runs are merged into one.
//!
//! Limits: memory is `memory_bytes_max` plus one block a run (at most [`FAN_IN`] + 1 blocks of a 64th of it, 4 KiB
//! at least) plus one record. Must never: lose a record without an error. Blocking; see [`crate::scratch`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use mover_repository::codec::{DecodeError, Decoder, Encoder};

use crate::scratch::{SCRATCH_BLOCK_BYTES_MAX, Scratch, ScratchError, ScratchFile};

/// Most sorted runs that are read at once.
pub const FAN_IN: usize = 16;
/// Bytes of bookkeeping that a record in memory is charged with.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// A key that can be spilled.
pub trait SpillKey: Ord + Clone + Debug + Send {
    /// Writes the key.
    fn encode(&self, encoder: &mut Encoder);
    /// Reads it back.
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError>;
    /// Bytes outside the value itself.
    fn heap_bytes(&self) -> usize;
}

impl SpillKey for u64 {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.u64(*self);
    }
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.u64()
    }
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl SpillKey for Vec<u8> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.string(self);
    }
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.string(SCRATCH_BLOCK_BYTES_MAX, "key").map(<[u8]>::to_vec)
    }
    fn heap_bytes(&self) -> usize {
        self.len()
    }
}

impl SpillKey for (u64, u64) {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.u64(self.0);
        encoder.u64(self.1);
    }
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok((decoder.u64()?, decoder.u64()?))
    }
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// Records in the order of their keys, spilled to scratch beyond a bound of memory.
#[derive(Debug)]
pub struct SortedSpill<K: SpillKey> {
    scratch: Arc<dyn Scratch>,
    memory_bytes_max: usize,
    memory: BTreeMap<(K, u64), Vec<u8>>,
    memory_bytes: usize,
    runs: Vec<Run<K>>,
    file: Option<ScratchFile>,
    pushed: u64,
    records: u64,
}

impl<K: SpillKey> SortedSpill<K> {
    /// An empty queue that keeps about `memory_bytes_max` in memory.
    pub fn new(scratch: Arc<dyn Scratch>, memory_bytes_max: usize) -> Self {
        Self {
            scratch,
            memory_bytes_max: memory_bytes_max.max(64 << 10),
            memory: BTreeMap::new(),
            memory_bytes: 0,
            runs: Vec::new(),
            file: None,
            pushed: 0,
            records: 0,
        }
    }

    /// Records inside.
    pub fn len(&self) -> u64 {
        self.records
    }

    /// True if nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes held in memory, bookkeeping included.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.runs.iter().map(|run| run.loaded_bytes).sum::<usize>()
    }

    /// Sealed bytes written to scratch so far.
    pub fn spilled_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, ScratchFile::bytes)
    }

    /// Adds a record. A record, key included, must be smaller than a scratch block (4 MiB).
    pub fn push(&mut self, key: K, value: Vec<u8>) -> Result<(), ScratchError> {
        self.memory_bytes += record_bytes(&key, &value);
        self.memory.insert((key, self.pushed), value);
        self.pushed += 1;
        self.records += 1;
        if self.memory_bytes > self.memory_bytes_max {
            self.spill_half()?;
        }
        Ok(())
    }

    /// The smallest key inside.
    pub fn first_key(&mut self) -> Result<Option<K>, ScratchError> {
        Ok(self.smallest()?.map(|(_, key)| key.0))
    }

    /// Takes the record with the smallest key.
    pub fn pop(&mut self) -> Result<Option<(K, Vec<u8>)>, ScratchError> {
        let Some((place, _)) = self.smallest()? else { return Ok(None) };
        self.records -= 1;
        let Some(run) = place else {
            let ((key, _), value) = self.memory.pop_first().expect("the smallest is here");
            self.memory_bytes -= record_bytes(&key, &value);
            return Ok(Some((key, value)));
        };
        let (key, _, value) = self.runs[run].take();
        Ok(Some((key, value)))
    }

    /// Takes the record with the smallest key if that key is `key`.
    pub fn pop_if(&mut self, key: &K) -> Result<Option<Vec<u8>>, ScratchError> {
        match self.smallest()? {
            Some((_, (first, _))) if first == *key => Ok(self.pop()?.map(|(_, value)| value)),
            _ => Ok(None),
        }
    }

    /// Where the smallest record is (`None`: in memory, else the run) and its key.
    #[allow(clippy::type_complexity)]
    fn smallest(&mut self) -> Result<Option<(Option<usize>, (K, u64))>, ScratchError> {
        let mut best = self.memory.first_key_value().map(|(key, _)| (None, key.clone()));
        if self.runs.is_empty() {
            return Ok(best);
        }
        let file = self.file.as_mut().expect("runs lie in a file");
        for run in &mut self.runs {
            run.fill(file)?;
        }
        self.runs.retain(|run| !run.is_finished());
        for (number, run) in self.runs.iter().enumerate() {
            let head = run.head().expect("filled above");
            if best.as_ref().is_none_or(|(_, key)| head < (&key.0, key.1)) {
                best = Some((Some(number), (head.0.clone(), head.1)));
            }
        }
        if self.runs.is_empty() {
            self.file = None;
        }
        Ok(best)
    }

    fn block_bytes(&self) -> usize {
        (self.memory_bytes_max / 64).clamp(4 << 10, 256 << 10)
    }

    /// Writes the larger half of the keys as one run: they are needed last.
    fn spill_half(&mut self) -> Result<(), ScratchError> {
        let keep = self.memory_bytes_max / 2;
        let mut kept_bytes = 0;
        let cut = self.memory.iter().find_map(|(key, value)| {
            kept_bytes += record_bytes(&key.0, value);
            (kept_bytes > keep).then(|| key.clone())
        });
        let Some(cut) = cut else { return Ok(()) };
        let spilled = self.memory.split_off(&cut);
        self.memory_bytes = self.memory.iter().map(|(key, value)| record_bytes(&key.0, value)).sum();
        if self.file.is_none() {
            self.file = Some(self.scratch.open()?);
        }
        let block_bytes = self.block_bytes();
        let file = self.file.as_mut().expect("opened above");
        let mut writer = RunWriter::new(block_bytes);
        for ((key, order), value) in spilled {
            writer.push(file, &key, order, &value)?;
        }
        let run = writer.finish(file)?;
        self.runs.push(run);
        if self.runs.len() > FAN_IN {
            self.merge_runs()?;
        }
        Ok(())
    }

    fn merge_runs(&mut self) -> Result<(), ScratchError> {
        let block_bytes = self.block_bytes();
        let file = self.file.as_mut().expect("runs lie in a file");
        let mut writer = RunWriter::new(block_bytes);
        loop {
            for run in &mut self.runs {
                run.fill(file)?;
            }
            self.runs.retain(|run| !run.is_finished());
            let Some(smallest) = self.runs.iter_mut().min_by(|a, b| a.head().cmp(&b.head())) else { break };
            let (key, order, value) = smallest.take();
            writer.push(file, &key, order, &value)?;
        }
        let merged = writer.finish(file)?;
        self.runs.push(merged);
        Ok(())
    }
}

fn record_bytes<K: SpillKey>(key: &K, value: &[u8]) -> usize {
    key.heap_bytes() + value.len() + RECORD_OVERHEAD_BYTES
}

/// A sorted run: blocks in scratch, of which one is loaded.
#[derive(Debug)]
struct Run<K> {
    blocks: std::collections::VecDeque<u64>,
    /// Records of the loaded block, the next one last.
    loaded: Vec<(K, u64, Vec<u8>)>,
    loaded_bytes: usize,
}

impl<K: SpillKey> Run<K> {
    fn fill(&mut self, file: &mut ScratchFile) -> Result<(), ScratchError> {
        if !self.loaded.is_empty() {
            return Ok(());
        }
        let Some(number) = self.blocks.pop_front() else { return Ok(()) };
        let block = file.read(number)?;
        file.discard(number);
        let mut decoder = Decoder::new(&block);
        while decoder.remaining() > 0 {
            // The block is authenticated, so what does not decode is our own bug.
            let record = decode_record(&mut decoder).expect("a scratch block holds whole records");
            self.loaded.push(record);
        }
        self.loaded.reverse();
        self.loaded_bytes = block.len() + self.loaded.len() * RECORD_OVERHEAD_BYTES;
        Ok(())
    }

    fn head(&self) -> Option<(&K, u64)> {
        self.loaded.last().map(|(key, order, _)| (key, *order))
    }

    fn is_finished(&self) -> bool {
        self.loaded.is_empty() && self.blocks.is_empty()
    }

    fn take(&mut self) -> (K, u64, Vec<u8>) {
        let record = self.loaded.pop().expect("filled before it is taken");
        if self.loaded.is_empty() {
            self.loaded_bytes = 0;
        }
        record
    }
}

fn decode_record<K: SpillKey>(decoder: &mut Decoder<'_>) -> Result<(K, u64, Vec<u8>), DecodeError> {
    let key = K::decode(decoder)?;
    let order = decoder.u64()?;
    let value = decoder.string(SCRATCH_BLOCK_BYTES_MAX, "value")?.to_vec();
    Ok((key, order, value))
}

struct RunWriter {
    block_bytes: usize,
    encoder: Encoder,
    blocks: std::collections::VecDeque<u64>,
}

impl RunWriter {
    fn new(block_bytes: usize) -> Self {
        Self { block_bytes, encoder: Encoder::new(), blocks: std::collections::VecDeque::new() }
    }

    fn push<K: SpillKey>(
        &mut self,
        file: &mut ScratchFile,
        key: &K,
        order: u64,
        value: &[u8],
    ) -> Result<(), ScratchError> {
        let grown = self.encoder.len() + key.heap_bytes() + value.len() + RECORD_OVERHEAD_BYTES;
        if grown > self.block_bytes && !self.encoder.is_empty() {
            self.write_block(file)?;
        }
        key.encode(&mut self.encoder);
        self.encoder.u64(order);
        self.encoder.string(value);
        Ok(())
    }

    fn write_block(&mut self, file: &mut ScratchFile) -> Result<(), ScratchError> {
        let block = std::mem::take(&mut self.encoder).finish();
        self.blocks.push_back(file.append(&block)?);
        Ok(())
    }

    fn finish<K>(mut self, file: &mut ScratchFile) -> Result<Run<K>, ScratchError> {
        if !self.encoder.is_empty() {
            self.write_block(file)?;
        }
        Ok(Run { blocks: self.blocks, loaded: Vec::new(), loaded_bytes: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::MemoryScratch;
    use proptest::prelude::*;

    const MEMORY_BYTES: usize = 64 << 10;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Pushes and pops in any order give what a BTreeMap gives, and memory stays bounded.
        #[test]
        fn it_behaves_like_a_btreemap(
            steps in prop::collection::vec((any::<u16>(), 0usize..3000, 0u8..4), 1..1500),
        ) {
            let mut spill = SortedSpill::<u64>::new(Arc::new(MemoryScratch::default()), MEMORY_BYTES);
            let mut model = BTreeMap::new();
            for (order, (key, bytes, action)) in steps.into_iter().enumerate() {
                if action == 0 {
                    let expected = model.pop_first().map(|((key, _), value)| (key, value));
                    prop_assert_eq!(spill.first_key().unwrap(), expected.as_ref().map(|(key, _)| *key));
                    prop_assert_eq!(spill.pop().unwrap(), expected);
                } else {
                    let value = vec![order as u8; bytes];
                    spill.push(u64::from(key), value.clone()).unwrap();
                    model.insert((u64::from(key), order), value);
                }
                prop_assert_eq!(spill.len(), model.len() as u64);
                prop_assert!(spill.memory_bytes() <= MEMORY_BYTES + (FAN_IN + 1) * (4096 + 3000 + 4096));
            }
            while let Some(((key, _), value)) = model.pop_first() {
                prop_assert_eq!(spill.pop().unwrap(), Some((key, value)));
            }
            prop_assert_eq!(spill.pop().unwrap(), None);
        }
    }

    #[test]
    fn many_runs_are_merged_and_names_sort_as_bytes() {
        let mut spill = SortedSpill::<Vec<u8>>::new(Arc::new(MemoryScratch::default()), MEMORY_BYTES);
        let mut names: Vec<Vec<u8>> =
            (0..20_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes().to_vec()).collect();
        for name in &names {
            spill.push(name.clone(), name.clone()).unwrap();
        }
        assert!(spill.spilled_bytes() > 0 && spill.runs.len() <= FAN_IN);
        names.sort_unstable();
        for name in names {
            assert_eq!(spill.pop().unwrap(), Some((name.clone(), name)));
        }
        assert!(spill.is_empty());
        assert_eq!(spill.first_key().unwrap(), None);
    }

    #[test]
    fn a_full_disk_is_an_error_not_a_loss() {
        let mut spill = SortedSpill::<u64>::new(Arc::new(MemoryScratch::with_room(100 << 10)), MEMORY_BYTES);
        let failed = (0..10_000u64).find_map(|key| spill.push(key, vec![0; 100]).err());
        assert!(matches!(failed, Some(ScratchError::Io { .. })));
    }
}

//! Chunks that are asked for, as many as memory has room for, and then copied together.
//!
//! The window is what lets packs of FROM be read front to back although a manifest names chunks in the order of paths,
//! and it bounds what is remembered of a point of any size. What was copied is durable, and in TO's index, before the
//! next window opens: so a chunk that comes again is found there. One thread's.

use hashbrown::HashMap;

use super::chunks::{self, Wanted};
use super::{Damage, Job, KNOWN_PAIR_BYTES, Trouble};
use crate::blocking::block_on;
use crate::error::RepositoryError;
use crate::ids::ChunkId;
use crate::index::Location;
use crate::lru::Lru;

/// Memory that a chunk takes in a window: in both tables, in the sorted list, and in what comes back.
const CHUNK_BYTES: usize = 320;
/// Fewer are not worth a window.
const CHUNKS_MIN: usize = if cfg!(test) { 16 } else { 4096 };

pub(super) struct Window<'w> {
    job: &'w Job<'w>,
    known: &'w mut Lru<ChunkId, ChunkId>,
    wanted: HashMap<ChunkId, Location>,
    /// Ids in TO of chunks of this window.
    resolved: HashMap<ChunkId, ChunkId>,
    damage: Damage,
    chunks_max: usize,
}

impl<'w> Window<'w> {
    pub(super) fn new(job: &'w Job<'w>, known: &'w mut Lru<ChunkId, ChunkId>) -> Self {
        let chunks_max = (job.window_bytes / CHUNK_BYTES).max(CHUNKS_MIN);
        let (wanted, resolved) = (HashMap::new(), HashMap::new());
        Self { job, known, wanted, resolved, damage: Damage::default(), chunks_max }
    }

    /// Asks for a chunk, by its id in FROM.
    pub(super) fn want(&mut self, id: ChunkId) {
        if self.wanted.contains_key(&id) || self.resolved.contains_key(&id) || self.damage.contains(&id) {
            return;
        }
        match self.id_in_to(&id) {
            Some(_) if self.job.shares_ids => return,
            Some(there) => {
                self.resolved.insert(id, there);
                return;
            }
            None => {}
        }
        match block_on(self.job.from_chunks.index().lookup(&id)) {
            Ok(Some(location)) => _ = self.wanted.insert(id, location),
            Ok(None) => {
                let missing = RepositoryError::MissingObject { object: format!("chunk {id}") };
                self.damage.add(id, &missing);
            }
            Err(error) => self.damage.add(id, &error),
        }
    }

    /// The id under which TO has a chunk, as far as that is known without reading it.
    fn id_in_to(&mut self, id: &ChunkId) -> Option<ChunkId> {
        let is_counted = self.job.options.dry_run && self.known.get(id).is_some();
        let there = if self.job.shares_ids { *id } else { self.known.get(id)? };
        (is_counted || self.job.is_in_to(&there)).then_some(there)
    }

    /// Takes note of a chunk's ids in both.
    pub(super) fn learn(&mut self, id: ChunkId, there: ChunkId) {
        self.known.insert(id, there, KNOWN_PAIR_BYTES);
    }

    /// True if it has to be copied before more is asked for.
    pub(super) fn is_full(&self) -> bool {
        self.wanted.len() + self.resolved.len() >= self.chunks_max
    }

    /// True if something of the point cannot be read.
    pub(super) fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    /// Copies what was asked for; [`Window::resolved`] tells of it until [`Window::begin`].
    pub(super) fn copy(&mut self) -> Result<(), Trouble> {
        let list = self.wanted.drain().map(|(id, location)| Wanted { id, location });
        let mut list: Vec<Wanted> = list.collect();
        if list.is_empty() {
            return Ok(());
        }
        list.sort_unstable_by_key(|wanted| (wanted.location, wanted.id));
        if self.job.options.dry_run {
            for wanted in list {
                self.job.options.counters.count_chunk(wanted.location.chunk_bytes);
                self.known.insert(wanted.id, wanted.id, KNOWN_PAIR_BYTES);
                self.resolved.insert(wanted.id, wanted.id);
            }
            return Ok(());
        }
        let copied = chunks::copy(self.job, &list).map_err(Trouble::Fatal)?;
        copied.damaged.iter().for_each(|(id, error)| self.damage.add(*id, error));
        for (id, there) in copied.ids {
            self.learn(id, there);
            self.resolved.insert(id, there);
        }
        if self.job.is_stopped() {
            return Err(Trouble::Stopped);
        }
        match self.damage.is_large() {
            true => {
                Err(Trouble::Point(RepositoryError::corrupt("the recovery point", "too much of it cannot be read")))
            }
            false => Ok(()),
        }
    }

    /// The id in TO of a chunk of this window.
    pub(super) fn resolved(&self, id: &ChunkId) -> Option<ChunkId> {
        self.resolved.get(id).copied()
    }

    /// Forgets what is done with.
    pub(super) fn begin(&mut self) {
        self.resolved.clear();
    }

    pub(super) fn into_damage(self) -> Damage {
        self.damage
    }
}

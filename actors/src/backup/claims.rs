//! Each chunk is stored once a run, whichever shard meets it first.
//!
//! A claim lives from the moment a deduplicator decides to store a chunk until the chunk is in
//! the index, which is after its pack is durable. A second user of the chunk refers to the claim;
//! the fileset is sealed only when no claim is left. Striped by the first byte of the id: the
//! ids are uniform, so two shards meet on one lock about once in 256 chunks.
//!
//! Shared by all shards; a lock is held for one map operation, never across a wait.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;
use mover_repository::ids::ChunkId;
use parking_lot::Mutex;

const STRIPES: usize = 256;

/// What a deduplicator learns about a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has it: the caller must store it.
    Mine,
    /// In the index, or on its way there by another shard.
    Taken,
}

/// The chunks that this run is storing right now.
pub struct Claims {
    stripes: Box<[Mutex<HashSet<ChunkId>>]>,
    open: AtomicU64,
}

impl Default for Claims {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::default()).collect(), open: AtomicU64::new(0) }
    }
}

impl Claims {
    /// Claims `id` unless it is claimed already or `is_stored` says that it is in the index.
    ///
    /// `is_stored` is asked under the lock that [`Claims::stored`] takes after the chunk has
    /// entered the index, so a chunk cannot slip between the two and be stored twice.
    pub fn claim(&self, id: &ChunkId, is_stored: impl FnOnce() -> bool) -> Claim {
        let mut stripe = self.stripe(id).lock();
        if stripe.contains(id) || is_stored() {
            return Claim::Taken;
        }
        stripe.insert(*id);
        self.open.fetch_add(1, Ordering::Relaxed);
        Claim::Mine
    }

    /// Ends the claim on a chunk that is durable and in the index.
    pub fn stored(&self, id: &ChunkId) {
        if self.stripe(id).lock().remove(id) {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Claims that are not stored yet. Exact once every actor of the fileset has finished.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn stripe(&self, id: &ChunkId) -> &Mutex<HashSet<ChunkId>> {
        &self.stripes[id.as_bytes()[0] as usize % STRIPES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_meeting_one_chunk_store_it_once() {
        let claims = Claims::default();
        let id = ChunkId([7; 32]);
        let mine: usize = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| usize::from(claims.claim(&id, || false) == Claim::Mine))).collect();
            workers.into_iter().map(|worker| worker.join().expect("worker")).sum()
        });
        assert_eq!(mine, 1);
        assert_eq!(claims.open(), 1);
        claims.stored(&id);
        assert_eq!(claims.open(), 0);
        assert_eq!(claims.claim(&id, || true), Claim::Taken);
    }
}

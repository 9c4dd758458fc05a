//! Ledger: what has been written and is not indexed yet.
//!
//! The order of durability lives here. A pack is *written* once its bytes are synced; it is
//! *durable* once a barrier has synced its name too; only then do its chunks enter the index, and
//! only then does the segment that names them become an object. Segments are written every
//! [`SEGMENT_STORED_BYTES`] or [`SEGMENT_INTERVAL`], or as many chunks as memory has room for, and
//! always beside the record that a fileset is sealed, before the next one begins.
//!
//! A job that is killed must store at most a tenth again, however slow the syncs of its disk are. So the packs that
//! wait for them share a budget, [`Ledger::unsynced`], which grows with what is durable. Over a network it is what keeps
//! the link busy, so that a kill costs some seconds of it.
//!
//! Shared by the uploaders of all shards; the lock is never held across a wait, and one flush runs
//! at a time.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::future::try_zip;
use mover_repository::index::{Index, SegmentBuilder};
use mover_repository::pack::PackContents;
use mover_repository::repository::Repository;
use parking_lot::Mutex;

use crate::backup::claims::Claims;
use crate::error::Failure;
use crate::runtime::mutant::{Mutant, mutant};
use crate::runtime::{Budget, Permit};

/// Stored bytes after which a segment is written.
const SEGMENT_STORED_BYTES: u64 = 512 << 20;
/// Memory that a chunk takes on its way into the index: in the table of its pack, in its claim, in the segment's
/// builder and in the sealed segment.
const CHUNK_MEMORY_BYTES: usize = 224;
/// Packs that are closed and not yet synced, in bytes: so much at first, and this part of what is durable later.
/// With the open packs, a 32nd of what is stored, that stays below a tenth from half a GiB on.
const UNSYNCED_BYTES_FIRST: usize = 12 << 20;
const UNSYNCED_SHARE_OF_DURABLE: u64 = 32;
/// Time after which a segment is written, if there is anything to name.
const SEGMENT_INTERVAL: Duration = Duration::from_secs(60);

/// See the module.
pub struct Ledger {
    repository: Repository,
    index: Arc<Index>,
    claims: Arc<Claims>,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    state: Mutex<State>,
    /// Chunks that may wait for a segment.
    chunks_max: usize,
    unsynced: Budget,
    /// One flush at a time.
    flushing: Budget,
    packs: AtomicU64,
    segments: AtomicU64,
}

#[derive(Default)]
struct State {
    written: Vec<PackContents>,
    stored_bytes: u64,
    chunks: usize,
    last_flush: Duration,
}

impl Ledger {
    /// An empty ledger; `clock` is the runtime's monotonic time. What it has to name takes about `memory_bytes`.
    pub fn new(
        repository: Repository,
        index: Arc<Index>,
        claims: Arc<Claims>,
        memory_bytes: usize,
        clock: Box<dyn Fn() -> Duration + Send + Sync>,
    ) -> Self {
        let state = Mutex::new(State { last_flush: clock(), ..State::default() });
        Self {
            repository,
            index,
            claims,
            clock,
            state,
            chunks_max: memory_bytes / CHUNK_MEMORY_BYTES,
            unsynced: Budget::new(UNSYNCED_BYTES_FIRST),
            flushing: Budget::new(1),
            packs: AtomicU64::new(0),
            segments: AtomicU64::new(0),
        }
    }

    /// Room for a pack of `bytes` bytes among those that wait to be synced. Whoever waits here holds back its shard.
    pub async fn unsynced(&self, bytes: u64) -> Permit {
        if let Some(link) = self.repository.backend().link() {
            // One at a time looks and grows.
            let _state = self.state.lock();
            let lacking = link.in_flight_bytes.saturating_sub(self.unsynced.common_bytes() as u64);
            self.unsynced.grow(usize::try_from(lacking).unwrap_or_default());
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.unsynced.acquire(bytes.min(self.unsynced.common_bytes())).await
    }

    /// Takes note of a pack whose bytes are durable.
    pub async fn written(&self, contents: PackContents) -> Result<(), Failure> {
        self.packs.fetch_add(1, Ordering::Relaxed);
        self.unsynced.grow((contents.bytes / UNSYNCED_SHARE_OF_DURABLE) as usize);
        let is_due = {
            let mut state = self.state.lock();
            state.stored_bytes += contents.bytes;
            state.chunks += contents.chunk_count();
            state.written.push(contents);
            let waited = (self.clock)().saturating_sub(state.last_flush);
            let is_full = state.stored_bytes >= SEGMENT_STORED_BYTES || state.chunks >= self.chunks_max;
            is_full || waited >= SEGMENT_INTERVAL
        };
        if is_due { self.flush().await } else { Ok(()) }
    }

    /// Takes over packs that an earlier run finished and did not live to index: this run relies on
    /// them, so its next segment names them.
    pub fn adopt(&self, packs: Vec<PackContents>) {
        for contents in &packs {
            self.repository.backend().adopt(&contents.info().object_name());
        }
        self.state.lock().written.extend(packs);
    }

    /// Makes the names of all written packs durable, then indexes their chunks.
    pub async fn flush(&self) -> Result<(), Failure> {
        self.flush_then(async { Ok(()) }).await
    }

    /// As [`Ledger::flush`], with `next` beside the writing of the segment: what needs packs that are durable, and not
    /// the segment, for a pack that no segment names is read by its own table.
    pub async fn flush_then(&self, next: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let _turn = self.flushing.acquire(1).await;
        let written = {
            let mut state = self.state.lock();
            (state.stored_bytes, state.chunks) = (0, 0);
            state.last_flush = (self.clock)();
            std::mem::take(&mut state.written)
        };
        if written.is_empty() {
            return next.await;
        }
        if !mutant(Mutant::IndexBeforeDurable) {
            self.repository.backend().barrier().await?;
        }
        let mut segment = SegmentBuilder::new(&self.repository);
        for contents in &written {
            segment.add(contents);
        }
        let segment = async { segment.write().await.map_err(Failure::from) };
        let (segment, ()) = try_zip(segment, next).await?;
        self.segments.fetch_add(1, Ordering::Relaxed);
        for contents in &written {
            self.index.insert(contents);
        }
        if let Some(segment) = &segment {
            // From here on the chunks can be found in the object too, should memory be short.
            self.index.segment_written(segment).await?;
        }
        let frames = written.iter().flat_map(|contents| &contents.frames);
        frames.flat_map(|frame| &frame.chunks).for_each(|(id, _)| self.claims.stored(id));
        Ok(())
    }

    /// Packs written and index segments written so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.packs.load(Ordering::Relaxed), self.segments.load(Ordering::Relaxed))
    }
}

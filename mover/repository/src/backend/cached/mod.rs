//! A far store with a local cache of index segments and tables of contents before it.
//!
//! Only [`Backend::get_cacheable`] is ever answered from the cache; every other call reaches the store as it is, so that
//! what a listing, a size or a plain read says is true now. An object that was deleted elsewhere may still be read from
//! the cache: who asks for a table must know from the store that the object is there. Commands that prove the store
//! (verify, repair, prune, doctor) must not be given this wrapper.
//!
//! Entries are advisory: the directory may be deleted at any moment, be shared by processes, be full or read-only, and
//! hold anything. An entry that is not what was put there is noticed ([`entries`]); one that was forged together with its
//! hash cannot be opened by its reader, which then calls [`Backend::distrust_cached`]. File calls run on the cache's own
//! threads.

mod entries;
#[cfg(test)]
mod tests;

use super::{
    Backend, Created, IoFuture, Link, ObjectMeta, ObjectWriter, SpanReader, StorageError, StorageErrorKind, Temporary,
    check_name,
};
use crate::ids::UnixNanos;
use crate::io::Pool;
use bytes::Bytes;
use entries::{Entries, Piece};
use hashbrown::HashSet;
use parking_lot::Mutex;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

pub use entries::CacheCounters;

/// Threads for the files of the cache.
const THREADS: usize = 2;
/// Segments are kept in pieces of this length, since readers ask for parts of them that differ from run to run.
const SEGMENT_PIECE_BYTES: u64 = 256 << 10;

/// A backend that answers [`Backend::get_cacheable`] from a local directory where it can.
pub struct CachedBackend {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Backend>,
    entries: Arc<Entries>,
    /// Objects that the store is asked for whatever the cache has.
    distrusted: Mutex<HashSet<String>>,
    pool: Arc<Pool>,
}

impl CachedBackend {
    /// Puts a cache in `directory`, of at most `bytes_max` bytes for all repositories together, before `inner`. Touches
    /// no file yet. `note` is told once, if the cache can take nothing.
    pub fn new(
        inner: Arc<dyn Backend>,
        directory: PathBuf,
        bytes_max: u64,
        note: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let entries = Arc::new(Entries::new(directory, &inner.describe(), bytes_max, Box::new(note)));
        let pool = Pool::new("mover-cache", THREADS);
        Self { shared: Arc::new(Shared { inner, entries, distrusted: Mutex::default(), pool }) }
    }

    /// What the cache did since it was opened.
    pub fn counters(&self) -> CacheCounters {
        self.shared.entries.counters()
    }
}

/// The pieces in which a range of an object is kept, in order and without gaps.
fn pieces(name: &str, range: &Range<u64>, object_bytes: u64) -> Vec<Piece> {
    let piece = |range| Piece { name: name.to_owned(), range, object_bytes };
    if !is_segment(name) {
        return vec![piece(range.clone())];
    }
    let numbers = range.start / SEGMENT_PIECE_BYTES..range.end.div_ceil(SEGMENT_PIECE_BYTES);
    let range_of = |number| number * SEGMENT_PIECE_BYTES..object_bytes.min((number + 1) * SEGMENT_PIECE_BYTES);
    numbers.map(|number| piece(range_of(number))).collect()
}

fn is_segment(name: &str) -> bool {
    name.starts_with("index/")
}

impl Shared {
    async fn read(&self, name: String, range: Range<u64>, object_bytes: u64) -> Result<Bytes, StorageError> {
        let pieces = pieces(&name, &range, object_bytes);
        let mut found = self.find(&name, &pieces).await;
        let mut parts = Vec::new();
        let mut at = 0;
        while at < pieces.len() {
            if let Some(part) = found[at].take() {
                parts.push(part);
                at += 1;
                continue;
            }
            let missing = found[at..].iter().take_while(|part| part.is_none()).count();
            let gap = &pieces[at..at + missing];
            let fetched = match self.inner.get_range(&name, gap[0].range.start..gap[missing - 1].range.end).await {
                Ok(fetched) => fetched,
                // The object is shorter than the caller believes: he gets what the store says of his very range.
                Err(error) if error.kind == StorageErrorKind::Short => return self.inner.get_range(&name, range).await,
                Err(error) => return Err(error),
            };
            self.keep(gap.to_vec(), fetched.clone()).await;
            parts.push(fetched);
            at += missing;
        }
        let from = (range.start - pieces[0].range.start) as usize;
        let whole = if parts.len() == 1 { parts.remove(0) } else { Bytes::from(parts.concat()) };
        Ok(whole.slice(from..from + (range.end - range.start) as usize))
    }

    async fn find(&self, name: &str, pieces: &[Piece]) -> Vec<Option<Bytes>> {
        if self.distrusted.lock().contains(name) {
            return vec![None; pieces.len()];
        }
        let (entries, wanted) = (Arc::clone(&self.entries), pieces.to_vec());
        let found = self.pool.run(move || wanted.iter().map(|piece| entries.load(piece)).collect()).await;
        found.unwrap_or_else(|_| vec![None; pieces.len()])
    }

    /// Keeps the bytes of adjoining pieces; waits for it, so that the memory is free afterwards.
    async fn keep(&self, pieces: Vec<Piece>, bytes: Bytes) {
        let entries = Arc::clone(&self.entries);
        let work = move || {
            let start = pieces.first().map_or(0, |piece| piece.range.start);
            for piece in &pieces {
                entries.store(piece, &bytes[(piece.range.start - start) as usize..(piece.range.end - start) as usize]);
            }
        };
        let _ = self.pool.run(work).await;
    }
}

impl Backend for CachedBackend {
    fn describe(&self) -> String {
        self.shared.inner.describe()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.shared.inner.get(name, limit_bytes)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        self.shared.inner.get_range(name, range)
    }

    fn get_cacheable(&self, name: &str, range: Range<u64>, object_bytes: u64) -> IoFuture<Bytes> {
        if range.is_empty() || range.end > object_bytes || check_name("read", name).is_err() {
            return self.shared.inner.get_range(name, range);
        }
        let (shared, object) = (Arc::clone(&self.shared), name.to_owned());
        Box::pin(async move { shared.read(object, range, object_bytes).await })
    }

    fn distrust_cached(&self, name: &str) -> bool {
        self.shared.distrusted.lock().insert(name.to_owned());
        true
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        self.shared.inner.size(name)
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        self.shared.inner.list(prefix)
    }

    /// A new segment goes into the cache on its way, so that the next run need not fetch it.
    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        let created = self.shared.inner.create(name, body.clone());
        if !is_segment(name) || body.is_empty() {
            return created;
        }
        let (shared, object) = (Arc::clone(&self.shared), name.to_owned());
        Box::pin(async move {
            let outcome = created.await?;
            if outcome == Created::New {
                let bytes = body.len() as u64;
                shared.keep(pieces(&object, &(0..bytes), bytes), body).await;
            }
            Ok(outcome)
        })
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        self.shared.inner.stream(name)
    }

    fn barrier(&self) -> IoFuture<()> {
        self.shared.inner.barrier()
    }

    fn link(&self) -> Option<Link> {
        self.shared.inner.link()
    }

    fn span(&self, name: &str, span: Range<u64>) -> Option<Box<dyn SpanReader>> {
        self.shared.inner.span(name, span)
    }

    fn adopt(&self, name: &str) {
        self.shared.inner.adopt(name);
    }

    fn delete(&self, name: &str) -> IoFuture<()> {
        if is_segment(name) || name.starts_with("packs/") {
            self.distrust_cached(name);
        }
        self.shared.inner.delete(name)
    }

    fn can_retain(&self) -> bool {
        self.shared.inner.can_retain()
    }

    fn retained_until(&self, name: &str) -> IoFuture<Option<UnixNanos>> {
        self.shared.inner.retained_until(name)
    }

    fn retain_until(&self, name: &str, until: UnixNanos) -> IoFuture<UnixNanos> {
        self.shared.inner.retain_until(name, until)
    }

    fn temporaries(&self) -> IoFuture<Vec<Temporary>> {
        self.shared.inner.temporaries()
    }

    fn remove_temporary(&self, name: &str) -> IoFuture<()> {
        self.shared.inner.remove_temporary(name)
    }

    fn empty_directories(&self, prefix: &str) -> IoFuture<Vec<String>> {
        self.shared.inner.empty_directories(prefix)
    }

    fn remove_empty_directory(&self, name: &str) -> IoFuture<()> {
        self.shared.inner.remove_empty_directory(name)
    }
}

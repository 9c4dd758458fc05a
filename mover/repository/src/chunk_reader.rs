//! Reads single chunks: authenticated, hash checked, from any location that is left.
//!
//! A bounded cache keeps decoded frames, for small chunks share one and pages are read again; readers
//! that want the same frame at once share one read, which any of them drives to its end: the one that began it may be
//! a read ahead that its own thread looks at only later. Must never return bytes whose keyed hash is
//! not the id that was asked for. Shared by all threads; decoding runs on the caller's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared, join_all};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::backend::{StorageError, StorageErrorKind};
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::index::{Index, Location, PackRef};
use crate::lru::Lru;
use crate::pack::PackOpener;
use crate::repository::Repository;

/// Pages that are read ahead at once: their frames have some MiB, and fit the smallest cache.
pub(crate) const PAGES_AHEAD: usize = 16;
/// Packs whose opened keys are kept; unwrapping one costs a Diffie-Hellman.
const OPENERS_MAX: usize = 256;

type FrameKey = (PackRef, u32);
/// A read of a frame that several wait for.
type Loading = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// Reads chunks of one repository through one index.
pub struct ChunkReader {
    repository: Repository,
    index: Arc<Index>,
    frames: Mutex<Lru<FrameKey, Bytes>>,
    openers: Mutex<Lru<PackRef, Arc<PackOpener>>>,
    /// Frames that somebody reads now.
    in_flight: Mutex<HashMap<FrameKey, WeakShared<Loading>>>,
}

impl ChunkReader {
    /// A reader that keeps at most `cache_bytes` of decoded frames.
    pub fn new(repository: &Repository, index: Arc<Index>, cache_bytes: usize) -> ChunkReader {
        ChunkReader {
            repository: repository.clone(),
            index,
            frames: Mutex::new(Lru::new(cache_bytes)),
            openers: Mutex::new(Lru::new(OPENERS_MAX)),
            in_flight: Mutex::new(HashMap::new()),
        }
    }

    /// The index that it reads through.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The repository that it reads from.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The plain bytes of a chunk.
    ///
    /// # Errors
    /// [`RepositoryError::MissingObject`] if no location is known, else the error of the first one if
    /// none gives the right bytes.
    pub async fn read(&self, id: &ChunkId) -> Result<Bytes> {
        let Some(first) = self.index.lookup(id).await? else {
            return Err(RepositoryError::MissingObject { object: format!("chunk {id}") });
        };
        let first_error = match self.read_copy(id, &first).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        for location in self.index.locations(id).await?.into_iter().filter(|location| *location != first) {
            if let Ok(bytes) = self.read_copy(id, &location).await {
                return Ok(bytes);
            }
        }
        Err(first_error)
    }

    /// Reads what will be asked for next, side by side, where the round trip to the store takes time. Whoever asks for
    /// what cannot be read learns why.
    pub(crate) async fn read_ahead(&self, ids: impl IntoIterator<Item = ChunkId>) {
        if self.repository.backend().link().is_none() {
            return;
        }
        let load = |id: ChunkId| async move {
            if let Ok(Some(location)) = self.index.lookup(&id).await {
                let _ = self.frame(&location).await;
            }
        };
        join_all(ids.into_iter().map(load)).await;
    }

    async fn read_copy(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        let read = self.read_at(id, location).await;
        if let Err(error) = &read {
            tracing::warn!(chunk = %id, %error, "a copy of a chunk cannot be read");
        }
        read
    }

    /// The plain bytes of a chunk from one location.
    ///
    /// # Errors
    /// [`RepositoryError::Corrupt`], [`RepositoryError::Storage`], [`RepositoryError::NoReadKey`].
    pub async fn read_at(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        let frame = self.frame(location).await?;
        let range = location.chunk_offset as usize..(location.chunk_offset + location.chunk_bytes) as usize;
        if range.end > frame.len() {
            return Err(self.corrupt(location, "it is shorter than the index says"));
        }
        let bytes = frame.slice(range);
        if self.repository.secrets().chunk_id(&bytes) != *id {
            return Err(self.corrupt(location, &format!("chunk {id} has other bytes")));
        }
        Ok(bytes)
    }

    /// The opener of a pack, from a small cache.
    ///
    /// # Errors
    /// As [`PackOpener::new`].
    pub fn opener(&self, pack: PackRef) -> Result<Arc<PackOpener>> {
        if let Some(opener) = self.openers.lock().get(&pack) {
            return Ok(opener);
        }
        let opener = Arc::new(PackOpener::new(self.repository.secrets(), &self.index.pack(pack))?);
        self.openers.lock().insert(pack, opener.clone(), 1);
        Ok(opener)
    }

    async fn frame(&self, location: &Location) -> Result<Bytes> {
        let key = (location.pack, location.frame);
        if let Some(frame) = self.frames.lock().get(&key) {
            return Ok(frame);
        }
        let loading = self.take_part(key, self.opener(location.pack)?, location);
        let frame = loading.clone().await;
        if let Ok(bytes) = &frame {
            self.frames.lock().insert(key, bytes.clone(), bytes.len() + 128);
        }
        // Only now: who comes meanwhile takes part, and who comes later finds it in the cache.
        self.in_flight.lock().remove(&key);
        drop(loading);
        frame
    }

    /// Takes part in the read of a frame, or begins it.
    fn take_part(&self, key: FrameKey, opener: Arc<PackOpener>, location: &Location) -> Shared<Loading> {
        let mut in_flight = self.in_flight.lock();
        if let Some(loading) = in_flight.get(&key).and_then(WeakShared::upgrade) {
            return loading;
        }
        if let Some(frame) = self.frames.lock().get(&key) {
            let there: Loading = Box::pin(std::future::ready(Ok(frame)));
            return there.shared();
        }
        let name = self.index.pack(location.pack).object_name();
        let (from, number) = (u64::from(location.frame_offset), location.frame);
        let read = self.repository.backend().get_range(&name, from..from + u64::from(location.frame_bytes));
        let load: Loading = Box::pin(async move {
            let sealed = read.await.map_err(|error| unreadable(error, &name))?;
            opener.open_frame_bytes(number, sealed)
        });
        let loading = load.shared();
        if let Some(weak) = loading.downgrade() {
            in_flight.insert(key, weak);
        }
        loading
    }

    fn corrupt(&self, location: &Location, reason: &str) -> RepositoryError {
        let name = self.index.pack(location.pack).object_name();
        RepositoryError::corrupt(format!("{name} frame {}", location.frame), reason)
    }
}

/// A pack that is gone is a missing object, a short one damaged; all else is the store's error.
pub(crate) fn unreadable(error: StorageError, name: &str) -> RepositoryError {
    match error.kind {
        StorageErrorKind::NotFound => RepositoryError::MissingObject { object: name.to_string() },
        StorageErrorKind::Short => RepositoryError::corrupt(name, "it is cut short"),
        _ => RepositoryError::Storage(error),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::backend::faulty::Operation;
    use crate::backend::{Backend, FaultyBackend, LocalBackend};
    use crate::index::Absent;
    use crate::pack::PackClass;
    use crate::testing::{Bench, block_on, noise};

    #[test]
    fn every_location_is_tried_and_the_first_error_is_told() {
        let bench = Bench::new();
        let packs: Vec<_> = (0..3).map(|_| bench.pack(1, PackClass::Data, &[vec![noise(1, 500)]])).collect();
        bench.segment(&packs);
        let id = bench.repository.secrets().chunk_id(&noise(1, 500));
        for (at, pack) in packs.iter().enumerate() {
            assert_eq!(block_on(bench.reader().read(&id)).unwrap(), noise(1, 500), "{at} copies are gone");
            bench.store.remove(&pack.info().object_name());
        }
        assert!(matches!(block_on(bench.reader().read(&id)), Err(RepositoryError::MissingObject { .. })));
        assert!(matches!(block_on(bench.reader().read(&ChunkId([1; 32]))), Err(RepositoryError::MissingObject { .. })));
    }

    /// Two manifests that were read ahead of one another on one thread waited for ever: each held a frame that the other
    /// one wanted.
    #[test]
    fn who_wants_a_frame_that_is_read_ahead_does_not_wait_for_who_reads_it() {
        let bench = Bench::new();
        let pack = bench.pack(1, PackClass::Data, &[vec![noise(1, 500), noise(2, 500)]]);
        bench.segment(&[pack]);
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap();
        let disk = LocalBackend::open(place, true).unwrap();
        let names = block_on(bench.store.list("")).unwrap();
        names.iter().for_each(|object| _ = block_on(disk.create(&object.name, bench.bytes(&object.name))).unwrap());
        let counted = FaultyBackend::new(Arc::new(disk));
        let repository = bench.repository.moved_to(Arc::new(counted.clone()));
        let index = block_on(Index::load_without(&repository, Absent::default(), 1 << 20)).unwrap();
        let reader = ChunkReader::new(&repository, Arc::new(index), 1 << 20);
        let ids = [1, 2].map(|seed| repository.secrets().chunk_id(&noise(seed, 500)));
        let before = counted.count(Operation::GetRange, "packs");
        let mut ahead = pin!(reader.read(&ids[0]));
        // The disk may have answered at once: who is done must not be asked again.
        let early = ahead.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(block_on(reader.read(&ids[1])).unwrap(), noise(2, 500));
        let first = match early {
            Poll::Ready(read) => read,
            Poll::Pending => block_on(ahead),
        };
        assert_eq!(first.unwrap(), noise(1, 500));
        assert_eq!(counted.count(Operation::GetRange, "packs") - before, 1, "it is read once");
    }

    #[test]
    fn what_is_read_ahead_of_a_far_store_is_not_read_again() {
        let bench = Bench::new();
        let packs =
            [1, 2].map(|seed| bench.pack(1, PackClass::Data, &[vec![noise(seed, 500)], vec![noise(seed + 8, 9)]]));
        bench.segment(&packs);
        let ids =
            [1, 9, 2, 10].map(|seed| bench.repository.secrets().chunk_id(&noise(seed, if seed > 8 { 9 } else { 500 })));
        for (is_far, ahead) in [(true, 4), (false, 0)] {
            let inner: Arc<dyn Backend> = bench.store.clone();
            let counted = if is_far { FaultyBackend::far(inner) } else { FaultyBackend::new(inner) };
            let repository = bench.repository.moved_to(Arc::new(counted.clone()));
            let index = block_on(Index::load_without(&repository, Absent::default(), 1 << 20)).unwrap();
            let reader = ChunkReader::new(&repository, Arc::new(index), 1 << 20);
            let before = counted.count(Operation::GetRange, "packs");
            block_on(reader.read_ahead(ids.into_iter().chain([ChunkId([1; 32])])));
            assert_eq!(counted.count(Operation::GetRange, "packs") - before, ahead);
            ids.iter().for_each(|id| drop(block_on(reader.read(id)).unwrap()));
            assert_eq!(counted.count(Operation::GetRange, "packs") - before, 4);
        }
    }

    #[test]
    fn who_waits_for_a_frame_goes_on_when_its_reader_is_cancelled() {
        let bench = Bench::new();
        let pack = bench.pack(1, PackClass::Data, &[vec![noise(1, 500), noise(2, 500)]]);
        bench.segment(&[pack]);
        let reader = bench.reader();
        let ids = [1, 2].map(|seed| bench.repository.secrets().chunk_id(&noise(seed, 500)));
        let location = block_on(reader.index().lookup(&ids[0])).unwrap().unwrap();
        let opener = reader.opener(location.pack).unwrap();
        let begun = reader.take_part((location.pack, location.frame), opener, &location);
        let waiting = reader.read(&ids[1]);
        drop(begun);
        assert_eq!(block_on(waiting).unwrap(), noise(2, 500));
        // The other chunk of the frame comes from the cache.
        bench.store.remove(&reader.index().pack(location.pack).object_name());
        assert_eq!(block_on(reader.read(&ids[0])).unwrap(), noise(1, 500));
    }
}

//! A store that counts reads of packs, can delay them in real or simulated time, and can go away.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mover_repository::backend::{
    Backend, Created, IoFuture, MemoryBackend, ObjectMeta, ObjectWriter, StorageError, StorageErrorKind,
};
use mover_repository::io::Pool;
use parking_lot::Mutex;

use crate::runtime::simulation::SimHandle;

/// A store that counts reads of packs, can delay them, and can go away.
pub struct Watched {
    memory: MemoryBackend,
    slow: Arc<Pool>,
    /// Milliseconds that a range read takes.
    pub delay_ms: AtomicUsize,
    /// No call succeeds any more.
    pub is_away: AtomicBool,
    /// The store goes away after so many range reads.
    pub away_after: AtomicUsize,
    /// Reads take simulated time instead of real time.
    pub simulated: Mutex<Option<SimHandle>>,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: Arc<AtomicUsize>,
    requests: AtomicUsize,
}

impl Watched {
    /// In front of `memory`.
    pub fn new(memory: MemoryBackend) -> Self {
        Watched {
            memory,
            slow: Pool::new("slow-store", 32),
            delay_ms: AtomicUsize::new(0),
            is_away: AtomicBool::new(false),
            away_after: AtomicUsize::new(usize::MAX),
            simulated: Mutex::new(None),
            in_flight: Arc::default(),
            in_flight_max: Arc::default(),
            requests: AtomicUsize::new(0),
        }
    }

    /// Forgets what was counted.
    pub fn reset(&self) {
        self.requests.store(0, Ordering::SeqCst);
        self.in_flight_max.store(0, Ordering::SeqCst);
    }

    /// Range reads since the last reset.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Most range reads that were in flight at one time.
    pub fn in_flight_max(&self) -> usize {
        self.in_flight_max.load(Ordering::SeqCst)
    }

    fn away<T: Send + 'static>(&self, name: &str) -> Option<IoFuture<T>> {
        let error = StorageError::of_kind("read", name, StorageErrorKind::Other, "transport endpoint is not connected");
        self.is_away.load(Ordering::SeqCst).then(|| Box::pin(std::future::ready(Err(error))) as IoFuture<T>)
    }
}

impl Backend for Watched {
    fn describe(&self) -> String {
        "watched".into()
    }
    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.away(name).unwrap_or_else(|| self.memory.get(name, limit_bytes))
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        if let Some(away) = self.away(name) {
            return away;
        }
        if self.requests.fetch_add(1, Ordering::SeqCst) >= self.away_after.load(Ordering::SeqCst) {
            self.is_away.store(true, Ordering::SeqCst);
        }
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.in_flight_max.fetch_max(now, Ordering::SeqCst);
        let in_flight = self.in_flight.clone();
        let read = self.memory.get_range(name, range);
        if let Some(handle) = &*self.simulated.lock() {
            let delay = handle.delay(Duration::from_micros(50), Duration::from_millis(20));
            return Box::pin(async move {
                delay.await;
                in_flight.fetch_sub(1, Ordering::SeqCst);
                read.await
            });
        }
        let delay_ms = self.delay_ms.load(Ordering::SeqCst) as u64;
        if delay_ms == 0 {
            in_flight.fetch_sub(1, Ordering::SeqCst);
            return read;
        }
        let waited = self.slow.run(move || std::thread::sleep(Duration::from_millis(delay_ms)));
        Box::pin(async move {
            waited.await.unwrap();
            in_flight.fetch_sub(1, Ordering::SeqCst);
            read.await
        })
    }
    fn size(&self, name: &str) -> IoFuture<u64> {
        self.away(name).unwrap_or_else(|| self.memory.size(name))
    }
    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        self.memory.list(prefix)
    }
    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        self.memory.create(name, body)
    }
    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        self.memory.stream(name)
    }
    fn barrier(&self) -> IoFuture<()> {
        self.memory.barrier()
    }
    fn delete(&self, name: &str) -> IoFuture<()> {
        self.memory.delete(name)
    }
}

//! A simulated store with a *live* and a *durable* image.
//!
//! What `create` has answered is durable; what a stream has finished is durable only after a barrier that was called
//! after the answer. A crash keeps the durable image and a seeded part of the rest, and never a stream that was not
//! finished: its temporary may be torn, and no temporary is ever listed. An answer may get lost after its effect.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mover_repository::backend::{
    Backend, Created, IoFuture, ObjectMeta, ObjectWriter, StorageError, StorageErrorKind, check_name,
};
use parking_lot::Mutex;

use super::Latency;
use crate::runtime::simulation::SimHandle;

/// What may go wrong with a simulated store, and how slow it is.
#[derive(Clone, Copy, Debug)]
pub struct StoreFaults {
    /// How long each half of a call takes: to its effect, and from there to its answer.
    pub latency: Latency,
    /// Of 1,000 calls, how many fail with a retryable error before they have an effect.
    pub transient_per_mille: u64,
    /// Of 1,000 writes, how many have their effect and then answer with a retryable error.
    pub lost_answer_per_mille: u64,
    /// From this call on every call fails for good.
    pub broken_after_calls: Option<u64>,
    /// Writes beyond this many bytes find the store full.
    pub full_after_bytes: Option<u64>,
    /// Once this many bytes were written, no write is ever answered again.
    pub stall_after_bytes: Option<u64>,
}

impl Default for StoreFaults {
    fn default() -> Self {
        StoreFaults {
            latency: Latency::micros(5, 400),
            transient_per_mille: 0,
            lost_answer_per_mille: 0,
            broken_after_calls: None,
            full_after_bytes: None,
            stall_after_bytes: None,
        }
    }
}

/// The work a simulated store was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// All calls.
    pub calls: u64,
    /// `create` calls.
    pub creates: u64,
    /// Streams finished.
    pub finishes: u64,
    /// `barrier` calls.
    pub barriers: u64,
    /// `get`, `get_range`, `size` and `list` calls.
    pub reads: u64,
    /// Bytes handed over by `create` and `append`.
    pub bytes_written: u64,
    /// Calls that failed by a fault.
    pub faults: u64,
}

#[derive(Clone)]
struct Stored {
    body: Bytes,
    acknowledged: bool,
    durable: bool,
}

#[derive(Default)]
struct Image {
    objects: BTreeMap<String, Stored>,
    counts: StoreCounts,
    journal: Vec<(Duration, String)>,
}

/// The simulated store. Clones share it; it outlives the simulation, so that the next one can open what is left.
#[derive(Clone)]
pub struct SimStore {
    handle: SimHandle,
    faults: StoreFaults,
    image: Arc<Mutex<Image>>,
}

fn transient(operation: &'static str, name: &str) -> StorageError {
    StorageError::of_kind(operation, name, StorageErrorKind::Other, "simulated: connection reset")
}

fn not_found(operation: &'static str, name: &str) -> StorageError {
    StorageError::new(operation, name, io::Error::from_raw_os_error(libc::ENOENT))
}

impl SimStore {
    /// An empty store in the simulation of `handle`.
    pub fn new(handle: SimHandle, faults: StoreFaults) -> SimStore {
        SimStore::with_objects(handle, faults, BTreeMap::new())
    }

    /// A store that already holds `objects`, durably: what a crash or another run has left.
    pub fn with_objects(handle: SimHandle, faults: StoreFaults, objects: BTreeMap<String, Bytes>) -> SimStore {
        let stored = |body| Stored { body, acknowledged: true, durable: true };
        let objects = objects.into_iter().map(|(name, body)| (name, stored(body))).collect();
        let image = Image { objects, ..Image::default() };
        SimStore { handle, faults, image: Arc::new(Mutex::new(image)) }
    }

    /// Everything that is visible now.
    pub fn live(&self) -> BTreeMap<String, Bytes> {
        self.image.lock().objects.iter().map(|(name, stored)| (name.clone(), stored.body.clone())).collect()
    }

    /// What is durable now.
    pub fn durable(&self) -> BTreeMap<String, Bytes> {
        let image = self.image.lock();
        let durable = image.objects.iter().filter(|(_, stored)| stored.durable);
        durable.map(|(name, stored)| (name.clone(), stored.body.clone())).collect()
    }

    /// What a crash leaves: the durable image, and of the rest what `seed` happens to keep.
    pub fn survivors(&self, seed: u64) -> BTreeMap<String, Bytes> {
        let image = self.image.lock();
        let mut kept = BTreeMap::new();
        for (place, (name, stored)) in image.objects.iter().enumerate() {
            let mut coin = [0];
            super::fill_seeded(seed, place as u64, &mut coin);
            if stored.durable || coin[0] & 1 == 1 {
                kept.insert(name.clone(), stored.body.clone());
            }
        }
        kept
    }

    /// The work done so far.
    pub fn counts(&self) -> StoreCounts {
        self.image.lock().counts
    }

    /// Effects in the order they happened, such as `finish packs/…`, `barrier`, `create log/…/done`.
    pub fn journal(&self) -> Vec<String> {
        self.image.lock().journal.iter().map(|(_, effect)| effect.clone()).collect()
    }

    /// When the first effect happened whose journal line contains `what`.
    pub fn effect_time(&self, what: &str) -> Option<Duration> {
        self.image.lock().journal.iter().find(|(_, effect)| effect.contains(what)).map(|(time, _)| *time)
    }

    /// The fault that this call meets before it has an effect, drawn at the call.
    fn draw_fault(&self, operation: &'static str, name: &str) -> Result<(), StorageError> {
        check_name_or_empty(operation, name)?;
        let calls = {
            let mut image = self.image.lock();
            image.counts.calls += 1;
            image.counts.calls
        };
        let fault = if self.faults.broken_after_calls.is_some_and(|after| calls > after) {
            StorageError::new(operation, name, io::Error::from_raw_os_error(libc::EIO))
        } else if self.handle.chance(self.faults.transient_per_mille, 1000) {
            transient(operation, name)
        } else {
            return Ok(());
        };
        self.image.lock().counts.faults += 1;
        Err(fault)
    }

    fn take_room(&self, operation: &'static str, name: &str, bytes: u64) -> Result<(), StorageError> {
        let mut image = self.image.lock();
        if self.faults.full_after_bytes.is_some_and(|full| image.counts.bytes_written + bytes > full) {
            image.counts.faults += 1;
            return Err(StorageError::new(operation, name, io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        image.counts.bytes_written += bytes;
        Ok(())
    }

    fn has_stalled(&self) -> bool {
        let written = self.image.lock().counts.bytes_written;
        self.faults.stall_after_bytes.is_some_and(|stall| written >= stall)
    }

    async fn half_call(&self) {
        let latency = self.faults.latency;
        self.handle.delay(latency.least, latency.most).await;
        if self.handle.has_crashed() {
            pending::<()>().await;
        }
    }

    fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        act: impl FnOnce(&Image, &str) -> Result<T, StorageError> + Send + 'static,
    ) -> IoFuture<T> {
        let fault = self.draw_fault(operation, name);
        self.image.lock().counts.reads += 1;
        let (store, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            store.half_call().await;
            fault?;
            let result = act(&store.image.lock(), &name);
            store.half_call().await;
            result
        })
    }

    /// A write: fault or effect, then answer; `answered` runs with the answer.
    fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        bytes: u64,
        effect: impl FnOnce(&mut Image, &str) -> Result<T, StorageError> + Send + 'static,
        answered: impl FnOnce(&mut Image, &str) + Send + 'static,
    ) -> IoFuture<T> {
        let fault = self.draw_fault(operation, name).and_then(|()| self.take_room(operation, name, bytes));
        let answer_is_lost = self.handle.chance(self.faults.lost_answer_per_mille, 1000);
        let (store, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            store.half_call().await;
            if store.has_stalled() {
                pending::<()>().await;
            }
            fault?;
            let result = {
                let mut image = store.image.lock();
                let result = effect(&mut image, &name)?;
                image.journal.push((store.handle.now(), format!("{operation} {name}")));
                result
            };
            store.handle.event(if name.starts_with("log/") { &name } else { operation });
            store.half_call().await;
            if answer_is_lost {
                return Err(transient(operation, &name));
            }
            answered(&mut store.image.lock(), &name);
            Ok(result)
        })
    }
}

fn check_name_or_empty(operation: &'static str, name: &str) -> Result<(), StorageError> {
    if name.is_empty() && matches!(operation, "list" | "barrier") { Ok(()) } else { check_name(operation, name) }
}

fn mark(image: &mut Image, name: &str, mark: impl FnOnce(&mut Stored)) {
    if let Some(stored) = image.objects.get_mut(name) {
        mark(stored);
    }
}

impl Backend for SimStore {
    fn describe(&self) -> String {
        "simulated store".to_owned()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.read("read", name, move |image, name| {
            let stored = image.objects.get(name).ok_or_else(|| not_found("read", name))?;
            if stored.body.len() as u64 > limit_bytes {
                return Err(StorageError::of_kind("read", name, StorageErrorKind::TooLarge, "larger than allowed"));
            }
            Ok(stored.body.clone())
        })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        self.read("read", name, move |image, name| {
            let stored = image.objects.get(name).ok_or_else(|| not_found("read", name))?;
            if range.start > range.end || range.end > stored.body.len() as u64 {
                return Err(StorageError::of_kind("read", name, StorageErrorKind::Short, "ends before the range"));
            }
            Ok(stored.body.slice(range.start as usize..range.end as usize))
        })
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        self.read("stat", name, |image, name| {
            let stored = image.objects.get(name).ok_or_else(|| not_found("stat", name))?;
            Ok(stored.body.len() as u64)
        })
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        self.read("list", prefix, |image, prefix| {
            let is_listed =
                |name: &str| prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
            let listed = image.objects.iter().filter(|(name, _)| is_listed(name));
            Ok(listed
                .map(|(name, stored)| ObjectMeta { name: name.clone(), bytes: stored.body.len() as u64 })
                .collect())
        })
    }

    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        self.image.lock().counts.creates += 1;
        let bytes = body.len() as u64;
        let effect = move |image: &mut Image, name: &str| {
            if image.objects.contains_key(name) {
                return Ok(Created::AlreadyExisted);
            }
            image.objects.insert(name.to_owned(), Stored { body, acknowledged: false, durable: false });
            Ok(Created::New)
        };
        let answered = |image: &mut Image, name: &str| {
            mark(image, name, |stored| (stored.acknowledged, stored.durable) = (true, true));
        };
        self.write("create", name, bytes, effect, answered)
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        let broken = check_name("write", name).err();
        Box::new(SimWriter {
            store: self.clone(),
            name: name.to_owned(),
            parts: Vec::new(),
            broken: Arc::new(Mutex::new(broken)),
        })
    }

    fn barrier(&self) -> IoFuture<()> {
        let finished: Vec<String> = {
            let mut image = self.image.lock();
            image.counts.barriers += 1;
            let waiting = image.objects.iter().filter(|(_, stored)| stored.acknowledged && !stored.durable);
            waiting.map(|(name, _)| name.clone()).collect()
        };
        let effect = move |image: &mut Image, _: &str| {
            finished.iter().for_each(|name| mark(image, name, |stored| stored.durable = true));
            Ok(())
        };
        self.write("barrier", "", 0, effect, |_, _| {})
    }

    fn delete(&self, name: &str) -> IoFuture<()> {
        let effect = |image: &mut Image, name: &str| {
            image.objects.remove(name).map(|_| ()).ok_or_else(|| not_found("delete", name))
        };
        self.write("delete", name, 0, effect, |_, _| {})
    }
}

struct SimWriter {
    store: SimStore,
    name: String,
    parts: Vec<Bytes>,
    broken: Arc<Mutex<Option<StorageError>>>,
}

impl ObjectWriter for SimWriter {
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let fault = match self.broken.lock().clone() {
            Some(cause) => Err(cause),
            None => self
                .store
                .draw_fault("write", &self.name)
                .and_then(|()| self.store.take_room("write", &self.name, bytes)),
        };
        if let Err(cause) = &fault {
            self.broken.lock().get_or_insert_with(|| cause.clone());
        }
        self.parts.extend(parts);
        let store = self.store.clone();
        Box::pin(async move {
            store.half_call().await;
            if store.has_stalled() {
                pending::<()>().await;
            }
            fault
        })
    }

    fn finish(self: Box<Self>) -> IoFuture<()> {
        self.store.image.lock().counts.finishes += 1;
        if let Some(cause) = self.broken.lock().clone() {
            return Box::pin(async move { Err(cause) });
        }
        let body: Bytes = self.parts.concat().into();
        let effect = move |image: &mut Image, name: &str| {
            if image.objects.contains_key(name) {
                return Err(StorageError::new("finish", name, io::Error::from_raw_os_error(libc::EEXIST)));
            }
            image.objects.insert(name.to_owned(), Stored { body, acknowledged: false, durable: false });
            Ok(())
        };
        let answered = |image: &mut Image, name: &str| mark(image, name, |stored| stored.acknowledged = true);
        self.store.write("finish", &self.name, 0, effect, answered)
    }
}

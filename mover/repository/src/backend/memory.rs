//! Objects in memory, for tests and for the simulated store.
//!
//! Keeps a *live* and a *durable* view: what was finished but not yet followed by a barrier is
//! lost by [`MemoryBackend::crash`]. Every call resolves at once, on the caller's thread.

use super::{
    Backend, Created, IoFuture, ObjectMeta, ObjectWriter, StorageError, StorageErrorKind, check_name, ready,
    retained_error,
};
use crate::ids::UnixNanos;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone)]
struct Stored {
    body: Bytes,
    durable: bool,
    retained_until: Option<UnixNanos>,
}

impl Stored {
    fn new(body: Bytes, durable: bool) -> Self {
        Self { body, durable, retained_until: None }
    }
}

type Objects = Arc<Mutex<BTreeMap<String, Stored>>>;

/// A store that forgets all when dropped. Clones share their objects.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    objects: Objects,
}

impl MemoryBackend {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses what no barrier made durable, as a power failure would.
    pub fn crash(&self) {
        self.objects.lock().retain(|_, stored| stored.durable);
    }

    /// A copy of all objects, to compare or to [`MemoryBackend::restore`].
    pub fn snapshot(&self) -> BTreeMap<String, Bytes> {
        self.objects.lock().iter().map(|(name, stored)| (name.clone(), stored.body.clone())).collect()
    }

    /// Replaces all objects: rolls the store back to a snapshot.
    pub fn restore(&self, snapshot: BTreeMap<String, Bytes>) {
        *self.objects.lock() = snapshot.into_iter().map(|(name, body)| (name, Stored::new(body, true))).collect();
    }

    /// Replaces one object's bytes, as damage would. The name need not exist.
    pub fn overwrite(&self, name: &str, body: impl Into<Bytes>) {
        self.objects.lock().insert(name.to_owned(), Stored::new(body.into(), true));
    }

    /// Removes one object behind the repository's back.
    pub fn remove(&self, name: &str) {
        self.objects.lock().remove(name);
    }

    fn find(&self, operation: &'static str, name: &str) -> Result<Bytes, StorageError> {
        check_name(operation, name)?;
        match self.objects.lock().get(name) {
            Some(stored) => Ok(stored.body.clone()),
            None => Err(StorageError::new(operation, name, std::io::Error::from_raw_os_error(libc::ENOENT))),
        }
    }

    fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let body = self.find("read", name)?;
        if range.start > range.end || range.end > body.len() as u64 {
            return Err(StorageError::of_kind(
                "read",
                name,
                StorageErrorKind::Short,
                "the object ends before the range",
            ));
        }
        Ok(body.slice(range.start as usize..range.end as usize))
    }
}

impl Backend for MemoryBackend {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        ready(self.find("read", name).and_then(|body| {
            if body.len() as u64 > limit_bytes {
                return Err(StorageError::of_kind("read", name, StorageErrorKind::TooLarge, "larger than allowed"));
            }
            Ok(body)
        }))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        ready(self.read_range(name, range))
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        ready(self.find("stat", name).map(|body| body.len() as u64))
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        let is_listed =
            |name: &str| prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let objects = self.objects.lock();
        let listed = objects.iter().filter(|(name, _)| is_listed(name));
        ready(Ok(listed
            .map(|(name, stored)| ObjectMeta { name: name.clone(), bytes: stored.body.len() as u64 })
            .collect()))
    }

    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        if let Err(error) = check_name("create", name) {
            return ready(Err(error));
        }
        let mut objects = self.objects.lock();
        if let Some(existing) = objects.get_mut(name) {
            existing.durable = true;
            return ready(Ok(Created::AlreadyExisted));
        }
        objects.insert(name.to_owned(), Stored::new(body, true));
        ready(Ok(Created::New))
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        Box::new(MemoryWriter { objects: Arc::clone(&self.objects), name: name.to_owned(), body: Vec::new() })
    }

    fn barrier(&self) -> IoFuture<()> {
        self.objects.lock().values_mut().for_each(|stored| stored.durable = true);
        ready(Ok(()))
    }

    fn delete(&self, name: &str) -> IoFuture<()> {
        let found = self.find("delete", name);
        let mut objects = self.objects.lock();
        let retained =
            objects.get(name).and_then(|stored| stored.retained_until).filter(|until| *until > UnixNanos::now());
        ready(match (found, retained) {
            (Err(error), _) => Err(error),
            (Ok(_), Some(until)) => Err(retained_error(name, until)),
            (Ok(_), None) => {
                objects.remove(name);
                Ok(())
            }
        })
    }

    fn can_retain(&self) -> bool {
        true
    }

    fn retained_until(&self, name: &str) -> IoFuture<Option<UnixNanos>> {
        let found = self.find("look at", name);
        ready(found.map(|_| self.objects.lock().get(name).and_then(|stored| stored.retained_until)))
    }

    fn retain_until(&self, name: &str, until: UnixNanos) -> IoFuture<UnixNanos> {
        let found = self.find("lock", name);
        let mut objects = self.objects.lock();
        ready(found.map(|_| {
            let kept = objects.get_mut(name).map(|stored| &mut stored.retained_until);
            kept.map_or(until, |kept| *kept.insert(kept.map_or(until, |before| before.max(until))))
        }))
    }
}

struct MemoryWriter {
    objects: Objects,
    name: String,
    body: Vec<u8>,
}

impl ObjectWriter for MemoryWriter {
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()> {
        parts.iter().for_each(|part| self.body.extend_from_slice(part));
        ready(Ok(()))
    }

    fn finish(self: Box<Self>) -> IoFuture<()> {
        if let Err(error) = check_name("write", &self.name) {
            return ready(Err(error));
        }
        let mut objects = self.objects.lock();
        if objects.contains_key(&self.name) {
            return ready(Err(StorageError::new(
                "write",
                self.name.clone(),
                std::io::Error::from_raw_os_error(libc::EEXIST),
            )));
        }
        objects.insert(self.name.clone(), Stored::new(self.body.into(), false));
        ready(Ok(()))
    }
}

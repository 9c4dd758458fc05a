//! A wrapper for tests: fails or stalls chosen calls, and records all of them.
//!
//! Faults match by operation and object prefix and strike at the n-th matching call. The wrapper
//! adds no thread and no delay of its own; with no fault it behaves as what it wraps.

use super::{
    Backend, Created, IoFuture, Link, ObjectMeta, ObjectWriter, SpanReader, StorageError, StorageErrorKind, Temporary,
    ready,
};
use crate::ids::UnixNanos;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A kind of storage call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Backend::get`]
    Get,
    /// [`Backend::get_range`]
    GetRange,
    /// [`Backend::size`]
    Size,
    /// [`Backend::list`]
    List,
    /// [`Backend::create`]
    Create,
    /// [`ObjectWriter::append`]
    Append,
    /// [`ObjectWriter::finish`]
    Finish,
    /// [`Backend::barrier`]
    Barrier,
    /// [`Backend::delete`]
    Delete,
    /// [`Backend::retain_until`]
    Retain,
}

impl Operation {
    /// True if the call changes the store.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Append | Self::Finish | Self::Barrier | Self::Delete | Self::Retain)
    }
}

/// What happens to the call that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The store is full.
    Full,
    /// An I/O error; the call has no effect.
    Io,
    /// The call takes effect, but its answer is lost and an error returned.
    LostAnswer,
    /// The object is reported as missing.
    NotFound,
    /// The call never resolves.
    Stall,
}

/// One planned fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Calls of this kind only; `None`: any that changes the store.
    pub operation: Option<Operation>,
    /// Objects whose names begin so.
    pub prefix: String,
    /// Strikes at this matching call, counted from 1 since the fault was planned.
    pub nth: u64,
    /// Strikes at every later one too.
    pub forever: bool,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// Strikes once at the `nth` call of `operation`, whatever the object.
    pub fn at(operation: Operation, nth: u64, effect: Effect) -> Self {
        Self { operation: Some(operation), prefix: String::new(), nth, forever: false, effect }
    }

    /// Restricts it to objects whose names begin with `prefix`.
    pub fn under(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Makes it strike at every later call too.
    pub fn forever(mut self) -> Self {
        self.forever = true;
        self
    }
}

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its kind.
    pub operation: Operation,
    /// The object, or the prefix of a listing; empty for a barrier.
    pub object: String,
    /// Bytes handed over, if any.
    pub bytes: u64,
}

#[derive(Default)]
struct Script {
    calls: Vec<Call>,
    faults: Vec<(Fault, u64)>,
    /// Objects in the order in which they got their names.
    created: Vec<String>,
    /// How many of the newest objects a listing misses.
    missed: usize,
}

/// A backend whose calls can be made to fail. Clones share faults and records.
#[derive(Clone)]
pub struct FaultyBackend {
    inner: Arc<dyn Backend>,
    script: Arc<Mutex<Script>>,
    /// What it says of the way to it, instead of the backend inside.
    link: Option<Link>,
}

impl FaultyBackend {
    /// Wraps a backend; no fault yet.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, script: Arc::default(), link: None }
    }

    /// The same as if it were far away. Of the reads of a span the first is recorded and may fail: it is the request.
    pub fn far(inner: Arc<dyn Backend>) -> Self {
        let link = Link { pack_bytes: 32 << 20, in_flight_bytes: 96 << 20 };
        Self { link: Some(link), ..Self::new(inner) }
    }

    /// Plans a fault.
    pub fn plan(&self, fault: Fault) {
        self.script.lock().faults.push((fault, 0));
    }

    /// Forgets all faults: the store works again.
    pub fn heal(&self) {
        let mut script = self.script.lock();
        script.faults.clear();
        script.missed = 0;
    }

    /// From now on each listing misses the newest objects below its prefix, at most so many. Those in `before` were
    /// there, in this order, before the first one that was created through this wrapper.
    pub fn miss_newest(&self, missed: usize, before: &[String]) {
        let mut script = self.script.lock();
        script.created = before.iter().chain(&script.created).cloned().collect();
        script.missed = missed;
    }

    /// Objects that were created through this wrapper and have their names, in that order.
    pub fn created(&self) -> Vec<String> {
        self.script.lock().created.clone()
    }

    /// All calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.script.lock().calls.clone()
    }

    /// Forgets the recorded calls.
    pub fn forget_calls(&self) {
        self.script.lock().calls.clear();
    }

    /// Number of calls of a kind on objects whose names begin with `prefix`.
    pub fn count(&self, operation: Operation, prefix: &str) -> usize {
        let matches = |call: &&Call| call.operation == operation && call.object.starts_with(prefix);
        self.script.lock().calls.iter().filter(matches).count()
    }
}

impl Script {
    /// Records a call and finds the fault that strikes it.
    fn enter(&mut self, operation: Operation, object: &str, bytes: usize) -> Option<Effect> {
        self.calls.push(Call { operation, object: object.to_owned(), bytes: bytes as u64 });
        let mut effect = None;
        for (fault, seen) in &mut self.faults {
            let is_of_kind = fault.operation.map_or(operation.is_write(), |kind| kind == operation);
            if is_of_kind && object.starts_with(&fault.prefix) {
                *seen += 1;
                if *seen == fault.nth || (fault.forever && *seen > fault.nth) {
                    effect = effect.or(Some(fault.effect));
                }
            }
        }
        effect
    }
}

fn injected(effect: Effect, object: &str) -> StorageError {
    let errno = match effect {
        Effect::Full => libc::ENOSPC,
        Effect::NotFound => libc::ENOENT,
        Effect::Io | Effect::LostAnswer | Effect::Stall => libc::EIO,
    };
    StorageError::new("reach (injected fault)", object, io::Error::from_raw_os_error(errno))
}

/// Applies what strikes a call; `work` starts the call itself.
fn apply<T: Send + 'static>(effect: Option<Effect>, object: &str, work: impl FnOnce() -> IoFuture<T>) -> IoFuture<T> {
    match effect {
        None => work(),
        Some(Effect::Stall) => Box::pin(std::future::pending()),
        Some(effect @ (Effect::Full | Effect::Io | Effect::NotFound)) => ready(Err(injected(effect, object))),
        Some(Effect::LostAnswer) => {
            let (future, error) = (work(), injected(Effect::LostAnswer, object));
            Box::pin(async move { future.await.and(Err(error)) })
        }
    }
}

impl FaultyBackend {
    fn missed_below(&self, prefix: &str) -> Vec<String> {
        let script = self.script.lock();
        let is_below = |name: &&String| prefix.is_empty() || name.starts_with(&format!("{prefix}/"));
        script.created.iter().rev().filter(is_below).take(script.missed).cloned().collect()
    }

    fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        object: &str,
        bytes: usize,
        work: impl FnOnce() -> IoFuture<T>,
    ) -> IoFuture<T> {
        let effect = self.script.lock().enter(operation, object, bytes);
        apply(effect, object, work)
    }
}

impl Backend for FaultyBackend {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.call(Operation::Get, name, 0, || self.inner.get(name, limit_bytes))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        self.call(Operation::GetRange, name, 0, || self.inner.get_range(name, range))
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        self.call(Operation::Size, name, 0, || self.inner.size(name))
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        let (listed, missed) =
            (self.call(Operation::List, prefix, 0, || self.inner.list(prefix)), self.missed_below(prefix));
        Box::pin(async move {
            let mut objects = listed.await?;
            objects.retain(|object| !missed.contains(&object.name));
            Ok(objects)
        })
    }

    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        let created = self.call(Operation::Create, name, body.len(), || self.inner.create(name, body));
        let (script, object) = (Arc::clone(&self.script), name.to_owned());
        Box::pin(async move {
            let result = created.await;
            if matches!(result, Ok(Created::New)) {
                script.lock().created.push(object);
            }
            result
        })
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        Box::new(FaultyWriter {
            inner: self.inner.stream(name),
            name: name.to_owned(),
            script: Arc::clone(&self.script),
            first_error: None,
        })
    }

    fn barrier(&self) -> IoFuture<()> {
        self.call(Operation::Barrier, "", 0, || self.inner.barrier())
    }

    fn link(&self) -> Option<Link> {
        self.link.or_else(|| self.inner.link())
    }

    fn span(&self, name: &str, _: Range<u64>) -> Option<Box<dyn SpanReader>> {
        self.link?;
        Some(Box::new(FarSpan { backend: self.clone(), name: name.to_owned(), is_begun: false }))
    }

    fn delete(&self, name: &str) -> IoFuture<()> {
        self.call(Operation::Delete, name, 0, || self.inner.delete(name))
    }

    fn can_retain(&self) -> bool {
        self.inner.can_retain()
    }

    fn retained_until(&self, name: &str) -> IoFuture<Option<UnixNanos>> {
        self.call(Operation::Size, name, 0, || self.inner.retained_until(name))
    }

    fn retain_until(&self, name: &str, until: UnixNanos) -> IoFuture<UnixNanos> {
        self.call(Operation::Retain, name, 0, || self.inner.retain_until(name, until))
    }

    fn temporaries(&self) -> IoFuture<Vec<Temporary>> {
        self.call(Operation::List, "", 0, || self.inner.temporaries())
    }

    fn remove_temporary(&self, name: &str) -> IoFuture<()> {
        self.call(Operation::Delete, name, 0, || self.inner.remove_temporary(name))
    }

    fn empty_directories(&self, prefix: &str) -> IoFuture<Vec<String>> {
        self.call(Operation::List, prefix, 0, || self.inner.empty_directories(prefix))
    }

    fn remove_empty_directory(&self, name: &str) -> IoFuture<()> {
        self.call(Operation::Delete, name, 0, || self.inner.remove_empty_directory(name))
    }
}

struct FarSpan {
    backend: FaultyBackend,
    name: String,
    is_begun: bool,
}

impl SpanReader for FarSpan {
    fn read(&mut self, range: Range<u64>) -> IoFuture<Bytes> {
        match std::mem::replace(&mut self.is_begun, true) {
            false => self.backend.get_range(&self.name, range),
            true => self.backend.inner.get_range(&self.name, range),
        }
    }
}

struct FaultyWriter {
    inner: Box<dyn ObjectWriter>,
    name: String,
    script: Arc<Mutex<Script>>,
    first_error: Option<StorageError>,
}

impl FaultyWriter {
    fn enter(&mut self, operation: Operation, bytes: usize) -> Option<Effect> {
        let effect = self.script.lock().enter(operation, &self.name, bytes);
        if let Some(effect @ (Effect::Full | Effect::Io | Effect::NotFound)) = effect {
            self.first_error.get_or_insert_with(|| {
                let mut error = injected(effect, &self.name);
                if error.kind == StorageErrorKind::Other {
                    error.kind = StorageErrorKind::Poisoned;
                }
                error
            });
        }
        effect
    }
}

impl ObjectWriter for FaultyWriter {
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()> {
        let effect = self.enter(Operation::Append, parts.iter().map(Bytes::len).sum());
        if let Some(error) = &self.first_error {
            return ready(Err(error.clone()));
        }
        apply(effect, &self.name, || self.inner.append(parts))
    }

    fn finish(mut self: Box<Self>) -> IoFuture<()> {
        let effect = self.enter(Operation::Finish, 0);
        if let Some(error) = self.first_error {
            return ready(Err(error));
        }
        let Self { inner, name, script, .. } = *self;
        let finished = apply(effect, &name, || inner.finish());
        Box::pin(async move {
            finished.await?;
            script.lock().created.push(name);
            Ok(())
        })
    }
}

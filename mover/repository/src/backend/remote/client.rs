//! The calls of a store, made again as long as that helps.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};

use super::error::{Failed, judge};
use super::lock::{Held, Lock};
use super::place::Store;
use super::retry::Tries;
use super::spill::Spills;
use super::transport::{NOTE, Note, Wire};
use crate::backend::{ObjectMeta, StorageError, StorageErrorKind};

/// Whether a try that seemed to fail may have had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Never,
    Perhaps,
}

/// One store, shared by all calls.
pub(super) struct Client {
    pub store: Arc<dyn Store>,
    pub wire: Arc<Wire>,
    /// Where the kind of store has object lock.
    pub lock: Option<Lock>,
    /// Larger objects go in parts of so many bytes.
    pub part_bytes: u64,
    pub spills: Spills,
    /// Names of objects in the store begin so; ends with a slash, or is empty.
    pub prefix: String,
    /// As users name the store.
    pub shown: Arc<str>,
}

impl Client {
    /// Makes a call until it succeeds, its failure is final, or patience ends.
    pub(super) async fn persist<T, W>(
        &self,
        operation: &'static str,
        object: &str,
        work: impl FnMut() -> W,
    ) -> Result<T, StorageError>
    where
        W: Future<Output = object_store::Result<T>>,
    {
        self.persist_and_tell(operation, object, work).await.map_err(|(error, _)| error)
    }

    /// As [`Client::persist`]; an error comes with whether an earlier try may have had its effect.
    pub(super) async fn persist_and_tell<T, W>(
        &self,
        operation: &'static str,
        object: &str,
        mut work: impl FnMut() -> W,
    ) -> Result<T, (StorageError, Lost)>
    where
        W: Future<Output = object_store::Result<T>>,
    {
        let (mut tries, mut lost) = (Tries::default(), Lost::Never);
        loop {
            let failed = match self.attempt(&mut work).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            if !self.wait(operation, object, &mut tries, &failed).await {
                return Err((failed.into_error(operation, object).at(&self.shown), lost));
            }
            lost = Lost::Perhaps;
        }
    }

    /// One try.
    async fn attempt<T, W>(&self, work: &mut impl FnMut() -> W) -> Result<T, Failed>
    where
        W: Future<Output = object_store::Result<T>>,
    {
        let noted = async {
            let result = work().await;
            (result, NOTE.with(|note| std::mem::take(&mut *note.borrow_mut())))
        };
        match NOTE.scope(RefCell::new(Note::default()), noted).await {
            (Ok(value), _) => {
                self.wire.patience.succeeded();
                Ok(value)
            }
            (Err(error), note) => {
                if note.status.is_some() {
                    self.wire.patience.answered();
                }
                let failed = judge(&error, &note);
                if failed.is_expired {
                    self.wire.expired.fetch_add(1, Ordering::Relaxed);
                }
                Err(failed)
            }
        }
    }

    /// Waits until the next try is due. False if there shall be none.
    pub(super) async fn wait(&self, operation: &str, object: &str, tries: &mut Tries, failed: &Failed) -> bool {
        let Some(wait) = self.wire.patience.next_wait(tries, failed.trouble, rand::random()) else {
            return false;
        };
        self.wire.counters.retries.fetch_add(1, Ordering::Relaxed);
        let (cause, count) = (failed.message(), tries.count);
        if count == TOLD_AFTER {
            tracing::warn!(store = %self.shown, "cannot {operation} {object}: {cause}; going on with it until patience ends");
        } else {
            tracing::debug!(store = %self.shown, object, cause, count, ?wait, "a request is made again");
        }
        tokio::time::sleep(wait).await;
        true
    }

    /// Size of an object in bytes.
    pub(super) async fn size(&self, name: &str, path: &Path) -> Result<u64, StorageError> {
        self.look("look at", name, path).await.map(|(bytes, _)| bytes)
    }

    /// Size of an object in bytes, and its lock.
    pub(super) async fn look(
        &self,
        operation: &'static str,
        name: &str,
        path: &Path,
    ) -> Result<(u64, Option<Held>), StorageError> {
        let head = || async {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let bytes = self.store.get_opts(path, options).await?.meta.size;
            Ok((bytes, NOTE.with(|note| note.borrow().held)))
        };
        self.persist(operation, name, head).await
    }

    /// Has the next request of this try lock what it uploads, if uploads are locked.
    pub(super) async fn lock_next(&self, name: &str) -> object_store::Result<()> {
        match &self.lock {
            Some(lock) => lock.next_upload(name).await,
            None => Ok(()),
        }
    }

    /// A whole object of at most `limit_bytes`.
    pub(super) async fn get(&self, name: &str, path: &Path, limit_bytes: u64) -> Result<Bytes, StorageError> {
        let mut tries = Tries::default();
        loop {
            let begun = self.persist("read", name, || self.store.get_opts(path, GetOptions::default())).await?;
            let bytes = begun.meta.size;
            if bytes > limit_bytes {
                let why = format!("it has {bytes} bytes, more than {limit_bytes}");
                return Err(StorageError::of_kind("read", name, StorageErrorKind::TooLarge, why).at(&self.shown));
            }
            let mut body = BytesMut::with_capacity(bytes as usize);
            let failed = match fill(begun, &mut body, bytes as usize).await {
                Ok(()) => return Ok(body.freeze()),
                Err(failed) => failed,
            };
            if !self.wait("read", name, &mut tries, &failed).await {
                return Err(failed.into_error("read", name).at(&self.shown));
            }
        }
    }

    /// Asks for a range: the answer promises all of it.
    pub(super) async fn begin(&self, name: &str, path: &Path, range: Range<u64>) -> Result<GetResult, StorageError> {
        let ask = || {
            let range = Some(GetRange::Bounded(range.clone()));
            self.store.get_opts(path, GetOptions { range, ..GetOptions::default() })
        };
        let begun = self.persist("read", name, ask).await?;
        if begun.meta.size < range.end {
            return Err(self.short(name));
        }
        Ok(begun)
    }

    /// The error of an object that ends before a range does.
    pub(super) fn short(&self, name: &str) -> StorageError {
        let why = "the object ends before the range";
        StorageError::of_kind("read", name, StorageErrorKind::Short, why).at(&self.shown)
    }

    /// All objects below a prefix, sorted.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StorageError> {
        let below = Path::from(format!("{}{prefix}", self.prefix));
        let list = || async {
            let below = Some(&below).filter(|below| !below.as_ref().is_empty());
            let objects = self.store.list(below).map_ok(|meta| (meta.location.as_ref().to_owned(), meta.size));
            objects.try_collect::<Vec<_>>().await
        };
        let listed = self.persist("list", prefix, list).await?;
        let named = listed.into_iter().filter_map(|(location, bytes)| {
            Some(ObjectMeta { name: location.strip_prefix(&self.prefix)?.to_owned(), bytes })
        });
        let mut objects: Vec<ObjectMeta> = named.collect();
        objects.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(objects)
    }
}

/// The try after which a person is told: the first ones are everyday.
const TOLD_AFTER: u32 = 6;

/// Reads an answer into `body` until that has `bytes` bytes. What came before a failure stays in it.
async fn fill(answer: GetResult, body: &mut BytesMut, bytes: usize) -> Result<(), Failed> {
    let mut stream = answer.into_stream();
    while body.len() < bytes {
        match stream.next().await {
            Some(Ok(piece)) => body.extend_from_slice(&piece[..piece.len().min(bytes - body.len())]),
            Some(Err(error)) => return Err(Failed::network(super::error::innermost(&error))),
            None => return Err(Failed::network("the answer was cut short")),
        }
    }
    Ok(())
}

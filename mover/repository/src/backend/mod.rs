//! Where objects live: a small trait and its implementations.
//!
//! A backend knows names and bytes, nothing of their meaning. Names are relative paths of
//! components from `[A-Za-z0-9._-]`, none starting with a dot. Futures need no reactor, work
//! starts at the call or at the first poll, and dropping a future never corrupts anything.
//! Whoever calls from an executor thread is never blocked.

pub mod cached;
pub mod conformance;
pub mod faulty;
pub mod local;
pub mod memory;
#[cfg(feature = "network")]
pub mod remote;

use bytes::Bytes;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use crate::ids::UnixNanos;

pub use cached::{CacheCounters, CachedBackend};
pub use faulty::FaultyBackend;
pub use local::{LocalBackend, StorageCounters};
pub use memory::MemoryBackend;
#[cfg(feature = "network")]
pub use remote::RemoteBackend;

/// Longest object name.
pub const OBJECT_NAME_BYTES_MAX: usize = 512;

/// A storage call in flight.
pub type IoFuture<T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'static>>;

/// Why a storage call failed: operation, object, place, cause.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", self.object_in_place())]
pub struct StorageError {
    /// Verb of the operation, such as `read` or `sync`.
    pub operation: &'static str,
    /// Name of the object; empty for the place as a whole.
    pub object: String,
    /// The store, as [`Backend::describe`] names it, where the object's name does not say it.
    pub place: Option<Arc<str>>,
    /// What callers decide by.
    pub kind: StorageErrorKind,
    /// The cause as the system told it.
    pub source: Arc<io::Error>,
}

/// What callers decide by when a storage call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// No object of that name.
    NotFound,
    /// The place exists but is not a directory.
    NotADirectory,
    /// An object of that name exists.
    AlreadyExists,
    /// No space, or quota reached.
    Full,
    /// The store is mounted read-only.
    ReadOnly,
    /// The store denies it.
    PermissionDenied,
    /// A store in the network cannot be used as it was named: its certificate, its region, its bucket, the clock.
    Refused,
    /// The object ends before the range does.
    Short,
    /// The object is larger than the caller's limit.
    TooLarge,
    /// The name breaks the rules for names.
    InvalidName,
    /// Bytes may not be durable, or an earlier error broke this writer: nothing after it counts.
    Poisoned,
    /// The store lacks an operation that a repository needs.
    NotSupported,
    /// An object lock keeps the object until then.
    Retained(UnixNanos),
    /// Anything else, such as an I/O error.
    Other,
}

impl StorageErrorKind {
    /// True if the same call may succeed later without anyone changing anything.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Other)
    }

    /// True if the place as a whole refuses to be written, now or to this user.
    pub fn takes_no_writes(self) -> bool {
        matches!(self, Self::Full | Self::ReadOnly | Self::PermissionDenied)
    }

    /// The kind of an operating system error.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::Full,
            Some(libc::EROFS) => Self::ReadOnly,
            Some(libc::EACCES | libc::EPERM) => Self::PermissionDenied,
            Some(libc::ENOENT) => Self::NotFound,
            Some(libc::ENOTDIR) => Self::NotADirectory,
            Some(libc::EEXIST) => Self::AlreadyExists,
            _ => Self::Other,
        }
    }
}

impl StorageError {
    /// An error whose kind follows from the system's cause.
    pub fn new(operation: &'static str, object: impl Into<String>, cause: io::Error) -> Self {
        Self::of_kind(operation, object, StorageErrorKind::of(&cause), cause)
    }

    /// An error of a given kind.
    pub fn of_kind(
        operation: &'static str,
        object: impl Into<String>,
        kind: StorageErrorKind,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let cause = cause.into();
        let source = match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        };
        Self { operation, object: object.into(), place: None, kind, source: Arc::new(source) }
    }

    /// The same error with the store that it happened in.
    pub fn at(mut self, place: &Arc<str>) -> Self {
        self.place.get_or_insert_with(|| Arc::clone(place));
        self
    }

    fn object_in_place(&self) -> String {
        match &self.place {
            None => self.object.clone(),
            Some(place) if self.object.is_empty() => place.to_string(),
            Some(place) => format!("{} in {place}", self.object),
        }
    }

    /// One line for the user: what to do next.
    pub fn guidance(&self) -> Option<String> {
        #[cfg(feature = "network")]
        if let Some(help) = remote::RemoteCause::help_in(&self.source) {
            return Some(help.to_owned());
        }
        let text = match self.kind {
            StorageErrorKind::Full => {
                "free space in the repository's file system and run again; what was stored is kept"
            }
            StorageErrorKind::ReadOnly => "the repository is mounted read-only: remount it, or use another place",
            StorageErrorKind::PermissionDenied => "check owner and mode of the repository directory",
            StorageErrorKind::NotADirectory => {
                "a repository is a directory: name one, or a place where it can be created"
            }
            StorageErrorKind::Poisoned => "the disk reported a write error: check it before trusting it with data",
            StorageErrorKind::Retained(_) => "its object lock has to end first: run the command again after that",
            StorageErrorKind::NotFound | StorageErrorKind::Short => "run `mover verify` to see what is affected",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Full object name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// An object that was begun and has no name yet: of a writer at work, or of one that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// Where it is, as [`Backend::remove_temporary`] takes it.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// The process that began it is certainly dead; false if that is not known.
    pub writer_is_dead: bool,
}

/// Result of a create-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// This call created the object.
    New,
    /// An object of that name was there; it is untouched. After a lost answer it may be one's
    /// own: compare its bytes.
    AlreadyExisted,
}

/// What the way to a store in a network asks for, as measured so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Bytes that a large object should have: few requests, each over within seconds.
    pub pack_bytes: u64,
    /// Bytes that should be on the way to the store at the same time, so that it is never idle.
    pub in_flight_bytes: u64,
}

/// A place for write-once objects.
pub trait Backend: Send + Sync + 'static {
    /// What a user would call this place: a path or a URL.
    fn describe(&self) -> String;

    /// The whole object. Larger than `limit_bytes` is [`StorageErrorKind::TooLarge`].
    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes>;

    /// Exactly the bytes of `range`; an object that ends before is [`StorageErrorKind::Short`].
    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes>;

    /// As [`Backend::get_range`], of what later runs read again in an object of `object_bytes` bytes: index segments and
    /// tables of contents. A local cache may answer, so it proves neither that the object is there nor that it is whole.
    fn get_cacheable(&self, name: &str, range: Range<u64>, _object_bytes: u64) -> IoFuture<Bytes> {
        self.get_range(name, range)
    }

    /// Says that what [`Backend::get_cacheable`] gave of an object cannot be opened: from now on the store itself is
    /// asked for it. True if a cache may have answered, so that a second read can give something else.
    fn distrust_cached(&self, _name: &str) -> bool {
        false
    }

    /// Size in bytes.
    fn size(&self, name: &str) -> IoFuture<u64>;

    /// All objects under `prefix/`, at any depth, sorted by name; an empty prefix lists all.
    /// Temporaries are hidden; a prefix that does not exist is an empty list.
    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>>;

    /// Create-if-absent: atomic, and durable (bytes and name) when it resolves, whichever the
    /// result.
    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created>;

    /// Starts a large object whose name appears only at its finish.
    fn stream(&self, name: &str) -> Box<dyn ObjectWriter>;

    /// Resolves when every object whose `finish` resolved before this call is durable by name, and every delete too.
    fn barrier(&self) -> IoFuture<()>;

    /// What suits the way to the store; nothing where there is none, as on a disk.
    fn link(&self) -> Option<Link> {
        None
    }

    /// Reads ranges of an object in their order, all within `span`, by one request; nothing where a request costs nothing,
    /// as on a disk: then [`Backend::get_range`] serves each.
    fn span(&self, _name: &str, _span: Range<u64>) -> Option<Box<dyn SpanReader>> {
        None
    }

    /// Says that an object which somebody else finished, perhaps without a barrier, is about to be
    /// relied on: the next barrier covers it too. Nothing to do where a name is durable once seen.
    fn adopt(&self, _name: &str) {}

    /// Removes an object. A barrier that is called after it has resolved makes that durable: until then a power cut may
    /// bring the object back.
    fn delete(&self, name: &str) -> IoFuture<()>;

    /// Whether this kind of store can keep objects from being removed for a time: object lock.
    fn can_retain(&self) -> bool {
        false
    }

    /// Until when an object lock keeps an object, as the store itself tells; none if nothing does.
    fn retained_until(&self, _name: &str) -> IoFuture<Option<UnixNanos>> {
        ready(Ok(None))
    }

    /// Has an object kept at least until then, and gives until when it is. Never makes that time shorter. A lock that
    /// lasts keeps its mode.
    fn retain_until(&self, name: &str, _until: UnixNanos) -> IoFuture<UnixNanos> {
        ready(Err(no_lock(name)))
    }

    /// What was begun and not finished, at any depth. Nothing where the store keeps that to itself.
    fn temporaries(&self) -> IoFuture<Vec<Temporary>> {
        ready(Ok(Vec::new()))
    }

    /// Removes what [`Backend::temporaries`] named. Gone already is fine.
    fn remove_temporary(&self, _name: &str) -> IoFuture<()> {
        ready(Ok(()))
    }

    /// Prefixes one component below `prefix` under which there is nothing, where a store keeps such.
    fn empty_directories(&self, _prefix: &str) -> IoFuture<Vec<String>> {
        ready(Ok(Vec::new()))
    }

    /// Removes what [`Backend::empty_directories`] named, unless something is there by now. Whoever creates an object
    /// below it makes it again.
    fn remove_empty_directory(&self, _name: &str) -> IoFuture<()> {
        ready(Ok(()))
    }
}

/// Bytes between two ranges of a span that are read along: that takes less time than another request.
pub const SPAN_GAP_BYTES_MAX: u64 = 1 << 20;

/// Whether a range that begins at `next` belongs to the span whose ranges so far end at `end`.
pub fn joins_span(end: u64, next: u64) -> bool {
    next.checked_sub(end).is_some_and(|gap| gap <= SPAN_GAP_BYTES_MAX)
}

/// Reads ranges of one object, by one request as long as they are asked for in order.
pub trait SpanReader: Send {
    /// Exactly the bytes of `range`, as [`Backend::get_range`]. Several may be asked for: they are read one after the
    /// other, and each takes its memory when its turn has come.
    fn read(&mut self, range: Range<u64>) -> IoFuture<Bytes>;
}

/// Writes one large object. Dropped before `finish`, it leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Appends `parts` in order, after all appends called before; several may be in flight.
    /// Resolves when the bytes are handed to the store, so that their memory is free again.
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()>;

    /// Waits for the appends, makes the bytes durable, then the name visible. After any error
    /// the writer is poisoned and reports its first cause.
    fn finish(self: Box<Self>) -> IoFuture<()>;
}

/// Deletes an object; true if it was there.
///
/// # Errors
/// Storage errors, but for one that is gone already.
pub(crate) async fn delete_if_there(backend: &dyn Backend, name: &str) -> Result<bool, StorageError> {
    match backend.delete(name).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn no_lock(name: &str) -> StorageError {
    StorageError::of_kind("lock", name, StorageErrorKind::NotSupported, "this kind of store has no object lock")
}

/// A time of a lock as text: RFC 3339, to the second.
pub(crate) fn lock_time(time: UnixNanos) -> String {
    let seconds = i64::try_from(time.0.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

fn retained_error(name: &str, until: UnixNanos) -> StorageError {
    let why = format!("an object lock keeps it until {}", lock_time(until));
    StorageError::of_kind("delete", name, StorageErrorKind::Retained(until), why)
}

/// A future that is ready at once.
pub(crate) fn ready<T: Send + 'static>(result: Result<T, StorageError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

/// Checks the rules for object names.
///
/// # Errors
/// [`StorageErrorKind::InvalidName`].
pub fn check_name(operation: &'static str, name: &str) -> Result<(), StorageError> {
    let component_is_valid = |component: &str| {
        !component.is_empty()
            && component.len() <= 255
            && !component.starts_with('.')
            && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    if name.len() <= OBJECT_NAME_BYTES_MAX && name.split('/').all(component_is_valid) {
        return Ok(());
    }
    Err(StorageError::of_kind(operation, name, StorageErrorKind::InvalidName, "not a valid object name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_place() {
        for name in ["a", "packs/0000/ab", "log/1/alive/0", "a.b_c-d"] {
            assert!(check_name("read", name).is_ok(), "{name}");
        }
        for name in ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".tmp-1", "a/.hidden", "a b", "a\0b", "ä"] {
            assert!(check_name("read", name).is_err(), "{name}");
        }
        assert!(check_name("read", &"a".repeat(256)).is_err());
    }

    #[test]
    fn f13_causes_are_told_apart() {
        let kind = |errno| StorageErrorKind::of(&io::Error::from_raw_os_error(errno));
        assert_eq!(kind(libc::ENOSPC), StorageErrorKind::Full);
        assert_eq!(kind(libc::EDQUOT), StorageErrorKind::Full);
        assert_eq!(kind(libc::EROFS), StorageErrorKind::ReadOnly);
        assert_eq!(kind(libc::EACCES), StorageErrorKind::PermissionDenied);
        assert_eq!(kind(libc::ENOENT), StorageErrorKind::NotFound);
        assert_eq!(kind(libc::EIO), StorageErrorKind::Other);
        let error = StorageError::new("write", "packs/1/a", io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(error.to_string(), "cannot write packs/1/a: No space left on device (os error 28)");
        let error = error.at(&"/srv/backup".into());
        assert_eq!(error.to_string(), "cannot write packs/1/a in /srv/backup: No space left on device (os error 28)");
        let whole = StorageError::new("sync", "", io::Error::from_raw_os_error(libc::EIO)).at(&"/srv/backup".into());
        assert_eq!(whole.to_string(), "cannot sync /srv/backup: Input/output error (os error 5)");
    }
}

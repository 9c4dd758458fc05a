//! Objects as files beneath one directory.
//!
//! All system calls block and run on this backend's own threads: reads, writes and syncs have a
//! pool each, so that a slow fsync never delays a read. The root directory is opened once and
//! names are resolved beneath it; files are 0600, directories 0700. Temporaries begin with
//! `.tmp-`, lie beside their final name, are hidden from listings and harmless when stale. Their
//! names tell whether their writer is certainly dead, so that a later one can remove them.
//!
//! Durability: `create` syncs file and directory before it resolves; a stream syncs its file at
//! `finish` and leaves the directory to `barrier`. After a failed fsync nothing is retried on
//! the same file, and a failed directory sync poisons all later barriers.

mod directory;
#[cfg(any(test, feature = "simulation"))]
pub mod disk_trace;
mod temporary;
mod writer;

use super::{
    Backend, Created, IoFuture, ObjectMeta, ObjectWriter, StorageError, StorageErrorKind, Temporary, check_name, ready,
};
use crate::io::{Completion, Pool};
use bytes::Bytes;
use directory::Directory;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const READ_THREADS: usize = 8;
const WRITE_THREADS: usize = 4;
const SYNC_THREADS: usize = 6;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What a [`LocalBackend`] has done since it was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StorageCounters {
            $($(#[$doc])* pub $field: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $field: AtomicU64,)*
        }

        impl Counters {
            fn read(&self) -> StorageCounters {
                StorageCounters { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// fsync of files.
    fsync_files,
    /// fsync of directories.
    fsync_directories,
    /// Calls of `create`.
    creates,
    /// Calls of `finish` of a stream.
    finishes,
    /// Calls of `get` and `get_range`.
    reads,
    /// Bytes that they returned.
    bytes_read,
    /// Write system calls.
    writes,
    /// Bytes written.
    bytes_written,
    /// Calls of `list`.
    lists,
    /// Objects deleted.
    deletes,
}

impl Counters {
    fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A repository directory on a local or mounted file system.
pub struct LocalBackend {
    directory: Arc<Directory>,
    readers: Arc<Pool>,
    writers: Arc<Pool>,
    syncers: Arc<Pool>,
}

impl LocalBackend {
    /// Opens the directory at `path`; with `create`, makes it (and its parents) if needed. Blocks.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] if there is nothing at `path`,
    /// [`StorageErrorKind::NotADirectory`] if it is a file, and what the system reports.
    pub fn open(path: impl AsRef<Path>, create: bool) -> Result<Self, StorageError> {
        Ok(Self {
            directory: Arc::new(Directory::open(path.as_ref(), create)?),
            readers: Pool::new("mover-read", READ_THREADS),
            writers: Pool::new("mover-write", WRITE_THREADS),
            syncers: Pool::new("mover-sync", SYNC_THREADS),
        })
    }

    /// As [`LocalBackend::open`], with each change of the file system told to `trace`. Blocks.
    ///
    /// # Errors
    /// As [`LocalBackend::open`].
    #[cfg(any(test, feature = "simulation"))]
    pub fn open_traced(
        path: impl AsRef<Path>,
        create: bool,
        trace: Arc<disk_trace::DiskTrace>,
    ) -> Result<Self, StorageError> {
        let mut backend = Self::open(path, create)?;
        let directory = Arc::get_mut(&mut backend.directory).expect("nobody else has it yet");
        directory.trace = Some(trace);
        Ok(backend)
    }

    /// What was done so far.
    pub fn counters(&self) -> StorageCounters {
        self.directory.counters.read()
    }

    fn run<T: Send + 'static>(
        &self,
        pool: &Pool,
        operation: &'static str,
        name: &str,
        work: impl FnOnce(&Directory, &str) -> Result<T, StorageError> + Send + 'static,
    ) -> IoFuture<T> {
        if let Err(error) = check_name(operation, name) {
            return ready(Err(error));
        }
        let (directory, object) = (Arc::clone(&self.directory), name.to_owned());
        let place = Arc::clone(&self.directory.shown);
        completed(operation, name, &place, pool.run(move || work(&directory, &object)))
    }
}

/// The future of work on a pool; a panic there becomes an error, and errors get the place they arose in.
fn completed<T: Send + 'static>(
    operation: &'static str,
    name: &str,
    place: &Arc<str>,
    completion: Completion<Result<T, StorageError>>,
) -> IoFuture<T> {
    let (object, place) = (name.to_owned(), Arc::clone(place));
    Box::pin(async move {
        completion
            .await
            .unwrap_or_else(|error| Err(StorageError::of_kind(operation, object, StorageErrorKind::Poisoned, error)))
            .map_err(|error| error.at(&place))
    })
}

impl Backend for LocalBackend {
    fn describe(&self) -> String {
        self.directory.shown.to_string()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.run(&self.readers, "read", name, move |directory, name| directory.read(name, limit_bytes))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        self.run(&self.readers, "read", name, move |directory, name| directory.read_range(name, range))
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        self.run(&self.readers, "stat", name, Directory::size)
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        if prefix.is_empty() {
            let directory = Arc::clone(&self.directory);
            return completed("list", "", &self.directory.shown, self.readers.run(move || directory.list("")));
        }
        self.run(&self.readers, "list", prefix, Directory::list)
    }

    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        self.run(&self.syncers, "create", name, move |directory, name| directory.create(name, &body))
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        Box::new(writer::LocalWriter::new(
            Arc::clone(&self.directory),
            name,
            Arc::clone(&self.writers),
            Arc::clone(&self.syncers),
        ))
    }

    fn barrier(&self) -> IoFuture<()> {
        let directory = Arc::clone(&self.directory);
        completed("sync", "", &self.directory.shown, self.syncers.run(move || directory.sync_dirty()))
    }

    fn adopt(&self, name: &str) {
        self.directory.adopt(name);
    }

    fn delete(&self, name: &str) -> IoFuture<()> {
        self.run(&self.syncers, "delete", name, Directory::delete)
    }

    fn temporaries(&self) -> IoFuture<Vec<Temporary>> {
        let directory = Arc::clone(&self.directory);
        completed("list", "", &self.directory.shown, self.readers.run(move || directory.temporaries()))
    }

    fn empty_directories(&self, prefix: &str) -> IoFuture<Vec<String>> {
        self.run(&self.readers, "list", prefix, Directory::empty_directories)
    }

    fn remove_empty_directory(&self, name: &str) -> IoFuture<()> {
        self.run(&self.syncers, "delete", name, |directory, name| {
            directory.remove_empty_directories(name);
            Ok(())
        })
    }

    fn remove_temporary(&self, name: &str) -> IoFuture<()> {
        let (parent, file_name) = name.rsplit_once('/').unwrap_or(("", name));
        let random_part = file_name.strip_prefix(temporary::PREFIX);
        let is_temporary = random_part.is_some_and(|rest| check_name("delete", rest).is_ok());
        if !is_temporary || (!parent.is_empty() && check_name("delete", parent).is_err()) {
            let cause = "not the name of an unfinished object";
            return ready(Err(StorageError::of_kind("delete", name, StorageErrorKind::InvalidName, cause)));
        }
        let (directory, temporary) = (Arc::clone(&self.directory), name.to_owned());
        let work = move || {
            directory.abandon_temporary(&temporary);
            Ok(())
        };
        completed("delete", name, &self.directory.shown, self.syncers.run(work))
    }
}

#[cfg(test)]
mod tests;

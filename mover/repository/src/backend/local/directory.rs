//! The blocking operations beneath the root directory, and which directories still need a sync.
//! Runs on the backend's pool threads only.

#[cfg(any(test, feature = "simulation"))]
use super::disk_trace::{DiskStep, DiskStepKind, DiskTrace};
use super::{Counters, temporary};
use crate::backend::{Created, ObjectMeta, StorageError, StorageErrorKind, Temporary, check_name};
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Deepest nesting that a listing follows.
const LIST_DEPTH_MAX: usize = 16;
/// A directory may vanish between its making and its use, when its last object is deleted.
const OPEN_ATTEMPTS: usize = 8;

pub(super) struct Directory {
    /// The path as errors show it.
    pub(super) shown: Arc<str>,
    root: OwnedFd,
    pub(super) counters: Counters,
    /// Directories whose own names are durable up to the root.
    durable: Mutex<HashSet<String>>,
    /// Directories with new names that no sync covers yet.
    dirty: Mutex<BTreeSet<String>>,
    /// Directories with names of others that are relied on, or names removed, that no sync covers yet. They may be gone.
    touched: Mutex<BTreeSet<String>>,
    /// Held while dirty directories are synced; the first failure stays.
    sync_failure: Mutex<Option<StorageError>>,
    #[cfg(any(test, feature = "simulation"))]
    pub(super) trace: Option<Arc<DiskTrace>>,
}

/// Makes a call that changes the file system. A test build tells the trace of it, if there is one.
macro_rules! step {
    ($directory:expr, $kind:ident, $call:expr, $record:expr) => {{
        #[cfg(any(test, feature = "simulation"))]
        {
            match &$directory.trace {
                None => $call,
                Some(trace) => trace.take(DiskStepKind::$kind, || $call, $record),
            }
        }
        #[cfg(not(any(test, feature = "simulation")))]
        {
            $call
        }
    }};
}

fn failed<'a>(operation: &'static str, name: &'a str) -> impl Fn(Errno) -> StorageError + 'a {
    move |errno| StorageError::new(operation, name, errno.into())
}

/// A failed sync: the bytes may be lost although a later sync would succeed.
fn failed_sync(name: &str) -> impl Fn(Errno) -> StorageError + '_ {
    move |errno| {
        let cause = io::Error::from(errno);
        let kind = match StorageErrorKind::of(&cause) {
            StorageErrorKind::Full => StorageErrorKind::Full,
            _ => StorageErrorKind::Poisoned,
        };
        StorageError::of_kind("sync", name, kind, cause)
    }
}

/// The directory part of an object name; empty for the root.
fn parent_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Directory {
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, StorageError> {
        let shown = path.display().to_string();
        let is_new = create && !path.exists();
        if is_new {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| StorageError::new("create", shown.clone(), error))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(failed("open", &shown))?;
        if is_new {
            sync_path(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
                .map_err(|error| StorageError::new("sync", shown.clone(), error))?;
        }
        Ok(Self {
            shown: shown.into(),
            root,
            counters: Counters::default(),
            durable: Mutex::default(),
            dirty: Mutex::default(),
            touched: Mutex::default(),
            sync_failure: Mutex::default(),
            #[cfg(any(test, feature = "simulation"))]
            trace: None,
        })
    }

    fn open_object(&self, operation: &'static str, name: &str) -> Result<(OwnedFd, u64), StorageError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = fs::openat(&self.root, name, flags, Mode::empty()).map_err(failed(operation, name))?;
        let stat = fs::fstat(&file).map_err(failed(operation, name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StorageError::of_kind(operation, name, StorageErrorKind::Other, "not a regular file"));
        }
        Ok((file, stat.st_size as u64))
    }

    pub(super) fn read(&self, name: &str, limit_bytes: u64) -> Result<Bytes, StorageError> {
        let (file, bytes) = self.open_object("read", name)?;
        if bytes > limit_bytes {
            let cause = format!("it has {bytes} bytes, {limit_bytes} are allowed");
            return Err(StorageError::of_kind("read", name, StorageErrorKind::TooLarge, cause));
        }
        self.read_exact(&file, name, 0, bytes)
    }

    pub(super) fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let (file, bytes) = self.open_object("read", name)?;
        if range.start > range.end || range.end > bytes {
            let cause = format!("it has {bytes} bytes, {}..{} were asked for", range.start, range.end);
            return Err(StorageError::of_kind("read", name, StorageErrorKind::Short, cause));
        }
        self.read_exact(&file, name, range.start, range.end - range.start)
    }

    fn read_exact(&self, file: &OwnedFd, name: &str, offset: u64, bytes: u64) -> Result<Bytes, StorageError> {
        let length = usize::try_from(bytes).expect("a range fits the address space");
        let mut buffer = Vec::with_capacity(length);
        while buffer.len() < length {
            let missing = length - buffer.len();
            let at = offset + buffer.len() as u64;
            let spare = &mut buffer.spare_capacity_mut()[..missing];
            match rustix::io::pread(file, spare, at) {
                Ok(([], _)) => {
                    let cause = "it was cut short while it was read";
                    return Err(StorageError::of_kind("read", name, StorageErrorKind::Short, cause));
                }
                Ok((filled, _)) => {
                    let read = filled.len();
                    // SAFETY: `pread` initialised the first `read` bytes of the spare capacity.
                    unsafe { buffer.set_len(buffer.len() + read) };
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("read", name)(errno)),
            }
        }
        Counters::add(&self.counters.reads, 1);
        Counters::add(&self.counters.bytes_read, bytes);
        Ok(buffer.into())
    }

    pub(super) fn size(&self, name: &str) -> Result<u64, StorageError> {
        let stat = fs::statat(&self.root, name, AtFlags::empty()).map_err(failed("stat", name))?;
        Ok(stat.st_size as u64)
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StorageError> {
        Counters::add(&self.counters.lists, 1);
        let mut listed = Vec::new();
        self.walk(prefix, 0, false, &mut |name, bytes| listed.push(ObjectMeta { name, bytes }))?;
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Unfinished files of all writers, at any depth.
    pub(super) fn temporaries(&self) -> Result<Vec<Temporary>, StorageError> {
        let mut found = Vec::new();
        self.walk("", 0, true, &mut |name, bytes| {
            let file_name = name.rsplit('/').next().unwrap_or_default();
            let writer_is_dead = temporary::is_of_the_dead(file_name);
            found.push(Temporary { name, bytes, writer_is_dead });
        })?;
        Ok(found)
    }

    /// Tells `found` of all objects under `prefix`, or of all unfinished files.
    fn walk(
        &self,
        prefix: &str,
        depth: usize,
        of_unfinished: bool,
        found: &mut dyn FnMut(String, u64),
    ) -> Result<(), StorageError> {
        let directory = match self.open_directory(prefix) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(failed("list", prefix)(errno)),
        };
        for entry in Dir::read_from(&directory).map_err(failed("list", prefix))? {
            let entry = entry.map_err(failed("list", prefix))?;
            let component = entry.file_name().to_string_lossy();
            // lost+found belongs to the file system, and only root may look into it.
            if matches!(&*component, "." | ".." | "lost+found") {
                continue;
            }
            let is_unfinished = component.starts_with(temporary::PREFIX);
            let may_be_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if is_unfinished != of_unfinished && !(of_unfinished && may_be_directory) {
                continue;
            }
            let name = if prefix.is_empty() { component.to_string() } else { format!("{prefix}/{component}") };
            let stat = match fs::statat(&directory, entry.file_name(), AtFlags::empty()) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("list", &name)(errno)),
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if is_unfinished == of_unfinished {
                    found(name, stat.st_size as u64);
                }
            } else if depth < LIST_DEPTH_MAX {
                self.walk(&name, depth + 1, of_unfinished, found)?;
            }
        }
        Ok(())
    }

    pub(super) fn create(&self, name: &str, body: &[u8]) -> Result<Created, StorageError> {
        Counters::add(&self.counters.creates, 1);
        let (file, temporary) = self.open_temporary(name)?;
        let created = self
            .write_all(&file, name, 0, &[body])
            .and_then(|()| self.sync_file(&file, name))
            .and_then(|()| self.link_new(&temporary, name));
        self.remove_temporary(&temporary);
        // Also when it existed: whoever made it may not have got to the sync of the directory.
        let created = created?;
        self.sync_names(parent_of(name))?;
        Ok(created)
    }

    /// Gives a temporary its final name, unless that name is taken.
    fn link_new(&self, temporary: &str, name: &str) -> Result<Created, StorageError> {
        let linked =
            step!(self, Grow, fs::linkat(&self.root, temporary, &self.root, name, AtFlags::empty()), |_, ()| {
                DiskStep::Link { from: temporary.to_owned(), to: name.to_owned() }
            });
        match linked {
            Ok(()) => return Ok(Created::New),
            Err(Errno::EXIST) => return Ok(Created::AlreadyExisted),
            // File systems without hard links.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
            Err(errno) => return Err(failed("create", name)(errno)),
        }
        self.rename_new(temporary, name)
    }

    fn rename_new(&self, temporary: &str, name: &str) -> Result<Created, StorageError> {
        let renamed = step!(
            self,
            Grow,
            fs::renameat_with(&self.root, temporary, &self.root, name, RenameFlags::NOREPLACE),
            |_, ()| DiskStep::Rename { from: temporary.to_owned(), to: name.to_owned() }
        );
        match renamed {
            Ok(()) => Ok(Created::New),
            Err(Errno::EXIST) => Ok(Created::AlreadyExisted),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(StorageError::of_kind(
                "create",
                name,
                StorageErrorKind::NotSupported,
                "this file system has neither hard links nor renames that refuse to replace",
            )),
            Err(errno) => Err(failed("create", name)(errno)),
        }
    }

    /// Gives the finished temporary of a stream its name; a barrier makes it durable.
    pub(super) fn publish(&self, temporary: &str, name: &str) -> Result<(), StorageError> {
        let mut published = self.rename_new(temporary, name);
        if published.as_ref().is_err_and(|error| error.kind == StorageErrorKind::NotSupported) {
            published = self.link_new(temporary, name);
            if matches!(published, Ok(Created::New)) {
                self.remove_temporary(temporary);
            }
        }
        match published? {
            Created::New => {
                self.dirty.lock().insert(parent_of(name).to_owned());
                Ok(())
            }
            Created::AlreadyExisted => Err(failed("write", name)(Errno::EXIST)),
        }
    }

    /// The next barrier covers the name of an object that another process published.
    pub(super) fn adopt(&self, name: &str) {
        self.touched.lock().insert(parent_of(name).to_owned());
    }

    /// Opens a new temporary beside `name`, making its directories.
    pub(super) fn open_temporary(&self, name: &str) -> Result<(OwnedFd, String), StorageError> {
        let parent = parent_of(name);
        let file_name = temporary::new_file_name();
        let temporary = if parent.is_empty() { file_name } else { format!("{parent}/{file_name}") };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut attempt = 1;
        loop {
            let opened = step!(
                self,
                Grow,
                fs::openat(&self.root, &*temporary, flags, Mode::RUSR | Mode::WUSR),
                |recorder, file| {
                    recorder.created(file);
                    DiskStep::CreateFile(temporary.clone())
                }
            );
            match opened {
                Ok(file) => return Ok((file, temporary)),
                Err(Errno::NOENT) if attempt < OPEN_ATTEMPTS => self.make_directories(parent)?,
                Err(errno) => return Err(failed("create", name)(errno)),
            }
            attempt += 1;
        }
    }

    /// Removes a temporary. If that fails it stays as a hidden, harmless file.
    pub(super) fn remove_temporary(&self, temporary: &str) {
        let _ = self.unlink(temporary);
    }

    fn unlink(&self, name: &str) -> Result<(), Errno> {
        step!(self, Shrink, fs::unlinkat(&self.root, name, AtFlags::empty()), |_, ()| DiskStep::Unlink(name.to_owned()))
    }

    /// Removes a temporary and the directories that were made for it alone.
    pub(super) fn abandon_temporary(&self, temporary: &str) {
        self.remove_temporary(temporary);
        self.remove_empty_directories(parent_of(temporary));
    }

    fn make_directories(&self, directory: &str) -> Result<(), StorageError> {
        for prefix in prefixes(directory) {
            let made = step!(self, Grow, fs::mkdirat(&self.root, prefix, Mode::RWXU), |_, ()| {
                DiskStep::MakeDirectory(prefix.to_owned())
            });
            match made {
                Ok(()) => _ = self.durable.lock().remove(prefix),
                Err(Errno::EXIST) => {}
                // A concurrent delete took the parent away again: the caller tries once more.
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(failed("create directory", prefix)(errno)),
            }
        }
        Ok(())
    }

    /// Writes all parts at `offset`, in as few system calls as the system allows.
    pub(super) fn write_all(
        &self,
        file: &OwnedFd,
        name: &str,
        offset: u64,
        parts: &[&[u8]],
    ) -> Result<(), StorageError> {
        const PARTS_A_CALL: usize = 512;
        let mut rest: Vec<IoSlice<'_>> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut rest = rest.as_mut_slice();
        let mut at = offset;
        while !rest.is_empty() {
            let batch = rest.len().min(PARTS_A_CALL);
            let wrote = step!(self, Grow, rustix::io::pwritev(file, &rest[..batch], at), |recorder, written| {
                let all: Vec<u8> = rest[..batch].iter().flat_map(|slice| slice.iter().copied()).collect();
                DiskStep::Write { file: recorder.file(file), offset: at, bytes: all[..*written].to_vec() }
            });
            match wrote {
                Ok(0) => return Err(failed("write", name)(Errno::IO)),
                Ok(written) => {
                    Counters::add(&self.counters.writes, 1);
                    Counters::add(&self.counters.bytes_written, written as u64);
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("write", name)(errno)),
            }
        }
        Ok(())
    }

    pub(super) fn sync_file(&self, file: &OwnedFd, name: &str) -> Result<(), StorageError> {
        Counters::add(&self.counters.fsync_files, 1);
        let synced = step!(self, Sync, fs::fsync(file), |recorder, ()| DiskStep::SyncFile(recorder.file(file)));
        synced.map_err(failed_sync(name))
    }

    /// Syncs one directory, and the names of the directories above it that are not known to be
    /// durable.
    fn sync_names(&self, directory: &str) -> Result<(), StorageError> {
        for prefix in prefixes(directory) {
            if !self.durable.lock().contains(prefix) {
                self.sync_directory(parent_of(prefix))?;
                self.durable.lock().insert(prefix.to_owned());
            }
        }
        self.sync_directory(directory)
    }

    fn sync_directory(&self, directory: &str) -> Result<(), StorageError> {
        Counters::add(&self.counters.fsync_directories, 1);
        let opened = self.open_directory(directory).map_err(failed("open", directory))?;
        let synced = step!(self, Sync, fs::fsync(&opened), |_, ()| DiskStep::SyncDirectory(directory.to_owned()));
        synced.map_err(failed_sync(directory))
    }

    fn open_directory(&self, directory: &str) -> Result<OwnedFd, Errno> {
        let path = if directory.is_empty() { "." } else { directory };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat(self.root.as_fd(), path, flags, Mode::empty())
    }

    /// The barrier: syncs every directory that got a name since the last one.
    pub(super) fn sync_dirty(&self) -> Result<(), StorageError> {
        let mut failure = self.sync_failure.lock();
        if let Some(first) = &*failure {
            return Err(first.clone());
        }
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let touched = std::mem::take(&mut *self.touched.lock());
        let own = dirty.iter().map(|directory| self.sync_names(directory));
        let of_others = touched.difference(&dirty).map(|directory| match self.sync_names(directory) {
            // Somebody deleted its last object and it with that: there is no name left to sync.
            Err(error) if error.kind == StorageErrorKind::NotFound => Ok(()),
            synced => synced,
        });
        for synced in own.chain(of_others) {
            if let Err(error) = synced {
                *failure = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.unlink(name).map_err(failed("delete", name))?;
        Counters::add(&self.counters.deletes, 1);
        // Until the directory is synced a power cut may bring the name back.
        let still_there = self.remove_empty_directories(parent_of(name)).to_owned();
        self.touched.lock().insert(still_there);
        Ok(())
    }

    /// Directories right below `prefix` that hold nothing, not even what is unfinished.
    pub(super) fn empty_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let directory = match self.open_directory(prefix) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(failed("list", prefix)(errno)),
        };
        let is_entry = |name: &std::ffi::CStr| !matches!(name.to_bytes(), b"." | b"..");
        let mut empty = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed("list", prefix))? {
            let entry = entry.map_err(failed("list", prefix))?;
            let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
            if !is_entry(entry.file_name()) || check_name("list", &name).is_err() {
                continue;
            }
            // What is gone, or no directory, is none that is empty.
            let Ok(inner) = self.open_directory(&name) else { continue };
            let mut entries = Dir::read_from(&inner).map_err(failed("list", &name))?;
            if !entries.any(|entry| entry.map_or(true, |entry| is_entry(entry.file_name()))) {
                empty.push(name);
            }
        }
        Ok(empty)
    }

    /// Removes a directory and those above it as long as they are empty. Gives the lowest one that stays.
    pub(super) fn remove_empty_directories<'a>(&self, lowest: &'a str) -> &'a str {
        let mut directory = lowest;
        while !directory.is_empty() {
            let mut durable = self.durable.lock();
            let removed = step!(self, Shrink, fs::unlinkat(&self.root, directory, AtFlags::REMOVEDIR), |_, ()| {
                DiskStep::RemoveDirectory(directory.to_owned())
            });
            if removed.is_err() {
                break;
            }
            durable.remove(directory);
            self.dirty.lock().remove(directory);
            directory = parent_of(directory);
        }
        directory
    }
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`.
fn prefixes(directory: &str) -> impl Iterator<Item = &str> {
    let ends = directory.match_indices('/').map(|(at, _)| at).chain([directory.len()]);
    ends.map(|end| &directory[..end]).filter(|prefix| !prefix.is_empty())
}

fn sync_path(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

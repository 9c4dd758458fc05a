//! Records what a [`LocalBackend`](super::LocalBackend) asks of its file system, one step at a time, and makes chosen
//! steps fail: for tests that cut the power between any two of them. Never in a release build of the binary.
//!
//! While a trace is taken, steps that change the file system run one after the other, so that the record has their true
//! order. Several backends may share a trace, as processes that come after one another share a disk.

use parking_lot::Mutex;
use rustix::io::Errno;

/// One change that a file system was asked for. Paths are relative to the root of the repository; a file is told by the
/// number of the step that created it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskStep {
    /// A directory was made.
    MakeDirectory(String),
    /// An empty file was made.
    CreateFile(String),
    /// Bytes were written.
    Write {
        /// The step that created the file.
        file: usize,
        /// Where to.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// fsync of a file.
    SyncFile(usize),
    /// fsync of a directory.
    SyncDirectory(String),
    /// A second name for a file.
    Link {
        /// The name it has.
        from: String,
        /// The name it gets too.
        to: String,
    },
    /// A new name for a file.
    Rename {
        /// The name it had.
        from: String,
        /// The name it has now.
        to: String,
    },
    /// A name of a file was removed.
    Unlink(String),
    /// An empty directory was removed.
    RemoveDirectory(String),
}

/// A kind of [`DiskStep`], as far as faults differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskStepKind {
    /// Takes room: a directory, a file, bytes, a name.
    Grow,
    /// A sync of a file or a directory.
    Sync,
    /// Removes a name.
    Shrink,
}

/// Steps that fail instead of having their effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The step of this number, if it is of the kind, with this error number.
    Once(usize, DiskStepKind, i32),
    /// Each step of the kind, from this number on.
    From(usize, DiskStepKind, i32),
    /// Each step from this number on: the process was killed, and nothing that it still does counts.
    Killed(usize),
}

#[derive(Default)]
struct Inner {
    steps: Vec<DiskStep>,
    /// Steps that had an effect, or would have had one without the fault.
    tried: usize,
    fault: Option<DiskFault>,
    /// Inode numbers of files, and the steps that created them. The system uses a number again once it is free.
    files: std::collections::HashMap<u64, usize>,
}

/// The record, and the fault to come.
#[derive(Default)]
pub struct DiskTrace {
    inner: Mutex<Inner>,
}

impl DiskTrace {
    /// All steps that had an effect, in order.
    pub fn steps(&self) -> Vec<DiskStep> {
        self.inner.lock().steps.clone()
    }

    /// Plans a fault, or takes it away. Its number counts the steps that are tried from now on, from 0.
    pub fn plan(&self, fault: Option<DiskFault>) {
        let mut inner = self.inner.lock();
        (inner.fault, inner.tried) = (fault, 0);
    }

    /// Makes a call unless the fault strikes it, and records what it did.
    pub(super) fn take<T>(
        &self,
        kind: DiskStepKind,
        call: impl FnOnce() -> Result<T, Errno>,
        record: impl FnOnce(&mut Recorder<'_>, &T) -> DiskStep,
    ) -> Result<T, Errno> {
        let mut inner = self.inner.lock();
        let number = inner.tried;
        let errno = match inner.fault {
            Some(DiskFault::Once(at, struck, errno)) if at == number && struck == kind => Some(errno),
            Some(DiskFault::From(at, struck, errno)) if at <= number && struck == kind => Some(errno),
            Some(DiskFault::Killed(at)) if at <= number => Some(libc::EIO),
            _ => None,
        };
        if let Some(errno) = errno {
            inner.tried += 1;
            return Err(Errno::from_raw_os_error(errno));
        }
        // What fails by itself, such as to make a directory that is there, is no step.
        let done = call()?;
        inner.tried += 1;
        let mut recorder = Recorder { number: inner.steps.len(), files: &mut inner.files };
        let step = record(&mut recorder, &done);
        inner.steps.push(step);
        Ok(done)
    }
}

/// Tells files by the steps that created them.
pub(super) struct Recorder<'a> {
    number: usize,
    files: &'a mut std::collections::HashMap<u64, usize>,
}

impl Recorder<'_> {
    /// Notes that this step created the file.
    pub(super) fn created(&mut self, file: &rustix::fd::OwnedFd) {
        self.files.insert(inode(file), self.number);
    }

    /// The step that created the file.
    pub(super) fn file(&self, file: &rustix::fd::OwnedFd) -> usize {
        self.files[&inode(file)]
    }
}

fn inode(file: &rustix::fd::OwnedFd) -> u64 {
    rustix::fs::fstat(file).expect("an open file has a status").st_ino
}

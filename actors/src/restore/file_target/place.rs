//! Where an entry goes: its parent directory, a temporary name beside it, and the step to the final name.
//!
//! Temporary names are `.mover-` and 16 hexadecimal digits, the first eight of them the process id. A later run
//! removes what has such a name from the directories it enters if it was last changed before the run began and its
//! process lives no more, whatever its kind and attributes: a killed restore leaves files with their final mode, links,
//! nodes, and further names of files. A directory goes only if it is empty. Anything else that looks like one is left
//! alone.
//!
//! Must never: leave a temporary name after a failure that this process survives. Blocking; for I/O threads only.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use mover_repository::ids::UnixNanos;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::{Errno, Result};

use super::root::Root;
use crate::beneath;
use crate::restore::target::{TargetError, TargetErrorKind};
use crate::source::{FileKind, statx};

const TEMPORARY_PREFIX: &str = ".mover-";
/// How many taken names are passed over.
const TEMPORARY_TRIES_MAX: usize = 1000;

static NEXT_TEMPORARY: AtomicU32 = AtomicU32::new(0);

/// A temporary name that is in use, removed when dropped.
pub(super) struct Temporary<'a> {
    pub directory: BorrowedFd<'a>,
    pub name: String,
    pub is_directory: bool,
    pub published: bool,
}

impl<'a> Temporary<'a> {
    /// Makes something under a fresh name by `make`, which must fail with `EXIST` if the name is taken.
    pub(super) fn make<T>(directory: BorrowedFd<'a>, mut make: impl FnMut(&str) -> Result<T>) -> Result<(Self, T)> {
        for _ in 0..TEMPORARY_TRIES_MAX {
            let process = std::process::id();
            let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMPORARY_PREFIX}{process:08x}{number:08x}");
            match make(&name) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
                Ok(made) => return Ok((Self { directory, name, is_directory: false, published: false }, made)),
            }
        }
        Err(Errno::EXIST)
    }

    /// Gives it its final name.
    pub(super) fn publish(mut self, name: &[u8], replace: bool) -> Result<()> {
        publish(self.directory, &self.name, name, replace)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.published {
            let flags = if self.is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(self.directory, self.name.as_str(), flags);
        }
    }
}

/// Renames within a directory; without `replace` an existing name is an error.
pub(super) fn publish(directory: BorrowedFd<'_>, from: &str, name: &[u8], replace: bool) -> Result<()> {
    if replace {
        return rustix::fs::renameat(directory, from, directory, name);
    }
    match rustix::fs::renameat_with(directory, from, directory, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(directory, from, directory, name, AtFlags::empty())?;
            rustix::fs::unlinkat(directory, from, AtFlags::empty())
        }
        other => other,
    }
}

/// Opens a new file for writing under a temporary name.
pub(super) fn create(directory: BorrowedFd<'_>, mode: u32) -> Result<(Temporary<'_>, OwnedFd)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Temporary::make(directory, |name| rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode)))
}

/// Refuses a path that could mean anything but a name beneath the target.
pub(super) fn check(path: &[u8], operation: &'static str) -> std::result::Result<(), TargetError> {
    if beneath::is_plain(path) {
        return Ok(());
    }
    Err(TargetError {
        path: path.to_vec(),
        operation,
        kind: TargetErrorKind::InvalidPath,
        cause: "an empty, dot or overlong component, or a NUL byte, in a path of the recovery point".to_owned(),
    })
}

/// An errno at a path, as a target reports it.
pub(super) fn error(path: &[u8], operation: &'static str, errno: Errno) -> TargetError {
    let kind = match errno {
        Errno::NOSPC | Errno::DQUOT => TargetErrorKind::Full,
        Errno::ROFS => TargetErrorKind::ReadOnly,
        Errno::IO => TargetErrorKind::Io,
        Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => TargetErrorKind::Exists,
        Errno::NOENT => TargetErrorKind::NotFound,
        Errno::NAMETOOLONG => TargetErrorKind::InvalidPath,
        Errno::LOOP | Errno::NOTDIR => TargetErrorKind::Escape,
        Errno::ACCESS | Errno::PERM => TargetErrorKind::PermissionDenied,
        _ => TargetErrorKind::Other,
    };
    let system = std::io::Error::from(errno);
    let cause = match (kind, errno) {
        (TargetErrorKind::Escape, _) => {
            format!("{system}; a symbolic link or a file stands where a directory must be, move it away")
        }
        (_, Errno::ISDIR) => format!("{system}; a directory is in the way, move it away"),
        _ => system.to_string(),
    };
    TargetError { path: path.to_vec(), operation, kind, cause }
}

/// Removes what a crashed restore left in a directory. Best effort: trouble here is not the user's.
pub(super) fn sweep(root: &Root, path: &[u8], opened: UnixNanos) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(fd) = root.get().and_then(|root| beneath::open(root, path, flags)) else { return };
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
    let mut stale: Vec<Vec<u8>> = Vec::new();
    let mut reader = RawDir::new(&fd, &mut buffer);
    while let Some(Ok(entry)) = reader.next() {
        let name = entry.file_name().to_bytes();
        if dead_owner(name) {
            stale.push(name.to_vec());
        }
    }
    for name in stale {
        let Ok(raw) = rustix::fs::statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let stat = statx::stat_of(&raw);
        // The time of the last change, for a temporary name may have got its final mtime already.
        if stat.ctime < opened {
            let flags = if stat.kind == FileKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&fd, name.as_slice(), flags);
        }
    }
}

/// True for a temporary name of a process that does not exist.
fn dead_owner(name: &[u8]) -> bool {
    let Some(digits) = name.strip_prefix(TEMPORARY_PREFIX.as_bytes()) else { return false };
    if digits.len() != 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let process = std::str::from_utf8(&digits[..8]).ok().and_then(|text| i32::from_str_radix(text, 16).ok());
    let Some(process) = process.and_then(rustix::process::Pid::from_raw) else { return false };
    rustix::process::test_kill_process(process) == Err(Errno::SRCH)
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd.as_fd(), bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

//! The root of a [`FileTarget`](super::FileTarget): a directory that exists, or one that is made when something is
//! written to it for the first time, so that a restore that is refused leaves nothing.
//!
//! Must never: make anything before it is asked to. Blocking; for I/O threads only, except [`Root::get`].

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::place;
use crate::restore::target::{TargetError, TargetErrorKind};

const OPERATION: &str = "open target";

pub(super) struct Root {
    directory: PathBuf,
    fd: OnceLock<OwnedFd>,
    making: Mutex<()>,
}

impl Root {
    /// Opens the directory. One that is missing is made later if `create` says so, and where that cannot succeed it is
    /// an error now.
    pub(super) fn open(directory: PathBuf, create: bool) -> Result<Root, TargetError> {
        let root = Root { directory, fd: OnceLock::new(), making: Mutex::new(()) };
        let is_there = root.directory.symlink_metadata().is_ok();
        match root.directory.metadata() {
            Ok(found) if found.is_dir() => root.enter()?,
            Ok(_) => return Err(root.refused("it is a file, not a directory")),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(root.refused("a file stands where a directory above it must be"));
            }
            Err(error) if error.kind() == ErrorKind::NotFound && is_there => {
                return Err(root.refused("it is a symbolic link to nothing"));
            }
            Err(error) if error.kind() == ErrorKind::NotFound && create => {
                let may = Access::WRITE_OK | Access::EXEC_OK;
                let nearest = root.nearest().map_err(|errno| root.error(errno))?;
                match rustix::fs::accessat(&nearest, c".", may, AtFlags::EACCESS) {
                    // A kernel that cannot be asked says so when the directory is made.
                    Ok(()) | Err(Errno::NOSYS) => {}
                    Err(errno) => return Err(root.error(errno)),
                }
            }
            Err(error) => return Err(root.error(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        }
        Ok(root)
    }

    /// The directory, if it exists.
    pub(super) fn get(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.fd.get().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    /// Makes the directory if need be. True if this call opened it.
    pub(super) fn make(&self) -> Result<bool, TargetError> {
        if self.fd.get().is_some() {
            return Ok(false);
        }
        let _one_at_a_time = self.making.lock();
        if self.fd.get().is_some() {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.directory)
            .map_err(|error| self.error(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        self.enter()?;
        Ok(true)
    }

    fn enter(&self) -> Result<(), TargetError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.directory, flags, Mode::empty()).map_err(|errno| self.error(errno))?;
        let _ = self.fd.set(fd);
        Ok(())
    }

    /// The directory, or the nearest one above it that exists.
    pub(super) fn nearest(&self) -> rustix::io::Result<OwnedFd> {
        if let Ok(fd) = self.get() {
            return rustix::io::dup(fd);
        }
        let absolute = std::path::absolute(&self.directory)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut found = Err(Errno::NOENT);
        for place in absolute.ancestors() {
            found = rustix::fs::openat(CWD, place, flags, Mode::empty());
            if !matches!(found, Err(Errno::NOENT)) {
                break;
            }
        }
        found
    }

    fn shown(&self) -> &[u8] {
        self.directory.as_os_str().as_bytes()
    }

    fn error(&self, errno: Errno) -> TargetError {
        place::error(self.shown(), OPERATION, errno)
    }

    fn refused(&self, cause: &str) -> TargetError {
        let kind = TargetErrorKind::Exists;
        TargetError { path: self.shown().to_vec(), operation: OPERATION, kind, cause: cause.to_owned() }
    }
}

//! Reading files without harm to the machine they lie on: no atime, no growth of the page cache.
//!
//! Reads ask for `RWF_DONTCACHE` (Linux 6.14 and newer on ext4, xfs, btrfs): pages that were not cached before
//! the read are dropped after it, pages that were stay. A file system that does not know the flag is remembered
//! and read plainly. So is one that has no extended attributes.
//!
//! Must never: pad what a file does not have. Blocking; for I/O threads only.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use super::{Stat, Xattrs, statx, xattr};

/// Largest single read call; the kernel's own limit is just below 2 GiB.
const READ_BYTES_MAX: usize = 64 << 20;

/// What one device was found to lack.
#[derive(Debug, Default)]
pub(crate) struct DeviceTraits {
    without_xattrs: AtomicBool,
    without_dontcache: AtomicBool,
}

/// Devices met so far.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    keep_cache: bool,
    known: RwLock<Vec<(u64, Arc<DeviceTraits>)>>,
}

impl Devices {
    /// With `keep_cache` the page cache is used as by any other program.
    pub(crate) fn new(keep_cache: bool) -> Self {
        Self { keep_cache, known: RwLock::default() }
    }

    pub(crate) fn traits(&self, device: u64) -> Arc<DeviceTraits> {
        if let Some((_, traits)) = self.known.read().iter().find(|(known, _)| *known == device) {
            return traits.clone();
        }
        let traits = Arc::new(DeviceTraits::default());
        traits.without_dontcache.store(self.keep_cache, Ordering::Relaxed);
        self.known.write().push((device, traits.clone()));
        traits
    }
}

impl DeviceTraits {
    /// Extended attributes of an open file.
    pub(crate) fn xattrs(&self, fd: BorrowedFd<'_>) -> Result<Xattrs> {
        if self.without_xattrs.load(Ordering::Relaxed) {
            return Ok(Xattrs::new());
        }
        let found = xattr::of_open(fd)?;
        if found.is_none() {
            self.without_xattrs.store(true, Ordering::Relaxed);
        }
        Ok(found.unwrap_or_default())
    }

    /// Appends up to `want` bytes from `offset` on; fewer only at the end of the file. Returns how many.
    pub(crate) fn append(&self, fd: BorrowedFd<'_>, offset: u64, want: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        buffer.reserve(want);
        let mut done = 0;
        while done < want {
            let step = (want - done).min(READ_BYTES_MAX);
            match self.append_once(fd, offset + done as u64, step, buffer) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn append_once(&self, fd: BorrowedFd<'_>, offset: u64, want: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        if !self.without_dontcache.load(Ordering::Relaxed) {
            match read_spare(fd, offset, want, libc::RWF_DONTCACHE, buffer) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.without_dontcache.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        read_spare(fd, offset, want, 0, buffer)
    }
}

/// One `preadv2` into the spare capacity of `buffer`.
fn read_spare(fd: BorrowedFd<'_>, offset: u64, want: usize, flags: i32, buffer: &mut Vec<u8>) -> Result<usize> {
    let spare = buffer.spare_capacity_mut();
    assert!(spare.len() >= want, "a read of {want} bytes into {}", spare.len());
    let part = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: want };
    let offset = i64::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the one vector covers `want` bytes of spare capacity that this call owns exclusively.
    let read = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, offset, flags) };
    let Ok(bytes) = usize::try_from(read) else {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    };
    // SAFETY: the kernel wrote `bytes` bytes, at most `want`, behind the length.
    unsafe { buffer.set_len(buffer.len() + bytes) };
    Ok(bytes)
}

/// Who may open without touching atime: the owner and root. Others are spared the failing call.
pub(crate) fn noatime_for(owner: u32) -> OFlags {
    let user = rustix::process::geteuid().as_raw();
    if user == 0 || user == owner { OFlags::NOATIME } else { OFlags::empty() }
}

/// Opens through `open`, first without touching atime, then, where that is not permitted, with.
pub(crate) fn open_quietly(owner: u32, mut open: impl FnMut(OFlags) -> Result<OwnedFd>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match noatime_for(owner) {
        quiet if quiet.is_empty() => open(flags),
        quiet => match open(flags | quiet) {
            // A user namespace or a file system that knows better.
            Err(Errno::PERM) => open(flags),
            other => other,
        },
    }
}

/// Opens the child `name` of a directory for reading; a link is an error.
pub(crate) fn open_child(directory: BorrowedFd<'_>, name: &[u8], owner: u32) -> Result<OwnedFd> {
    open_quietly(owner, |flags| {
        rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    })
}

/// The stat of an open file.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    rustix::fs::fstat(fd).map(|raw| statx::stat_of(&raw))
}

//! Reading files without harm to the machine they lie on: no atime, no growth of the page cache.
//!
//! Reads ask for `RWF_DONTCACHE` (Linux 6.14 and newer on ext4, xfs, btrfs): pages that were not cached before
//! the read are dropped after it, pages that were stay. Where a file system does not know the flag, what is cached is
//! read first (`RWF_NOWAIT`), and only what had to come from the device is dropped again; that costs two more calls a
//! read, but only where the device is slower anyway. What a file system lacks is remembered.
//!
//! Must never: pad what a file does not have. Blocking; for I/O threads only.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

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
    /// One of the `CACHE_` ways.
    cache: AtomicU8,
}

/// The kernel drops what was not cached.
const CACHE_DROPPED: u8 = 0;
/// We look what is cached, and drop what was not.
const CACHE_LOOKED_AT: u8 = 1;
/// Read as by any other program.
const CACHE_KEPT: u8 = 2;

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
        traits.cache.store(if self.keep_cache { CACHE_KEPT } else { CACHE_DROPPED }, Ordering::Relaxed);
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

    /// Prepares a file that is read in parts, several at a time. The kernel must not read ahead of a part: what it read of
    /// the next one, after that was read and dropped, would stay in the cache. Measured: backups of large files that are
    /// not cached take 5 to 8 % longer for it, and leave no page where they left one in eight.
    pub(crate) fn begin_parts(&self, fd: BorrowedFd<'_>) {
        if self.cache.load(Ordering::Relaxed) != CACHE_KEPT {
            let _ = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::Random);
        }
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
        loop {
            let way = self.cache.load(Ordering::Relaxed);
            let read = match way {
                CACHE_DROPPED => read_spare(fd, offset, want, libc::RWF_DONTCACHE, buffer),
                CACHE_LOOKED_AT => read_and_drop(fd, offset, want, buffer),
                _ => return read_spare(fd, offset, want, 0, buffer),
            };
            match read {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => self.cache.store(way + 1, Ordering::Relaxed),
                other => return other,
            }
        }
    }
}

/// Reads what is cached; or else from the device, and drops from the cache what came from there.
fn read_and_drop(fd: BorrowedFd<'_>, offset: u64, want: usize, buffer: &mut Vec<u8>) -> Result<usize> {
    // What the kernel would read ahead looks like cached to the next read, and nobody would drop it.
    let _ = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::Random);
    match read_spare(fd, offset, want, libc::RWF_NOWAIT, buffer) {
        Err(Errno::AGAIN) | Ok(0) => {}
        other => return other,
    }
    let bytes = read_spare(fd, offset, want, 0, buffer)?;
    if let Some(length) = std::num::NonZeroU64::new(bytes as u64) {
        let _ = rustix::fs::fadvise(fd, offset, Some(length), rustix::fs::Advice::DontNeed);
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    const BYTES: usize = 3 << 20;

    /// How many pages of the first `bytes` bytes are in the page cache.
    fn resident_pages(file: &std::fs::File, bytes: usize) -> usize {
        // SAFETY: a fresh private mapping at an address of the kernel's choice; nobody else knows of it.
        let start = unsafe {
            let (protection, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
            rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0).expect("map")
        };
        let mut pages = vec![0u8; bytes.div_ceil(rustix::param::page_size())];
        // SAFETY: the range is mapped, and the vector has a byte for each of its pages.
        let result = unsafe { libc::mincore(start, bytes, pages.as_mut_ptr()) };
        assert_eq!(result, 0, "mincore");
        // SAFETY: the mapping of above, which is used no more.
        unsafe { rustix::mm::munmap(start, bytes).expect("unmap") };
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    fn file_out_of_cache() -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; BYTES]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        file
    }

    /// Pages of a file of which the first MiB is cached, before all of it is read `way` and after; None where there is no
    /// cache.
    fn pages_around_a_read(way: u8) -> Option<(usize, usize)> {
        let file = file_out_of_cache();
        if resident_pages(&file, BYTES) > 0 {
            // Files here live in memory, there is no cache to keep clean.
            return None;
        }
        let traits = DeviceTraits { cache: AtomicU8::new(way), ..DeviceTraits::default() };
        let hot_bytes = 1 << 20;
        let mut hot = vec![0; hot_bytes];
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
        rustix::io::pread(&file, &mut hot, 0).unwrap();
        let before = resident_pages(&file, BYTES);
        assert!(before >= hot_bytes / rustix::param::page_size(), "{before} pages");
        let mut buffer = Vec::with_capacity(BYTES + 1);
        let mut offset = 0;
        while let bytes @ 1.. = traits.append(file.as_fd(), offset, 700_001, &mut buffer).unwrap_or_default() {
            offset += bytes as u64;
            buffer.reserve(700_001);
        }
        assert!(buffer == vec![7; BYTES], "way {way}: it reads something else");
        Some((before, resident_pages(&file, BYTES)))
    }

    /// With the kernel's own flag, and on kernels before it. The kernel keeps pages that somebody else holds for a moment,
    /// as its own writers do: once, beside other tests, a MiB stayed. What is kept each time is our doing.
    #[test]
    fn a_read_leaves_the_page_cache_as_it_found_it() {
        for way in [CACHE_DROPPED, CACHE_LOOKED_AT] {
            // Reads that are no multiple of a page share one with the next read.
            let is_as_before = |(before, after): &(usize, usize)| after.abs_diff(*before) <= 6;
            let mut seen = Vec::new();
            while !seen.last().is_some_and(is_as_before) {
                assert!(seen.len() < 5, "way {way}: pages that were cached before and after: {seen:?}");
                let Some(pages) = pages_around_a_read(way) else { return };
                seen.push(pages);
            }
        }
    }

    #[test]
    fn a_file_system_without_the_flag_is_read_all_the_same() {
        // In memory there is nothing to drop: a file system like it answers that it does not know the flag.
        let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&memory, b"content", 0).unwrap();
        let traits = DeviceTraits::default();
        let mut buffer = Vec::new();
        assert_eq!(traits.append(memory.as_fd(), 0, 100, &mut buffer), Ok(7));
        assert_eq!(traits.append(memory.as_fd(), 3, 4, &mut buffer), Ok(4));
        assert_eq!(buffer, b"contenttent");
    }
}

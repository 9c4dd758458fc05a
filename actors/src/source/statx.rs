//! What the kernel says of an entry, in the words of a source: [`Stat`] and [`SourceError`].
//!
//! Blocking; for I/O threads only.

use std::os::fd::BorrowedFd;

use mover_repository::ids::UnixNanos;
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use super::{FileKind, SourceError, SourceErrorKind, Stat};

const BLOCK_BYTES: u64 = 512;

/// Translates a `struct stat`.
// The widths of its fields differ from one architecture to the next.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn stat_of(raw: &rustix::fs::Stat) -> Stat {
    Stat {
        kind: kind_of(raw.st_mode),
        mode: raw.st_mode & 0o7777,
        uid: raw.st_uid,
        gid: raw.st_gid,
        mtime: nanos(raw.st_mtime as i64, raw.st_mtime_nsec as i64),
        ctime: nanos(raw.st_ctime as i64, raw.st_ctime_nsec as i64),
        inode: raw.st_ino as u64,
        device: raw.st_dev as u64,
        links: raw.st_nlink as u64,
        size: u64::try_from(raw.st_size).unwrap_or(0),
        blocks_bytes: raw.st_blocks as u64 * BLOCK_BYTES,
        rdev: (rustix::fs::major(raw.st_rdev), rustix::fs::minor(raw.st_rdev)),
        birth: None,
    }
}

/// Looks at the child `name` of a directory, not through a link. One system call, which also tells the time of birth.
pub(crate) fn of_child(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let raw = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let time = |time: rustix::fs::StatxTimestamp| nanos(time.tv_sec, i64::from(time.tv_nsec));
    Ok(Stat {
        kind: kind_of(u32::from(raw.stx_mode)),
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        inode: raw.stx_ino,
        device: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        links: u64::from(raw.stx_nlink),
        size: raw.stx_size,
        blocks_bytes: raw.stx_blocks * BLOCK_BYTES,
        rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
        birth: StatxFlags::from_bits_retain(raw.stx_mask).contains(StatxFlags::BTIME).then(|| time(raw.stx_btime)),
    })
}

fn kind_of(mode: u32) -> FileKind {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::File,
    }
}

fn nanos(seconds: i64, nanoseconds: i64) -> UnixNanos {
    UnixNanos(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
}

/// An errno at a path, as a source reports it.
pub(crate) fn error(path: &[u8], operation: &'static str, errno: Errno) -> SourceError {
    let kind = match errno {
        Errno::NOENT | Errno::STALE => SourceErrorKind::Vanished,
        Errno::ACCESS | Errno::PERM => SourceErrorKind::PermissionDenied,
        // A component became a link, or a directory something else, after it was listed.
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => SourceErrorKind::Changed,
        Errno::NAMETOOLONG => SourceErrorKind::TooLarge,
        Errno::OPNOTSUPP | Errno::NOSYS => SourceErrorKind::NotSupported,
        _ => SourceErrorKind::Io,
    };
    SourceError { path: path.to_vec(), operation, kind, cause: std::io::Error::from(errno).to_string() }
}

/// The error of an entry that is another one than was listed.
pub(crate) fn changed(path: &[u8], operation: &'static str, cause: &str) -> SourceError {
    SourceError { path: path.to_vec(), operation, kind: SourceErrorKind::Changed, cause: cause.to_owned() }
}

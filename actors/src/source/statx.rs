//! What the kernel says of an entry, in the words of a source: [`Stat`] and [`SourceError`].
//!
//! Blocking; for I/O threads only.

use mover_repository::ids::UnixNanos;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::{FileKind, SourceError, SourceErrorKind, Stat};

const BLOCK_BYTES: u64 = 512;

/// Translates a `struct stat`.
// The widths of its fields differ from one architecture to the next.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn stat_of(raw: &rustix::fs::Stat) -> Stat {
    let kind = match FileType::from_raw_mode(raw.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::File,
    };
    Stat {
        kind,
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

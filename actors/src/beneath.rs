//! Opening things beneath a directory without ever leaving it.
//!
//! Paths are relative, components joined by `/`, any bytes, any length: what is longer than PATH_MAX is walked
//! in segments. The kernel resolves each segment by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`; a
//! kernel without `openat2` gets a walk of single components that follows no link either.
//!
//! Must never: follow a symbolic link below the root or resolve `..`. Blocking; for I/O threads only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use mover_repository::limits::PATH_COMPONENT_BYTES_MAX;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Longest path handed to the kernel at once; PATH_MAX is 4096 with the NUL byte.
const SEGMENT_BYTES_MAX: usize = 4000;
/// How often a resolution that raced with a rename is tried again.
const RACES_MAX: usize = 16;

/// Set once the kernel said that it has no `openat2`.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

/// True if every component of `path` is a plain name; the empty path is the root and fine.
pub(crate) fn is_plain(path: &[u8]) -> bool {
    path.is_empty()
        || path.split(|byte| *byte == b'/').all(|name| {
            !name.is_empty()
                && name != b"."
                && name != b".."
                && name.len() <= PATH_COMPONENT_BYTES_MAX
                && !name.contains(&0)
        })
}

/// Parent directory and last component of a path that is not empty.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Opens `path` beneath `root`; the empty path opens the root itself.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut rest = path;
    let mut reached: Option<OwnedFd> = None;
    while rest.len() > SEGMENT_BYTES_MAX {
        let cut = rest[..SEGMENT_BYTES_MAX].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let at = reached.as_ref().map_or(root, |fd| fd.as_fd());
        let next = open_segment(at, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY)?;
        reached = Some(next);
        rest = &rest[cut + 1..];
    }
    let at = reached.as_ref().map_or(root, |fd| fd.as_fd());
    open_segment(at, if rest.is_empty() { b"." } else { rest }, flags)
}

fn open_segment(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    if WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        return open_by_walking(at, path, flags);
    }
    for _ in 0..RACES_MAX {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(at, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(Errno::NOSYS) => {
                WITHOUT_OPENAT2.store(true, Ordering::Relaxed);
                return open_by_walking(at, path, flags);
            }
            // O_PATH | O_NOFOLLOW with NO_SYMLINKS refuses a final link; opening a link itself is asked for
            // by its parent, see `open_entry`.
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

fn open_by_walking(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut reached: Option<OwnedFd> = None;
    let mut names = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        if name == b".." || name.is_empty() {
            return Err(Errno::XDEV);
        }
        let from = reached.as_ref().map_or(at, |fd| fd.as_fd());
        let step = match names.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            None => flags,
        };
        let next = rustix::fs::openat(from, name, step | OFlags::NOFOLLOW, Mode::empty())?;
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == rustix::fs::FileType::Symlink {
            return Err(Errno::LOOP);
        }
        reached = Some(next);
    }
    reached.ok_or(Errno::NOENT)
}

/// Opens the entry `path` itself with `O_PATH`, even if it is a symbolic link.
pub(crate) fn open_entry(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    if path.is_empty() {
        return open(root, path, OFlags::PATH);
    }
    let (parent, name) = split(path);
    let directory = open(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    rustix::fs::openat(&directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The parent directory that was used last: neighbours in a batch mostly share it.
#[derive(Default)]
pub(crate) struct ParentCache {
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl ParentCache {
    /// The directory `parent` beneath `root`, opened with `O_PATH`.
    pub(crate) fn get(&mut self, root: BorrowedFd<'_>, parent: &[u8]) -> Result<BorrowedFd<'_>> {
        let hit = self.last.as_ref().is_some_and(|(path, _)| path == parent);
        if !hit {
            let fd = open(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
            self.last = Some((parent.to_vec(), fd));
        }
        let (_, fd) = self.last.as_ref().expect("filled above");
        Ok(fd.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn root_of(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn only_plain_names_pass() {
        for good in [&b""[..], b"a", b"a/b", b"...", b"a/.b", b"\xff/\x01"] {
            assert!(is_plain(good), "{good:?}");
        }
        for bad in [&b"/"[..], b"/a", b"a/", b"a//b", b".", b"a/..", b"../a", b"a\0b", &[b'n'; 256]] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_plain(&[b'n'; 255]));
    }

    #[test]
    fn links_and_dots_are_refused_in_both_ways_of_opening() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/file"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("in", dir.path().join("alias")).unwrap();
        let root = root_of(dir.path());
        for how in [open_segment, open_by_walking] {
            assert!(how(root.as_fd(), b"in/file", OFlags::RDONLY | OFlags::CLOEXEC).is_ok());
            for bad in [&b"out/passwd"[..], b"out", b"alias", b"alias/file", b"../etc", b"in/../../etc"] {
                assert!(how(root.as_fd(), bad, OFlags::RDONLY | OFlags::CLOEXEC).is_err(), "{bad:?}");
            }
        }
        assert!(open_entry(root.as_fd(), b"out").is_ok());
    }

    #[test]
    fn a_path_longer_than_path_max_is_walked() {
        let dir = tempfile::tempdir().unwrap();
        let root = root_of(dir.path());
        let name = std::ffi::OsStr::from_bytes(&[b'd'; 200]);
        let mut path = Vec::new();
        let mut at = rustix::io::dup(&root).unwrap();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name, OFlags::PATH, Mode::empty()).unwrap();
            path.extend_from_slice(if path.is_empty() { b"" } else { b"/" });
            path.extend_from_slice(name.as_bytes());
        }
        assert!(path.len() > 8000);
        let found = open(root.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY).unwrap();
        assert_eq!(rustix::fs::fstat(found).unwrap().st_ino, rustix::fs::fstat(at).unwrap().st_ino);
    }
}

//! Directories of a [`FileTarget`](super::FileTarget): made private, opened to their owner while they are filled, and
//! finished when everything in them is in place.
//!
//! Must never: follow a link, remove a directory, or remove what stands in the way of one before the directory that takes
//! its place exists. Blocking; for I/O threads only.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::attributes::Entry;
use super::place::{self, Temporary};
use super::{Inner, TargetError};
use crate::beneath::{self, ParentCache};
use crate::restore::target::{AttributeProblem, TargetMeta};
use crate::source::statx;

/// Mode of the directories on the way to a fileset.
const WAY_MODE: Mode = Mode::from_raw_mode(0o755);
/// Mode of a directory of the fileset until it is finished.
const PRIVATE_MODE: Mode = Mode::RWXU;

impl Inner {
    /// The way to a fileset: what exists stays as it is, and what is no directory is never cleared by force.
    pub(super) fn make_parents(&self, path: &[u8]) -> Result<(), TargetError> {
        place::check(path, "make directory")?;
        let mut parents = ParentCache::default();
        let mut existed = path.is_empty();
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).filter(|end| *end > 0) {
            let found = self.at(&path[..end], "make directory", &mut parents, |directory, name| {
                make_or_find(directory, name, WAY_MODE, || Err(Errno::NOTDIR))
            })?;
            if let Some(found) = &found {
                self.remember_device(statx::stat_of(found).device, &path[..end]);
            }
            existed = found.is_some();
        }
        if existed {
            // A fileset that is a single file has its temporary names here.
            place::sweep(&self.root, path, self.opened);
        }
        Ok(())
    }

    /// A directory of the fileset. True if it was made now.
    pub(super) fn make_directory(
        &self,
        path: &[u8],
        replaces: bool,
        parents: &mut ParentCache,
    ) -> Result<bool, TargetError> {
        if path.is_empty() {
            return Ok(false);
        }
        let found = self.at(path, "make directory", parents, |directory, name| {
            make_or_find(directory, name, PRIVATE_MODE, || match replaces {
                true => take_the_place(directory, name),
                false => Err(Errno::EXIST),
            })
        })?;
        let Some(found) = found else { return Ok(true) };
        self.remember_device(statx::stat_of(&found).device, path);
        self.enter_existing(path, &found);
        Ok(false)
    }

    /// Makes an existing directory of the own user usable until it is finished, and sweeps it.
    fn enter_existing(&self, path: &[u8], found: &rustix::fs::Stat) {
        if found.st_uid == self.user && found.st_mode & 0o700 != 0o700 && self.user != 0 {
            let mode = Mode::from_raw_mode(found.st_mode & 0o7777 | 0o700);
            // If this fails, the first child says so.
            if self.set_mode(path, mode).is_ok() {
                self.unlocked.lock().insert(path.to_vec(), found.st_mode & 0o7777);
            }
        }
        place::sweep(&self.root, path, self.opened);
    }

    /// Sets the mode of a directory that may not be readable: it is reached without being opened for reading.
    fn set_mode(&self, path: &[u8], mode: Mode) -> rustix::io::Result<()> {
        let fd = beneath::open(self.root.get()?, path, OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)
    }

    /// Directories that were opened to their owner and keep their attributes get their mode back, children first.
    pub(super) fn lock_again(&self) -> Result<(), TargetError> {
        let mut unlocked: Vec<(Vec<u8>, u32)> = self.unlocked.lock().drain().collect();
        unlocked.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (path, mode) in &unlocked {
            match self.set_mode(path, Mode::from_raw_mode(*mode)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(place::error(path, "give its mode back to", errno)),
            }
        }
        Ok(())
    }

    /// The target's own directory, made if need be.
    pub(super) fn make_root(&self) -> Result<(), TargetError> {
        if self.root.make()? { self.remember_root() } else { Ok(()) }
    }

    /// Remembers the file system of the target's own directory, if it exists, for `sync`.
    pub(super) fn remember_root(&self) -> Result<(), TargetError> {
        let Ok(root) = self.root.get() else { return Ok(()) };
        let fail = |errno| place::error(b"", "open target", errno);
        let device = statx::stat_of(&rustix::fs::fstat(root).map_err(fail)?).device;
        self.remember_device(device, b"");
        Ok(())
    }

    /// Remembers the file system of an existing directory for `sync`.
    fn remember_device(&self, device: u64, path: &[u8]) {
        let mut devices = self.devices.lock();
        if devices.iter().any(|(known, _)| *known == device) {
            return;
        }
        let opened = self.root.get().and_then(|root| beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY));
        if let Ok(fd) = opened {
            devices.push((device, fd));
        }
    }

    /// Owner, mode, xattrs and times of a directory.
    pub(super) fn finish_directory(
        &self,
        path: &[u8],
        meta: &TargetMeta,
    ) -> Result<Vec<AttributeProblem>, TargetError> {
        place::check(path, "finish directory")?;
        self.unlocked.lock().remove(path);
        let fail = |errno| place::error(path, "finish directory", errno);
        let root = self.root.get().map_err(fail)?;
        match beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => Entry::open(fd.as_fd(), path).apply(meta).map_err(fail),
            Err(Errno::ACCESS) => {
                let fd = beneath::open(root, path, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
                let entry = Entry { fd: fd.as_fd(), by_magic: true, is_link: false, path, problems: Vec::new() };
                entry.apply(meta).map_err(fail)
            }
            Err(errno) => Err(fail(errno)),
        }
    }
}

/// Makes a directory, or tells what directory is there already. `in_the_way` deals with what is none.
fn make_or_find(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mode: Mode,
    in_the_way: impl FnOnce() -> rustix::io::Result<()>,
) -> rustix::io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::mkdirat(directory, name, mode) {
        Err(Errno::EXIST) => {}
        other => return other.map(|()| None),
    }
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Ok(Some(found)),
        _ => in_the_way().map(|()| None),
    }
}

/// Makes a directory beside what is none, lets them change places, and only then removes the other.
fn take_the_place(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let make = |temporary: &str| rustix::fs::mkdirat(directory, temporary, PRIVATE_MODE);
    let (mut temporary, ()) = Temporary::make(directory, make)?;
    temporary.is_directory = true;
    let exchange =
        || rustix::fs::renameat_with(directory, temporary.name.as_str(), directory, name, RenameFlags::EXCHANGE);
    match exchange() {
        Ok(()) => {
            let removed = rustix::fs::unlinkat(directory, temporary.name.as_str(), AtFlags::empty());
            if removed.is_err() {
                // It became a directory in between, or may not be removed: it gets its name back.
                exchange()?;
            } else {
                temporary.published = true;
            }
            removed
        }
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            temporary.publish(name, true)
        }
        Err(errno) => Err(errno),
    }
}

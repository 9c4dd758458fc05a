//! Owner, mode, extended attributes and times of one restored entry, in the one order that works.
//!
//! Owner first (it clears set-id bits and capabilities), then extended attributes (a mode without write permission
//! would refuse them), then the mode, then times. What is right already costs no call. A failure is a problem of
//! that attribute alone; only a broken or read-only device ends the entry. If the owner cannot be set, set-id bits
//! are dropped: they would lend the rights of the wrong user.
//!
//! Extended attributes that the entry has and should not have (inherited ACLs, leftovers of an existing directory)
//! are removed; labels that a security module manages are left to it. Blocking; for I/O threads only.

use std::os::fd::{AsRawFd, BorrowedFd};

use mover_repository::ids::UnixNanos;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::restore::target::{AttributeKind, AttributeProblem, TargetMeta};
use crate::source::xattr;

const SET_ID_BITS: u32 = 0o6000;
const GROUP_BITS: u32 = 0o070;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// An entry whose attributes are to be set.
pub(super) struct Entry<'a> {
    /// Its descriptor: open for I/O, or `O_PATH`.
    pub fd: BorrowedFd<'a>,
    /// True for an `O_PATH` descriptor: reached through `/proc` where there is no other way.
    pub by_magic: bool,
    /// True for a symbolic link, which has no mode.
    pub is_link: bool,
    /// Path below the target, for problems.
    pub path: &'a [u8],
    /// Problems so far.
    pub problems: Vec<AttributeProblem>,
}

impl<'a> Entry<'a> {
    /// A file or directory that is open.
    pub(super) fn open(fd: BorrowedFd<'a>, path: &'a [u8]) -> Self {
        Self { fd, by_magic: false, is_link: false, path, problems: Vec::new() }
    }

    /// Makes the entry what `meta` says.
    pub(super) fn apply(mut self, meta: &TargetMeta) -> Result<Vec<AttributeProblem>> {
        let now = rustix::fs::fstat(self.fd)?;
        let mut mode = meta.mode & 0o7777;
        let mut mode_now = now.st_mode & 0o7777;
        if (now.st_uid, now.st_gid) != (meta.uid, meta.gid) {
            if !self.set_owner((now.st_uid, now.st_gid), meta)? && mode & SET_ID_BITS != 0 {
                mode &= !SET_ID_BITS;
                self.problem(AttributeKind::Mode, "set-id bits dropped, because the owner could not be set".to_owned());
            }
            // The kernel may have cleared set-id bits.
            mode_now = u32::MAX;
        }
        if self.set_xattrs(meta)? {
            mode_now = u32::MAX;
        }
        if let Some(acl) = self.lost_acl(meta) {
            // One that the directory passed on must not stay in its place; where there is none, this fails.
            let _ = self.remove_xattr(ACCESS_ACL);
            let without_mask = mode & !GROUP_BITS | mode & owning_group_bits(acl).unwrap_or(0);
            if without_mask != mode {
                let cause = format!(
                    "group bits {:o} instead of {:o}, because the ACL could not be set",
                    without_mask >> 3 & 7,
                    mode >> 3 & 7
                );
                self.problem(AttributeKind::Mode, cause);
                mode = without_mask;
            }
        }
        if !self.is_link && mode_now != mode {
            let done = self.set_mode(mode);
            self.note(AttributeKind::Mode, done)?;
        }
        let done = self.set_times(meta.mtime);
        self.note(AttributeKind::Times, done)?;
        Ok(self.problems)
    }

    /// True if owner and group are right now.
    fn set_owner(&mut self, now: (u32, u32), meta: &TargetMeta) -> Result<bool> {
        let chown = |uid, gid| rustix::fs::chownat(self.fd, c"", uid, gid, AtFlags::EMPTY_PATH);
        let uid = (now.0 != meta.uid).then(|| Uid::from_raw(meta.uid));
        let gid = (now.1 != meta.gid).then(|| Gid::from_raw(meta.gid));
        let done = chown(uid, gid);
        if done.is_err() && uid.is_some() && gid.is_some() {
            // Who may not give files away may still choose among the own groups.
            let _ = chown(None, gid);
        }
        let is_set = done.is_ok();
        let cause = |errno| format!("{}:{}: {}", meta.uid, meta.gid, std::io::Error::from(errno));
        self.note_with(AttributeKind::Owner, done, cause)?;
        Ok(is_set)
    }

    /// Sets what is wanted and removes what is not; true if the mode may have changed by it.
    fn set_xattrs(&mut self, meta: &TargetMeta) -> Result<bool> {
        let present = match self.by_magic {
            true => xattr::of_entry(self.fd),
            false => xattr::of_open(self.fd),
        };
        let present = match present {
            Ok(present) => present.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let mut changed = false;
        for (name, _) in &present {
            let wanted = meta.xattrs.iter().any(|(other, _)| other == name);
            if !wanted && !is_managed(name) {
                let done = self.remove_xattr(name);
                self.note(AttributeKind::Xattr(name.clone()), done)?;
                changed = true;
            }
        }
        for pair in &meta.xattrs {
            if present.contains(pair) {
                continue;
            }
            let done = self.set_xattr(&pair.0, &pair.1);
            self.note(AttributeKind::Xattr(pair.0.clone()), done)?;
            changed = true;
        }
        Ok(changed)
    }

    /// The access ACL, if it could not be set.
    fn lost_acl<'m>(&self, meta: &'m TargetMeta) -> Option<&'m [u8]> {
        let failed = |problem: &AttributeProblem| problem.attribute == AttributeKind::Xattr(ACCESS_ACL.to_vec());
        let wanted = meta.xattrs.iter().find(|(name, _)| name == ACCESS_ACL)?;
        self.problems.iter().any(failed).then_some(wanted.1.as_slice())
    }

    fn magic(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        match self.by_magic {
            true => rustix::fs::setxattr(self.magic(), name, value, XattrFlags::empty()),
            false => rustix::fs::fsetxattr(self.fd, name, value, XattrFlags::empty()),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        match self.by_magic {
            true => rustix::fs::removexattr(self.magic(), name),
            false => rustix::fs::fremovexattr(self.fd, name),
        }
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self.by_magic {
            true => rustix::fs::chmod(self.magic(), mode),
            false => rustix::fs::fchmod(self.fd, mode),
        }
    }

    fn set_times(&self, mtime: UnixNanos) -> Result<()> {
        let seconds = i64::try_from(mtime.0.div_euclid(1_000_000_000)).map_err(|_| Errno::OVERFLOW)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: mtime.0.rem_euclid(1_000_000_000) as _ },
        };
        match self.by_magic {
            true => rustix::fs::utimensat(self.fd, c"", &times, AtFlags::EMPTY_PATH),
            false => rustix::fs::futimens(self.fd, &times),
        }
    }

    fn note(&mut self, attribute: AttributeKind, done: Result<()>) -> Result<()> {
        self.note_with(attribute, done, |errno| std::io::Error::from(errno).to_string())
    }

    fn note_with(&mut self, attribute: AttributeKind, done: Result<()>, cause: impl Fn(Errno) -> String) -> Result<()> {
        match done {
            Ok(()) => Ok(()),
            Err(errno @ (Errno::IO | Errno::ROFS)) => Err(errno),
            Err(errno) => {
                self.problem(attribute, cause(errno));
                Ok(())
            }
        }
    }

    fn problem(&mut self, attribute: AttributeKind, cause: String) {
        self.problems.push(AttributeProblem { path: self.path.to_vec(), attribute, cause });
    }
}

/// Attributes that belong to a security module or the kernel, not to the user.
fn is_managed(name: &[u8]) -> bool {
    let ours = [&b"user."[..], b"trusted.", b"system.posix_acl_", b"security.capability"];
    !ours.iter().any(|prefix| name.starts_with(prefix))
}

/// What an access ACL gives the owning group, as mode bits. The layout is the kernel's `struct posix_acl_xattr_header`
/// and `posix_acl_xattr_entry` (linux/posix_acl_xattr.h): a version, then tag, permissions and id of each entry.
fn owning_group_bits(acl: &[u8]) -> Option<u32> {
    const VERSION: u32 = 2;
    const OWNING_GROUP: u16 = 4;
    let (version, entries) = acl.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (entries, _) = entries.as_chunks::<8>();
    let tag = |entry: &[u8; 8]| u16::from_le_bytes([entry[0], entry[1]]);
    let entry = entries.iter().find(|entry| tag(entry) == OWNING_GROUP)?;
    Some(u32::from(entry[2] & 7) << 3)
}

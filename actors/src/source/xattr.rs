//! Extended attributes, POSIX ACLs (`system.posix_acl_*`) among them.
//!
//! Files without any cost one call. Limits: a set of more than `XATTR_TOTAL_BYTES_MAX` is refused. An attribute
//! that goes away between the two calls is left out; every other failure is reported. Blocking; for I/O
//! threads only.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mover_repository::limits::{XATTR_TOTAL_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use rustix::io::{Errno, Result};

use super::Xattrs;

/// Room for the names of an ordinary file; more is asked for if it does not do.
const LIST_BYTES: usize = 1 << 10;
/// Largest list of names the kernel gives.
const LIST_BYTES_MAX: usize = 64 << 10;

/// How to reach the attributes of an entry.
enum Reach<'a> {
    /// Through a descriptor opened for reading.
    Open(BorrowedFd<'a>),
    /// Through the magic link of an `O_PATH` descriptor: links, fifos, devices, unreadable files.
    Magic(String),
}

impl Reach<'_> {
    fn list(&self, buffer: &mut [MaybeUninit<u8>]) -> Result<usize> {
        match self {
            Reach::Open(fd) => rustix::fs::flistxattr(fd, buffer).map(|(names, _)| names.len()),
            Reach::Magic(path) => rustix::fs::listxattr(path.as_str(), buffer).map(|(names, _)| names.len()),
        }
    }

    fn get(&self, name: &[u8], value: &mut Vec<u8>) -> Result<usize> {
        match self {
            Reach::Open(fd) => rustix::fs::fgetxattr(fd, name, rustix::buffer::spare_capacity(value)),
            Reach::Magic(path) => rustix::fs::getxattr(path.as_str(), name, rustix::buffer::spare_capacity(value)),
        }
    }
}

/// Attributes through a descriptor that is open for reading; `Ok(None)` if the file system has none at all.
pub(crate) fn of_open(fd: BorrowedFd<'_>) -> Result<Option<Xattrs>> {
    read(&Reach::Open(fd))
}

/// Attributes through an `O_PATH` descriptor, of any kind of entry. Needs `/proc`.
pub(crate) fn of_entry(fd: BorrowedFd<'_>) -> Result<Option<Xattrs>> {
    read(&Reach::Magic(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())))
}

fn read(reach: &Reach<'_>) -> Result<Option<Xattrs>> {
    let mut short = [const { MaybeUninit::<u8>::uninit() }; LIST_BYTES];
    let mut long = Vec::<MaybeUninit<u8>>::new();
    let (buffer, bytes) = match reach.list(&mut short) {
        Ok(0) => return Ok(Some(Xattrs::new())),
        Ok(bytes) => (&short[..], bytes),
        Err(Errno::OPNOTSUPP) => return Ok(None),
        Err(Errno::RANGE) => {
            long.resize_with(LIST_BYTES_MAX, MaybeUninit::uninit);
            let bytes = reach.list(&mut long)?;
            (&long[..], bytes)
        }
        Err(errno) => return Err(errno),
    };
    let mut names = Vec::with_capacity(bytes);
    // SAFETY: the kernel wrote the first `bytes` bytes of the buffer.
    names.extend(buffer[..bytes].iter().map(|byte| unsafe { byte.assume_init() }));
    let mut xattrs = Xattrs::new();
    let mut total_bytes = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Some(value) = value_of(reach, name)? else { continue };
        total_bytes += name.len() + value.len();
        if total_bytes > XATTR_TOTAL_BYTES_MAX {
            return Err(Errno::TOOBIG);
        }
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort_unstable();
    Ok(Some(xattrs))
}

fn value_of(reach: &Reach<'_>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(256);
    loop {
        match reach.get(name, &mut value) {
            Ok(_) => return Ok(Some(value)),
            Err(Errno::NODATA) => return Ok(None),
            Err(Errno::RANGE) if value.capacity() < XATTR_VALUE_BYTES_MAX => {
                value = Vec::with_capacity(XATTR_VALUE_BYTES_MAX);
            }
            Err(errno) => return Err(errno),
        }
    }
}

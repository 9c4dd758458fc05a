//! A large file on its way into the target: [`LargeFile`].
//!
//! Written at offsets in any order, without a name or under a temporary one; what is not written stays a hole. Holds two
//! descriptors, the file and its directory. Must never: show itself under its final name before `finish`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::attributes::Entry;
use super::nameless::{self, Naming, NewFile};
use super::{Inner, place};
use crate::beneath;
use crate::restore::target::{
    AttributeProblem, Overwrite, TargetError, TargetErrorKind, TargetFile, TargetFuture, TargetMeta,
};

struct Open {
    inner: Arc<Inner>,
    path: Vec<u8>,
    size: u64,
    directory: OwnedFd,
    temporary: Option<String>,
    naming: Naming,
    fd: OwnedFd,
    published: AtomicBool,
}

pub(super) struct LargeFile {
    open: Arc<Open>,
}

impl LargeFile {
    pub(super) fn create(inner: Arc<Inner>, path: Vec<u8>, size: u64) -> Result<Self, TargetError> {
        place::check(&path, "create")?;
        let fail = |errno| place::error(&path, "create", errno);
        let (parent, name) = beneath::split(&path);
        if name.is_empty() {
            return Err(fail(Errno::ISDIR));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = inner.root.get().and_then(|root| beneath::open(root, parent, flags)).map_err(fail)?;
        let naming = inner.naming(directory.as_fd());
        let new = NewFile::create(directory.as_fd(), 0o600, naming).map_err(fail)?;
        rustix::fs::ftruncate(&new.fd, size).map_err(fail)?;
        let (fd, temporary) = new.into_parts();
        let published = AtomicBool::new(false);
        let open = Open { inner, path, size, directory, temporary, naming, fd, published };
        Ok(Self { open: Arc::new(open) })
    }
}

impl Open {
    fn write(&self, writes: &[(u64, Bytes)]) -> Result<(), TargetError> {
        for (offset, bytes) in writes {
            let end = offset.checked_add(bytes.len() as u64);
            if end.is_none_or(|end| end > self.size) {
                return Err(TargetError {
                    path: self.path.clone(),
                    operation: "write",
                    kind: TargetErrorKind::Other,
                    cause: format!("bytes at {offset} lie beyond the {} bytes of the file", self.size),
                });
            }
            place::write_all(&self.fd, bytes, *offset).map_err(|errno| place::error(&self.path, "write", errno))?;
        }
        self.inner.wrote(writes.iter().map(|(_, bytes)| bytes.len() as u64).sum());
        Ok(())
    }

    fn finish(&self, meta: &TargetMeta) -> Result<Vec<AttributeProblem>, TargetError> {
        let fail = |errno| place::error(&self.path, "finish", errno);
        let problems = Entry::open(self.fd.as_fd(), &self.path).apply(meta).map_err(fail)?;
        let (_, name) = beneath::split(&self.path);
        let replace = self.inner.overwrite != Overwrite::Never;
        let directory = self.directory.as_fd();
        match &self.temporary {
            Some(temporary) => place::publish(directory, temporary, name, replace),
            None => nameless::publish(self.fd.as_fd(), self.naming, directory, name, replace).map(|_| ()),
        }
        .map_err(fail)?;
        self.published.store(true, Ordering::Release);
        Ok(problems)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && !self.published.load(Ordering::Acquire)
        {
            let _ = rustix::fs::unlinkat(&self.directory, temporary.as_str(), AtFlags::empty());
        }
    }
}

impl TargetFile for LargeFile {
    fn write_at(&self, writes: Vec<(u64, Bytes)>) -> TargetFuture<()> {
        let open = self.open.clone();
        self.open.inner.run(&self.open.path, "write", move || open.write(&writes))
    }

    fn finish(&self, meta: TargetMeta) -> TargetFuture<Vec<AttributeProblem>> {
        let open = self.open.clone();
        self.open.inner.run(&self.open.path, "finish", move || open.finish(&meta))
    }
}

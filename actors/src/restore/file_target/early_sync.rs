//! Sends what was restored to the disk while the restore goes on, so that the sync at its end finds little left.
//!
//! Every [`EARLY_SYNC_BYTES`] a thread of its own syncs the file systems that were entered, one sync at a time. The kernel
//! alone would let a tenth of the memory fill up before it began. Must never lose an error: the kernel tells each one
//! once, so the first is kept for the sync that decides about success.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mover_repository::io::Pool;
use parking_lot::Mutex;

use super::Inner;
use crate::restore::target::TargetError;

/// Bytes between two early syncs.
const EARLY_SYNC_BYTES: u64 = 256 << 20;

pub(super) struct EarlySync {
    thread: Arc<Pool>,
    bytes: AtomicU64,
    is_running: AtomicBool,
    first_error: Mutex<Option<TargetError>>,
}

impl EarlySync {
    pub(super) fn new() -> EarlySync {
        EarlySync {
            thread: Pool::new("target-sync", 1),
            bytes: AtomicU64::new(0),
            is_running: AtomicBool::new(false),
            first_error: Mutex::new(None),
        }
    }

    /// The error of an early sync, which no later one tells again.
    pub(super) fn check(&self) -> Result<(), TargetError> {
        self.first_error.lock().clone().map_or(Ok(()), Err)
    }
}

impl Inner {
    /// Counts bytes that were written.
    pub(super) fn wrote(self: &Arc<Self>, bytes: u64) {
        let early = &self.early_sync;
        let all = early.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if all < EARLY_SYNC_BYTES || early.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        early.bytes.store(0, Ordering::Relaxed);
        let inner = Arc::clone(self);
        early.thread.execute(move || {
            let early = &inner.early_sync;
            if let Err(error) = inner.sync_devices() {
                early.first_error.lock().get_or_insert(error);
            }
            early.is_running.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;
    use crate::restore::file_target::{FileTarget, FileTargetOptions};
    use crate::restore::target::{Target, TargetErrorKind};

    /// The kernel tells an error of write-back once. An early sync that swallowed it would make the last one succeed.
    #[test]
    fn an_error_of_an_early_sync_is_told_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let target = FileTarget::new(FileTargetOptions::new(place.path().to_owned())).unwrap();
        block_on(target.sync()).unwrap();
        let cause = "the disk is gone".to_owned();
        let error = TargetError { path: vec![], operation: "sync", kind: TargetErrorKind::Other, cause };
        *target.inner.early_sync.first_error.lock() = Some(error.clone());
        assert_eq!(block_on(target.sync()).unwrap_err(), error);
    }

    #[test]
    fn a_sync_begins_where_enough_was_written_and_never_beside_another() {
        let place = tempfile::tempdir().unwrap();
        let target = FileTarget::new(FileTargetOptions::new(place.path().to_owned())).unwrap();
        let early = &target.inner.early_sync;
        target.inner.wrote(EARLY_SYNC_BYTES - 1);
        assert!(!early.is_running.load(Ordering::Acquire));
        early.is_running.store(true, Ordering::Release);
        target.inner.wrote(1);
        assert_eq!(early.bytes.load(Ordering::Relaxed), EARLY_SYNC_BYTES, "a second sync began beside the first");
        early.is_running.store(false, Ordering::Release);
        target.inner.wrote(1);
        block_on(early.thread.idle());
        assert_eq!(early.bytes.load(Ordering::Relaxed), 0);
        assert!(!early.is_running.load(Ordering::Acquire));
    }
}

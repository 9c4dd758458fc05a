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

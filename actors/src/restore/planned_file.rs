//! One regular file on its way from the plan to its final name.
//!
//! Shared by whoever holds a piece of it, on any shard; whoever delivers the last piece completes it. A failure is
//! kept once, the first cause; what arrives after it is dropped, and the file never gets its final name. Limits: a
//! file that is gathered whole lies within one read range, so that its pieces never wait for memory that another
//! range holds. Dropped unfinished, its temporary name is removed by the target.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::restore::target::{TargetFile, TargetMeta};
use crate::runtime::Permit;

/// Why a file is not restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// A cause to be listed.
    Cause(String),
    /// A stop came first; running the restore again completes it.
    Stopped,
}

/// A file that is being restored.
pub struct PlannedFile {
    /// Path below the target.
    pub path: Vec<u8>,
    /// Its attributes.
    pub meta: TargetMeta,
    /// Logical bytes.
    pub size: u64,
    /// Other names may be linked to it.
    pub has_links: bool,
    /// Pieces that are planned and not delivered, and one while the planner may still add some.
    outstanding: AtomicU64,
    lost: OnceLock<Lost>,
    /// True: gathered and written at once. False: written piece by piece under a temporary name.
    whole: AtomicBool,
    gathered: Mutex<Vec<(u64, Bytes)>>,
    open: OnceLock<OpenFile>,
    _pending: PendingToken,
    _plan: Option<Arc<Permit>>,
}

struct OpenFile {
    file: Arc<dyn TargetFile>,
    _slot: Permit,
}

impl PlannedFile {
    /// A file of which no piece is planned yet.
    pub fn new(
        path: Vec<u8>,
        meta: TargetMeta,
        size: u64,
        has_links: bool,
        pending: PendingToken,
        plan: Option<Arc<Permit>>,
    ) -> Self {
        PlannedFile {
            path,
            meta,
            size,
            has_links,
            outstanding: AtomicU64::new(0),
            lost: OnceLock::new(),
            whole: AtomicBool::new(true),
            gathered: Mutex::default(),
            open: OnceLock::new(),
            _pending: pending,
            _plan: plan,
        }
    }

    /// The planner adds pieces before they are on their way.
    pub fn expect(&self, pieces: u64) {
        self.outstanding.fetch_add(pieces, Ordering::AcqRel);
    }

    /// Counts delivered or dropped pieces; true for the caller whose pieces were the last.
    pub fn settle(&self, pieces: u64) -> bool {
        let before = self.outstanding.fetch_sub(pieces, Ordering::AcqRel);
        assert!(before >= pieces, "more pieces of a file were delivered than planned");
        before == pieces
    }

    /// Gives the file up. The first cause stays.
    pub fn lose(&self, lost: Lost) {
        let _ = self.lost.set(lost);
    }

    /// Why it is given up, if it is.
    pub fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }

    /// True if it is gathered and written at once.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Keeps a piece of a file that is written at once.
    pub fn gather(&self, offset: u64, bytes: Bytes) {
        self.gathered.lock().push((offset, bytes));
    }

    /// Takes the gathered pieces.
    pub fn take_gathered(&self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut *self.gathered.lock())
    }

    /// The file is written piece by piece; [`PlannedFile::opened`] follows before any piece is on its way.
    pub fn write_in_pieces(&self) {
        self.whole.store(false, Ordering::Release);
    }

    /// The file is open under a temporary name. `slot` counts it among the open files.
    pub fn opened(&self, file: Arc<dyn TargetFile>, slot: Permit) {
        let first = self.open.set(OpenFile { file, _slot: slot });
        assert!(first.is_ok(), "a file was opened twice");
    }

    /// The open file. `None` if it could not be opened; it is lost then.
    pub fn open_file(&self) -> Option<&Arc<dyn TargetFile>> {
        self.open.get().map(|open| &open.file)
    }
}

/// Counts files that are under way, so that the planner can wait for all of them.
#[derive(Clone, Default)]
pub struct Pending {
    shared: Arc<PendingShared>,
}

#[derive(Default)]
struct PendingShared {
    count: AtomicU64,
    waiter: Mutex<Option<Waker>>,
}

/// One thing that is under way. Counted until it is dropped.
pub struct PendingToken {
    shared: Arc<PendingShared>,
}

impl Pending {
    /// Counts one more.
    pub fn token(&self) -> PendingToken {
        self.shared.count.fetch_add(1, Ordering::AcqRel);
        PendingToken { shared: self.shared.clone() }
    }

    /// Resolves when nothing is under way. One waiter at a time.
    pub async fn none(&self) {
        std::future::poll_fn(|cx| {
            *self.shared.waiter.lock() = Some(cx.waker().clone());
            if self.shared.count.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for PendingToken {
    fn drop(&mut self) {
        if self.shared.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waiter = self.shared.waiter.lock().take();
            waiter.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pending: &Pending) -> PlannedFile {
        PlannedFile::new(b"f".to_vec(), TargetMeta::default(), 4, false, pending.token(), None)
    }

    #[test]
    fn exactly_one_delivery_is_the_last() {
        let pending = Pending::default();
        let planned = Arc::new(file(&pending));
        planned.expect(1000);
        let last: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..250).filter(|_| planned.settle(1)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(last, 1);
    }

    #[test]
    fn the_first_cause_stays_and_the_wait_ends_with_the_last_token() {
        let pending = Pending::default();
        let planned = file(&pending);
        planned.lose(Lost::Cause("first".into()));
        planned.lose(Lost::Stopped);
        assert_eq!(planned.lost(), Some(&Lost::Cause("first".into())));
        let waiting = std::thread::spawn({
            let pending = pending.clone();
            move || futures_lite::future::block_on(pending.none())
        });
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert!(!waiting.is_finished());
        drop(planned);
        waiting.join().unwrap();
    }
}

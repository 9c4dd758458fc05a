//! Group commit for SQLite: changes that come at the same time share one transaction, and so one sync of the disk.
//!
//! SQLite has one writer, and a commit that survives a power cut costs a sync: a hundred changes one by one cost a
//! hundred. Here each change runs in a savepoint of the open transaction, one after the other; whoever ends while
//! another one waits leaves the commit to it. Nobody is answered before the commit. A change that fails is rolled back
//! alone; when the transaction as a whole fails, or a member is dropped in the middle of its work, all its members get an
//! error that says "try again", and their callers do. Never: an answer before its commit; a transaction that stays open
//! while nobody works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::AnyPool;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::error::{ControlError, Result};
use crate::job::figures::Finished;

use super::{Side, Transaction, dialect::Dialect, failed};

/// Changes in one commit.
const MEMBERS_MAX: u32 = 128;
/// A member that was left waiting for longer looks whether anybody still works, and commits if not.
const PATIENCE: Duration = Duration::from_millis(5);

/// What became of a transaction: nothing yet, committed or not.
type Fate = watch::Sender<Option<bool>>;

/// A commit on its way: dropped in the middle nobody knows what became of it, so its changes are made again.
struct Unknown(Arc<Fate>);

impl Drop for Unknown {
    fn drop(&mut self) {
        self.0.send_if_modified(|fate| fate.is_none() && fate.replace(false).is_none());
    }
}

#[derive(Default)]
struct Open {
    transaction: Option<(Transaction, Arc<Fate>)>,
    members: u32,
}

impl Open {
    async fn commit(&mut self) {
        if let Some((transaction, fate)) = self.transaction.take() {
            let fate = Unknown(fate);
            let Transaction { inner, finished, .. } = transaction;
            let result = inner.commit().await;
            match &result {
                Ok(()) => finished.into_iter().for_each(Finished::count),
                Err(error) => {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "a commit failed; its changes are made again"
                    );
                }
            }
            fate.0.send_replace(Some(result.is_ok()));
        }
    }

    /// Rolls back what is open.
    fn abandon(&mut self) {
        if let Some((transaction, fate)) = self.transaction.take() {
            drop(transaction);
            fate.send_replace(Some(false));
        }
    }
}

/// The one writer of a SQLite database.
#[derive(Default)]
pub(super) struct Group {
    open: Mutex<Open>,
    /// Callers that wait for their turn.
    waiting: AtomicU32,
    /// Transactions begun, for those that count.
    pub(super) begun: AtomicU32,
}

/// Counted as waiting until it is dropped.
struct Waiting<'g>(&'g AtomicU32);

impl<'g> Waiting<'g> {
    fn enter(count: &'g AtomicU32) -> Waiting<'g> {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// At work in the open transaction: dropped before its end, it takes the transaction with it.
struct Turn<'g> {
    open: MutexGuard<'g, Open>,
    has_ended: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.open.abandon();
        }
    }
}

/// Waits for the fate of its transaction: dropped before, it leaves none open behind it.
struct Member<'g> {
    group: &'g Group,
    fate: Arc<Fate>,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if self.fate.borrow().is_none()
            && let Ok(mut open) = self.group.open.try_lock()
            && open.transaction.as_ref().is_some_and(|(_, fate)| Arc::ptr_eq(fate, &self.fate))
        {
            open.abandon();
        }
    }
}

impl Group {
    pub(super) async fn run<T>(&self, pool: &AnyPool, work: &impl AsyncFn(&mut Transaction) -> Result<T>) -> Result<T> {
        let waiting = Waiting::enter(&self.waiting);
        let open = self.open.lock().await;
        drop(waiting);
        let mut turn = Turn { open, has_ended: false };
        if turn.open.transaction.is_none() {
            let begin = pool.begin_with(Dialect::Sqlite.begin(Side::Decide)).await;
            let inner = begin.map_err(failed("begin a transaction"))?;
            self.begun.fetch_add(1, Ordering::Relaxed);
            let fate = Arc::new(watch::channel(None).0);
            turn.open.transaction = Some((Transaction { inner, dialect: Dialect::Sqlite, finished: Vec::new() }, fate));
            turn.open.members = 0;
        }
        let (transaction, fate) = turn.open.transaction.as_mut().expect("it was begun");
        let member = Member { group: self, fate: Arc::clone(fate) };
        transaction.execute("SAVEPOINT member", &[]).await?;
        let counted = transaction.finished.len();
        let value = work(transaction).await;
        if value.is_err() {
            transaction.finished.truncate(counted);
            // A full disk ends the whole transaction: what it was that failed is what the caller has to hear.
            if let Err(error) = transaction.execute("ROLLBACK TO member", &[]).await {
                return value.and(Err(error));
            }
        }
        transaction.execute("RELEASE member", &[]).await?;
        turn.open.members += 1;
        if self.waiting.load(Ordering::SeqCst) == 0 || turn.open.members >= MEMBERS_MAX {
            turn.open.commit().await;
        }
        turn.has_ended = true;
        drop(turn);
        let is_committed = self.fate_of(&member).await;
        // What failed by itself has failed whatever became of the others.
        let value = value?;
        if is_committed {
            return Ok(value);
        }
        Err(ControlError::Database { operation: "commit a transaction", cause: sqlx::Error::WorkerCrashed })
    }

    async fn fate_of(&self, member: &Member<'_>) -> bool {
        let mut fate = member.fate.subscribe();
        loop {
            if let Some(is_committed) = *fate.borrow_and_update() {
                return is_committed;
            }
            if tokio::time::timeout(PATIENCE, fate.changed()).await.is_err() {
                let mut turn = Turn { open: self.open.lock().await, has_ended: false };
                let is_open = turn.open.transaction.as_ref().is_some_and(|(_, open)| Arc::ptr_eq(open, &member.fate));
                if is_open && self.waiting.load(Ordering::SeqCst) == 0 {
                    turn.open.commit().await;
                }
                turn.has_ended = true;
            }
        }
    }
}

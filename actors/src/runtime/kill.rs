//! The kill switch of one job, and the polite request to stop.
//!
//! The unit of failure is one job's pipeline: whatever fails in it throws the switch, and all its actors stop. The
//! switch keeps the *first* cause; what fails afterwards is a consequence. Any thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::Failure;

struct LatchState<T> {
    value: Option<T>,
    next_watch: u64,
    watchers: Vec<(u64, Waker)>,
}

/// Set once, watched by many.
struct Latch<T> {
    set: AtomicBool,
    state: Mutex<LatchState<T>>,
}

impl<T: Clone> Latch<T> {
    fn new() -> Arc<Latch<T>> {
        let state = LatchState { value: None, next_watch: 0, watchers: Vec::new() };
        Arc::new(Latch { set: AtomicBool::new(false), state: Mutex::new(state) })
    }

    /// True if `value` is kept: it is the first, or may replace the one that is there.
    fn set(&self, value: T, replaces: impl FnOnce(&T) -> bool) -> bool {
        let watchers = {
            let mut state = self.state.lock();
            if state.value.as_ref().is_some_and(|kept| !replaces(kept)) {
                return false;
            }
            state.value = Some(value);
            self.set.store(true, Ordering::Release);
            std::mem::take(&mut state.watchers)
        };
        watchers.into_iter().for_each(|(_, watcher)| watcher.wake());
        true
    }

    fn get(&self) -> Option<T> {
        if !self.is_set() {
            return None;
        }
        self.state.lock().value.clone()
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }
}

/// Waits for a latch; takes itself out of the list when dropped.
struct Watch<T> {
    latch: Arc<Latch<T>>,
    registered: Option<(u64, Waker)>,
}

impl<T> Unpin for Watch<T> {}

impl<T: Clone> Future for Watch<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if !self.latch.is_set() && self.registered.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let latch = self.latch.clone();
        let mut state = latch.state.lock();
        if let Some(value) = &state.value {
            return Poll::Ready(value.clone());
        }
        if let Some((number, _)) = self.registered.take() {
            state.watchers.retain(|(watcher, _)| *watcher != number);
        }
        let number = state.next_watch;
        state.next_watch += 1;
        state.watchers.push((number, cx.waker().clone()));
        self.registered = Some((number, cx.waker().clone()));
        Poll::Pending
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        if let Some((number, _)) = self.registered.take() {
            self.latch.state.lock().watchers.retain(|(watcher, _)| *watcher != number);
        }
    }
}

/// Stops all actors of one job at once, with the cause of the first that failed.
#[derive(Clone)]
pub struct KillSwitch {
    latch: Arc<Latch<Failure>>,
}

impl KillSwitch {
    /// A switch that is not thrown.
    pub fn new() -> KillSwitch {
        KillSwitch { latch: Latch::new() }
    }

    /// Throws the switch. Only the first cause is kept; true if this was it. A mere consequence ("its actor has
    /// ended", which another shard may notice first) gives way to the first real cause.
    pub fn kill(&self, cause: Failure) -> bool {
        let is_cause = !cause.consequence;
        self.latch.set(cause, |kept| kept.consequence && is_cause)
    }

    /// True once the switch is thrown. Costs one atomic load.
    pub fn is_killed(&self) -> bool {
        self.latch.is_set()
    }

    /// The first cause, once the switch is thrown.
    pub fn cause(&self) -> Option<Failure> {
        self.latch.get()
    }

    /// The first cause as an error, for use with `?` in long loops.
    ///
    /// # Errors
    /// The first cause, once the switch is thrown.
    pub fn check(&self) -> Result<(), Failure> {
        match self.cause() {
            Some(cause) => Err(cause),
            None => Ok(()),
        }
    }

    /// Resolves with the first cause when the switch is thrown.
    pub fn killed(&self) -> impl Future<Output = Failure> + Unpin + Send + use<> {
        Watch { latch: self.latch.clone(), registered: None }
    }
}

impl Default for KillSwitch {
    fn default() -> Self {
        KillSwitch::new()
    }
}

/// A polite request to end: finish what is begun, keep the work, publish nothing that is incomplete (Ctrl-C once).
#[derive(Clone)]
pub struct StopSignal {
    latch: Arc<Latch<()>>,
}

impl StopSignal {
    /// A signal that nobody has given.
    pub fn new() -> StopSignal {
        StopSignal { latch: Latch::new() }
    }

    /// Gives the signal. From a plain thread, never from inside a Unix signal handler.
    pub fn request(&self) {
        self.latch.set((), |()| false);
    }

    /// True once the signal is given. Costs one atomic load.
    pub fn is_requested(&self) -> bool {
        self.latch.is_set()
    }

    /// Resolves when the signal is given.
    pub fn requested(&self) -> impl Future<Output = ()> + Unpin + Send + use<> {
        Watch { latch: self.latch.clone(), registered: None }
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        StopSignal::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn the_first_cause_is_kept() {
        let kill = KillSwitch::new();
        assert!(kill.check().is_ok());
        assert!(kill.kill(Failure::repository("write pack", "p1", "disk full")));
        assert!(!kill.kill(Failure::internal("send to", "uploader", "its actor has ended")));
        assert_eq!(kill.cause().unwrap().operation, "write pack");
        assert_eq!(block_on(kill.killed()).object, "p1");
    }

    #[test]
    fn a_consequence_gives_way_to_the_cause() {
        let kill = KillSwitch::new();
        kill.kill(crate::runtime::Closed { mailbox: "uploader" }.into());
        assert!(kill.is_killed());
        assert!(kill.kill(Failure::repository("write pack", "p1", "disk full")));
        assert!(!kill.kill(Failure::repository("write pack", "p2", "disk full")));
        assert_eq!(kill.cause().unwrap().object, "p1");
    }

    #[test]
    fn of_many_threads_exactly_one_is_first() {
        let kill = KillSwitch::new();
        let firsts: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    scope.spawn({
                        let kill = kill.clone();
                        move || kill.kill(Failure::internal("x", n.to_string(), "y"))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(firsts, 1);
    }

    #[test]
    fn a_dropped_watch_leaves_no_waker_behind() {
        let kill = KillSwitch::new();
        let mut watch = kill.killed();
        assert!(block_on(poll_once(&mut watch)).is_none());
        assert_eq!(kill.latch.state.lock().watchers.len(), 1);
        drop(watch);
        assert_eq!(kill.latch.state.lock().watchers.len(), 0);
    }

    #[test]
    fn a_watcher_on_another_thread_is_woken() {
        let stop = StopSignal::new();
        let watcher = std::thread::spawn({
            let stop = stop.clone();
            move || block_on(stop.requested())
        });
        stop.request();
        watcher.join().unwrap();
        assert!(stop.is_requested());
    }
}

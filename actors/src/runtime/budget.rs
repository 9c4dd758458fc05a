//! The one memory budget of a job: every buffer in flight holds a permit of it.
//!
//! Requests are served strictly in the order they came, so a large one is not starved by small ones, nor a small one
//! by large ones for longer than those before it take. A permit gives its bytes back when it is dropped, on any thread.
//!
//! Must never: let a permit wait for input. Whoever holds permits in an open frame or pack watches
//! [`Budget::pressure`] and closes them when somebody waits; each actor keeps a [`Reserve`] of one maximal item, so
//! it can always finish what it began.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::mutant::{Mutant, mutant};
use super::stats::{Wait, waits_for};

struct Request {
    ticket: u64,
    bytes: usize,
    granted: bool,
    waker: Waker,
}

#[derive(Default)]
struct State {
    in_use_bytes: usize,
    peak_bytes: usize,
    next_ticket: u64,
    /// In order of arrival; granted ones stay until their future sees it or is dropped.
    requests: VecDeque<Request>,
    ungranted: usize,
    watchers: Vec<Waker>,
}

struct Shared {
    /// Changed under the lock of `state` only.
    total_bytes: AtomicUsize,
    state: Mutex<State>,
    /// Mirror of `ungranted > 0`, readable without the lock.
    pressed: AtomicBool,
    /// Bytes that were cut off as reserves: no common request can ever get them.
    reserved_bytes: AtomicUsize,
    /// The part of the budget above from which a reserve was cut; given back with the last permit of the reserve.
    cut_from: Option<Permit>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(cut) = &self.cut_from {
            cut.shared.reserved_bytes.fetch_sub(cut.bytes, Ordering::AcqRel);
        }
    }
}

impl Shared {
    fn total_bytes(&self) -> usize {
        self.total_bytes.load(Ordering::Acquire)
    }

    /// Grants from the head while it fits. Returns whom to wake, once the lock is free.
    fn grant(&self, state: &mut State) -> Vec<Waker> {
        let mut granted = Vec::new();
        for request in state.requests.iter_mut().filter(|request| !request.granted) {
            if request.bytes > self.total_bytes() - state.in_use_bytes {
                break;
            }
            state.in_use_bytes += request.bytes;
            state.ungranted -= 1;
            request.granted = true;
            granted.push(request.waker.clone());
        }
        state.peak_bytes = state.peak_bytes.max(state.in_use_bytes);
        self.pressed.store(state.ungranted > 0, Ordering::Release);
        granted
    }

    fn give_back(&self, bytes: usize) {
        let granted = {
            let mut state = self.state.lock();
            assert!(state.in_use_bytes >= bytes, "a permit gave back more than the budget lent");
            state.in_use_bytes -= bytes;
            if state.ungranted == 0 { Vec::new() } else { self.grant(&mut state) }
        };
        granted.into_iter().for_each(Waker::wake);
    }
}

/// A number of bytes that is shared out in permits. Clones share it; any thread.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

impl Budget {
    /// A budget of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is zero.
    pub fn new(bytes: usize) -> Budget {
        Budget::build(bytes, None)
    }

    fn build(bytes: usize, cut_from: Option<Permit>) -> Budget {
        assert!(bytes > 0, "a budget without bytes");
        Budget {
            shared: Arc::new(Shared {
                total_bytes: AtomicUsize::new(bytes),
                state: Mutex::new(State::default()),
                pressed: AtomicBool::new(false),
                reserved_bytes: AtomicUsize::new(0),
                cut_from,
            }),
        }
    }

    /// Waits in turn until `bytes` are free and takes them.
    ///
    /// # Panics
    /// If `bytes` is more than [`Budget::common_bytes`]: it could never be granted, so the caller's bound is wrong.
    pub fn acquire(&self, bytes: usize) -> Acquire {
        let common_bytes = self.common_bytes();
        assert!(bytes <= common_bytes, "a request of {bytes} B can never be granted by a budget of {common_bytes} B");
        Acquire { shared: self.shared.clone(), bytes, step: AcquireStep::New }
    }

    /// Takes `bytes` if they are free and nobody waits for them.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let mut state = self.shared.state.lock();
        if state.ungranted > 0 || bytes > self.shared.total_bytes() - state.in_use_bytes {
            return None;
        }
        state.in_use_bytes += bytes;
        state.peak_bytes = state.peak_bytes.max(state.in_use_bytes);
        drop(state);
        Some(Permit { shared: self.shared.clone(), bytes })
    }

    /// Cuts `bytes` off this budget for one actor's own use: room for one maximal item that nobody else can take.
    /// Returns `None` if they are not free now; reserves are made before any work starts.
    pub fn reserve(&self, bytes: usize) -> Option<Reserve> {
        let cut = self.try_acquire(bytes)?;
        self.shared.reserved_bytes.fetch_add(bytes, Ordering::AcqRel);
        Some(Reserve { own: Budget::build(bytes, Some(cut)), common: self.clone() })
    }

    /// Adds bytes for good.
    pub fn grow(&self, bytes: usize) {
        let granted = {
            let mut state = self.shared.state.lock();
            self.shared.total_bytes.fetch_add(bytes, Ordering::AcqRel);
            self.shared.grant(&mut state)
        };
        granted.into_iter().for_each(Waker::wake);
    }

    /// All bytes.
    pub fn total_bytes(&self) -> usize {
        self.shared.total_bytes()
    }

    /// All bytes without the reserves: the largest request that can be granted.
    pub fn common_bytes(&self) -> usize {
        self.shared.total_bytes() - self.shared.reserved_bytes.load(Ordering::Acquire)
    }

    /// Bytes that are lent out now, reserves included.
    pub fn in_use(&self) -> usize {
        self.shared.state.lock().in_use_bytes
    }

    /// The most bytes that were lent out at one time.
    pub fn peak_bytes(&self) -> usize {
        self.shared.state.lock().peak_bytes
    }

    /// True while a request waits. Costs one atomic load.
    pub fn is_pressed(&self) -> bool {
        self.shared.pressed.load(Ordering::Acquire)
    }

    /// Resolves when a request waits, at once if one does already. Watch it only while holding something that can be
    /// closed early, and not again before new input came: otherwise it resolves in a circle.
    pub fn pressure(&self) -> Pressure {
        Pressure { shared: self.shared.clone() }
    }
}

enum AcquireStep {
    New,
    Waiting(u64),
    Done,
}

/// The future of [`Budget::acquire`]. Dropping it leaves the queue, and gives back what was already granted.
#[must_use = "nothing is acquired until it is awaited"]
pub struct Acquire {
    shared: Arc<Shared>,
    bytes: usize,
    step: AcquireStep,
}

impl Acquire {
    fn permit(&mut self) -> Poll<Permit> {
        self.step = AcquireStep::Done;
        Poll::Ready(Permit { shared: self.shared.clone(), bytes: self.bytes })
    }

    fn first_poll(&mut self, cx: &mut Context<'_>) -> Poll<Permit> {
        let watchers = {
            let mut state = self.shared.state.lock();
            if state.ungranted == 0 && self.bytes <= self.shared.total_bytes() - state.in_use_bytes {
                state.in_use_bytes += self.bytes;
                state.peak_bytes = state.peak_bytes.max(state.in_use_bytes);
                drop(state);
                return self.permit();
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let waker = cx.waker().clone();
            state.requests.push_back(Request { ticket, bytes: self.bytes, granted: false, waker });
            state.ungranted += 1;
            self.shared.pressed.store(true, Ordering::Release);
            self.step = AcquireStep::Waiting(ticket);
            std::mem::take(&mut state.watchers)
        };
        watchers.into_iter().for_each(Waker::wake);
        waits_for(Wait::Memory);
        Poll::Pending
    }

    fn next_poll(&mut self, ticket: u64, cx: &mut Context<'_>) -> Poll<Permit> {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let place = state.requests.binary_search_by_key(&ticket, |request| request.ticket);
        let Ok(place) = place else { panic!("a waiting request left the queue by itself") };
        if state.requests[place].granted {
            state.requests.remove(place);
            drop(state);
            return self.permit();
        }
        state.requests[place].waker.clone_from(cx.waker());
        drop(state);
        waits_for(Wait::Memory);
        Poll::Pending
    }
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        match self.step {
            AcquireStep::New => self.first_poll(cx),
            AcquireStep::Waiting(ticket) => self.next_poll(ticket, cx),
            AcquireStep::Done => panic!("acquire polled after it was done"),
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let AcquireStep::Waiting(ticket) = self.step else { return };
        let granted = {
            let mut state = self.shared.state.lock();
            let place = state.requests.binary_search_by_key(&ticket, |request| request.ticket);
            let Ok(Some(request)) = place.map(|place| state.requests.remove(place)) else { return };
            if request.granted {
                state.in_use_bytes -= request.bytes;
            } else {
                state.ungranted -= 1;
            }
            self.shared.grant(&mut state)
        };
        granted.into_iter().for_each(Waker::wake);
    }
}

/// The future of [`Budget::pressure`].
#[must_use = "futures do nothing unless awaited"]
pub struct Pressure {
    shared: Arc<Shared>,
}

impl Future for Pressure {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.lock();
        if state.ungranted > 0 {
            return Poll::Ready(());
        }
        if !state.watchers.iter().any(|watcher| watcher.will_wake(cx.waker())) {
            state.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Bytes of a budget. They go back when it is dropped.
#[must_use = "the bytes go back when the permit is dropped"]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Permit {
    /// How many bytes this permit stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` of this permit into one of their own.
    ///
    /// # Panics
    /// If this permit has fewer.
    pub fn split(&mut self, bytes: usize) -> Permit {
        assert!(bytes <= self.bytes, "split {bytes} B off a permit of {} B", self.bytes);
        self.bytes -= bytes;
        Permit { shared: self.shared.clone(), bytes }
    }

    /// True if both came from the same budget (or the same reserve), so that they can be merged.
    pub fn same_budget(&self, other: &Permit) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Joins another permit of the same budget to this one.
    ///
    /// # Panics
    /// If `other` came from another budget or reserve.
    pub fn merge(&mut self, mut other: Permit) {
        assert!(self.same_budget(&other), "permits of two budgets cannot be merged");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`. Does nothing if it has no more than that.
    pub fn shrink_to(&mut self, bytes: usize) {
        if self.bytes > bytes {
            let excess_bytes = self.bytes - bytes;
            drop(self.split(excess_bytes));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes == 0 || mutant(Mutant::PermitLeak) {
            return;
        }
        self.shared.give_back(self.bytes);
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Permit({} B)", self.bytes)
    }
}

/// Room for one maximal item that belongs to one actor, beside the common budget.
#[derive(Clone)]
pub struct Reserve {
    own: Budget,
    common: Budget,
}

impl Reserve {
    /// Takes `bytes` from the common budget if they are free, else from the reserve, else waits for whichever has
    /// them first.
    ///
    /// # Panics
    /// If `bytes` is more than the reserve.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        if let Some(permit) = self.try_acquire(bytes) {
            return permit;
        }
        let own = self.own.acquire(bytes);
        if bytes > self.common.common_bytes() {
            return own.await;
        }
        futures_lite::future::or(own, self.common.acquire(bytes)).await
    }

    /// Takes `bytes` from the common budget or the reserve if they are free now.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        self.common.try_acquire(bytes).or_else(|| self.own.try_acquire(bytes))
    }

    /// Bytes of the reserve.
    pub fn bytes(&self) -> usize {
        self.own.total_bytes()
    }
}

#[cfg(test)]
mod tests;

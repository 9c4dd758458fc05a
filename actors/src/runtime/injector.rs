//! One queue that feeds all shards: the scanner pushes, the shard that is free takes.
//!
//! A count permit is taken before the push, so the queue is bounded and a fast scanner waits. A shard that finds the
//! queue empty registers, looks once more, and only then parks; a push wakes one parked shard. A shard that was woken
//! and leaves without taking hands its wake-up on. Nobody is polled while idle. Any thread.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::task::{Context, Poll, Waker};

use crossbeam::deque::Steal;
use parking_lot::Mutex;

use super::budget::{Budget, Permit};
use super::clock::race_point;
use super::mailbox::Closed;
use super::mutant::{Mutant, mutant};
use super::stats::{Wait, waits_for};

struct Parked {
    ticket: u64,
    waker: Waker,
}

#[derive(Default)]
struct ParkedShards {
    next_ticket: u64,
    queue: VecDeque<Parked>,
}

struct Shared<T> {
    name: &'static str,
    queue: crossbeam::deque::Injector<(T, Permit)>,
    room: Budget,
    parked: Mutex<ParkedShards>,
    /// Length of `parked`, readable without the lock.
    parked_count: AtomicUsize,
    closed: AtomicBool,
    wake_ups: AtomicUsize,
}

impl<T> Shared<T> {
    fn steal(&self) -> Option<T> {
        loop {
            match self.queue.steal() {
                Steal::Success((item, room)) => {
                    drop(room);
                    return Some(item);
                }
                Steal::Empty => return None,
                Steal::Retry => std::hint::spin_loop(),
            }
        }
    }

    fn wake_one(&self) {
        // Pairs with the fence after a registration: either the push sees the parked shard, or the shard's second
        // look sees the item.
        fence(Ordering::SeqCst);
        if self.parked_count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let head = {
            let mut parked = self.parked.lock();
            let head = parked.queue.pop_front();
            self.parked_count.store(parked.queue.len(), Ordering::Relaxed);
            head
        };
        if let Some(head) = head {
            self.wake_ups.fetch_add(1, Ordering::Relaxed);
            head.waker.wake();
        }
    }

    fn register(&self, waker: &Waker) -> u64 {
        let ticket = {
            let mut parked = self.parked.lock();
            let ticket = parked.next_ticket;
            parked.next_ticket += 1;
            parked.queue.push_back(Parked { ticket, waker: waker.clone() });
            self.parked_count.store(parked.queue.len(), Ordering::Relaxed);
            ticket
        };
        fence(Ordering::SeqCst);
        ticket
    }

    /// True if the registration was still there, so no wake-up has been spent on it.
    fn unregister(&self, ticket: u64) -> bool {
        let mut parked = self.parked.lock();
        let place = parked.queue.binary_search_by_key(&ticket, |shard| shard.ticket);
        let found = place.is_ok_and(|place| parked.queue.remove(place).is_some());
        self.parked_count.store(parked.queue.len(), Ordering::Relaxed);
        found
    }
}

/// A bounded queue of work that all shards share. Clones share it.
pub struct Injector<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Injector<T> {
    fn clone(&self) -> Self {
        Injector { shared: self.shared.clone() }
    }
}

impl<T: Send> Injector<T> {
    /// An injector for at most `items_max` items at a time.
    ///
    /// # Panics
    /// If `items_max` is zero.
    pub fn new(name: &'static str, items_max: usize) -> Injector<T> {
        Injector {
            shared: Arc::new(Shared {
                name,
                queue: crossbeam::deque::Injector::new(),
                room: Budget::new(items_max),
                parked: Mutex::new(ParkedShards::default()),
                parked_count: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                wake_ups: AtomicUsize::new(0),
            }),
        }
    }

    /// Waits for room, adds `item`, and wakes one parked shard.
    ///
    /// # Errors
    /// [`Closed`] after [`Injector::close`]; the item is dropped.
    pub async fn push(&self, item: T) -> Result<(), Closed> {
        let room = self.shared.room.acquire(1).await;
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Closed { mailbox: self.shared.name });
        }
        self.shared.queue.push((item, room));
        self.shared.wake_one();
        Ok(())
    }

    /// The next item; `None` once the injector is closed and empty. `_shard` is for the reader of the call: all
    /// shards are served alike.
    pub async fn take(&self, _shard: usize) -> Option<T> {
        loop {
            if let Some(item) = self.shared.steal() {
                return Some(item);
            }
            if self.shared.closed.load(Ordering::Acquire) {
                // An item pushed before the close is seen by this last look.
                return self.shared.steal();
            }
            race_point().await;
            let parking = Parking { shared: &self.shared, ticket: None, woken: false };
            if let Some(item) = parking.await {
                return Some(item);
            }
        }
    }

    /// The next item if one is there.
    pub fn try_take(&self) -> Option<T> {
        self.shared.steal()
    }

    /// No more items will come: every `take` gets `None` once the queue is empty.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let parked = {
            let mut parked = self.shared.parked.lock();
            self.shared.parked_count.store(0, Ordering::Relaxed);
            std::mem::take(&mut parked.queue)
        };
        parked.into_iter().for_each(|shard| shard.waker.wake());
    }

    /// Items that lie in the queue.
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// True if no item lies in the queue.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    /// How often a push has woken a parked shard.
    pub fn wake_ups(&self) -> usize {
        self.shared.wake_ups.load(Ordering::Relaxed)
    }
}

/// Registered as parked. Ready with an item if the second look found one, with `None` when woken.
struct Parking<'a, T> {
    shared: &'a Shared<T>,
    ticket: Option<u64>,
    woken: bool,
}

impl<T> Future for Parking<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(ticket) = self.ticket {
            // Polled again: woken by a push or a close, or for a reason of the task around us.
            if !self.shared.unregister(ticket) {
                self.ticket = None;
                self.woken = true;
                return Poll::Ready(self.look());
            }
        }
        self.ticket = Some(self.shared.register(cx.waker()));
        if !mutant(Mutant::LostWakeUp)
            && let Some(item) = self.shared.steal()
        {
            return Poll::Ready(Some(item));
        }
        if self.shared.closed.load(Ordering::SeqCst) {
            return Poll::Ready(None);
        }
        waits_for(Wait::Upstream);
        Poll::Pending
    }
}

impl<T> Parking<'_, T> {
    fn look(&mut self) -> Option<T> {
        let item = self.shared.steal();
        self.woken = item.is_none();
        item
    }
}

impl<T> Drop for Parking<'_, T> {
    fn drop(&mut self) {
        let spent = match self.ticket {
            Some(ticket) => !self.shared.unregister(ticket),
            None => self.woken,
        };
        // A wake-up that was meant for us, and that we leave without having needed: the item may still be there.
        if spent && !self.shared.queue.is_empty() {
            self.shared.wake_one();
        }
    }
}

#[cfg(test)]
mod tests;

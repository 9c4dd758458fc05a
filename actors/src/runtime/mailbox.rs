//! One bounded mailbox, used inside a shard and across shards.
//!
//! Bounded in messages *and* bytes. A message that is larger than the bytes alone is admitted when the mailbox is
//! empty, so it can never get stuck. Senders that must wait are served in the order they came: a waiting message lies
//! in the queue of the waiting, and the receiver moves it in when there is room, without a round trip to the sender's
//! shard. Dropping a waiting `send` takes its message out again.
//!
//! Woken by std `Waker`s alone; any thread. Held lock: a few instructions, never across a wait. Measured once (opt-level 3,
//! CPU time of send and receive together, ten million messages): 46 ns a message inside one thread, 86 ns between two
//! threads that keep each other awake.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::clock;
use super::stats::{Wait, waits_for};

/// How much of a mailbox's bytes a message takes: its buffers, not its struct.
pub trait Weigh {
    /// Bytes that this message keeps in memory.
    fn weight_bytes(&self) -> usize;
}

impl Weigh for () {
    fn weight_bytes(&self) -> usize {
        0
    }
}

/// The receiver of a mailbox is gone; the message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the actor behind mailbox {mailbox} has ended")]
pub struct Closed {
    /// Name of the mailbox.
    pub mailbox: &'static str,
}

/// A message whose sender waits for room.
struct Waiting<M> {
    ticket: u64,
    message: M,
    weight_bytes: usize,
    sender: Waker,
}

struct State<M> {
    queue: VecDeque<(M, usize)>,
    queued_bytes: usize,
    waiting: VecDeque<Waiting<M>>,
    next_ticket: u64,
    receiver: Option<Waker>,
    addresses: usize,
    inbox_open: bool,
}

struct Shared<M> {
    name: &'static str,
    messages_max: usize,
    bytes_max: usize,
    state: Mutex<State<M>>,
    blocked_nanos: AtomicU64,
}

impl<M> Shared<M> {
    fn fits(&self, state: &State<M>, weight_bytes: usize) -> bool {
        if state.queue.is_empty() {
            return true;
        }
        state.queue.len() < self.messages_max && state.queued_bytes.saturating_add(weight_bytes) <= self.bytes_max
    }

    /// Moves waiting messages in while there is room. Returns the senders to wake, once the lock is free.
    fn admit(&self, state: &mut State<M>) -> Vec<Waker> {
        let mut admitted = Vec::new();
        while let Some(head) = state.waiting.front() {
            if !self.fits(state, head.weight_bytes) {
                break;
            }
            let Some(head) = state.waiting.pop_front() else { break };
            state.queued_bytes += head.weight_bytes;
            state.queue.push_back((head.message, head.weight_bytes));
            admitted.push(head.sender);
        }
        admitted
    }
}

/// Makes a mailbox of at most `messages_max` messages and `bytes_max` bytes.
///
/// # Panics
/// If either bound is zero.
pub fn mailbox<M: Weigh>(name: &'static str, messages_max: usize, bytes_max: usize) -> (Address<M>, Inbox<M>) {
    assert!(messages_max > 0 && bytes_max > 0, "mailbox {name} has no room");
    let shared = Arc::new(Shared {
        name,
        messages_max,
        bytes_max,
        state: Mutex::new(State {
            queue: VecDeque::with_capacity(messages_max.min(64)),
            queued_bytes: 0,
            waiting: VecDeque::new(),
            next_ticket: 0,
            receiver: None,
            addresses: 1,
            inbox_open: true,
        }),
        blocked_nanos: AtomicU64::new(0),
    });
    (Address { shared: shared.clone() }, Inbox { shared })
}

/// Where messages are sent to. Clones share the mailbox; the inbox ends when the last one is dropped.
pub struct Address<M: Weigh> {
    shared: Arc<Shared<M>>,
}

impl<M: Weigh> Address<M> {
    /// Puts `message` into the mailbox, waiting in turn for room.
    ///
    /// # Errors
    /// [`Closed`] if the receiver is gone. Whether a message that was already in the mailbox then was handled is
    /// not known; the receiver's own failure is the cause to show.
    pub fn send(&self, message: M) -> Send<'_, M> {
        Send { address: self, step: Step::New(message), began: Duration::ZERO }
    }

    /// Puts `message` into the mailbox if there is room and nobody waits for it.
    ///
    /// # Errors
    /// Gives the message back when there is no room or no receiver.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        let receiver = {
            let mut state = self.shared.state.lock();
            let weight_bytes = message.weight_bytes();
            if !state.inbox_open || !state.waiting.is_empty() || !self.shared.fits(&state, weight_bytes) {
                return Err(message);
            }
            state.queued_bytes += weight_bytes;
            state.queue.push_back((message, weight_bytes));
            state.receiver.take()
        };
        wake(receiver);
        Ok(())
    }

    /// The name given at birth.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Messages and bytes that lie in the mailbox now, without those whose senders wait.
    pub fn depth(&self) -> Depth {
        depth(&self.shared)
    }

    /// Time that senders have waited here for room, summed over all of them.
    pub fn blocked(&self) -> Duration {
        Duration::from_nanos(self.shared.blocked_nanos.load(Ordering::Relaxed))
    }
}

impl<M: Weigh> Clone for Address<M> {
    fn clone(&self) -> Self {
        self.shared.state.lock().addresses += 1;
        Address { shared: self.shared.clone() }
    }
}

impl<M: Weigh> Drop for Address<M> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = self.shared.state.lock();
            state.addresses -= 1;
            if state.addresses > 0 {
                return;
            }
            state.receiver.take()
        };
        wake(receiver);
    }
}

/// How full a mailbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages in the mailbox.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Senders that wait for room.
    pub waiting: usize,
}

fn depth<M>(shared: &Shared<M>) -> Depth {
    let state = shared.state.lock();
    Depth { messages: state.queue.len(), bytes: state.queued_bytes, waiting: state.waiting.len() }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

enum Step<M> {
    New(M),
    Waiting(u64),
    Done,
}

/// The future of [`Address::send`].
#[must_use = "nothing is sent until it is awaited"]
pub struct Send<'a, M: Weigh> {
    address: &'a Address<M>,
    step: Step<M>,
    began: Duration,
}

impl<M: Weigh> Unpin for Send<'_, M> {}

impl<M: Weigh> Send<'_, M> {
    fn first_poll(&mut self, message: M, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let shared = &self.address.shared;
        let receiver = {
            let mut state = shared.state.lock();
            if !state.inbox_open {
                return Poll::Ready(Err(Closed { mailbox: shared.name }));
            }
            let weight_bytes = message.weight_bytes();
            if !state.waiting.is_empty() || !shared.fits(&state, weight_bytes) {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.waiting.push_back(Waiting { ticket, message, weight_bytes, sender: cx.waker().clone() });
                drop(state);
                self.step = Step::Waiting(ticket);
                self.began = clock::monotonic();
                waits_for(Wait::Downstream);
                return Poll::Pending;
            }
            state.queued_bytes += weight_bytes;
            state.queue.push_back((message, weight_bytes));
            state.receiver.take()
        };
        wake(receiver);
        Poll::Ready(Ok(()))
    }

    fn next_poll(&mut self, ticket: u64, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let shared = &self.address.shared;
        let open = {
            let mut state = shared.state.lock();
            if let Ok(place) = state.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket) {
                state.waiting[place].sender.clone_from(cx.waker());
                drop(state);
                self.step = Step::Waiting(ticket);
                waits_for(Wait::Downstream);
                return Poll::Pending;
            }
            state.inbox_open
        };
        let blocked = clock::monotonic().saturating_sub(self.began);
        shared.blocked_nanos.fetch_add(blocked.as_nanos() as u64, Ordering::Relaxed);
        Poll::Ready(if open { Ok(()) } else { Err(Closed { mailbox: shared.name }) })
    }
}

impl<M: Weigh> Future for Send<'_, M> {
    type Output = Result<(), Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::New(message) => self.first_poll(message, cx),
            Step::Waiting(ticket) => self.next_poll(ticket, cx),
            Step::Done => panic!("send polled after it was done"),
        }
    }
}

impl<M: Weigh> Drop for Send<'_, M> {
    fn drop(&mut self) {
        let Step::Waiting(ticket) = self.step else { return };
        let shared = &self.address.shared;
        let (taken_out, admitted) = {
            let mut state = shared.state.lock();
            let taken_out = match state.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket) {
                Ok(place) => state.waiting.remove(place),
                Err(_) => None,
            };
            // It may have been the large one at the head that kept smaller ones out.
            let admitted = shared.admit(&mut state);
            let receiver = if admitted.is_empty() { None } else { state.receiver.take() };
            (taken_out, admitted.into_iter().chain(receiver).collect::<Vec<_>>())
        };
        drop(taken_out);
        admitted.into_iter().for_each(Waker::wake);
    }
}

/// The one receiver of a mailbox. Dropping it drops what lies there and tells every sender.
pub struct Inbox<M: Weigh> {
    shared: Arc<Shared<M>>,
}

impl<M: Weigh> Inbox<M> {
    /// The next message; `None` once every address is dropped and the mailbox is empty.
    pub fn receive(&mut self) -> Receive<'_, M> {
        Receive { inbox: self }
    }

    /// The next message if one is there.
    pub fn try_receive(&mut self) -> Option<M> {
        let (message, admitted) = {
            let mut state = self.shared.state.lock();
            let (message, weight_bytes) = state.queue.pop_front()?;
            state.queued_bytes -= weight_bytes;
            (message, self.shared.admit(&mut state))
        };
        admitted.into_iter().for_each(Waker::wake);
        Some(message)
    }

    /// As [`Inbox::receive`], for use inside another future's `poll`.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<M>> {
        let (message, admitted) = {
            let mut state = self.shared.state.lock();
            match state.queue.pop_front() {
                Some((message, weight_bytes)) => {
                    state.queued_bytes -= weight_bytes;
                    (message, self.shared.admit(&mut state))
                }
                None if state.addresses == 0 => return Poll::Ready(None),
                None => {
                    match &mut state.receiver {
                        Some(waker) => waker.clone_from(cx.waker()),
                        None => state.receiver = Some(cx.waker().clone()),
                    }
                    drop(state);
                    waits_for(Wait::Upstream);
                    return Poll::Pending;
                }
            }
        };
        admitted.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(message))
    }

    /// The name given at birth.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Messages and bytes that lie in the mailbox now.
    pub fn depth(&self) -> Depth {
        depth(&self.shared)
    }
}

impl<M: Weigh> Drop for Inbox<M> {
    fn drop(&mut self) {
        let (queue, waiting) = {
            let mut state = self.shared.state.lock();
            state.inbox_open = false;
            state.receiver = None;
            state.queued_bytes = 0;
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.waiting))
        };
        // Messages may hold permits and addresses: dropped outside of the lock.
        drop(queue);
        for Waiting { message, sender, .. } in waiting {
            drop(message);
            sender.wake();
        }
    }
}

/// The future of [`Inbox::receive`]. Dropping it loses no message.
#[must_use = "nothing is received until it is awaited"]
pub struct Receive<'a, M: Weigh> {
    inbox: &'a mut Inbox<M>,
}

impl<M: Weigh> Future for Receive<'_, M> {
    type Output = Option<M>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<M>> {
        self.inbox.poll_receive(cx)
    }
}

/// An inbox that holds `messages` and gets no more.
#[cfg(any(test, feature = "simulation"))]
pub fn loaded<M: Weigh>(name: &'static str, messages: Vec<M>) -> Inbox<M> {
    let (address, inbox) = mailbox(name, usize::MAX, usize::MAX);
    let is_full = messages.into_iter().any(|message| address.try_send(message).is_err());
    assert!(!is_full, "mailbox {name} has no bounds");
    inbox
}

/// Receives until the mailbox ends; gives what came if it is to be kept.
#[cfg(any(test, feature = "simulation"))]
pub async fn drained<M: Weigh>(mut inbox: Inbox<M>, keep: bool) -> Vec<M> {
    let mut kept = Vec::new();
    while let Some(message) = inbox.receive().await {
        if keep {
            kept.push(message);
        }
    }
    kept
}

#[cfg(test)]
mod tests;

//! A task and the handle of its owner, the same for both runtimes.
//!
//! The future lies in a cell that the runtime polls and the handle can empty: dropping the handle drops the future at
//! once, not at some later poll. A panic of the future is caught here, so it never ends an executor; it goes on in
//! whoever awaits the handle. Lives on one shard.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::LocalBoxFuture;

/// What the runtime keeps of a task.
pub(super) struct TaskCell {
    name: &'static str,
    future: RefCell<Option<LocalBoxFuture<()>>>,
    ended: Cell<bool>,
    cancelled: Cell<bool>,
    panic: RefCell<Option<Box<dyn Any + Send>>>,
    owner: RefCell<Option<Waker>>,
    /// Wakes the task itself, so that the runtime forgets a cancelled one.
    waker: RefCell<Option<Waker>>,
}

impl TaskCell {
    pub(super) fn new(name: &'static str, future: LocalBoxFuture<()>) -> Rc<TaskCell> {
        Rc::new(TaskCell {
            name,
            future: RefCell::new(Some(future)),
            ended: Cell::new(false),
            cancelled: Cell::new(false),
            panic: RefCell::new(None),
            owner: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn set_waker(&self, waker: Waker) {
        *self.waker.borrow_mut() = Some(waker);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Polls the task once. Ready when the runtime may forget it.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.future.borrow_mut();
        let Some(future) = slot.as_mut() else { return Poll::Ready(()) };
        let outcome = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match outcome {
            Ok(Poll::Pending) if !self.cancelled.get() => return Poll::Pending,
            Ok(_) => {}
            Err(payload) => *self.panic.borrow_mut() = Some(payload),
        }
        let future = slot.take();
        drop(slot);
        self.end(future);
        Poll::Ready(())
    }

    /// Drops the future now; if it is being polled, right after that poll.
    pub(super) fn cancel(&self) {
        self.cancelled.set(true);
        let Ok(mut slot) = self.future.try_borrow_mut() else { return };
        let Some(future) = slot.take() else { return };
        drop(slot);
        self.end(Some(future));
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn end(&self, future: Option<LocalBoxFuture<()>>) {
        // A destructor that panics must not end the executor either.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            self.panic.borrow_mut().get_or_insert(payload);
        }
        self.ended.set(true);
        let owner = self.owner.borrow_mut().take();
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    /// Gives a panic back that is for the owner to see.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn put_panic(&self, payload: Box<dyn Any + Send>) {
        *self.panic.borrow_mut() = Some(payload);
    }

    /// The panic of a task that nobody awaits.
    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.borrow_mut().take()
    }
}

/// Owner of a task. Awaiting it waits for the end of the task; dropping it drops the task's future at once.
#[must_use = "dropping the handle cancels the task"]
pub struct TaskHandle {
    cell: Rc<TaskCell>,
}

impl TaskHandle {
    pub(super) fn new(cell: Rc<TaskCell>) -> TaskHandle {
        TaskHandle { cell }
    }

    /// True once the task has ended or panicked.
    pub fn is_finished(&self) -> bool {
        self.cell.ended.get()
    }

    /// Drops the task's future now.
    pub fn cancel(self) {}
}

impl Future for TaskHandle {
    type Output = ();

    /// # Panics
    /// With the panic of the task.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.cell.ended.get() {
            *self.cell.owner.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match self.cell.take_panic() {
            Some(payload) => resume_unwind(payload),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        self.cell.cancel();
    }
}

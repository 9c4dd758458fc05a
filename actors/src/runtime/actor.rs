//! What an actor is, and the one place where its task is guarded.
//!
//! An actor is a struct with its own state, one inbox and one `handle`; it shares nothing and knows the next one only
//! as an [`Address`](super::Address). Here its task is watched: a failure or a panic throws the job's kill switch
//! *before* the actor's inbox and addresses are dropped, so nobody downstream can take a broken input for a finished
//! one. Each actor lives on one shard.
//!
//! Must never: call `finish` on anything but a complete input.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::budget::{Budget, Pressure};
use super::kill::KillSwitch;
use super::mailbox::{Inbox, Weigh};
use super::stats::{ActorStats, Meter};
use super::{LocalBoxFuture, Runtime, TaskHandle, clock};
use crate::error::Failure;

/// One box of the data path.
#[allow(async_fn_in_trait, reason = "actors live on one shard, their futures are not Send")]
pub trait Actor {
    /// What comes in.
    type Message: Weigh;

    /// The noun of the agent, lower case.
    const NAME: &'static str;

    /// How long the inbox stays empty until [`Actor::idle`] is called.
    const IDLE_AFTER: Duration = Duration::from_secs(1);

    /// Works on one message.
    ///
    /// # Errors
    /// Stops the job.
    async fn handle(&mut self, message: Self::Message) -> Result<(), Failure>;

    /// Called once when the inbox has stayed empty for [`Actor::IDLE_AFTER`], and at once when it is empty and somebody
    /// waits for memory that this actor holds: close what is open.
    ///
    /// # Errors
    /// Stops the job.
    async fn idle(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Called once when the input is complete.
    ///
    /// # Errors
    /// Stops the job.
    async fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// The budget of which this actor holds permits in something it could close early, while it does.
    fn holds(&self) -> Option<Budget> {
        None
    }
}

/// A task of a job that is no actor: it has no inbox, but takes from an injector or a device. Owned by its task like an
/// actor, so its addresses outlive its failure.
#[allow(async_fn_in_trait, reason = "workers live on one shard, their futures are not Send")]
pub trait Worker {
    /// The noun of the agent, lower case.
    const NAME: &'static str;

    /// Works until the input is complete.
    ///
    /// # Errors
    /// Stops the job.
    async fn run(&mut self) -> Result<(), Failure>;
}

/// Starts `actor` on the shard of `runtime`. It ends when its inbox is closed (after `finish`), on its first failure,
/// or when the switch is thrown (without `finish`). Await the handle to know that it has ended and then look at the
/// switch; dropping the handle drops the actor.
pub fn spawn_actor<R: Runtime, A: Actor + 'static>(
    runtime: &R,
    mut actor: A,
    mut inbox: Inbox<A::Message>,
    kill: &KillSwitch,
    stats: &Arc<ActorStats>,
) -> TaskHandle {
    let (kill, stats) = (kill.clone(), stats.clone());
    let shard = runtime.clone();
    let task = async move {
        let counted = stats.clone();
        let run = drive(&shard, &mut actor, &mut inbox, &counted);
        watch(&kill, A::NAME, Metered::new(stats, run)).await;
        // The switch is thrown by now if it had to be: only here do inbox and addresses go.
        drop((actor, inbox));
    };
    runtime.spawn(A::NAME, task)
}

/// Starts `worker` on the shard of `runtime`, guarded as an actor is.
pub fn spawn_worker<R: Runtime, W: Worker + 'static>(
    runtime: &R,
    mut worker: W,
    kill: &KillSwitch,
    stats: &Arc<ActorStats>,
) -> TaskHandle {
    let (kill, stats) = (kill.clone(), stats.clone());
    let task = async move {
        watch(&kill, W::NAME, Metered::new(stats, worker.run())).await;
        drop(worker);
    };
    runtime.spawn(W::NAME, task)
}

/// Starts any future as a guarded and metered task of a job. What it holds is dropped when it returns, thus before the
/// switch is thrown: a task whose addresses mean "complete" when dropped is a [`Worker`] instead.
pub fn spawn_supervised<R: Runtime>(
    runtime: &R,
    name: &'static str,
    kill: &KillSwitch,
    stats: &Arc<ActorStats>,
    future: impl Future<Output = Result<(), Failure>> + 'static,
) -> TaskHandle {
    runtime.spawn(name, supervise(kill.clone(), name, Metered::new(stats.clone(), future)))
}

/// Runs `future` until it ends or the switch is thrown; its failure or panic throws the switch. For
/// [`Remote::spawn_on`](super::Remote::spawn_on), whose tasks have no handle.
pub async fn supervise(kill: KillSwitch, name: &'static str, future: impl Future<Output = Result<(), Failure>>) {
    watch(&kill, name, future).await;
}

async fn watch(kill: &KillSwitch, name: &'static str, future: impl Future<Output = Result<(), Failure>>) {
    let mut killed = kill.killed();
    let mut future = pin!(future);
    let outcome = poll_fn(|cx| {
        if Pin::new(&mut killed).poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(payload) => Poll::Ready(Err(Failure::from_panic(name, payload.as_ref()))),
        }
    })
    .await;
    if let Err(failure) = outcome {
        tracing::debug!(actor = name, %failure, "stops its job");
        kill.kill(failure);
    }
}

/// Charges the polls of a future that is no task of its own to `stats`.
pub fn metered<F: Future>(stats: Arc<ActorStats>, future: F) -> impl Future<Output = F::Output> {
    Metered::new(stats, future)
}

/// Charges each poll to the actor's counters.
struct Metered<F> {
    meter: Meter,
    future: Pin<Box<F>>,
}

impl<F> Metered<F> {
    fn new(stats: Arc<ActorStats>, future: F) -> Metered<F> {
        Metered { meter: Meter::new(stats), future: Box::pin(future) }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.meter.poll_begins(clock::monotonic());
        let burner = self.meter.burner();
        let poll = self.future.as_mut().poll(cx);
        drop(burner);
        self.meter.poll_ends(clock::monotonic(), poll.is_ready());
        poll
    }
}

enum Event<M> {
    Message(M),
    Idle,
    Complete,
}

async fn drive<R: Runtime, A: Actor>(
    runtime: &R,
    actor: &mut A,
    inbox: &mut Inbox<A::Message>,
    stats: &ActorStats,
) -> Result<(), Failure> {
    let mut idle = IdleWatch { timer: None, pressure: None, empty_since: None, told: false };
    loop {
        let holds = if idle.told { None } else { actor.holds() };
        let event = poll_fn(|cx| match inbox.poll_receive(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(Event::Message(message)),
            Poll::Ready(None) => Poll::Ready(Event::Complete),
            Poll::Pending => idle.poll(cx, runtime, holds.as_ref(), A::IDLE_AFTER).map(|()| Event::Idle),
        })
        .await;
        match event {
            Event::Message(message) => {
                idle.restart();
                stats.count_message();
                actor.handle(message).await?;
            }
            Event::Idle => {
                idle.told = true;
                actor.idle().await?;
            }
            Event::Complete => return actor.finish().await,
        }
    }
}

/// Knows when an actor is to be told that nothing comes in. After it was told it costs nothing until the next message.
struct IdleWatch {
    timer: Option<LocalBoxFuture<()>>,
    pressure: Option<Pressure>,
    empty_since: Option<Duration>,
    told: bool,
}

impl IdleWatch {
    fn restart(&mut self) {
        self.empty_since = None;
        self.pressure = None;
        self.told = false;
    }

    fn poll<R: Runtime>(
        &mut self,
        cx: &mut Context<'_>,
        runtime: &R,
        holds: Option<&Budget>,
        idle_after: Duration,
    ) -> Poll<()> {
        if self.told {
            return Poll::Pending;
        }
        if let Some(budget) = holds {
            let pressure = self.pressure.get_or_insert_with(|| budget.pressure());
            if Pin::new(pressure).poll(cx).is_ready() {
                self.pressure = None;
                return Poll::Ready(());
            }
        }
        let now = clock::monotonic();
        let due = *self.empty_since.get_or_insert(now) + idle_after;
        // The timer outlives messages: it fires at most once an idle period, however many come.
        loop {
            let timer = self.timer.get_or_insert_with(|| runtime.sleep(due.saturating_sub(now)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
            if clock::monotonic() >= due {
                return Poll::Ready(());
            }
        }
    }
}

//! A timer of an actor: one tick at a time, and a tick that failed is said and forgotten. How long each worked and how
//! long it waited (for the database, for a lock, for who is told) is measured apart.

use std::pin::Pin;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, WrapFuture};

use crate::error::Result;

/// Runs `tick` now, and again `period` after each end of it.
pub(super) fn every<A, F>(
    context: &mut Context<A>,
    name: &'static str,
    period: Duration,
    tick: impl Fn(&mut A) -> F + 'static,
) where
    A: Actor<Context = Context<A>>,
    F: Future<Output = Result<()>> + 'static,
{
    after(context, name, Duration::ZERO, period, tick);
}

fn after<A, F>(
    context: &mut Context<A>,
    name: &'static str,
    pause: Duration,
    period: Duration,
    tick: impl Fn(&mut A) -> F + 'static,
) where
    A: Actor<Context = Context<A>>,
    F: Future<Output = Result<()>> + 'static,
{
    context.run_later(pause, move |actor, context| {
        let began = Instant::now();
        let work = timed(name, tick(actor)).into_actor(actor).map(move |result, _, context| {
            metrics::histogram!("mover_actor_tick_seconds", "actor" => name).record(began.elapsed());
            if let Err(error) = result {
                metrics::counter!("mover_actor_ticks_failed_total", "actor" => name).increment(1);
                tracing::warn!(
                    actor = name,
                    error = &error as &dyn std::error::Error,
                    "a tick failed; the next goes on"
                );
            }
            after(context, name, period, period, tick);
        });
        context.spawn(work);
    });
}

/// Measures the work of an actor: busy is the time in which it runs, blocked the time in which it waits.
pub(super) fn timed<F: Future>(actor: &'static str, work: F) -> Timed<F> {
    Timed { actor, work: Box::pin(work), began: Instant::now(), busy: Duration::ZERO }
}

/// See [`timed`].
pub(super) struct Timed<F> {
    actor: &'static str,
    work: Pin<Box<F>>,
    began: Instant,
    busy: Duration,
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<F::Output> {
        let began = Instant::now();
        let polled = self.work.as_mut().poll(context);
        self.busy += began.elapsed();
        if polled.is_ready() {
            let blocked = self.began.elapsed().saturating_sub(self.busy);
            metrics::histogram!("mover_actor_busy_seconds", "actor" => self.actor).record(self.busy);
            metrics::histogram!("mover_actor_blocked_seconds", "actor" => self.actor).record(blocked);
        }
        polled
    }
}

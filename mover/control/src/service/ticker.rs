//! A timer of an actor: one tick at a time, and a tick that failed is said and forgotten.

use std::time::Duration;

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
        let began = std::time::Instant::now();
        let work = tick(actor).into_actor(actor).map(move |result, _, context| {
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

//! Gives jobs to agents that wait: one transaction for many that wait, woken when there may be work.
//!
//! A poll that finds nothing waits here, costs nothing, and is answered when a job arrives, or empty after the time
//! that it named. What another server let in is noticed by the newest event, one look at a primary key every
//! [`TICK`]. Waiting polls are bounded by [`WAITERS_MAX`]; beyond, a poll is answered empty at once and the agent comes
//! again. A poll whose asker has gone is asked no more, for its agent may have begun anew; a lease that was on its way to
//! it is given back at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Handler, Message, ResponseFuture, WrapFuture};
use tokio::sync::{Mutex, oneshot};

use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, UnixMillis};
use crate::job::Outcome;
use crate::lease::SWEEP;
use crate::lease::handover::hand_over;
use crate::lease::lapse::{Watch, sweep_queue};
use crate::lease::report::{Ending, Held, finish};
use crate::lease::take::{BATCH_MAX, Lease, Offer, Taken, take_some};

use super::{Context, ticker};

/// How often it is looked for changes of another server, while somebody waits.
const TICK: Duration = Duration::from_secs(1);
/// Polls that wait at once.
pub const WAITERS_MAX: usize = 20_000;
/// Longest wait of one poll.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// An agent asks for work and waits for it.
#[derive(Message)]
#[rtype(result = "Result<Vec<Lease>>")]
pub struct Poll {
    /// Who, and how much.
    pub offer: Offer,
    /// How long it waits; at most [`WAIT_MAX`].
    pub wait: Duration,
    /// Resolves when nobody waits for the answer any more: its sender is dropped.
    pub gone: oneshot::Receiver<()>,
}

impl Poll {
    /// A poll, and what must be kept until its answer has come.
    pub fn new(offer: Offer, wait: Duration) -> (Poll, oneshot::Sender<()>) {
        let (asker, gone) = oneshot::channel();
        (Poll { offer, wait, gone }, asker)
    }
}

/// There may be work: a job was let in, ended, or an agent changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Wake;

/// These agents were silent for so long that their jobs go elsewhere: not to their own polls, which nobody may read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Silent(pub(super) Vec<AgentId>);

struct Waiter {
    offer: Offer,
    answer: oneshot::Sender<Result<Vec<Lease>>>,
    /// Who has the lowest is asked next.
    turn: u64,
}

/// The job queue of a server.
pub struct Queue {
    context: Context,
    watch: Arc<Mutex<Watch>>,
    waiters: HashMap<AgentId, Waiter>,
    turns: u64,
    /// How many of those that wait have not been asked since the last wake.
    unasked: usize,
    is_taking: bool,
    /// Who fell silent while it was looked for work for them.
    silenced: HashSet<AgentId>,
    newest_event: String,
}

impl Queue {
    /// With nobody waiting.
    pub fn new(context: Context) -> Queue {
        let watch = Arc::new(Mutex::new(Watch::new(context.lease)));
        Queue {
            context,
            watch,
            waiters: HashMap::new(),
            turns: 0,
            unasked: 0,
            is_taking: false,
            silenced: HashSet::new(),
            newest_event: String::new(),
        }
    }

    fn wake(&mut self, actor: &mut actix::Context<Queue>) {
        self.unasked = self.waiters.len();
        self.take(actor);
    }

    /// Leases for the next that wait, until all were asked: one transaction at a time.
    fn take(&mut self, actor: &mut actix::Context<Queue>) {
        if self.is_taking || self.unasked == 0 || self.waiters.is_empty() {
            return;
        }
        self.waiters.retain(|_, waiter| !waiter.answer.is_closed());
        self.is_taking = true;
        let mut order: Vec<(u64, AgentId)> =
            self.waiters.iter().map(|(agent, waiter)| (waiter.turn, agent.clone())).collect();
        order.sort_unstable();
        order.truncate(BATCH_MAX as usize);
        self.unasked = self.unasked.saturating_sub(order.len());
        let batch: Vec<Waiter> = order.iter().filter_map(|(_, agent)| self.waiters.remove(agent)).collect();
        let context = self.context.clone();
        let work = async move {
            let offers: Vec<Offer> = batch.iter().map(|waiter| waiter.offer.clone()).collect();
            let result = take_some(&context.database, &offers, context.clock.now()).await;
            (batch, result)
        };
        actor.spawn(ticker::timed("queue", work).into_actor(self).map(|(batch, result), queue, actor| {
            queue.is_taking = false;
            let is_cut_off = result.as_ref().is_ok_and(|taken| taken.is_cut_off);
            queue.answer(batch, result, actor);
            if is_cut_off {
                // What was in the way is parked: behind it there may be work for those that got none.
                queue.unasked = queue.waiters.len();
            }
            queue.take(actor);
        }));
    }

    /// Answers those that got work; the others wait on, behind those that were not asked yet.
    fn answer(&mut self, batch: Vec<Waiter>, result: Result<Taken>, actor: &mut actix::Context<Queue>) {
        let mut leases: HashMap<AgentId, Vec<Lease>> = HashMap::new();
        if let Err(error) = &result {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "no work could be given out; those that ask wait on"
            );
        }
        for lease in result.map(|taken| taken.leases).unwrap_or_default() {
            leases.entry(lease.agent.clone()).or_default().push(lease);
        }
        let silenced = std::mem::take(&mut self.silenced);
        for mut waiter in batch {
            let agent = waiter.offer.agent.clone();
            let got = leases.remove(&agent);
            let lost = if silenced.contains(&agent) {
                let _ = waiter.answer.send(Ok(Vec::new()));
                got
            } else if let Some(got) = got {
                waiter.answer.send(Ok(got)).err().and_then(Result::ok)
            } else {
                self.turns += 1;
                waiter.turn = self.turns;
                self.waiters.entry(agent).or_insert(waiter);
                None
            };
            if let Some(lost) = lost {
                let (database, now) = (self.context.database.clone(), self.context.clock.now());
                actor.spawn(async move { give_back(&database, lost, now).await }.into_actor(self));
            }
        }
    }

    /// Whether anything happened to any job since the last look.
    fn look(&mut self, actor: &mut actix::Context<Queue>) {
        if self.waiters.is_empty() || self.is_taking {
            return;
        }
        let database = self.context.database.clone();
        let sql = "SELECT COALESCE(MAX(id), '') AS id FROM events";
        let work = async move { database.read(async |tx| tx.one(sql, &[]).await?.text("id")).await };
        actor.spawn(work.into_actor(self).map(|newest, queue, actor| {
            // A database that is away has no work to give.
            let newest = newest.unwrap_or_else(|_| queue.newest_event.clone());
            if newest != queue.newest_event {
                queue.newest_event = newest;
                queue.wake(actor);
            }
        }));
    }

    fn sweep(&mut self, own: actix::Addr<Queue>) -> impl Future<Output = Result<()>> + use<> {
        let (context, watch) = (self.context.clone(), Arc::clone(&self.watch));
        async move {
            let now = context.clock.now();
            let changed = sweep_queue(&context.database, &context.away, now).await?;
            let mut watch = watch.lock().await;
            let lapsed = watch.sweep(&context.database, context.clock.monotonic(), now).await?;
            own.do_send(Silent(watch.take_silent()));
            let handed = hand_over(&context.database, &context.away, now).await?;
            if changed + lapsed + handed > 0 {
                own.do_send(Wake);
            }
            Ok(())
        }
    }
}

/// Nobody is there to take these any more.
pub async fn give_back(database: &Database, leases: Vec<Lease>, now: UnixMillis) {
    for lease in leases {
        let held = Held { job: lease.job.id, fence: lease.fence };
        let ending = finish(database, &lease.agent, &held, &Ending::GivenBack, Outcome::default(), now).await;
        if let Err(error) = ending {
            tracing::warn!(job = %held.job, error = &error as &dyn std::error::Error, "a lease without its poll will lapse");
        }
    }
}

impl Actor for Queue {
    type Context = actix::Context<Queue>;

    fn started(&mut self, actor: &mut Self::Context) {
        actor.run_interval(TICK, |queue, actor| queue.look(actor));
        let own = actor.address();
        ticker::every(actor, "queue", SWEEP, move |queue: &mut Queue| queue.sweep(own.clone()));
    }
}

impl Handler<Wake> for Queue {
    type Result = ();

    fn handle(&mut self, _: Wake, actor: &mut Self::Context) {
        self.wake(actor);
    }
}

impl Handler<Silent> for Queue {
    type Result = ();

    fn handle(&mut self, silent: Silent, _: &mut Self::Context) {
        for agent in silent.0 {
            match self.waiters.remove(&agent) {
                // Who lives asks again.
                Some(waiter) => _ = waiter.answer.send(Ok(Vec::new())),
                None if self.is_taking => _ = self.silenced.insert(agent),
                None => {}
            }
        }
    }
}

impl Handler<Poll> for Queue {
    type Result = ResponseFuture<Result<Vec<Lease>>>;

    fn handle(&mut self, poll: Poll, actor: &mut Self::Context) -> Self::Result {
        if self.waiters.len() >= WAITERS_MAX {
            return Box::pin(async { Ok(Vec::new()) });
        }
        let (answer, mut answered) = oneshot::channel();
        self.turns += 1;
        let agent = poll.offer.agent.clone();
        // A second poll of an agent replaces the first, whose connection is gone.
        self.waiters.insert(agent, Waiter { offer: poll.offer, answer, turn: self.turns });
        self.unasked += 1;
        self.take(actor);
        Box::pin(async move {
            let replaced = || ControlError::Conflict("another poll of the same agent came after this one".to_owned());
            let over = async {
                tokio::select! {
                    () = tokio::time::sleep(poll.wait.min(WAIT_MAX)) => {}
                    _ = poll.gone => {}
                }
            };
            tokio::select! {
                biased;
                answer = &mut answered => return answer.map_err(|_| replaced())?,
                () = over => {}
            }
            // What arrived in this very moment is taken; what comes later is given back.
            answered.close();
            answered.try_recv().unwrap_or(Ok(Vec::new()))
        })
    }
}

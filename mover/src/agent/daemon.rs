//! The agent as a whole: says who it is, asks for work, lets itself be heard, delivers, renews, and stops.
//!
//! Four loops on one thread, each with its own patience: polls, heartbeats of all jobs together, deliveries, renewal.
//!
//! | what the server says of this agent | what it does |
//! | --- | --- |
//! | nothing, or that it cannot now | goes on, and asks again |
//! | its certificate or its version does not count | asks for no work, and what runs goes on as if the server were away |
//! | it was revoked | kills what it runs and ends, with an exit code of its own |

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mover_control::ids::{JobId, RecordId};
use mover_control::job::{Outcome, Progress};
use mover_control::lease::report::{Advice, Ending, Held};
use mover_control::lease::take::Lease;
use mover_control::protocol::{
    BeatAnswer, BeatRequest, FinishAnswer, FinishRequest, HelloAnswer, HelloRequest, POLL_WAIT, PollAnswer,
    PollRequest, path,
};
use sd_notify::NotifyState;
use tokio::sync::{Mutex, Notify, watch};

use super::caches::Caches;
use super::child::Control;
use super::connection::{Connection, Patience, Refusal, TIMEOUT};
use super::job::{self, Ground, Work};
use super::settings::AgentSettings;
use super::spool::{self, Orphan, Spool};
use super::state::{Identity, Papers, StateDirectory};
use super::{enrolment, questions};
use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;
use crate::cli::interrupt;

/// How long a poll waits while the disk takes no jobs: so often it is tried again.
const POLL_WITHOUT_ROOM: Duration = Duration::from_secs(5);
/// How often the certificate is looked at.
const RENEWAL: Duration = Duration::from_secs(3600);
/// Questions answered at once.
const QUESTIONS_MAX: usize = 4;
/// How long a server may take to say what its last polls brought to an agent that stops.
const WITHDRAWAL: Duration = Duration::from_secs(5);
/// However seldom a server wants to hear of jobs: the watchdog of the system wants to more often.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);
/// After the last job has ended, results have so long to be delivered before the process ends; they are spooled anyway.
const LAST_DELIVERY: Duration = Duration::from_secs(10);

/// A job that runs here.
struct Running {
    held: Held,
    control: watch::Sender<Control>,
    shown: Rc<RefCell<Progress>>,
}

/// See the module.
struct Agent {
    ground: Rc<Ground>,
    identity: Identity,
    papers: RefCell<Papers>,
    /// Of this process: by another one the server knows that what ran before is dead.
    instance: String,
    slots: Cell<u32>,
    heartbeat: Cell<Duration>,
    jobs: RefCell<BTreeMap<JobId, Running>>,
    /// Whatever this agent does for a job, it does one thing at a time: what comes after one lease is over before the next
    /// lease of the same job begins.
    turns: RefCell<BTreeMap<JobId, Arc<Mutex<()>>>>,
    caches: RefCell<Caches>,
    /// Those that are being answered.
    questions: RefCell<BTreeSet<RecordId>>,
    /// A job ended, or a result waits.
    changed: Notify,
    results: Notify,
    stopping: watch::Sender<bool>,
    refused: watch::Sender<Option<String>>,
}

/// Runs until it is told to stop, or refused.
pub async fn run(settings: AgentSettings, state: StateDirectory) -> Result<Exit> {
    let (identity, papers) = state.identity()?;
    let connection = Connection::new(&identity, &papers, &settings.standby)?;
    let caches = Caches::new(state.path().join("cache").join("mover"));
    let spool = Spool::new(state, spool::boot_id());
    let orphans = spool.recover();
    let agent = Rc::new(Agent {
        ground: Rc::new(Ground { settings, spool, connection }),
        identity,
        papers: RefCell::new(papers),
        instance: RecordId::new(jiff::Timestamp::now().into()).to_string(),
        slots: Cell::new(1),
        heartbeat: Cell::new(Duration::from_secs(10)),
        jobs: RefCell::default(),
        turns: RefCell::default(),
        caches: RefCell::new(caches),
        questions: RefCell::default(),
        changed: Notify::new(),
        results: Notify::new(),
        stopping: watch::Sender::new(false),
        refused: watch::Sender::new(None),
    });
    orphans.into_iter().for_each(|orphan| agent.make_up(orphan));
    let stopping = agent.stopping.clone();
    let _graceful = interrupt::graceful(move || {
        crate::cli::terminal::say("stopping: what runs is ended cleanly and given back (once more to end at once)");
        stopping.send_replace(true);
    });
    agent.serve().await
}

impl Agent {
    async fn serve(self: Rc<Self>) -> Result<Exit> {
        let mut refused = self.refused.subscribe();
        let beats = tokio::task::spawn_local(Rc::clone(&self).beats());
        let deliveries = tokio::task::spawn_local(Rc::clone(&self).deliveries());
        let renewals = tokio::task::spawn_local(Rc::clone(&self).renewals());
        // Without its server it is ready as well, and goes on with what it has.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let refusal = tokio::select! {
            () = Rc::clone(&self).work() => None,
            refusal = refused.wait_for(Option::is_some) => refusal.ok().and_then(|refusal| refusal.clone()),
        };
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        let told = match &refusal {
            Some(why) => Control::Lost(why.clone()),
            None => Control::GiveBack,
        };
        self.jobs.borrow().values().for_each(|job| _ = job.control.send_replace(told.clone()));
        while !self.jobs.borrow().is_empty() {
            self.changed.notified().await;
        }
        if refusal.is_none() {
            let delivered = async {
                while !self.ground.spool.undelivered().is_empty() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let _ = tokio::time::timeout(LAST_DELIVERY, delivered).await;
        }
        [beats, deliveries, renewals].iter().for_each(tokio::task::JoinHandle::abort);
        match refusal {
            None => Ok(Exit::Done),
            Some(why) => Err(CliError {
                exit: Exit::Revoked,
                message: format!("{} does not accept this agent any more: {why}", self.ground.connection.server()),
                help: Some("whatever ran here was ended; enrol it anew if it is to work again".to_owned()),
            }),
        }
    }

    /// Asks for work until the agent stops.
    async fn work(self: Rc<Self>) {
        let mut stopping = self.stopping.subscribe();
        let mut polls = FuturesUnordered::new();
        let poll = |free| Rc::clone(&self).poll(free);
        tokio::select! {
            () = self.asks(&mut polls, poll) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        self.withdraw(polls).await;
    }

    async fn asks<P>(self: &Rc<Self>, polls: &mut FuturesUnordered<P>, poll: impl Fn(u32) -> P)
    where
        P: Future<Output = (u32, std::result::Result<PollAnswer, Refusal>)>,
    {
        let mut patience = Patience::default();
        let mut is_greeted = false;
        let mut offers: Vec<u32> = Vec::new();
        loop {
            if !is_greeted {
                self.greet(&mut patience).await;
                is_greeted = true;
            }
            if let Some(free) = next_offer(self.free(), &offers) {
                offers.push(free);
                polls.push(poll(free));
            }
            // A poll in flight is never dropped: what it brings would be nobody's until it lapses.
            let (free, answer) = tokio::select! {
                Some(answered) = polls.next() => answered,
                () = self.changed.notified() => continue,
            };
            if let Some(place) = offers.iter().position(|offer| *offer == free) {
                offers.swap_remove(place);
            }
            match answer {
                Ok(answer) => {
                    patience.reset();
                    self.take(answer);
                }
                // Another poll of this agent came after it.
                Err(Refusal::Conflict(_)) => {}
                Err(refusal) => {
                    self.complain(&refusal);
                    is_greeted = !matches!(refusal, Refusal::Barred(_));
                    tokio::time::sleep(patience.pause()).await;
                    self.reclaim(&mut patience).await;
                }
            }
        }
    }

    /// Says hello until the server answers.
    async fn greet(&self, patience: &mut Patience) {
        while let Err(refusal) = self.hello().await {
            self.complain(&refusal);
            tokio::time::sleep(patience.pause()).await;
        }
        patience.reset();
    }

    /// Jobs that lapsed while the server was not reached are this agent's still, if it says so before it asks for more:
    /// else it might be given its own job anew.
    async fn reclaim(&self, patience: &mut Patience) {
        while let Err(Refusal::Away(_)) = self.beat().await {
            tokio::time::sleep(patience.pause()).await;
        }
    }

    /// Says why there is no work; loudly where somebody must do something.
    fn complain(&self, refusal: &Refusal) {
        let server = self.ground.connection.server();
        match refusal {
            Refusal::Barred(why) => tracing::error!(
                server,
                why,
                "this agent is not let in and gets no work; what runs goes on. Look at the clocks of both, and at the versions"
            ),
            _ => tracing::warn!(server, %refusal, "no work can be asked for"),
        }
    }

    async fn hello(&self) -> std::result::Result<(), Refusal> {
        let mut held: Vec<Held> = self.jobs.borrow().values().map(|running| running.held.clone()).collect();
        held.extend(self.ground.spool.undelivered().into_iter().map(|result| result.held));
        let description = self.ground.settings.describe(self.instance.clone());
        let request = HelloRequest { description, boot: Some(spool::boot_id()), held };
        let answer: HelloAnswer = self.asked(path::HELLO, &request, TIMEOUT).await?;
        self.slots.set(answer.slots.max(1));
        self.heartbeat.set(Duration::from_secs(answer.heartbeat_seconds.max(1)));
        let (name, version) = (&answer.agent.name, &answer.server_version);
        tracing::info!(name, server_version = version, slots = answer.slots, "connected");
        let server = self.ground.connection.server();
        crate::cli::terminal::say(&format!("{name} works for {server} with {} slots", answer.slots));
        Ok(())
    }

    /// A request; that this agent was revoked ends it.
    async fn asked<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &impl serde::Serialize,
        timeout: Duration,
    ) -> std::result::Result<T, Refusal> {
        let answer = self.ground.connection.post(path, request, timeout).await;
        if let Err(Refusal::Revoked(why)) = &answer {
            self.refused.send_replace(Some(why.clone()));
        }
        answer
    }

    /// Jobs that may begin now.
    fn free(&self) -> u32 {
        if !self.ground.spool.is_writable() {
            return 0;
        }
        let running = u32::try_from(self.jobs.borrow().len()).unwrap_or(u32::MAX);
        self.slots.get().saturating_sub(running)
    }

    /// Waits for work for so many slots.
    async fn poll(self: Rc<Self>, free: u32) -> (u32, std::result::Result<PollAnswer, Refusal>) {
        let wait = if self.ground.spool.was_writable() { POLL_WAIT } else { POLL_WITHOUT_ROOM };
        (free, self.ask_for_work(free, wait).await)
    }

    async fn ask_for_work(&self, free: u32, wait: Duration) -> std::result::Result<PollAnswer, Refusal> {
        let resident = self.caches.borrow_mut().warm();
        let answering = self.questions.borrow().iter().cloned().collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let request = PollRequest { version, free, resident, answering, wait_seconds: wait.as_secs() };
        self.asked(path::POLL, &request, wait + TIMEOUT).await
    }

    /// Asks for nothing more, and takes what the polls in flight bring, so that it can be given back: what nobody takes is
    /// nobody's until it lapses.
    async fn withdraw<P>(self: &Rc<Self>, mut polls: FuturesUnordered<P>)
    where
        P: Future<Output = (u32, std::result::Result<PollAnswer, Refusal>)>,
    {
        let last = async {
            // The server answers an older poll of an agent when a newer one comes.
            if let Ok(answer) = self.ask_for_work(0, Duration::ZERO).await {
                self.take(answer);
            }
            while let Some((_, answer)) = polls.next().await {
                answer.into_iter().for_each(|answer| self.take(answer));
            }
        };
        let _ = tokio::time::timeout(WITHDRAWAL, last).await;
    }

    fn take(self: &Rc<Self>, answer: PollAnswer) {
        for lease in answer.leases {
            self.begin(lease);
        }
        for question in answer.questions {
            let (ground, id) = (Rc::clone(&self.ground), question.id.clone());
            let is_busy = self.questions.borrow().len() >= QUESTIONS_MAX;
            if !self.questions.borrow_mut().insert(id.clone()) {
                continue;
            }
            let agent = Rc::clone(self);
            tokio::task::spawn_local(async move {
                match is_busy {
                    true => questions::refuse(ground, question).await,
                    false => questions::answer(ground, agent.slots.get(), question).await,
                }
                agent.questions.borrow_mut().remove(&id);
            });
        }
    }

    fn turn(&self, job: &JobId) -> Arc<Mutex<()>> {
        let mut turns = self.turns.borrow_mut();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(job.clone()).or_default())
    }

    /// Runs what an earlier process of this agent owes a job, before a new lease of it begins.
    fn make_up(self: &Rc<Self>, orphan: Orphan) {
        let turn = self.turn(&orphan.held.job).try_lock_owned().expect("nothing has begun yet");
        let ground = Rc::clone(&self.ground);
        tokio::task::spawn_local(async move {
            job::make_up(&ground, orphan).await;
            drop(turn);
        });
    }

    /// Writes the job down and starts it; where it cannot be written down it is given back.
    fn begin(self: &Rc<Self>, lease: Lease) {
        let held = Held { job: lease.job.id.clone(), fence: lease.fence };
        tracing::info!(job = %held.job, fence = held.fence, set = lease.job.set, "begins");
        let (control, controlled) = watch::channel(Control::GoOn);
        let shown = Rc::new(RefCell::new(Progress::default()));
        let running = Running { held: held.clone(), control, shown: Rc::clone(&shown) };
        // An earlier lease of the same job is stale by now; whatever it runs must end.
        if let Some(earlier) = self.jobs.borrow_mut().insert(held.job.clone(), running) {
            earlier.control.send_replace(Control::Lost("the job was leased anew".to_owned()));
        }
        if let Some(repository) = self.ground.settings.repository.get(&lease.job.repository) {
            self.caches.borrow_mut().used(&lease.job.repository, &repository.url);
        }
        let turn = self.turn(&held.job);
        let agent = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let mut waiting = controlled.clone();
            // What is told to stop does not wait to begin, and ends without.
            let own_turn = tokio::select! {
                held_turn = turn.lock() => Some(held_turn),
                _ = waiting.wait_for(|control| *control != Control::GoOn) => None,
            };
            let written = if own_turn.is_some() { agent.ground.spool.begin(&lease) } else { Ok(()) };
            let result = match written {
                Ok(()) => {
                    let ground = Rc::clone(&agent.ground);
                    Work::new(ground, agent.slots.get(), lease.job, controlled, shown).run().await
                }
                Err(error) => {
                    tracing::error!(job = %held.job, %error, "given back: it cannot be written down");
                    Some((Ending::GivenBack, Outcome::default()))
                }
            };
            agent.end(held, result);
            drop(own_turn);
        });
    }

    fn end(&self, held: Held, result: Option<(Ending, Outcome)>) {
        match result {
            None => {
                tracing::warn!(job = %held.job, fence = held.fence, "lost: it is somebody else's");
                self.ground.spool.forget(&held);
            }
            Some((ending, outcome)) => {
                tracing::info!(job = %held.job, ?ending, point = outcome.recovery_point, message = outcome.message, "ended");
                self.ground.spool.end(FinishRequest { held: held.clone(), ending, outcome });
                self.results.notify_one();
            }
        }
        let is_latest = self.jobs.borrow().get(&held.job).is_some_and(|running| running.held == held);
        if is_latest {
            self.jobs.borrow_mut().remove(&held.job);
        }
        self.changed.notify_one();
    }

    /// Heartbeats of all jobs together, and of results that are not delivered: their jobs are still this agent's.
    async fn beats(self: Rc<Self>) {
        loop {
            // That this thread lives; the time of a heartbeat is bounded.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            tokio::time::sleep(self.heartbeat.get().min(HEARTBEAT_MAX)).await;
            if let Err(refusal) = self.beat().await {
                tracing::warn!(%refusal, "not heard");
            }
        }
    }

    /// One heartbeat; of no jobs none, for polls are heard as well.
    async fn beat(&self) -> std::result::Result<(), Refusal> {
        let mut jobs: Vec<(Held, Option<Progress>)> = Vec::new();
        for running in self.jobs.borrow().values() {
            jobs.push((running.held.clone(), Some(running.shown.borrow().clone())));
        }
        let waiting = self.ground.spool.undelivered();
        jobs.extend(waiting.into_iter().map(|result| (result.held, Some(result.outcome.progress))));
        if jobs.is_empty() {
            return Ok(());
        }
        let request = BeatRequest { jobs };
        let timeout = self.heartbeat.get().clamp(Duration::from_secs(5), HEARTBEAT_MAX);
        let answer = self.asked::<BeatAnswer>(path::BEAT, &request, timeout).await?;
        self.advise(&request, answer);
        Ok(())
    }

    fn advise(&self, request: &BeatRequest, answer: BeatAnswer) {
        for ((held, _), advice) in request.jobs.iter().zip(answer.advice) {
            let jobs = self.jobs.borrow();
            let Some(running) = jobs.get(&held.job).filter(|running| running.held == *held) else { continue };
            let told = match advice {
                Advice::Continue => continue,
                Advice::Stop { why } => Control::Stop(why),
                Advice::Lost { why } => {
                    tracing::warn!(job = %held.job, why, "it may not go on");
                    Control::Lost(why)
                }
            };
            // A stop is asked for once; a child that is stopping is not hurried.
            running.control.send_if_modified(|control| {
                let is_news = matches!(told, Control::Lost(_)) || *control == Control::GoOn;
                if is_news && *control != told {
                    *control = told;
                    return true;
                }
                false
            });
        }
    }

    /// Delivers results, the oldest first, until the server has them all.
    async fn deliveries(self: Rc<Self>) {
        let mut patience = Patience::default();
        loop {
            let mut is_away = false;
            for result in self.ground.spool.undelivered() {
                match self.deliver(&result).await {
                    Ok(()) => patience.reset(),
                    Err(refusal) => {
                        tracing::warn!(job = %result.held.job, %refusal, "its result waits");
                        is_away = true;
                        break;
                    }
                }
            }
            if is_away {
                tokio::time::sleep(patience.pause()).await;
            } else {
                self.results.notified().await;
            }
        }
    }

    /// Delivers one. Only a server that says that the job is nobody's business here any more has a result deleted; what it
    /// does not understand is said once more without the list that may be the cause, and then kept for people.
    async fn deliver(&self, result: &FinishRequest) -> std::result::Result<(), Refusal> {
        let (job, spool) = (&result.held.job, &self.ground.spool);
        let mut answer = self.asked::<FinishAnswer>(path::FINISH, result, TIMEOUT).await;
        if let Err(Refusal::No(why)) = &answer
            && !result.outcome.exceptions.is_empty()
        {
            tracing::error!(%job, why, "its result is refused, and is said once more without the list of exceptions");
            let outcome = Outcome { exceptions: Vec::new(), ..result.outcome.clone() };
            let shorter = FinishRequest { outcome, ..result.clone() };
            answer = self.asked::<FinishAnswer>(path::FINISH, &shorter, TIMEOUT).await;
        }
        match answer {
            Ok(answer) => {
                tracing::info!(%job, state = %answer.state, repeated = answer.repeated, "delivered");
                spool.delivered(&result.held);
            }
            Err(refusal @ (Refusal::Lost(_) | Refusal::Unknown(_))) => {
                tracing::warn!(%job, %refusal, "its result is not wanted");
                spool.delivered(&result.held);
            }
            Err(refusal @ (Refusal::No(_) | Refusal::Conflict(_))) => {
                tracing::error!(%job, %refusal, "its result is refused; it is kept in results/refused");
                spool.refuse(result);
            }
            Err(refusal @ (Refusal::Away(_) | Refusal::Barred(_) | Refusal::Revoked(_))) => return Err(refusal),
        }
        Ok(())
    }

    async fn renewals(self: Rc<Self>) {
        loop {
            let mut papers = self.papers.borrow().clone();
            if enrolment::is_due(&papers, jiff::Timestamp::now().into()) {
                let ground = &self.ground;
                match enrolment::renew(ground.spool.state(), &ground.connection, &self.identity, &mut papers).await {
                    Ok(()) => *self.papers.borrow_mut() = papers,
                    Err(error) => tracing::warn!(error, "the certificate was not renewed; it is tried again"),
                }
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }
}

/// Whether another poll is to be sent now, and for how many slots, while polls with these offers are in flight: one waits
/// for work, or at least for questions.
fn next_offer(free: u32, in_flight: &[u32]) -> Option<u32> {
    let asks_for_work = in_flight.iter().any(|offer| *offer > 0);
    (in_flight.is_empty() || (free > 0 && !asks_for_work)).then_some(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A poll was once dropped when a job ended, and the lease that was on its way with it.
    #[test]
    fn polls_in_flight_are_kept_and_never_offer_more_than_is_free() {
        assert_eq!(next_offer(3, &[]), Some(3));
        assert_eq!(next_offer(0, &[]), Some(0), "for questions");
        assert_eq!(next_offer(4, &[3]), None, "a job ended: the poll that waits for work is kept");
        assert_eq!(next_offer(0, &[0]), None);
        assert_eq!(next_offer(1, &[0]), Some(1), "a slot became free while none was");
        assert_eq!(next_offer(2, &[0, 1]), None, "two at most, and what they offer is free");
    }
}

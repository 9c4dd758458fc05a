//! The agent as a whole: says who it is, asks for work, lets itself be heard, delivers, renews, and stops.
//!
//! Four loops on one thread, each with its own patience: polls, heartbeats of all jobs together, deliveries, renewal.
//! A revoked agent ends at once and kills what it runs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use mover_control::ids::{JobId, RecordId};
use mover_control::job::Progress;
use mover_control::lease::report::{Advice, Ending, Held};
use mover_control::lease::take::Lease;
use mover_control::protocol::{
    BeatAnswer, BeatRequest, FinishAnswer, FinishRequest, HelloAnswer, HelloRequest, PollAnswer, PollRequest, path,
};
use tokio::sync::{Notify, watch};

use super::child::Control;
use super::connection::{Connection, Patience, Refusal, TIMEOUT};
use super::job::{Ground, Work};
use super::settings::AgentSettings;
use super::spool;
use super::state::{Identity, Papers, StateDirectory};
use super::{enrolment, questions};
use crate::cli::error::{CliError, Result};
use crate::cli::exit::Exit;
use crate::cli::interrupt;

/// How long a poll waits for work.
const POLL: Duration = Duration::from_secs(30);
/// How often the certificate is looked at.
const RENEWAL: Duration = Duration::from_secs(3600);
/// Questions answered at once.
const QUESTIONS_MAX: usize = 4;
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
    boot: String,
    slots: Cell<u32>,
    heartbeat: Cell<Duration>,
    jobs: RefCell<BTreeMap<JobId, Running>>,
    /// Repositories that jobs here have used: what is cached of them is warm.
    warm: RefCell<BTreeSet<String>>,
    questions: Cell<usize>,
    /// A job ended, or a result waits.
    changed: Notify,
    results: Notify,
    stopping: watch::Sender<bool>,
    refused: watch::Sender<Option<String>>,
}

/// Runs until it is told to stop, or refused.
pub async fn run(settings: AgentSettings, state: StateDirectory) -> Result<Exit> {
    let (identity, papers) = state.identity()?;
    let boot = spool::boot_id();
    spool::recover(&state, &boot)?;
    let connection = Connection::new(&identity, &papers)?;
    let agent = Rc::new(Agent {
        ground: Rc::new(Ground { settings, state, connection }),
        identity,
        papers: RefCell::new(papers),
        boot,
        slots: Cell::new(1),
        heartbeat: Cell::new(Duration::from_secs(10)),
        jobs: RefCell::default(),
        warm: RefCell::default(),
        questions: Cell::new(0),
        changed: Notify::new(),
        results: Notify::new(),
        stopping: watch::Sender::new(false),
        refused: watch::Sender::new(None),
    });
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
        let refusal = tokio::select! {
            () = Rc::clone(&self).work() => None,
            refusal = refused.wait_for(Option::is_some) => refusal.ok().and_then(|refusal| refusal.clone()),
        };
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
                while !spool::undelivered(&self.ground.state).is_empty() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let _ = tokio::time::timeout(LAST_DELIVERY, delivered).await;
        }
        [beats, deliveries, renewals].iter().for_each(tokio::task::JoinHandle::abort);
        match refusal {
            None => Ok(Exit::Done),
            Some(why) => Err(CliError::failed(
                format!("{} does not accept this agent any more: {why}", self.identity.server),
                "whatever ran here was ended; enrol it anew, or upgrade it, as the server says",
            )),
        }
    }

    fn refuse(&self, why: String) {
        self.refused.send_replace(Some(why));
    }

    /// Says hello, then asks for work until the agent stops.
    async fn work(self: Rc<Self>) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            () = Rc::clone(&self).asks() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn asks(self: Rc<Self>) {
        let mut patience = Patience::default();
        while let Err(refusal) = self.hello().await {
            tracing::warn!(server = self.identity.server, %refusal, "the server does not answer");
            tokio::time::sleep(patience.pause()).await;
        }
        patience.reset();
        loop {
            match self.poll().await {
                Ok(Some(answer)) => {
                    patience.reset();
                    self.take(answer);
                }
                Ok(None) => {}
                Err(refusal) => {
                    tracing::warn!(%refusal, "no work can be asked for");
                    tokio::time::sleep(patience.pause()).await;
                }
            }
        }
    }

    async fn hello(&self) -> std::result::Result<(), Refusal> {
        let instance = RecordId::new(jiff::Timestamp::now().into()).to_string();
        let held = spool::undelivered(&self.ground.state).into_iter().map(|result| result.held).collect();
        let request = HelloRequest {
            description: self.ground.settings.describe(instance),
            boot: Some(self.ground.boot.clone()),
            held,
        };
        let answer: HelloAnswer = self.asked(path::HELLO, &request, TIMEOUT).await?;
        self.slots.set(answer.slots.max(1));
        self.heartbeat.set(Duration::from_secs(answer.heartbeat_seconds.max(1)));
        let (name, version) = (&answer.agent.name, &answer.server_version);
        tracing::info!(name, server_version = version, slots = answer.slots, "connected");
        crate::cli::terminal::say(&format!("{name} works for {} with {} slots", self.identity.server, answer.slots));
        Ok(())
    }

    /// A request; a refusal of the agent as a whole ends it.
    async fn asked<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &impl serde::Serialize,
        timeout: Duration,
    ) -> std::result::Result<T, Refusal> {
        let answer = self.ground.connection.post(path, request, timeout).await;
        if let Err(Refusal::Agent(why)) = &answer {
            self.refuse(why.clone());
        }
        answer
    }

    /// Waits for work; nothing if a slot became free meanwhile, so that it is asked for at once.
    async fn poll(&self) -> std::result::Result<Option<PollAnswer>, Refusal> {
        let running = u32::try_from(self.jobs.borrow().len()).unwrap_or(u32::MAX);
        let free = self.slots.get().saturating_sub(running);
        let resident = self.warm.borrow().iter().cloned().collect();
        let request = PollRequest { free, resident, wait_seconds: POLL.as_secs() };
        tokio::select! {
            answer = self.asked(path::POLL, &request, POLL + TIMEOUT) => answer.map(Some),
            () = self.changed.notified() => Ok(None),
        }
    }

    fn take(self: &Rc<Self>, answer: PollAnswer) {
        for lease in answer.leases {
            self.begin(lease);
        }
        for question in answer.questions {
            if self.questions.get() >= QUESTIONS_MAX {
                continue;
            }
            self.questions.set(self.questions.get() + 1);
            let agent = Rc::clone(self);
            tokio::task::spawn_local(async move {
                questions::answer(Rc::clone(&agent.ground), agent.slots.get(), question).await;
                agent.questions.set(agent.questions.get() - 1);
            });
        }
    }

    /// Writes the job down and starts it; where it cannot be written down it is given back.
    fn begin(self: &Rc<Self>, lease: Lease) {
        let held = Held { job: lease.job.id.clone(), fence: lease.fence };
        tracing::info!(job = %held.job, fence = held.fence, set = lease.job.set, "begins");
        let (control, controlled) = watch::channel(Control::GoOn);
        let shown = Rc::new(RefCell::new(Progress::default()));
        let running = Running { held: held.clone(), control, shown: Rc::clone(&shown) };
        let written = spool::begin(&self.ground.state, &lease, &self.boot);
        // An earlier lease of the same job is stale by now; whatever it runs must end.
        if let Some(earlier) = self.jobs.borrow_mut().insert(held.job.clone(), running) {
            earlier.control.send_replace(Control::Lost("the job was leased anew".to_owned()));
        }
        self.warm.borrow_mut().insert(lease.job.repository.clone());
        let work = Work::new(Rc::clone(&self.ground), self.slots.get(), lease.job, controlled, shown);
        let agent = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let result = match written {
                Ok(()) => work.run().await,
                Err(error) => {
                    tracing::error!(job = %held.job, %error, "given back: it cannot be written down");
                    Some((Ending::GivenBack, mover_control::job::Outcome::default()))
                }
            };
            agent.end(held, result);
        });
    }

    fn end(&self, held: Held, result: Option<(Ending, mover_control::job::Outcome)>) {
        match result {
            None => {
                tracing::warn!(job = %held.job, fence = held.fence, "lost: it is somebody else's");
                if self.is_latest(&held) {
                    spool::forget(&self.ground.state, &held);
                }
            }
            Some((ending, outcome)) => {
                tracing::info!(job = %held.job, ?ending, point = outcome.recovery_point, message = outcome.message, "ended");
                let result = FinishRequest { held: held.clone(), ending, outcome };
                if let Err(error) = spool::end(&self.ground.state, &result) {
                    // Its lease lapses, and the next run of the job finds what this one has published.
                    tracing::error!(job = %held.job, %error, "the result cannot be written down");
                }
                self.results.notify_one();
            }
        }
        if self.is_latest(&held) {
            self.jobs.borrow_mut().remove(&held.job);
        }
        self.changed.notify_one();
    }

    fn is_latest(&self, held: &Held) -> bool {
        self.jobs.borrow().get(&held.job).is_some_and(|running| running.held == *held)
    }

    /// Heartbeats of all jobs together, and of results that are not delivered: their jobs are still this agent's.
    async fn beats(self: Rc<Self>) {
        loop {
            tokio::time::sleep(self.heartbeat.get()).await;
            let mut jobs: Vec<(Held, Option<Progress>)> = Vec::new();
            for running in self.jobs.borrow().values() {
                jobs.push((running.held.clone(), Some(running.shown.borrow().clone())));
            }
            let waiting = spool::undelivered(&self.ground.state);
            jobs.extend(waiting.into_iter().map(|result| (result.held, Some(result.outcome.progress))));
            let request = BeatRequest { jobs };
            let timeout = self.heartbeat.get().max(Duration::from_secs(5));
            match self.asked::<BeatAnswer>(path::BEAT, &request, timeout).await {
                Ok(answer) => self.advise(&request, answer),
                Err(refusal) => tracing::warn!(%refusal, "not heard"),
            }
        }
    }

    fn advise(&self, request: &BeatRequest, answer: BeatAnswer) {
        for ((held, _), advice) in request.jobs.iter().zip(answer.advice) {
            let jobs = self.jobs.borrow();
            let Some(running) = jobs.get(&held.job).filter(|running| running.held == *held) else { continue };
            let told = match advice {
                Advice::Continue => continue,
                Advice::Stop { why } => Control::Stop(why),
                Advice::Lost { why } => Control::Lost(why),
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
            for result in spool::undelivered(&self.ground.state) {
                let job = &result.held.job;
                match self.asked::<FinishAnswer>(path::FINISH, &result, TIMEOUT).await {
                    Ok(answer) => {
                        patience.reset();
                        tracing::info!(%job, state = %answer.state, repeated = answer.repeated, "delivered");
                        spool::delivered(&self.ground.state, &result.held);
                    }
                    Err(refusal @ (Refusal::Lost(_) | Refusal::No(_))) => {
                        tracing::warn!(%job, %refusal, "its result is not wanted");
                        spool::delivered(&self.ground.state, &result.held);
                    }
                    Err(refusal @ (Refusal::Away(_) | Refusal::Agent(_))) => {
                        tracing::warn!(%job, %refusal, "its result waits");
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

    async fn renewals(self: Rc<Self>) {
        loop {
            let mut papers = self.papers.borrow().clone();
            if enrolment::is_due(&papers, jiff::Timestamp::now().into()) {
                let ground = &self.ground;
                match enrolment::renew(&ground.state, &ground.connection, &self.identity, &mut papers).await {
                    Ok(()) => *self.papers.borrow_mut() = papers,
                    Err(error) => tracing::warn!(error, "the certificate was not renewed; it is tried again"),
                }
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }
}

//! One job from its lease to its result.
//!
//! ```text
//! before ─▶ calls, one after the other ─▶ proof ─▶ after (whatever came of it)
//!            └─ a backup asks before it publishes ─▶ grant
//! ```
//!
//! What deletes asks for the grant before it starts: it may not be stopped in the middle by somebody who has the job now.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use mover_control::job::order::Command;
use mover_control::job::{Job, JobKind, JobState, Outcome, Progress};
use mover_control::lease::report::{Advice, Ending, Held};
use mover_control::protocol::{AdvanceRequest, GrantRequest, path};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::child::{self, Control};
use super::commands;
use super::connection::{Connection, Patience, Refusal, TIMEOUT};
use super::ending::{Tale, judge};
use super::invocation::{Host, Invocation};
use super::settings::AgentSettings;
use super::state::StateDirectory;

/// How long news may take that nobody waits for.
const NEWS_TIMEOUT: Duration = Duration::from_secs(5);

/// How a job ends early: so, or by being lost.
type End = Option<Ending>;

/// What jobs share.
pub struct Ground {
    /// `agent.toml`.
    pub settings: AgentSettings,
    /// Where files are.
    pub state: StateDirectory,
    /// The server.
    pub connection: Connection,
}

/// A job in work.
pub struct Work {
    ground: Rc<Ground>,
    slots: u32,
    job: Job,
    held: Held,
    control: watch::Receiver<Control>,
    seen: Control,
    tale: Tale,
    /// What heartbeats tell.
    shown: Rc<RefCell<Progress>>,
}

impl Work {
    /// A job that was leased under `held`.
    pub fn new(
        ground: Rc<Ground>,
        slots: u32,
        job: Job,
        control: watch::Receiver<Control>,
        shown: Rc<RefCell<Progress>>,
    ) -> Work {
        let held = Held { job: job.id.clone(), fence: job.fence };
        let mut tale = Tale::default();
        tale.progress.filesets = u32::try_from(job.order.filesets.len()).unwrap_or(u32::MAX);
        Work { ground, slots, job, held, control, seen: Control::GoOn, tale, shown }
    }

    /// Runs it; nothing if it was lost.
    pub async fn run(mut self) -> Option<(Ending, Outcome)> {
        let end = match self.before().await {
            Ok(()) => self.calls().await,
            Err(end) => Err(end),
        };
        let ending = end.map_or_else(|end| end, |()| Some(Ending::Completed));
        let ending = self.after(ending).await?;
        let outcome = self.tale.outcome(&ending);
        Some((ending, outcome))
    }

    fn host(&self) -> Host<'_> {
        Host { settings: &self.ground.settings, slots: self.slots }
    }

    /// Fails for good: the same would fail again.
    fn hopeless(&mut self, why: String) -> End {
        self.tale.explain(why);
        Some(Ending::Failed { retry: false })
    }

    async fn before(&mut self) -> Result<(), End> {
        for command in self.job.order.before.clone() {
            let variables = self.variables("before", "");
            let ran = commands::run(&command, &variables, &mut self.control).await;
            self.seen = self.control.borrow_and_update().clone();
            match &self.seen {
                Control::Lost(_) => return Err(None),
                Control::Stop(why) => {
                    self.tale.explain(why.clone());
                    return Err(Some(Ending::Cancelled));
                }
                Control::GiveBack => return Err(Some(Ending::GivenBack)),
                Control::GoOn => {}
            }
            if self.failed("before", &command, ran) {
                return Err(Some(Ending::Failed { retry: true }));
            }
        }
        Ok(())
    }

    /// Runs what comes after, also for a job that is lost: what was frozen must be thawed.
    async fn after(&mut self, ending: End) -> End {
        let mut ending = ending;
        let (_never, mut nobody) = watch::channel(Control::GoOn);
        let state = match &ending {
            Some(Ending::Completed) => "completed",
            Some(Ending::Cancelled) => "cancelled",
            Some(Ending::Failed { .. } | Ending::Aborted) => "failed",
            Some(Ending::GivenBack) | None => "given back",
        };
        for command in self.job.order.after.clone() {
            let variables = self.variables("after", state);
            let ran = commands::run(&command, &variables, &mut nobody).await;
            // The recovery point exists by now: to run it all again would help nobody.
            if self.failed("after", &command, ran) && ending == Some(Ending::Completed) {
                ending = Some(Ending::Failed { retry: false });
            }
        }
        ending
    }

    fn variables(&self, when: &str, state: &str) -> [(&'static str, String); 4] {
        [
            ("MOVER_JOB", self.job.id.to_string()),
            ("MOVER_SET", self.job.set.clone()),
            ("MOVER_WHEN", when.to_owned()),
            ("MOVER_STATE", state.to_owned()),
        ]
    }

    /// Whether the job fails with this command; else a failure is an exception.
    fn failed(&mut self, when: &str, command: &Command, ran: Result<(), String>) -> bool {
        let Err(why) = ran else { return false };
        if command.required {
            self.tale.explain(format!("command {when}: {why}"));
        } else {
            self.tale.except(Some(format!("command {when}")), Some(why));
        }
        command.required
    }

    async fn calls(&mut self) -> Result<(), End> {
        let calls = match self.host().calls(&self.job) {
            Ok(calls) => calls,
            Err(why) => return Err(self.hopeless(why)),
        };
        if matches!(self.job.kind, JobKind::Prune | JobKind::Retention)
            && let Err(why) = self.grant().await
        {
            return Err(self.without_grant(why));
        }
        let state = if self.job.kind == JobKind::Verify { JobState::Verifying } else { JobState::Running };
        self.tale.progress.fileset = self.tale.progress.filesets.min(1);
        self.advance(state).await?;
        for (number, call) in calls.iter().enumerate() {
            self.child(number, call).await?;
        }
        if self.job.kind == JobKind::Backup && self.job.order.verify_percent > 0 {
            return self.prove().await;
        }
        Ok(())
    }

    /// Reads and compares a share of what is stored. The recovery point exists: what is wrong is an exception.
    async fn prove(&mut self) -> Result<(), End> {
        let call = self.host().proof(&self.job);
        let Ok(call) = call else { return Ok(()) };
        self.advance(JobState::Verifying).await?;
        match self.child(usize::MAX, &call).await {
            Ok(()) => Ok(()),
            Err(None) => Err(None),
            Err(Some(ending)) => {
                self.tale.except(None, Some(format!("what is stored was not proven: {ending:?}")));
                Ok(())
            }
        }
    }

    fn without_grant(&mut self, why: String) -> End {
        match &self.seen {
            Control::Lost(_) => None,
            Control::Stop(why) => {
                self.tale.explain(why.clone());
                Some(Ending::Cancelled)
            }
            Control::GiveBack => Some(Ending::GivenBack),
            Control::GoOn => {
                self.tale.explain(why);
                Some(Ending::Failed { retry: true })
            }
        }
    }

    /// Tells the server of another state; if it is away, heartbeats tell the rest.
    async fn advance(&mut self, state: JobState) -> Result<(), End> {
        self.show();
        let progress = self.tale.progress.clone();
        let request = AdvanceRequest { held: self.held.clone(), state, progress };
        let advice = self.ground.connection.post::<Advice>(path::ADVANCE, &request, NEWS_TIMEOUT).await;
        match advice {
            Err(Refusal::Lost(_)) | Ok(Advice::Lost { .. }) => Err(None),
            Ok(Advice::Stop { why }) => {
                self.tale.explain(why);
                Err(Some(Ending::Cancelled))
            }
            Ok(Advice::Continue) | Err(_) => Ok(()),
        }
    }

    fn show(&self) {
        self.shown.borrow_mut().clone_from(&self.tale.progress);
    }

    /// Runs one child to its end.
    async fn child(&mut self, number: usize, call: &Invocation) -> Result<(), End> {
        let name = format!("{}-{}-{number}", self.held.job, self.held.fence);
        let mut running = match child::start(&self.ground.state, &name, call) {
            Ok(running) => running,
            Err(why) => {
                self.tale.explain(why);
                return Err(Some(Ending::Failed { retry: true }));
            }
        };
        let mut deadline = None;
        loop {
            tokio::select! {
                line = running.lines.recv() => match line {
                    None => break,
                    Some(line) if line["type"] == "commit" => {
                        let answer = self.grant().await;
                        running.answer(&answer);
                    }
                    Some(line) => self.hear(&line).await,
                },
                () = child::obey(&mut self.control, &mut self.seen, &mut deadline) => match self.seen {
                    Control::GoOn => {}
                    Control::Stop(_) | Control::GiveBack => running.stop(),
                    Control::Lost(_) => running.kill(),
                },
            }
        }
        let ended = running.wait(&self.ground.state).await;
        judge(&ended, &self.seen, &mut self.tale)
    }

    async fn hear(&mut self, line: &Value) {
        let before = self.tale.progress.fileset;
        self.tale.hear(self.job.kind, &self.job.order, line);
        self.show();
        if self.tale.progress.fileset != before {
            // The history of a job names its filesets; the child does not wait for that.
            let _ = self.advance(JobState::Running).await;
        }
    }

    /// Asks until the server answers: may this job publish? Also while nobody answers a stop is obeyed.
    async fn grant(&mut self) -> Result<(), String> {
        let until = Instant::now() + self.ground.settings.grant_patience();
        let (mut patience, mut deadline) = (Patience::default(), None);
        let ground = Rc::clone(&self.ground);
        let request = GrantRequest { held: self.held.clone() };
        loop {
            match &self.seen {
                Control::GoOn => {}
                Control::Stop(why) | Control::Lost(why) => return Err(why.clone()),
                Control::GiveBack => return Err("the agent stops".to_owned()),
            }
            let asked = async {
                let asked = ground.connection.post::<()>(path::GRANT, &request, TIMEOUT).await;
                if matches!(asked, Err(Refusal::Away(_))) {
                    tokio::time::sleep(patience.pause()).await;
                }
                asked
            };
            let asked = tokio::select! {
                asked = asked => asked,
                () = child::obey(&mut self.control, &mut self.seen, &mut deadline) => continue,
            };
            match asked {
                Ok(()) => return Ok(()),
                Err(Refusal::Away(why)) if Instant::now() > until => {
                    return Err(format!("nobody could permit it for too long: {why}"));
                }
                Err(Refusal::Away(_)) => {}
                Err(Refusal::Lost(why) | Refusal::Agent(why)) => {
                    self.seen = Control::Lost(why.clone());
                    return Err(why);
                }
                Err(Refusal::No(why)) => {
                    self.seen = Control::Stop(why.clone());
                    return Err(why);
                }
            }
        }
    }
}

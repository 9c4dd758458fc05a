//! One job from its lease to its result.
//!
//! ```text
//! before ─▶ calls, one after the other ─▶ proof ─▶ after (whatever came of it)
//!            └─ a backup asks before it publishes ─▶ grant
//! ```
//!
//! What deletes asks for the grant before it starts: it may not be stopped in the middle by somebody who has the job now.
//! A restore asks whether it still has the job before it writes, for one whose agent was cut off may run elsewhere by then;
//! not for the grant, for what has it cannot be cancelled any more.
//!
//! What comes after runs for every job that began, also after its agent was killed: then at the next start of the agent.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use mover_control::job::order::Command;
use mover_control::job::{Job, JobKind, JobState, Outcome, Progress};
use mover_control::lease::report::{Advice, Ending, Held};
use mover_control::protocol::{AdvanceRequest, GrantRequest, path};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::child::{self, Control, Told};
use super::commands;
use super::connection::{Connection, Patience, Refusal, TIMEOUT};
use super::ending::{Tale, judge};
use super::invocation::{Host, Invocation};
use super::settings::AgentSettings;
use super::spool::{Orphan, Spool};

/// How long news may take that nobody waits for.
const NEWS_TIMEOUT: Duration = Duration::from_secs(5);

/// How a job ends early: so, or by being lost.
type End = Option<Ending>;

/// What jobs share.
pub struct Ground {
    /// `agent.toml`.
    pub settings: AgentSettings,
    /// What must not be forgotten.
    pub spool: Spool,
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
    /// When whatever runs is killed, once the job is to stop: one for all that it still does.
    deadline: Option<Instant>,
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
        Work { ground, slots, job, held, control, seen: Control::GoOn, deadline: None, tale, shown }
    }

    /// Runs it; nothing if it was lost.
    pub async fn run(mut self) -> Option<(Ending, Outcome)> {
        // Where nothing has begun, nothing is to be undone.
        let begun = self.unasked().and_then(|()| self.all_permitted());
        let ending = match begun {
            Err(end) => end?,
            Ok(()) => {
                let end = match self.before().await {
                    Ok(()) => self.calls().await,
                    Err(end) => Err(end),
                };
                let ending = end.map_or_else(|end| end, |()| Some(Ending::Completed));
                self.after(ending).await?
            }
        };
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

    /// Whether nobody has asked it to end: looked at before anything new begins, for nobody listens between two of them.
    fn unasked(&mut self) -> Result<(), End> {
        child::see(&mut self.control, &mut self.seen, &mut self.deadline);
        match &self.seen {
            Control::GoOn => Ok(()),
            Control::Lost(_) => Err(None),
            Control::GiveBack => Err(Some(Ending::GivenBack)),
            Control::Stop(why) => {
                self.tale.explain(why.clone());
                Err(Some(Ending::Cancelled))
            }
        }
    }

    fn permitted(&self, command: &Command) -> Result<PathBuf, String> {
        commands::permitted(&self.ground.settings.commands, command)
    }

    /// A job that cannot run what it must run does not begin.
    fn all_permitted(&mut self) -> Result<(), End> {
        let order = &self.job.order;
        let required = order.before.iter().chain(&order.after).filter(|command| command.required);
        let refused = required.filter_map(|command| self.permitted(command).err()).next();
        refused.map_or(Ok(()), |why| Err(self.hopeless(why)))
    }

    async fn before(&mut self) -> Result<(), End> {
        for command in self.job.order.before.clone() {
            let variables = variables(&self.held, &self.job.set, "before", "");
            let ran = match self.permitted(&command) {
                Ok(program) => commands::run(&program, &command, &variables, &mut self.control).await,
                Err(why) => Err(why),
            };
            self.unasked()?;
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
            let variables = variables(&self.held, &self.job.set, "after", state);
            let ran = match self.permitted(&command) {
                Ok(program) => commands::run(&program, &command, &variables, &mut nobody).await,
                Err(why) => Err(why),
            };
            // A recovery point that exists is told, whatever came after it.
            let has_point = self.tale.has_point() && ending == Some(Ending::Completed);
            let command = Command { required: command.required && !has_point, ..command };
            if self.failed("after", &command, ran) && ending == Some(Ending::Completed) {
                ending = Some(Ending::Failed { retry: false });
            }
        }
        ending
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
        let permitted = match self.job.kind {
            JobKind::Prune | JobKind::Retention => self.grant().await,
            JobKind::Restore => self.confirm().await,
            JobKind::Backup | JobKind::Verify => Ok(()),
        };
        if let Err(why) = permitted {
            self.unasked()?;
            self.tale.explain(why);
            return Err(Some(Ending::Failed { retry: true }));
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
        let proven = match self.advance(JobState::Verifying).await {
            Ok(()) => self.child(usize::MAX, &call).await,
            Err(end) => Err(end),
        };
        match proven {
            Ok(()) => Ok(()),
            // Whoever has the job next finds the recovery point, and proves it.
            Err(end @ (None | Some(Ending::GivenBack))) => Err(end),
            Err(Some(ending)) => {
                self.tale.except(None, Some(format!("what is stored was not proven: {ending:?}")));
                Ok(())
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
            Err(Refusal::Lost(why)) | Ok(Advice::Lost { why }) => {
                tracing::warn!(job = %self.held.job, why, "it may not go on");
                Err(None)
            }
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
        self.unasked()?;
        let name = format!("{}-{}-{number}", self.held.job, self.held.fence);
        let mut running = match child::start(self.ground.spool.state(), &name, call) {
            Ok(running) => running,
            // The disk of this host is full: another one may have room.
            Err(why) if !self.ground.spool.probe() => {
                tracing::error!(job = %self.held.job, why, "given back: its child cannot be started");
                return Err(Some(Ending::GivenBack));
            }
            Err(why) => {
                self.tale.explain(why);
                return Err(Some(Ending::Failed { retry: true }));
            }
        };
        loop {
            tokio::select! {
                line = running.lines.recv() => match line {
                    None => break,
                    Some(line) if line["type"] == "commit" => {
                        let answer = self.grant().await;
                        running.answer(&answer);
                        self.tell(&running);
                    }
                    Some(line) => self.hear(&line).await,
                },
                told = child::obey(&mut self.control, &mut self.seen, &mut self.deadline) => match told {
                    Told::News => self.tell(&running),
                    Told::Overdue => running.kill(),
                },
            }
        }
        let ended = running.wait().await;
        judge(&ended, &self.seen, &mut self.tale)
    }

    fn tell(&self, running: &child::Running) {
        match self.seen {
            Control::GoOn => {}
            Control::Stop(_) | Control::GiveBack => running.stop(),
            Control::Lost(_) => running.kill(),
        }
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

    /// May this job publish?
    async fn grant(&mut self) -> Result<(), String> {
        self.insist(path::GRANT, &GrantRequest { held: self.held.clone() }).await
    }

    /// Is this job still here?
    async fn confirm(&mut self) -> Result<(), String> {
        let (state, progress) = (JobState::Running, self.tale.progress.clone());
        let advice = self.insist(path::ADVANCE, &AdvanceRequest { held: self.held.clone(), state, progress }).await?;
        let (control, why) = match advice {
            Advice::Continue => return Ok(()),
            Advice::Stop { why } => (Control::Stop(why.clone()), why),
            Advice::Lost { why } => (Control::Lost(why.clone()), why),
        };
        self.seen = control;
        Err(why)
    }

    /// Asks until the server answers. Also while nobody answers a stop is obeyed.
    async fn insist<T: DeserializeOwned>(&mut self, path: &str, request: &impl Serialize) -> Result<T, String> {
        let until = Instant::now() + self.ground.settings.grant_patience();
        let mut patience = Patience::default();
        let ground = Rc::clone(&self.ground);
        loop {
            match &self.seen {
                Control::GoOn => {}
                Control::Stop(why) | Control::Lost(why) => return Err(why.clone()),
                Control::GiveBack => return Err("the agent stops".to_owned()),
            }
            let asked = async {
                let asked = ground.connection.post::<T>(path, request, TIMEOUT).await;
                if !matches!(asked, Ok(_) | Err(Refusal::Lost(_) | Refusal::Revoked(_) | Refusal::Conflict(_))) {
                    tokio::time::sleep(patience.pause()).await;
                }
                asked
            };
            let asked = tokio::select! {
                asked = asked => asked,
                _ = child::obey(&mut self.control, &mut self.seen, &mut self.deadline) => continue,
            };
            match asked {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Lost(why) | Refusal::Revoked(why)) => {
                    tracing::warn!(job = %self.held.job, why, "it may not go on");
                    self.seen = Control::Lost(why.clone());
                    return Err(why);
                }
                Err(Refusal::Conflict(why)) => {
                    self.seen = Control::Stop(why.clone());
                    return Err(why);
                }
                // Whatever else is said, says nothing of this job: what was stored is worth to wait.
                Err(refusal) if Instant::now() > until => {
                    return Err(format!("nobody could permit it for too long: {refusal}"));
                }
                Err(refusal) => tracing::warn!(job = %self.held.job, %refusal, "it waits for the permission"),
            }
        }
    }
}

fn variables(held: &Held, set: &str, when: &str, state: &str) -> [(&'static str, String); 4] {
    [
        ("MOVER_JOB", held.job.to_string()),
        ("MOVER_SET", set.to_owned()),
        ("MOVER_WHEN", when.to_owned()),
        ("MOVER_STATE", state.to_owned()),
    ]
}

/// Runs what comes after a job whose agent was killed before that, and strikes the job out.
pub async fn make_up(ground: &Ground, orphan: Orphan) {
    let (_never, mut nobody) = watch::channel(Control::GoOn);
    for command in &orphan.after {
        let variables = variables(&orphan.held, &orphan.set, "after", "given back");
        let ran = match commands::permitted(&ground.settings.commands, command) {
            Ok(program) => commands::run(&program, command, &variables, &mut nobody).await,
            Err(why) => Err(why),
        };
        match ran {
            Ok(()) => tracing::info!(job = %orphan.held.job, "a command after it was made up for"),
            Err(why) => tracing::error!(job = %orphan.held.job, why, "a command after it failed"),
        }
    }
    ground.spool.forget(&orphan.held);
}

//! What an agent says of its jobs: that it lives, how far it is, may it commit, how it ended.
//!
//! Each call names the agent, the job and the fence, and is checked against the row in its own transaction.

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, Transaction, json};
use crate::error::{ControlError, Refusal, Result};
use crate::ids::{AgentId, JobId, UnixMillis};
use crate::job::{Job, JobKind, JobState, Outcome, Phase, Progress, events, store, waiting};

/// A job in the hands of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The job.
    pub job: JobId,
    /// The fence of the lease.
    pub fence: i64,
}

/// What an agent is told about a job that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Go on.
    Continue,
    /// Stop, keep what is durable, and finish as cancelled.
    Stop {
        /// Who asked for it.
        why: String,
    },
    /// It is somebody else's now, or has ended: stop and write nothing.
    Lost {
        /// Why.
        why: String,
    },
}

/// How a job ended, as its agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// The work is done; with exceptions if there were any.
    Completed,
    /// The work is not done.
    Failed {
        /// Whether the same may succeed later.
        retry: bool,
    },
    /// As asked.
    Cancelled,
    /// Must not go on (S-046), or its host restarted (S-010).
    Aborted,
    /// Given back unhurt: the agent stops or drains.
    GivenBack,
}

/// What came of [`finish`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The job as it is now.
    pub job: Job,
    /// Whether this had been said before, so nothing was changed.
    pub repeated: bool,
}

/// The job, if this agent may write to it with this fence; a job that lapsed and was not leased since is its own still.
async fn owned(tx: &mut Transaction, agent: &AgentId, held: &Held) -> Result<Job> {
    let job = store::locked(tx, &held.job).await?.ok_or_else(|| ControlError::not_found("job", &held.job))?;
    if job.fence != held.fence || job.agent.as_ref() != Some(agent) {
        return Err(ControlError::StaleFence { job: job.id, given: held.fence, current: job.fence });
    }
    let row = tx.optional("SELECT revoked FROM agents WHERE id = $1", arguments![agent]).await?;
    if row.is_none_or(|row| row.number("revoked").is_ok_and(|revoked| revoked != 0)) {
        let reason = "its certificate was revoked".to_owned();
        return Err(ControlError::AgentRefused { agent: agent.clone(), refusal: Refusal::Revoked, reason });
    }
    Ok(job)
}

fn refuse_ended(job: &Job) -> Result<()> {
    if job.state.phase() == Phase::Ended {
        return Err(ControlError::Ended { job: job.id.clone(), state: job.state });
    }
    Ok(())
}

/// Heartbeat of an agent for all jobs that it holds, with how far each is.
///
/// # Errors
/// The database fails. What is wrong with one job is the advice for it.
pub async fn beat(
    database: &Database,
    agent: &AgentId,
    jobs: &[(Held, Option<Progress>)],
    now: UnixMillis,
) -> Result<Vec<Advice>> {
    database
        .change(async |tx| {
            let mut advice = Vec::with_capacity(jobs.len());
            for (held, progress) in jobs {
                advice.push(match beat_one(tx, agent, held, progress.as_ref(), now).await {
                    Ok(advice) => advice,
                    Err(error @ (ControlError::Database { .. } | ControlError::Damaged { .. })) => return Err(error),
                    Err(error) => Advice::Lost { why: error.to_string() },
                });
            }
            Ok(advice)
        })
        .await
}

async fn beat_one(
    tx: &mut Transaction,
    agent: &AgentId,
    held: &Held,
    progress: Option<&Progress>,
    now: UnixMillis,
) -> Result<Advice> {
    let job = owned(tx, agent, held).await?;
    refuse_ended(&job)?;
    let job = taken_up_again(tx, job, now).await?;
    let progress = progress.unwrap_or(&job.progress);
    let sql = "UPDATE jobs SET beats = beats + 1, progress = $1 WHERE id = $2 AND fence = $3 AND phase = 1";
    tx.execute(sql, arguments![json(progress), &job.id, job.fence]).await?;
    Ok(match job.stop {
        Some(why) => Advice::Stop { why },
        None => Advice::Continue,
    })
}

/// A job that lapsed is active again under its old lease.
async fn taken_up_again(tx: &mut Transaction, job: Job, now: UnixMillis) -> Result<Job> {
    if job.state.phase() == Phase::Active {
        return Ok(job);
    }
    let mut next = job.clone();
    next.waits_on = None;
    // The lease goes on: it was no lapse.
    next.lapses = (next.lapses - 1).max(0);
    next.message = Some("its agent was heard again before anybody else had taken it".to_owned());
    store::move_to(tx, &job, next, JobState::Running, now).await
}

/// A job enters another state or another fileset.
///
/// # Errors
/// The fence is stale, the job has ended, the move is not legal, or the database fails.
pub async fn advance(
    database: &Database,
    agent: &AgentId,
    held: &Held,
    to: JobState,
    progress: &Progress,
    now: UnixMillis,
) -> Result<Job> {
    if to.phase() != Phase::Active {
        return Err(ControlError::Invalid(format!("a job is not brought to {to} this way; finish it")));
    }
    database
        .change(async |tx| {
            let job = owned(tx, agent, held).await?;
            refuse_ended(&job)?;
            let mut job = taken_up_again(tx, job, now).await?;
            let before = job.progress.clone();
            if job.state != to {
                let mut next = job.clone();
                next.progress = progress.clone();
                return store::move_to(tx, &job, next, to, now).await;
            }
            job.progress = progress.clone();
            let sql = "UPDATE jobs SET beats = beats + 1, progress = $1 WHERE id = $2 AND fence = $3 AND phase = 1";
            tx.execute(sql, arguments![json(progress), &job.id, job.fence]).await?;
            if before.fileset != progress.fileset {
                let message = format!("fileset {} of {}", progress.fileset, progress.filesets);
                events::record(tx, now, &job, "fileset", Some(&message)).await?;
            }
            Ok(job)
        })
        .await
}

/// May the agent publish its recovery point? From now on the job is given to nobody else before [`super::GRANT`].
///
/// # Errors
/// The fence is stale, the job has ended or is to be stopped, or the database fails.
pub async fn grant(database: &Database, agent: &AgentId, held: &Held, now: UnixMillis) -> Result<()> {
    database
        .change(async |tx| {
            let job = owned(tx, agent, held).await?;
            refuse_ended(&job)?;
            if let Some(why) = &job.stop {
                return Err(ControlError::Conflict(format!("job {} is to be stopped: {why}", job.id)));
            }
            let mut job = taken_up_again(tx, job, now).await?;
            let sql = "UPDATE jobs SET granted = 1, beats = beats + 1 WHERE id = $1 AND fence = $2 AND phase = 1";
            tx.execute(sql, arguments![&job.id, job.fence]).await?;
            if !job.granted {
                job.granted = true;
                events::record(tx, now, &job, "grant", Some("it may publish its recovery point")).await?;
            }
            Ok(())
        })
        .await
}

/// A job ended, or is given back. The same again changes nothing, however late it comes.
///
/// # Errors
/// The fence is stale, the job has ended otherwise, or the database fails.
pub async fn finish(
    database: &Database,
    agent: &AgentId,
    held: &Held,
    ending: &Ending,
    outcome: Outcome,
    now: UnixMillis,
) -> Result<Finished> {
    let outcome = outcome.bounded();
    database.change(async |tx| finish_one(tx, agent, held, ending, &outcome, now).await).await
}

async fn finish_one(
    tx: &mut Transaction,
    agent: &AgentId,
    held: &Held,
    ending: &Ending,
    outcome: &Outcome,
    now: UnixMillis,
) -> Result<Finished> {
    let job = store::locked(tx, &held.job).await?.ok_or_else(|| ControlError::not_found("job", &held.job))?;
    // Given back before: the row names no agent any more, and nobody has leased it since.
    let is_back = job.fence == held.fence && job.agent.is_none() && job.state.phase() == Phase::Waiting;
    if is_back && returns(ending, outcome, &job) {
        return Ok(Finished { job, repeated: true });
    }
    let job = owned(tx, agent, held).await?;
    let to = target(ending, outcome, &job);
    if job.state.phase() == Phase::Ended {
        let is_same = job.state == to && job.outcome.as_ref() == Some(outcome);
        return if is_same {
            Ok(Finished { job, repeated: true })
        } else {
            Err(refuse_ended(&job).expect_err("ended"))
        };
    }
    // From the queue to an end that the table has for active jobs only: by way of being taken up again.
    let job = if job.state == JobState::Queued && !crate::job::state::is_legal(job.state, to) {
        taken_up_again(tx, job, now).await?
    } else {
        job
    };
    let mut next = job.clone();
    next.granted = false;
    next.message = outcome.message.clone();
    next.progress = outcome.progress.clone();
    next.outcome = Some(outcome.clone());
    next.waits_on = None;
    if to == JobState::Queued {
        next.agent = None;
        next.outcome = None;
        if matches!(ending, Ending::Failed { .. }) {
            next.not_before = now.plus(job.order.retry_pause());
            next.waits_on = Some(waiting::TIME.to_owned());
        } else {
            // Nothing was wrong with it: this lease does not count.
            next.attempt -= 1;
        }
    }
    if to.is_success() {
        next.recovery_point = outcome.recovery_point.clone();
    }
    let job = store::move_to(tx, &job, next, to, now).await?;
    Ok(Finished { job, repeated: false })
}

/// Whether this ending brings a job back to the queue.
fn returns(ending: &Ending, outcome: &Outcome, job: &Job) -> bool {
    match ending {
        Ending::GivenBack => true,
        Ending::Failed { .. } if has_point(outcome, job) => false,
        // A lease that lapsed tried nothing to its end.
        Ending::Failed { retry } => {
            *retry && job.attempt - job.lapses < i64::from(job.order.attempts) && job.stop.is_none()
        }
        _ => false,
    }
}

/// A backup that made its recovery point is done (S-009), whatever failed after it: a command, most likely.
fn has_point(outcome: &Outcome, job: &Job) -> bool {
    job.kind == JobKind::Backup && outcome.recovery_point.is_some()
}

/// The state that an ending means for this job.
fn target(ending: &Ending, outcome: &Outcome, job: &Job) -> JobState {
    if returns(ending, outcome, job) {
        return if job.stop.is_some() { JobState::Cancelled } else { JobState::Queued };
    }
    match ending {
        Ending::Completed if outcome.exceptions_total > 0 => JobState::CompletedWithErrors,
        Ending::Completed => JobState::Completed,
        Ending::Failed { .. } if has_point(outcome, job) => JobState::CompletedWithErrors,
        Ending::Failed { .. } => JobState::Failed,
        Ending::Cancelled => JobState::Cancelled,
        Ending::Aborted => JobState::Aborted,
        Ending::GivenBack => unreachable!("it returns"),
    }
}

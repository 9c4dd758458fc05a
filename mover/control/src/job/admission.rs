//! How a job enters: checked, judged by the table *Agent away*, given its lane and its rank.
//!
//! All in one decision, so that two servers never admit one run of a policy twice and an agent that connects in the
//! same moment is seen either before or after.

use std::time::Duration;

use crate::agents::store::{Presence, locate, presence};
use crate::arguments;
use crate::database::{Database, Transaction};
use crate::error::{ControlError, Result};
use crate::ids::UnixMillis;
use crate::placement::away::{Admission, AwayAction, AwayTable, admit};
use crate::placement::lane;

use super::{Job, JobKind, JobState, NewJob, Origin, Place, Progress, order, ranks, store, waiting};

/// How long a job may wait when neither who asks nor the table *Agent away* says otherwise.
pub const WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Text of a name at most.
const NAME_CHARACTERS: usize = 1024;
/// A job's document at most.
const ORDER_BYTES: usize = 1 << 20;

/// Lets a job in: it is queued, skipped, or has failed already, as the table *Agent away* says.
///
/// The same id again changes nothing and returns the job as it is.
///
/// # Errors
/// The request makes no sense, its agent is unknown, or the database fails.
pub async fn submit(database: &Database, new: NewJob, table: &AwayTable, now: UnixMillis) -> Result<Job> {
    check(&new)?;
    database.decide(async |tx| admit_new(tx, &new, table, None, now).await).await
}

fn check(new: &NewJob) -> Result<()> {
    let names = [&new.set, &new.source, &new.repository, &new.requested_by];
    if names.iter().any(|name| name.is_empty() || name.chars().count() > NAME_CHARACTERS) {
        return Err(ControlError::Invalid(format!(
            "set, source, repository and who asks are each 1 to {NAME_CHARACTERS} characters"
        )));
    }
    if new.weight == 0 || new.weight > ranks::WEIGHT_MAX {
        return Err(ControlError::Invalid(format!("the weight is 1 to {}", ranks::WEIGHT_MAX)));
    }
    if new.source_limit == Some(0) || new.repository_limit == Some(0) {
        return Err(ControlError::Invalid("a limit of 0 jobs would let none run".to_owned()));
    }
    if new.order.attempts == 0 {
        return Err(ControlError::Invalid("0 attempts would let it never run".to_owned()));
    }
    if crate::database::json(&new.order).len() > ORDER_BYTES {
        return Err(ControlError::Invalid(format!("the order of a job is at most {ORDER_BYTES} bytes")));
    }
    if let (Some(begin), Some(end)) = (new.not_before, new.expires_at)
        && end <= begin
    {
        return Err(ControlError::Invalid("the window ends before it begins".to_owned()));
    }
    crate::policy::validate::order(&new.order)
}

/// Lane and pool of a job, whether its agent is there, and the lane of others if it has a preferred one.
struct Standing {
    lane: String,
    pool: String,
    presence: Presence,
    others: Option<String>,
}

async fn standing_of(tx: &mut Transaction, new: &NewJob, now: UnixMillis) -> Result<Standing> {
    match &new.place {
        Place::Host { agent } => {
            let known = match locate(tx, agent).await {
                // A calendar goes on although its host was removed: the job says that nobody is there.
                Err(ControlError::NotFound { .. }) if new.origin == Origin::Scheduled => "none".to_owned(),
                located => located?,
            };
            let lane = lane::host(agent);
            let presence = presence(tx, &lane, now).await?;
            Ok(Standing { lane, pool: known, presence, others: None })
        }
        Place::Pool { pool, reach, preferred } => {
            let shared = lane::pool(pool, reach.as_deref());
            let Some(preferred) = preferred else {
                let presence = presence(tx, &shared, now).await?;
                return Ok(Standing { lane: shared, pool: pool.clone(), presence, others: None });
            };
            let own = lane::host(preferred);
            let presence = presence(tx, &own, now).await?;
            Ok(Standing { lane: own, pool: pool.clone(), presence, others: Some(shared) })
        }
    }
}

pub(crate) async fn admit_new(
    tx: &mut Transaction,
    new: &NewJob,
    table: &AwayTable,
    overrides: Option<&AwayTable>,
    now: UnixMillis,
) -> Result<Job> {
    if let Some(known) = store::locked(tx, &new.id).await? {
        return Ok(known);
    }
    let standing = standing_of(tx, new, now).await?;
    let skips = match &new.policy {
        Some(policy) => tx.optional("SELECT skips FROM policies WHERE id = $1", arguments![policy]).await?,
        None => None,
    };
    let skips = skips.map(|row| row.number("skips")).transpose()?.unwrap_or(0);
    // The table is about backups; everything else waits until somebody is there (S-024, S-172).
    let action = match new.kind {
        JobKind::Backup => table.action(overrides, new.workload, new.origin),
        _ => AwayAction::Queue,
    };
    let admission = admit(action, standing.presence == Presence::There, new.wait, skips, standing.others.is_some());
    let waits = action == AwayAction::Queue;
    let mut job = fresh(new, &standing, waits, now);
    match admission {
        Admission::Queue => {}
        Admission::QueueForOthers => {
            if let Some(others) = job.lane_of_others.take() {
                job.lane = others;
                job.message = Some("its own agent is away: any other of the pool may take it".to_owned());
            }
        }
        Admission::Fail if standing.presence == Presence::Drained => {
            let why = "the agents that could do it are drained and take no new work";
            end(&mut job, JobState::Failed, why, now);
        }
        Admission::Fail => end(&mut job, JobState::Failed, "no agent that could do it is connected", now),
        Admission::Skip if standing.presence == Presence::Drained => {
            end(&mut job, JobState::Skipped, "its agent is drained; this run is left out", now);
        }
        Admission::Skip => end(&mut job, JobState::Skipped, "its agent is not connected; this run is left out", now),
    }
    if let Some(policy) = &new.policy
        && new.origin == Origin::Scheduled
        && new.kind == JobKind::Backup
    {
        let skips = if admission == Admission::Skip { skips + 1 } else { 0 };
        // Runs that others took do not forgive the skips: the next goes to others too, until its own agent is back.
        if admission != Admission::QueueForOthers {
            tx.execute("UPDATE policies SET skips = $1 WHERE id = $2", arguments![skips, policy]).await?;
        }
    }
    store_new(tx, job, now).await
}

/// Stores a job that is not there yet, with its rank if it is queued.
pub(crate) async fn store_new(tx: &mut Transaction, mut job: Job, now: UnixMillis) -> Result<Job> {
    if job.state == JobState::Queued {
        job.rank = ranks::assign(tx, &job.pool, job.priority, &job.share, job.weight).await?;
    }
    store::insert(tx, &job, now).await?;
    Ok(job)
}

/// A scheduled run that is left out for another reason than an agent that is away.
pub(crate) async fn skip(tx: &mut Transaction, new: &NewJob, why: &str, now: UnixMillis) -> Result<Job> {
    let standing = standing_of(tx, new, now).await?;
    let mut job = fresh(new, &standing, false, now);
    end(&mut job, JobState::Skipped, why, now);
    store_new(tx, job, now).await
}

fn end(job: &mut Job, state: JobState, why: &str, now: UnixMillis) {
    job.state = state;
    job.ended_at = Some(now);
    job.waits_on = None;
    job.message = Some(why.to_owned());
}

/// The job of a request; one that `waits` until somebody is there, and was not given an end, has none (S-065, S-151).
fn fresh(new: &NewJob, standing: &Standing, waits: bool, now: UnixMillis) -> Job {
    let not_before = new.not_before.unwrap_or(now);
    let is_endless = waits && new.origin == Origin::OnDemand;
    let day = (!is_endless).then(|| not_before.max(now).plus(WINDOW));
    let share = new.policy.as_ref().map_or_else(|| format!("by {}", new.requested_by), ToString::to_string);
    let order: order::JobOrder = new.order.clone();
    Job {
        id: new.id.clone(),
        kind: new.kind,
        workload: new.workload,
        origin: new.origin,
        policy: new.policy.clone(),
        set: new.set.clone(),
        source: new.source.clone(),
        repository: new.repository.clone(),
        pool: standing.pool.clone(),
        lane: standing.lane.clone(),
        lane_of_others: standing.others.clone(),
        preferred: match &new.place {
            Place::Pool { preferred, .. } => preferred.clone(),
            Place::Host { .. } => None,
        },
        priority: new.priority,
        share: new.share.clone().unwrap_or(share),
        weight: i64::from(new.weight),
        rank: 0,
        state: JobState::Queued,
        waits_on: (not_before > now).then(|| waiting::TIME.to_owned()),
        created_at: now,
        not_before,
        expires_at: new.expires_at.or(day),
        started_at: None,
        ended_at: None,
        attempt: 0,
        lapses: 0,
        fence: 0,
        agent: None,
        granted: false,
        stop: None,
        source_limit: new.source_limit.map(i64::from),
        repository_limit: new.repository_limit.map(i64::from),
        requested_by: new.requested_by.clone(),
        recovery_point: None,
        message: None,
        progress: Progress { filesets: order.filesets.len() as u32, ..Progress::default() },
        order,
        outcome: None,
    }
}

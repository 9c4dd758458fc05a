//! Rows of jobs: the only code that writes one.
//!
//! [`move_to`] checks the move against the table, writes the row only if state and fence are still those that were
//! read, and adds the event and the notifications in the same transaction.

use crate::arguments;
use crate::database::{Database, Record, Transaction, before, json, word};
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, JobId, PolicyId, UnixMillis};
use crate::service::notification;

use super::figures::Finished;
use super::{Job, JobKind, JobState, Phase, events, state, waiting};

fn from_record(row: &Record) -> Result<Job> {
    Ok(Job {
        id: row.text("id")?.into(),
        kind: row.word("kind")?,
        workload: row.word("workload")?,
        origin: row.word("origin")?,
        policy: row.maybe_text("policy")?.map(PolicyId::from),
        set: row.text("set_name")?,
        source: row.text("source")?,
        repository: row.text("repository")?,
        pool: row.text("pool")?,
        lane: row.text("lane")?,
        lane_of_others: row.maybe_text("lane_of_others")?,
        preferred: row.maybe_text("preferred")?.map(AgentId::from),
        priority: row.number("priority")?,
        share: row.text("share")?,
        weight: row.number("weight")?,
        rank: row.number("rank")?,
        state: row.word("state")?,
        waits_on: row.maybe_text("waits_on")?,
        created_at: row.time("created_at")?,
        not_before: row.time("not_before")?,
        expires_at: row.maybe_time("expires_at")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
        attempt: row.number("attempt")?,
        lapses: row.number("lapses")?,
        fence: row.number("fence")?,
        agent: row.maybe_text("agent")?.map(AgentId::from),
        granted: row.number("granted")? != 0,
        stop: row.maybe_text("stop")?,
        source_limit: row.maybe_number("source_limit")?,
        repository_limit: row.maybe_number("repository_limit")?,
        requested_by: row.text("requested_by")?,
        recovery_point: row.maybe_text("recovery_point")?,
        message: row.maybe_text("message")?,
        order: row.document("job_order")?,
        progress: row.document("progress")?,
        outcome: row.maybe_text("outcome")?.map(|_| row.document("outcome")).transpose()?,
    })
}

/// Rows as jobs.
pub(crate) fn from_records(rows: &[Record]) -> Result<Vec<Job>> {
    rows.iter().map(from_record).collect()
}

/// A job by its id.
///
/// # Errors
/// There is none, or the database fails.
pub async fn get(database: &Database, id: &JobId) -> Result<Job> {
    database
        .read(async |tx| {
            let row = tx.optional("SELECT * FROM jobs WHERE id = $1", arguments![id]).await?;
            from_record(&row.ok_or_else(|| ControlError::not_found("job", id))?)
        })
        .await
}

/// A job that nobody else changes until the transaction ends.
pub(crate) async fn locked(tx: &mut Transaction, id: &JobId) -> Result<Option<Job>> {
    let row = tx.locked("SELECT * FROM jobs WHERE id = $1", arguments![id]).await?;
    row.map(|row| from_record(&row)).transpose()
}

/// Which jobs a list shows; `None` is any.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// Of this policy.
    pub policy: Option<PolicyId>,
    /// Of this set.
    pub set: Option<String>,
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// Older than this one: the last of the page before.
    pub before: Option<JobId>,
}

/// Jobs, newest first, at most `limit`.
///
/// # Errors
/// The database fails.
pub async fn list(database: &Database, filter: &JobFilter, limit: u32) -> Result<Vec<Job>> {
    let (page, cursor) = before("id", 6, filter.before.as_ref().map(JobId::as_str));
    let sql = format!(
        "SELECT * FROM jobs WHERE ($1 IS NULL OR state = $1) AND ($2 IS NULL OR policy = $2)
         AND ($3 IS NULL OR set_name = $3) AND ($4 IS NULL OR agent = $4){page} ORDER BY id DESC LIMIT $5"
    );
    let asked = arguments![
        filter.state.as_ref().map(word),
        filter.policy.as_ref().map(PolicyId::as_str),
        filter.set.clone(),
        filter.agent.as_ref().map(AgentId::as_str),
        limit,
    ];
    let asked = [&asked[..], &cursor[..]].concat();
    database.read(async |tx| from_records(&tx.all(&sql, &asked).await?)).await
}

/// Jobs in the hands of agents, oldest first, at most `limit`.
///
/// # Errors
/// The database fails.
pub async fn active(database: &Database, limit: u32) -> Result<Vec<Job>> {
    let sql = "SELECT * FROM jobs WHERE phase = 1 ORDER BY id LIMIT $1";
    database.read(async |tx| from_records(&tx.all(sql, arguments![limit]).await?)).await
}

/// How many jobs wait, and since when the oldest of them that could begin.
///
/// # Errors
/// The database fails.
pub async fn queue_depth(database: &Database) -> Result<(i64, Option<UnixMillis>)> {
    let sql = "SELECT COUNT(*) AS n, MIN(CASE WHEN waits_on IS NULL THEN created_at END) AS oldest
               FROM jobs WHERE phase = 0";
    database
        .read(async |tx| {
            let row = tx.one(sql, &[]).await?;
            Ok((row.number("n")?, row.maybe_time("oldest")?))
        })
        .await
}

/// How many jobs are in each state.
///
/// # Errors
/// The database fails.
pub async fn counts(database: &Database) -> Result<Vec<(JobState, i64)>> {
    database
        .read(async |tx| {
            let rows = tx.all("SELECT state, COUNT(*) AS n FROM jobs GROUP BY state", &[]).await?;
            rows.iter().map(|row| Ok((row.word("state")?, row.number("n")?))).collect()
        })
        .await
}

/// Stores a new job in the state that it has; false if its id is there already.
pub(super) async fn insert(tx: &mut Transaction, job: &Job, now: UnixMillis) -> Result<bool> {
    let rows = tx
        .execute(
            "INSERT INTO jobs (id, kind, workload, origin, policy, set_name, source, repository, pool, lane, priority,
                share, rank, state, phase, waits_on, created_at, not_before, expires_at, ended_at, attempt, fence, beats,
                granted, source_limit, repository_limit, requested_by, message, job_order, progress,
                lane_of_others, preferred, weight)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, 0, 0, 0,
                0, $21, $22, $23, $24, $25, $26, $27, $28, $29)
             ON CONFLICT (id) DO NOTHING",
            arguments![
                &job.id,
                word(&job.kind),
                word(&job.workload),
                word(&job.origin),
                job.policy.as_ref().map(PolicyId::as_str),
                &job.set,
                &job.source,
                &job.repository,
                &job.pool,
                &job.lane,
                job.priority,
                &job.share,
                job.rank,
                word(&job.state),
                job.state.phase() as i64,
                job.waits_on.clone(),
                job.created_at,
                job.not_before,
                job.expires_at,
                job.ended_at,
                job.source_limit,
                job.repository_limit,
                &job.requested_by,
                job.message.clone(),
                json(&job.order),
                json(&job.progress),
                job.lane_of_others.clone(),
                job.preferred.as_ref().map(AgentId::as_str),
                job.weight,
            ],
        )
        .await?;
    if rows == 0 {
        return Ok(false);
    }
    announce(tx, job, now).await?;
    if job.state.phase() == Phase::Ended {
        tx.finishes(Finished::of(job));
    }
    Ok(true)
}

/// Moves `job` as it was read to `next`, whose other fields the caller has set, in the state `to`.
pub(crate) async fn move_to(
    tx: &mut Transaction,
    job: &Job,
    mut next: Job,
    to: JobState,
    now: UnixMillis,
) -> Result<Job> {
    if !state::is_legal(job.state, to) {
        return Err(ControlError::IllegalMove { job: job.id.clone(), from: job.state, to });
    }
    next.state = to;
    if to.phase() == Phase::Ended {
        next.ended_at = Some(now);
        next.waits_on = None;
    }
    let rows = tx
        .execute(
            "UPDATE jobs SET state = $1, phase = $2, waits_on = $3, not_before = $4, started_at = $5, ended_at = $6,
                attempt = $7, fence = $8, agent = $9, beats = beats + 1, granted = $10, stop = $11, recovery_point = $12,
                message = $13, progress = $14, outcome = $15, lane = $16, lane_of_others = $17, lapses = $18
             WHERE id = $19 AND fence = $20 AND state = $21",
            arguments![
                word(&to),
                to.phase() as i64,
                next.waits_on.clone(),
                next.not_before,
                next.started_at,
                next.ended_at,
                next.attempt,
                next.fence,
                next.agent.as_ref().map(AgentId::as_str),
                next.granted,
                next.stop.clone(),
                next.recovery_point.clone(),
                next.message.clone(),
                json(&next.progress),
                next.outcome.as_ref().map(json),
                &next.lane,
                next.lane_of_others.clone(),
                next.lapses,
                &job.id,
                job.fence,
                word(&job.state),
            ],
        )
        .await?;
    if rows != 1 {
        return Err(ControlError::Conflict(format!("job {} was changed by somebody else at the same time", job.id)));
    }
    announce(tx, &next, now).await?;
    if to.phase() != Phase::Active {
        tx.finishes(Finished::of(&next));
        waiting::wake(tx, &next).await?;
    }
    Ok(next)
}

/// What follows from a new state: its event, messages to people, and what its policy remembers.
async fn announce(tx: &mut Transaction, job: &Job, now: UnixMillis) -> Result<()> {
    events::record(tx, now, job, "state", job.message.as_deref()).await?;
    notification::enqueue(tx, job, now).await?;
    // What a policy promises is its backups: a retention that succeeds says nothing of them.
    let is_backup_over = job.kind == JobKind::Backup && job.state.phase() == Phase::Ended;
    let Some(policy) = job.policy.as_ref().filter(|_| is_backup_over) else { return Ok(()) };
    let success = job.state.is_success().then_some(now);
    tx.execute(
        "UPDATE policies SET last_job = $1, last_success = COALESCE($2, last_success) WHERE id = $3",
        arguments![&job.id, success, policy],
    )
    .await?;
    Ok(())
}

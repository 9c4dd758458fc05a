//! Leases whose agent is silent, jobs whose window has ended: what the sweep does, on every server, at most once each.
//!
//! Each act names what it saw (fence and beat count), so what another server did in the meantime makes it do nothing.

use std::collections::HashMap;
use std::time::Duration;

use crate::agents;
use crate::arguments;
use crate::database::{Database, Transaction};
use crate::error::Result;
use crate::ids::{AgentId, JobId, UnixMillis};
use crate::job::order::RestartPolicy;
use crate::job::{Job, JobState, Phase, events, store, waiting};

use super::report::Held;
use super::{GRANT, LAPSES_MAX, LEASE};

/// Windows closed in one transaction.
const EXPIRED_BATCH: u32 = 100;
/// A job that lapsed keeps its place in the queue for so long after its window: its agent may still deliver.
const LATE: Duration = Duration::from_secs(24 * 3600);

/// What this server saw of a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sight {
    fence: i64,
    beats: i64,
    granted: bool,
}

/// Leases as this server watches them, by its monotonic clock.
#[derive(Default)]
pub struct Watch {
    seen: HashMap<JobId, (Sight, Duration)>,
}

impl Watch {
    /// Looks at all leases, and lets those lapse that were silent for too long while this server watched.
    ///
    /// # Errors
    /// The database fails; the next look goes on.
    pub async fn sweep(&mut self, database: &Database, monotonic: Duration, now: UnixMillis) -> Result<u64> {
        let sql = "SELECT id, fence, beats, granted FROM jobs WHERE phase = 1";
        let rows = database.read(async |tx| tx.all(sql, &[]).await).await?;
        let mut seen = HashMap::with_capacity(rows.len());
        let mut lapsed = 0;
        for row in rows {
            let job = JobId::from(row.text("id")?);
            let granted = row.number("granted")? != 0;
            let sight = Sight { fence: row.number("fence")?, beats: row.number("beats")?, granted };
            let since = match self.seen.get(&job) {
                Some((before, since)) if *before == sight => *since,
                _ => monotonic,
            };
            let limit = if sight.granted { GRANT } else { LEASE };
            if monotonic.saturating_sub(since) >= limit {
                lapsed += u64::from(lapse_seen(database, &job, sight, now).await?);
            } else {
                seen.insert(job, (sight, since));
            }
        }
        self.seen = seen;
        Ok(lapsed)
    }
}

async fn lapse_seen(database: &Database, id: &JobId, sight: Sight, now: UnixMillis) -> Result<bool> {
    database
        .decide(async |tx| {
            let sql = "SELECT id FROM jobs WHERE id = $1 AND phase = 1 AND fence = $2 AND beats = $3";
            if tx.optional(sql, arguments![id, sight.fence, sight.beats]).await?.is_none() {
                return Ok(false);
            }
            let Some(job) = store::locked(tx, id).await? else { return Ok(false) };
            lapse(tx, &job, "its agent was not heard any more", now).await?;
            Ok(true)
        })
        .await
}

/// An active job loses its agent: back to the queue, or to its end.
async fn lapse(tx: &mut Transaction, job: &Job, why: &str, now: UnixMillis) -> Result<()> {
    let mut next = job.clone();
    next.granted = false;
    let lost = job.agent.as_ref().map_or("nobody", AgentId::as_str);
    next.message = Some(format!("agent {lost}: {why}"));
    let is_worn_out = job.attempt >= i64::from(job.order.attempts) + LAPSES_MAX;
    let to = if job.stop.is_some() {
        JobState::Cancelled
    } else if job.order.restart == RestartPolicy::Abort {
        JobState::Aborted
    } else if is_worn_out {
        next.message = Some(format!("it lost its agent {} times; the last was {lost}", job.attempt));
        JobState::Failed
    } else {
        JobState::Queued
    };
    // A host's own files wait for that host; what others reach goes to whoever of them is free.
    if to == JobState::Queued
        && let Some(others) = next.lane_of_others.take()
    {
        next.lane = others;
    }
    let next = store::move_to(tx, job, next, to, now).await?;
    events::record(tx, now, &next, "lapsed", next.message.as_deref()).await
}

/// An agent has begun anew and holds these jobs: whatever else it had is lost, and lapses now instead of later.
///
/// # Errors
/// The database fails.
pub async fn release_lost(database: &Database, agent: &AgentId, held: &[Held], now: UnixMillis) -> Result<u64> {
    database
        .decide(async |tx| {
            let rows = tx.all("SELECT * FROM jobs WHERE phase = 1 AND agent = $1", arguments![agent]).await?;
            let mut released = 0;
            for job in store::from_records(&rows)? {
                if !held.iter().any(|held| held.job == job.id && held.fence == job.fence) {
                    lapse(tx, &job, "it began anew and does not know this job", now).await?;
                    released += 1;
                }
            }
            Ok(released)
        })
        .await
}

/// Sets free what waited for a time, and closes the windows that have ended: how many jobs changed.
///
/// # Errors
/// The database fails; the next sweep goes on.
pub async fn sweep_queue(database: &Database, now: UnixMillis) -> Result<u64> {
    // Looks first: with nothing to do, nobody's writes wait.
    let due = database
        .read(async |tx| {
            let parked = "SELECT id FROM jobs WHERE phase = 0 AND waits_on IS NOT NULL AND not_before <= $1 LIMIT 1";
            let over = "SELECT id FROM jobs WHERE phase = 0 AND expires_at IS NOT NULL AND expires_at <= $1 LIMIT 1";
            let parked = tx.optional(parked, arguments![now]).await?;
            Ok(parked.is_some() || tx.optional(over, arguments![now]).await?.is_some())
        })
        .await?;
    if !due {
        return Ok(0);
    }
    database
        .decide(async |tx| {
            let freed = waiting::sweep(tx, now).await?;
            let rows = tx
                .all(
                    "SELECT * FROM jobs WHERE phase = 0 AND expires_at IS NOT NULL AND expires_at <= $1
                     AND (agent IS NULL OR expires_at <= $2) ORDER BY expires_at LIMIT $3",
                    arguments![now, now.minus(LATE), EXPIRED_BATCH],
                )
                .await?;
            let mut closed = 0;
            for job in store::from_records(&rows)? {
                close_window(tx, &job, now).await?;
                closed += 1;
            }
            Ok(freed + closed)
        })
        .await
}

/// A window has ended: failed where the agent was away (S-012, S-130) or attempts had been made, else expired.
async fn close_window(tx: &mut Transaction, job: &Job, now: UnixMillis) -> Result<()> {
    assert!(job.state.phase() == Phase::Waiting);
    let is_served = agents::store::is_served(tx, &job.lane, now).await?;
    let mut next = job.clone();
    let (to, why) = if job.attempt > 0 {
        let last = job.message.as_deref().unwrap_or("no cause was told");
        (JobState::Failed, format!("its window ended after {} attempts; the last: {last}", job.attempt))
    } else if !is_served {
        (JobState::Failed, "no agent that could do it was connected until its window ended".to_owned())
    } else {
        (JobState::Expired, "its window ended before it could begin".to_owned())
    };
    next.message = Some(why);
    store::move_to(tx, job, next, to, now).await?;
    Ok(())
}

//! Leases whose agent is silent, jobs whose window has ended: what the sweep does, on every server, at most once each.
//!
//! Each act names what it saw (fence and beat count), so what another server did in the meantime makes it do nothing.

use std::collections::HashMap;
use std::time::Duration;

use crate::agents::{self, Agent};
use crate::arguments;
use crate::database::{Database, Transaction};
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, JobId, UnixMillis};
use crate::job::order::RestartPolicy;
use crate::job::{Job, JobKind, JobState, Origin, Phase, events, store, waiting};
use crate::placement::away::{AwayAction, AwayTable};
use crate::placement::lane;
use crate::policy::store::{StoredPolicy, find};
use crate::protocol::HelloRequest;

use super::report::Held;
use super::{GRANT, LAPSES_MAX, LEASE, SWEEP};

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
pub struct Watch {
    /// Silence after which one lapses.
    lease: Duration,
    seen: HashMap<JobId, (Sight, Duration)>,
    /// The last look that the database answered.
    looked: Option<Duration>,
    /// Whose leases lapsed since somebody asked.
    silent: Vec<AgentId>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new(LEASE)
    }
}

/// A longer time between two looks is one in which nothing could be seen.
const BLIND: Duration = Duration::from_secs(3 * SWEEP.as_secs());

impl Watch {
    /// Has seen nothing yet; leases lapse after so long a silence.
    pub fn new(lease: Duration) -> Watch {
        Watch { lease, seen: HashMap::new(), looked: None, silent: Vec::new() }
    }

    /// The agents whose leases lapsed since this was asked last.
    pub fn take_silent(&mut self) -> Vec<AgentId> {
        std::mem::take(&mut self.silent)
    }

    /// Looks at all leases, and lets those lapse that were silent for too long while this server watched.
    ///
    /// # Errors
    /// The database fails; the next look goes on.
    pub async fn sweep(&mut self, database: &Database, monotonic: Duration, now: UnixMillis) -> Result<u64> {
        let sql = "SELECT id, fence, beats, granted FROM jobs WHERE phase = 1";
        let rows = database.read(async |tx| tx.all(sql, &[]).await).await?;
        let gap = self.looked.map_or(Duration::ZERO, |looked| monotonic.saturating_sub(looked));
        if gap > BLIND {
            // Who beat in that time could not be heard: it does not count as silence.
            self.seen.values_mut().for_each(|(_, since)| *since += gap);
        }
        self.looked = Some(monotonic);
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
            let limit = if sight.granted { GRANT } else { self.lease };
            if monotonic.saturating_sub(since) >= limit {
                if let Some(agent) = lapse_seen(database, &job, sight, now).await? {
                    lapsed += 1;
                    self.silent.push(agent);
                }
            } else {
                seen.insert(job, (sight, since));
            }
        }
        self.seen = seen;
        Ok(lapsed)
    }
}

/// Lets a lease lapse if nothing happened to it meanwhile: whose it was.
async fn lapse_seen(database: &Database, id: &JobId, sight: Sight, now: UnixMillis) -> Result<Option<AgentId>> {
    database
        .decide(async |tx| {
            let sql = "SELECT id FROM jobs WHERE id = $1 AND phase = 1 AND fence = $2 AND beats = $3";
            if tx.optional(sql, arguments![id, sight.fence, sight.beats]).await?.is_none() {
                return Ok(None);
            }
            let Some(job) = store::locked(tx, id).await? else { return Ok(None) };
            lapse(tx, &job, Loss::Silence, now).await?;
            Ok(job.agent)
        })
        .await
}

/// How a job lost its agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It is not heard: it may work on, and be heard again.
    Silence,
    /// Another process of it knows nothing of the job.
    NewProcess,
    /// The same, and its host was restarted in between.
    HostRestart,
}

impl Loss {
    fn words(self) -> &'static str {
        match self {
            Loss::Silence => "its agent was not heard any more",
            Loss::NewProcess => "it began anew and does not know this job",
            Loss::HostRestart => "its host was restarted",
        }
    }
}

/// An active job loses its agent: back to the queue, or to its end.
async fn lapse(tx: &mut Transaction, job: &Job, loss: Loss, now: UnixMillis) -> Result<()> {
    let mut next = job.clone();
    next.granted = false;
    next.lapses += 1;
    let lost = job.agent.as_ref().map_or("nobody", AgentId::as_str);
    next.message = Some(format!("agent {lost}: {}", loss.words()));
    // S-010 is about a restart in the middle of the work; a minute of silence is none, and nothing was begun before
    // the first fileset.
    let is_aborted =
        loss == Loss::HostRestart && job.order.restart == RestartPolicy::Abort && job.state != JobState::Estimating;
    let to = if job.stop.is_some() {
        JobState::Cancelled
    } else if is_aborted {
        JobState::Aborted
    } else if next.lapses >= LAPSES_MAX {
        next.message = Some(format!("it lost its agent {} times; the last was {lost}", next.lapses));
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

/// An agent has begun, and holds these jobs. Where its process is another one than before, whatever else it had is
/// lost, and lapses now instead of later; all in one transaction, so the same hello again finds the rest done.
///
/// # Errors
/// It is unknown, revoked, of a version that does not fit, or the database fails.
pub async fn greet(database: &Database, id: &AgentId, said: &HelloRequest, now: UnixMillis) -> Result<Agent> {
    agents::store::check(&said.description)?;
    database
        .decide(async |tx| {
            let before = agents::store::find(tx, id).await?;
            let boot_before = agents::store::boot(tx, id).await?;
            let agent = agents::store::hello(tx, id, &said.description, said.boot.as_deref(), now).await?;
            if before.description.instance != said.description.instance {
                let boot = said.boot.as_deref().unwrap_or_default();
                // Who did not say before, or says nothing now, is not known to have been restarted.
                let is_restart = !boot.is_empty() && !boot_before.is_empty() && boot != boot_before;
                let loss = if is_restart { Loss::HostRestart } else { Loss::NewProcess };
                release_lost(tx, id, &said.held, loss, now).await?;
            }
            Ok(agent)
        })
        .await
}

async fn release_lost(tx: &mut Transaction, agent: &AgentId, held: &[Held], loss: Loss, now: UnixMillis) -> Result<()> {
    let rows = tx.all("SELECT * FROM jobs WHERE phase = 1 AND agent = $1", arguments![agent]).await?;
    for job in store::from_records(&rows)? {
        if !held.iter().any(|held| held.job == job.id && held.fence == job.fence) {
            lapse(tx, &job, loss, now).await?;
        }
    }
    Ok(())
}

/// Sets free what waited for a time, and closes the windows that have ended: how many jobs changed.
///
/// # Errors
/// The database fails; the next sweep goes on.
pub async fn sweep_queue(database: &Database, table: &AwayTable, now: UnixMillis) -> Result<u64> {
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
                close_window(tx, &job, table, now).await?;
                closed += 1;
            }
            Ok(freed + closed)
        })
        .await
}

/// A window has ended. Where a blackout only interrupts it, the job waits for the rest of it; where nobody is there and
/// the table *Agent away* says *queued*, for the next one (S-065, S-172). Else it has failed where the agent was away
/// (S-012, S-130) or attempts had been made, and has expired otherwise.
async fn close_window(tx: &mut Transaction, job: &Job, table: &AwayTable, now: UnixMillis) -> Result<()> {
    assert!(job.state.phase() == Phase::Waiting);
    let policy = policy_of(tx, job).await?;
    if let Some((begins, ends)) = policy.as_ref().and_then(|stored| after_blackout(stored, job, now)) {
        return postpone(tx, job, begins, Some(ends), "a blackout interrupts its window; it waits for the rest", now)
            .await;
    }
    let is_served = agents::store::is_served(tx, &job.lane, now).await?;
    let overrides = policy.as_ref().and_then(|stored| stored.policy.how.away.as_ref());
    let action = match job.kind {
        JobKind::Backup => table.action(overrides, job.workload, job.origin),
        _ => AwayAction::Queue,
    };
    // Who asked for an end on demand gets it; the calendar's only says when the next window takes over.
    if !is_served && action == AwayAction::Queue && job.origin == Origin::Scheduled {
        let why = "its agent was away until its window ended; it waits for the next";
        let begins = policy.as_ref().map_or(now, |stored| stored.policy.next_open(now));
        let ends = policy.as_ref().map(|stored| stored.policy.window_end(begins));
        return postpone(tx, job, begins, ends, why, now).await;
    }
    let mut next = job.clone();
    let (to, why) = if job.attempt > 0 {
        let last = job.message.as_deref().unwrap_or("no cause was told");
        (JobState::Failed, format!("its window ended after {} attempts; the last: {last}", job.attempt))
    } else if !is_served {
        (JobState::Failed, "no agent that could do it was connected until its window ended".to_owned())
    } else {
        (JobState::Expired, format!("its window ended {}", what_kept(tx, job).await?))
    };
    next.message = Some(why);
    store::move_to(tx, job, next, to, now).await?;
    Ok(())
}

/// What a job waited for until its window ended.
async fn what_kept(tx: &mut Transaction, job: &Job) -> Result<String> {
    if job.kind == JobKind::Backup {
        let sql = "SELECT id, kind FROM jobs WHERE set_name = $1 AND phase < 2 AND id <> $2 AND attempt > 0
                   ORDER BY id LIMIT 1";
        if let Some(other) = tx.optional(sql, arguments![&job.set, &job.id]).await? {
            let (kind, id) = (other.text("kind")?, other.text("id")?);
            return Ok(format!("while a {kind} of the same set, job {id}, had not ended"));
        }
    }
    let key = job.waits_on.as_deref().unwrap_or_default();
    Ok(if key == waiting::source_key(&job.source) {
        format!("while {} had as many jobs as it may have", job.source)
    } else if key == waiting::repository_key(&job.repository) {
        format!("while {} had as many jobs as it may have", job.repository)
    } else {
        "before it could begin".to_owned()
    })
}

/// What only a removed agent could have done has failed; what others may take waits for them.
pub(crate) async fn end_jobs_of_removed(tx: &mut Transaction, agent: &AgentId, now: UnixMillis) -> Result<()> {
    let sql = "SELECT * FROM jobs WHERE phase = 0 AND lane = $1 ORDER BY id";
    let rows = tx.all(sql, arguments![lane::host(agent)]).await?;
    for job in store::from_records(&rows)? {
        let mut next = job.clone();
        let Some(others) = &job.lane_of_others else {
            next.message = Some("the agent of its host was removed".to_owned());
            store::move_to(tx, &job, next, JobState::Failed, now).await?;
            continue;
        };
        let why = "its own agent was removed: any other of the pool may take it";
        let sql = "UPDATE jobs SET lane = $1, lane_of_others = NULL, message = $2 WHERE id = $3 AND phase = 0";
        tx.execute(sql, arguments![others, why, &job.id]).await?;
        events::record(tx, now, &job, "waits", Some(why)).await?;
    }
    Ok(())
}

async fn policy_of(tx: &mut Transaction, job: &Job) -> Result<Option<StoredPolicy>> {
    let Some(policy) = &job.policy else { return Ok(None) };
    match find(tx, policy).await {
        // Removed: its jobs go on without it.
        Err(ControlError::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}

/// The rest of the window that a blackout interrupted when the job's time ended, if there is one and it is not over.
fn after_blackout(stored: &StoredPolicy, job: &Job, now: UnixMillis) -> Option<(UnixMillis, UnixMillis)> {
    if job.origin != Origin::Scheduled {
        return None;
    }
    let ended = job.expires_at?;
    let whole = stored.policy.window_end_without_blackouts(ended, job.created_at)?;
    // A window that ended by itself is not interrupted.
    if stored.policy.next_open(ended) == ended {
        return None;
    }
    let begins = stored.policy.next_open(ended.max(now));
    (begins < whole && now < whole).then(|| (begins, stored.policy.window_end(begins).min(whole)))
}

/// A queued job waits for another window.
async fn postpone(
    tx: &mut Transaction,
    job: &Job,
    begins: UnixMillis,
    ends: Option<UnixMillis>,
    why: &str,
    now: UnixMillis,
) -> Result<()> {
    let waits_on = if begins > now { Some(waiting::TIME) } else { job.waits_on.as_deref() };
    let sql = "UPDATE jobs SET not_before = $1, expires_at = $2, waits_on = $3, message = $4
               WHERE id = $5 AND phase = 0";
    tx.execute(sql, arguments![begins, ends, waits_on, why, &job.id]).await?;
    events::record(tx, now, job, "waits", Some(why)).await
}

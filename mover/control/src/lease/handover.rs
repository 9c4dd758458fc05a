//! A queued job whose preferred agent went away after its admission goes to the others of its pool.
//!
//! Admission judges by who is connected then; an agent can die between that and its lease. The same table *Agent away*
//! says what follows: where it queues the job, any other agent may have it as soon as one is connected; where it skips
//! runs, each run left out because this one still waits is counted, and after as many as the table says the job is free
//! for others (S-031). Where it waits for the window, it waits.
//!
//! Never: a job of one host's own files, which has no others; a job in work, which lapses ([`super::lapse`]).
//! A server that has just started has heard nobody: jobs move only to others that it has heard.

use crate::agents::CONNECTED;
use crate::agents::store::is_served;
use crate::arguments;
use crate::database::{Database, Transaction};
use crate::error::{ControlError, Result};
use crate::ids::{PolicyId, UnixMillis};
use crate::job::{Job, JobKind, events, store};
use crate::placement::away::{AwayAction, AwayTable};
use crate::policy::store::find;

/// Jobs of one lane moved in one transaction.
const BATCH: u32 = 1000;
/// Lanes looked at in one sweep.
const LANES: u32 = 1000;

/// Moves what its preferred agent can no longer take: how many jobs.
///
/// # Errors
/// The database fails; the next sweep goes on.
pub async fn hand_over(database: &Database, table: &AwayTable, now: UnixMillis) -> Result<u64> {
    let sql = "SELECT DISTINCT lane FROM jobs j WHERE phase = 0 AND lane_of_others IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM agent_lanes l JOIN agents a ON a.id = l.agent WHERE l.lane = j.lane
                   AND a.revoked = 0 AND a.draining = 0 AND a.last_seen >= $1)
               ORDER BY lane LIMIT $2";
    let away = arguments![now.minus(CONNECTED), LANES];
    let deserted: Result<Vec<String>> =
        database.read(async |tx| tx.all(sql, away).await?.iter().map(|row| row.text("lane")).collect()).await;
    let mut moved = 0;
    for lane in deserted? {
        moved += database.decide(async |tx| leave(tx, &lane, table, now).await).await?;
    }
    Ok(moved)
}

async fn leave(tx: &mut Transaction, lane: &str, table: &AwayTable, now: UnixMillis) -> Result<u64> {
    // It came back in the meantime.
    if is_served(tx, lane, now).await? {
        return Ok(0);
    }
    let sql = "SELECT * FROM jobs WHERE phase = 0 AND lane_of_others IS NOT NULL AND lane = $1 ORDER BY id LIMIT $2";
    let rows = tx.all(sql, arguments![lane, BATCH]).await?;
    let mut moved = 0;
    for job in store::from_records(&rows)? {
        let Some(others) = job.lane_of_others.clone() else { continue };
        if is_due(tx, &job, table).await? && is_served(tx, &others, now).await? {
            let why = "its own agent went away: any other of the pool may take it";
            let sql = "UPDATE jobs SET lane = $1, lane_of_others = NULL, message = $2 WHERE id = $3 AND phase = 0";
            tx.execute(sql, arguments![others, why, &job.id]).await?;
            events::record(tx, now, &job, "waits", Some(why)).await?;
            moved += 1;
        }
    }
    Ok(moved)
}

/// Whether the table lets others have it now.
async fn is_due(tx: &mut Transaction, job: &Job, table: &AwayTable) -> Result<bool> {
    if job.kind != JobKind::Backup {
        return Ok(true);
    }
    let stored = match &job.policy {
        Some(policy) => match find(tx, policy).await {
            Err(ControlError::NotFound { .. }) => None,
            found => Some(found?),
        },
        None => None,
    };
    let overrides = stored.as_ref().and_then(|stored| stored.policy.how.away.as_ref());
    Ok(match table.action(overrides, job.workload, job.origin) {
        AwayAction::Queue => true,
        AwayAction::Skip { other_agent_after } => {
            stored.is_none_or(|stored| stored.skips >= i64::from(other_agent_after))
        }
        AwayAction::FailAtOnce | AwayAction::WaitUntilWindowEnds => false,
    })
}

/// A run was left out for `open`, the run before: counted where that one waits for an agent that is away.
pub(crate) async fn count_skip(tx: &mut Transaction, policy: &PolicyId, open: &str, now: UnixMillis) -> Result<()> {
    let sql = "SELECT lane FROM jobs WHERE id = $1 AND phase = 0 AND lane_of_others IS NOT NULL";
    let Some(row) = tx.optional(sql, arguments![open]).await? else { return Ok(()) };
    if !is_served(tx, &row.text("lane")?, now).await? {
        tx.execute("UPDATE policies SET skips = skips + 1 WHERE id = $1", arguments![policy]).await?;
    }
    Ok(())
}

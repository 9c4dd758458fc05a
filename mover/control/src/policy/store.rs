//! Policies in the database: documents with a version, and where each stands in its calendar.

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, Record, Transaction, json};
use crate::error::{ControlError, Result};
use crate::ids::{JobId, PolicyId, UnixMillis};

use super::Policy;

/// A policy as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoredPolicy {
    /// Its id.
    pub id: PolicyId,
    /// What it says.
    pub policy: Policy,
    /// Grows with each change: who changes names the one that was read.
    pub version: i64,
    /// Whether its calendar runs.
    pub enabled: bool,
    /// When its next run begins.
    pub next_due: Option<UnixMillis>,
    /// Runs left out in a row since its agent was away.
    pub skips: i64,
    /// When a job of it succeeded last.
    pub last_success: Option<UnixMillis>,
    /// Its last job that ended.
    pub last_job: Option<JobId>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was changed last.
    pub updated_at: UnixMillis,
}

pub(crate) fn from_record(row: &Record) -> Result<StoredPolicy> {
    Ok(StoredPolicy {
        id: row.text("id")?.into(),
        policy: row.document("document")?,
        version: row.number("version")?,
        enabled: row.number("enabled")? != 0,
        next_due: row.maybe_time("next_due")?,
        skips: row.number("skips")?,
        last_success: row.maybe_time("last_success")?,
        last_job: row.maybe_text("last_job")?.map(JobId::from),
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

async fn refuse_taken_name(tx: &mut Transaction, id: &PolicyId, name: &str) -> Result<()> {
    let sql = "SELECT id FROM policies WHERE name = $1 AND id <> $2";
    match tx.optional(sql, arguments![name, id]).await? {
        Some(_) => Err(ControlError::Conflict(format!("there is a policy {name:?} already"))),
        None => Ok(()),
    }
}

fn next_due(id: &PolicyId, policy: &Policy, after: UnixMillis) -> Option<UnixMillis> {
    policy.next_runs(id, after).next().map(|run| run.begins)
}

/// Stores a new policy; its calendar runs from now on. The same id again changes nothing.
///
/// # Errors
/// It is not valid, its name is taken, or the database fails.
pub async fn create(database: &Database, id: &PolicyId, policy: &Policy, now: UnixMillis) -> Result<StoredPolicy> {
    policy.validate()?;
    database
        .decide(async |tx| {
            refuse_taken_name(tx, id, &policy.name).await?;
            tx.execute(
                "INSERT INTO policies (id, name, document, version, enabled, next_due, skips, created_at, updated_at)
                 VALUES ($1, $2, $3, 1, 1, $4, 0, $5, $5) ON CONFLICT (id) DO NOTHING",
                arguments![id, &policy.name, json(policy), next_due(id, policy, now), now],
            )
            .await?;
            find(tx, id).await
        })
        .await
}

/// Replaces what a policy says, if it still has the version that was read; its calendar starts anew from now.
///
/// # Errors
/// It is not valid, was changed in the meantime, its name is taken, or the database fails.
pub async fn update(
    database: &Database,
    id: &PolicyId,
    version: i64,
    policy: &Policy,
    now: UnixMillis,
) -> Result<StoredPolicy> {
    policy.validate()?;
    database
        .decide(async |tx| {
            let known = find(tx, id).await?;
            if known.version == version + 1 && known.policy == *policy {
                return Ok(known);
            }
            if known.version != version {
                return Err(ControlError::Conflict(format!(
                    "policy {id} is at version {}, not {version}: read it again, then change it",
                    known.version
                )));
            }
            refuse_taken_name(tx, id, &policy.name).await?;
            tx.execute(
                "UPDATE policies SET name = $1, document = $2, version = version + 1, next_due = $3, updated_at = $4
                 WHERE id = $5",
                arguments![&policy.name, json(policy), next_due(id, policy, now), now, id],
            )
            .await?;
            find(tx, id).await
        })
        .await
}

/// Lets the calendar of a policy run, or stops it.
///
/// # Errors
/// There is none, or the database fails.
pub async fn enable(database: &Database, id: &PolicyId, enabled: bool, now: UnixMillis) -> Result<StoredPolicy> {
    database
        .decide(async |tx| {
            let known = find(tx, id).await?;
            if known.enabled != enabled {
                // What would have been due while it was off is not caught up.
                let sql = "UPDATE policies SET enabled = $1, next_due = $2, updated_at = $3 WHERE id = $4";
                tx.execute(sql, arguments![enabled, next_due(id, &known.policy, now), now, id]).await?;
            }
            find(tx, id).await
        })
        .await
}

/// Removes a policy; its jobs and recovery points stay.
///
/// # Errors
/// There is none, or the database fails.
pub async fn remove(database: &Database, id: &PolicyId) -> Result<()> {
    let sql = "DELETE FROM policies WHERE id = $1";
    let rows = database.decide(async |tx| tx.execute(sql, arguments![id]).await).await?;
    if rows == 0 { Err(ControlError::not_found("policy", id)) } else { Ok(()) }
}

pub(crate) async fn find(tx: &mut Transaction, id: &PolicyId) -> Result<StoredPolicy> {
    let row = tx.optional("SELECT * FROM policies WHERE id = $1", arguments![id]).await?;
    from_record(&row.ok_or_else(|| ControlError::not_found("policy", id))?)
}

/// A policy by its id.
///
/// # Errors
/// There is none, or the database fails.
pub async fn get(database: &Database, id: &PolicyId) -> Result<StoredPolicy> {
    database.read(async |tx| find(tx, id).await).await
}

/// A policy by its name.
///
/// # Errors
/// There is none, or the database fails.
pub async fn by_name(database: &Database, name: &str) -> Result<StoredPolicy> {
    let sql = "SELECT * FROM policies WHERE name = $1";
    let row = database.read(async |tx| tx.optional(sql, arguments![name]).await).await?;
    from_record(&row.ok_or_else(|| ControlError::not_found("policy", name))?)
}

/// Policies in order of their ids, after `cursor`.
///
/// # Errors
/// The database fails.
pub async fn list(database: &Database, cursor: Option<&PolicyId>, limit: u32) -> Result<Vec<StoredPolicy>> {
    let cursor = cursor.map_or("", PolicyId::as_str);
    let sql = "SELECT * FROM policies WHERE id > $1 ORDER BY id LIMIT $2";
    database.read(async |tx| tx.all(sql, arguments![cursor, limit]).await?.iter().map(from_record).collect()).await
}

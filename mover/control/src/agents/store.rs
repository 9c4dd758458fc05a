//! Rows of agents and of their lanes.

use crate::arguments;
use crate::database::{Argument, Database, Record, Transaction, json, parameters};
use crate::error::{ControlError, Refusal, Result};
use crate::ids::{AgentId, UnixMillis};
use crate::lease::lapse;
use crate::placement::lane;

use super::{Agent, CONNECTED, Description};

/// Tags and reached things of one agent at most.
const WORDS_MAX: usize = 1024;
/// Text of the name of a boot at most.
const BOOT_CHARACTERS: usize = 64;

fn from_record(row: &Record) -> Result<Agent> {
    let number = |column: &str| row.number(column).map(|value| u64::try_from(value).unwrap_or(0));
    Ok(Agent {
        id: row.text("id")?.into(),
        name: row.text("name")?,
        pool: row.text("pool")?,
        description: Description {
            version: row.text("version")?,
            cores: u32::try_from(number("cores")?).unwrap_or(u32::MAX),
            memory_bytes: number("memory_bytes")?,
            tags: row.document("tags")?,
            reaches: row.document("reaches")?,
            instance: row.text("instance")?,
        },
        fingerprint: row.text("fingerprint")?,
        enrolled_at: row.time("enrolled_at")?,
        last_seen: row.time("last_seen")?,
        draining: row.number("draining")? != 0,
        revoked: row.number("revoked")? != 0,
    })
}

pub(crate) async fn find(tx: &mut Transaction, id: &AgentId) -> Result<Agent> {
    let row = tx.optional("SELECT * FROM agents WHERE id = $1", arguments![id]).await?;
    from_record(&row.ok_or_else(|| ControlError::not_found("agent", id))?)
}

/// Those of these agents that take new work, each with how many jobs it runs.
pub(crate) async fn takers(tx: &mut Transaction, ids: &[&str]) -> Result<Vec<(Agent, u32)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT a.*, (SELECT COUNT(*) FROM jobs WHERE phase = 1 AND agent = a.id) AS running
         FROM agents a WHERE a.draining = 0 AND a.revoked = 0 AND a.id IN ({})",
        parameters(ids.len())
    );
    let values: Vec<Argument> = ids.iter().map(|id| Argument::from(*id)).collect();
    let rows = tx.all(&sql, &values).await?;
    let running = |row: &Record| row.number("running").map(|running| u32::try_from(running).unwrap_or(u32::MAX));
    rows.iter().map(|row| Ok((from_record(row)?, running(row)?))).collect()
}

/// The pool of an agent.
pub(crate) async fn locate(tx: &mut Transaction, id: &AgentId) -> Result<String> {
    find(tx, id).await.map(|agent| agent.pool)
}

/// Who of those that serve a lane could take a job of it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Somebody.
    There,
    /// Those that are connected are drained.
    Drained,
    /// Nobody is connected.
    Away,
}

/// Who serves this lane.
pub(crate) async fn presence(tx: &mut Transaction, lane: &str, now: UnixMillis) -> Result<Presence> {
    let row = tx
        .optional(
            "SELECT a.draining FROM agent_lanes l JOIN agents a ON a.id = l.agent
             WHERE l.lane = $1 AND a.revoked = 0 AND a.last_seen >= $2 ORDER BY a.draining LIMIT 1",
            arguments![lane, now.minus(CONNECTED)],
        )
        .await?;
    let Some(row) = row else { return Ok(Presence::Away) };
    Ok(if row.number("draining")? == 0 { Presence::There } else { Presence::Drained })
}

/// Whether any connected agent that takes new work serves this lane.
pub(crate) async fn is_served(tx: &mut Transaction, lane: &str, now: UnixMillis) -> Result<bool> {
    Ok(presence(tx, lane, now).await? == Presence::There)
}

/// Stores an agent that has just enrolled.
pub(super) async fn insert(tx: &mut Transaction, agent: &Agent) -> Result<()> {
    check(&agent.description)?;
    let known = tx.optional("SELECT id FROM agents WHERE name = $1", arguments![&agent.name]).await?;
    if known.is_some() {
        return Err(ControlError::Conflict(format!(
            "there is an agent {} already; remove it first, or enrol under another name",
            agent.name
        )));
    }
    tx.execute(
        "INSERT INTO agents (id, name, pool, version, cores, memory_bytes, tags, reaches, fingerprint, instance,
            enrolled_at, last_seen, draining, revoked)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0)",
        arguments![
            &agent.id,
            &agent.name,
            &agent.pool,
            &agent.description.version,
            agent.description.cores,
            memory(&agent.description),
            json(&agent.description.tags),
            json(&agent.description.reaches),
            &agent.fingerprint,
            &agent.description.instance,
            agent.enrolled_at,
            agent.last_seen,
        ],
    )
    .await?;
    write_lanes(tx, agent).await
}

fn memory(description: &Description) -> i64 {
    i64::try_from(description.memory_bytes).unwrap_or(i64::MAX)
}

pub(crate) fn check(description: &Description) -> Result<()> {
    let words =
        description.tags.iter().chain(&description.reaches).chain([&description.version, &description.instance]);
    if description.tags.len() + description.reaches.len() > WORDS_MAX || words.into_iter().any(|word| word.len() > 1024)
    {
        return Err(ControlError::Invalid(format!("an agent has at most {WORDS_MAX} tags and reached things")));
    }
    Ok(())
}

async fn write_lanes(tx: &mut Transaction, agent: &Agent) -> Result<()> {
    tx.execute("DELETE FROM agent_lanes WHERE agent = $1", arguments![&agent.id]).await?;
    for lane in lane::of_agent(&agent.id, &agent.pool, &agent.description.reaches) {
        let sql = "INSERT INTO agent_lanes (lane, agent) VALUES ($1, $2) ON CONFLICT (lane, agent) DO NOTHING";
        tx.execute(sql, arguments![lane, &agent.id]).await?;
    }
    Ok(())
}

/// An agent begins: what it is now. Refused when it is revoked or its version does not fit.
pub(crate) async fn hello(
    tx: &mut Transaction,
    id: &AgentId,
    description: &Description,
    boot: Option<&str>,
    now: UnixMillis,
) -> Result<Agent> {
    let mut agent = find(tx, id).await?;
    refuse_revoked(&agent)?;
    let own = env!("CARGO_PKG_VERSION");
    crate::placement::version::check(&description.version, own).map_err(|reason| ControlError::AgentRefused {
        agent: id.clone(),
        refusal: Refusal::Version,
        reason,
    })?;
    agent.description = description.clone();
    agent.last_seen = now;
    tx.execute(
        "UPDATE agents SET version = $1, cores = $2, memory_bytes = $3, tags = $4, reaches = $5, instance = $6,
            last_seen = $7, boot = COALESCE($8, boot) WHERE id = $9",
        arguments![
            &description.version,
            description.cores,
            memory(description),
            json(&description.tags),
            json(&description.reaches),
            &description.instance,
            now,
            boot.map(|boot| boot.chars().take(BOOT_CHARACTERS).collect::<String>()),
            id,
        ],
    )
    .await?;
    write_lanes(tx, &agent).await?;
    Ok(agent)
}

/// Which boot of its host an agent named last; empty if none.
pub(crate) async fn boot(tx: &mut Transaction, id: &AgentId) -> Result<String> {
    tx.one("SELECT boot FROM agents WHERE id = $1", arguments![id]).await?.text("boot")
}

fn refuse_revoked(agent: &Agent) -> Result<()> {
    if agent.revoked {
        let reason = "its certificate was revoked; enrol it anew".to_owned();
        return Err(ControlError::AgentRefused { agent: agent.id.clone(), refusal: Refusal::Revoked, reason });
    }
    Ok(())
}

/// Writes down when agents were heard, together. A time a little before the one that is stored changes nothing: another
/// server heard it since. One that is stored as far in the future is of a clock that was wrong, and is put right.
///
/// # Errors
/// The database fails.
pub async fn write_seen(database: &Database, seen: &[(AgentId, UnixMillis)]) -> Result<()> {
    database.change(async |tx| note_seen(tx, seen).await).await
}

pub(super) async fn note_seen(tx: &mut Transaction, seen: &[(AgentId, UnixMillis)]) -> Result<()> {
    for (agent, at) in seen {
        let sql = "UPDATE agents SET last_seen = $1 WHERE id = $2 AND (last_seen < $1 OR last_seen > $3)";
        tx.execute(sql, arguments![*at, agent, at.plus(CONNECTED)]).await?;
    }
    Ok(())
}

/// The agent behind a certificate; refused when it is revoked.
///
/// # Errors
/// As said, there is none, or the database fails.
pub async fn by_fingerprint(database: &Database, fingerprint: &str) -> Result<Agent> {
    database
        .read(async |tx| {
            let row = tx.optional("SELECT * FROM agents WHERE fingerprint = $1", arguments![fingerprint]).await?;
            let row =
                row.ok_or_else(|| ControlError::Forbidden("no agent has this certificate; enrol it".to_owned()))?;
            let agent = from_record(&row)?;
            refuse_revoked(&agent)?;
            Ok(agent)
        })
        .await
}

/// An agent by its id.
///
/// # Errors
/// There is none, or the database fails.
pub async fn get(database: &Database, id: &AgentId) -> Result<Agent> {
    database.read(async |tx| find(tx, id).await).await
}

/// Agents in order of their ids, after `cursor`.
///
/// # Errors
/// The database fails.
pub async fn list(database: &Database, cursor: Option<&AgentId>, limit: u32) -> Result<Vec<Agent>> {
    let cursor = cursor.map_or("", AgentId::as_str);
    let sql = "SELECT * FROM agents WHERE id > $1 ORDER BY id LIMIT $2";
    database.read(async |tx| tx.all(sql, arguments![cursor, limit]).await?.iter().map(from_record).collect()).await
}

async fn flag(database: &Database, sql: &str, value: bool, id: &AgentId) -> Result<()> {
    let rows = database.change(async |tx| tx.execute(sql, arguments![value, id]).await).await?;
    if rows == 0 { Err(ControlError::not_found("agent", id)) } else { Ok(()) }
}

/// Whether an agent gets new work; what it has it finishes.
///
/// # Errors
/// There is none, or the database fails.
pub async fn drain(database: &Database, id: &AgentId, draining: bool) -> Result<()> {
    flag(database, "UPDATE agents SET draining = $1 WHERE id = $2", draining, id).await
}

/// Takes everything from an agent: its certificate counts no more, its jobs lapse as if it had died.
///
/// # Errors
/// There is none, or the database fails.
pub async fn revoke(database: &Database, id: &AgentId) -> Result<()> {
    flag(database, "UPDATE agents SET revoked = $1 WHERE id = $2", true, id).await
}

/// Removes a revoked agent that has no job.
///
/// # Errors
/// It is not revoked, or the database fails.
pub async fn remove(database: &Database, id: &AgentId, now: UnixMillis) -> Result<()> {
    database
        .decide(async |tx| {
            let busy =
                tx.optional("SELECT id FROM jobs WHERE agent = $1 AND phase = 1 LIMIT 1", arguments![id]).await?;
            let rows = match busy {
                Some(_) => 0,
                None => tx.execute("DELETE FROM agents WHERE id = $1 AND revoked = 1", arguments![id]).await?,
            };
            if rows == 0 {
                return Err(ControlError::Conflict(format!("agent {id} is not revoked, or still has a job")));
            }
            tx.execute("DELETE FROM agent_lanes WHERE agent = $1", arguments![id]).await?;
            lapse::end_jobs_of_removed(tx, id, now).await
        })
        .await
}

//! The history of jobs: one row a change, written in the transaction of the change itself.
//!
//! Ids order by time, so "everything after the last one I saw" is one look at the primary key. With two servers a row
//! may appear with an id a moment older than the newest: whoever follows live reads again from [`OVERLAP`] earlier and
//! drops what it has seen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, Record, Transaction, word};
use crate::error::Result;
use crate::ids::{AgentId, JobId, RecordId, UnixMillis};

use super::{Job, JobState};

/// How far back a follower reads again when several servers write.
pub const OVERLAP: Duration = Duration::from_secs(10);

/// One row of the history of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Orders by time.
    pub id: RecordId,
    /// When.
    pub at: UnixMillis,
    /// Of which job.
    pub job: JobId,
    /// What happened: `state`, `fileset`, `stop`, `grant`, `waits`, `lapsed`.
    pub kind: String,
    /// The state of the job after it.
    pub state: JobState,
    /// Whose lease it was.
    pub agent: Option<AgentId>,
    /// The fence of that lease.
    pub fence: i64,
    /// For people.
    pub message: Option<String>,
}

pub(crate) async fn record(
    tx: &mut Transaction,
    now: UnixMillis,
    job: &Job,
    kind: &str,
    message: Option<&str>,
) -> Result<()> {
    let agent = job.agent.as_ref().map(AgentId::as_str);
    tx.execute(
        "INSERT INTO events (id, at, job, kind, state, agent, fence, message) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        arguments![&RecordId::new(now), now, &job.id, kind, word(&job.state), agent, job.fence, message],
    )
    .await?;
    Ok(())
}

fn from_record(row: &Record) -> Result<Event> {
    Ok(Event {
        id: row.text("id")?.into(),
        at: row.time("at")?,
        job: row.text("job")?.into(),
        kind: row.text("kind")?,
        state: row.word("state")?,
        agent: row.maybe_text("agent")?.map(AgentId::from),
        fence: row.number("fence")?,
        message: row.maybe_text("message")?,
    })
}

/// Events of all jobs after `cursor`, oldest first; `None` begins at the first.
///
/// # Errors
/// The database fails.
pub async fn after(database: &Database, cursor: Option<&RecordId>, limit: u32) -> Result<Vec<Event>> {
    let cursor = cursor.map_or("", RecordId::as_str);
    let sql = "SELECT * FROM events WHERE id > $1 ORDER BY id LIMIT $2";
    database.read(async |tx| tx.all(sql, arguments![cursor, limit]).await?.iter().map(from_record).collect()).await
}

/// Events of one job after `cursor`, oldest first.
///
/// # Errors
/// The database fails.
pub async fn of_job(database: &Database, job: &JobId, cursor: Option<&RecordId>, limit: u32) -> Result<Vec<Event>> {
    let cursor = cursor.map_or("", RecordId::as_str);
    let sql = "SELECT * FROM events WHERE job = $1 AND id > $2 ORDER BY id LIMIT $3";
    database.read(async |tx| tx.all(sql, arguments![job, cursor, limit]).await?.iter().map(from_record).collect()).await
}

//! The audit log: who did what, when, to what, and what came of it. Rows are added and never changed.

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, Record, before, word};
use crate::error::Result;
use crate::ids::{RecordId, UnixMillis};

use super::Role;

/// One act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Orders by time.
    pub id: RecordId,
    /// When.
    pub at: UnixMillis,
    /// Name of the token or agent, or `system`.
    pub who: String,
    /// In which role.
    pub role: Role,
    /// What: `job.cancel`, `policy.update`, …
    pub action: String,
    /// To what: an id or a name.
    pub object: String,
    /// `done`, or why it was refused.
    pub outcome: String,
    /// More, as JSON.
    pub detail: Option<String>,
}

fn from_record(row: &Record) -> Result<AuditRecord> {
    Ok(AuditRecord {
        id: row.text("id")?.into(),
        at: row.time("at")?,
        who: row.text("who")?,
        role: row.word("role")?,
        action: row.text("action")?,
        object: row.text("object")?,
        outcome: row.text("outcome")?,
        detail: row.maybe_text("detail")?,
    })
}

/// Adds an act.
///
/// # Errors
/// The database fails.
pub async fn record(database: &Database, act: &AuditRecord) -> Result<()> {
    database
        .change(async |tx| {
            tx.execute(
                "INSERT INTO audit (id, at, who, role, action, object, outcome, detail)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
                arguments![
                    &act.id,
                    act.at,
                    &act.who,
                    word(&act.role),
                    &act.action,
                    &act.object,
                    &act.outcome,
                    act.detail.clone()
                ],
            )
            .await?;
            Ok(())
        })
        .await
}

/// Acts, newest first, before `cursor`.
///
/// # Errors
/// The database fails.
pub async fn list(database: &Database, cursor: Option<&RecordId>, limit: u32) -> Result<Vec<AuditRecord>> {
    let (page, cursor) = before("id", 2, cursor.map(RecordId::as_str));
    let sql = format!("SELECT * FROM audit WHERE 1 = 1{page} ORDER BY id DESC LIMIT $1");
    let asked = [&arguments![limit][..], &cursor[..]].concat();
    database.read(async |tx| tx.all(&sql, &asked).await?.iter().map(from_record).collect()).await
}

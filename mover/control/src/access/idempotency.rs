//! Requests that carry a key are answered once: the same key again gets the answer of the first.
//!
//! Kept for [`KEPT`]. A key that comes with another request is refused: that is a mistake of who asks.

use std::time::Duration;

use crate::arguments;
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::UnixMillis;

/// How long answers are kept.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// A key at most.
const KEY_BYTES: usize = 256;

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

fn hash(request: &[u8]) -> String {
    blake3::hash(request).to_hex().to_string()
}

/// The answer that `who` got for this key, if there was one.
///
/// # Errors
/// The key came with another request before, is too long, or the database fails.
pub async fn recall(database: &Database, who: &str, key: &str, request: &[u8]) -> Result<Option<Answer>> {
    if key.is_empty() || key.len() > KEY_BYTES {
        return Err(ControlError::Invalid(format!("an idempotency key is 1 to {KEY_BYTES} bytes")));
    }
    let sql = "SELECT * FROM idempotency WHERE who = $1 AND name = $2";
    let row = database.read(async |tx| tx.optional(sql, arguments![who, key]).await).await?;
    let Some(row) = row else { return Ok(None) };
    if row.text("request_hash")? != hash(request) {
        return Err(ControlError::Conflict("this idempotency key came with another request before".to_owned()));
    }
    let status = u16::try_from(row.number("status")?).map_err(|error| ControlError::damaged("idempotency", error))?;
    Ok(Some(Answer { status, body: row.text("body")? }))
}

/// Keeps an answer; one that is there already stays. Forgets those that are too old.
///
/// # Errors
/// The database fails.
pub async fn remember(
    database: &Database,
    who: &str,
    key: &str,
    request: &[u8],
    answer: &Answer,
    now: UnixMillis,
) -> Result<()> {
    database
        .change(async |tx| {
            tx.execute("DELETE FROM idempotency WHERE at < $1", arguments![now.minus(KEPT)]).await?;
            tx.execute(
                "INSERT INTO idempotency (who, name, request_hash, status, body, at) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (who, name) DO NOTHING",
                arguments![who, key, hash(request), i64::from(answer.status), &answer.body, now],
            )
            .await?;
            Ok(())
        })
        .await
}

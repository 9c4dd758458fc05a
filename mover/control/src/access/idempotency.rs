//! Requests that carry a key are answered once: the same key again gets the answer of the first.
//!
//! Kept for [`KEPT`]; a refusal is not kept, its key is free again. A key that comes with another request is refused: that is a mistake of who asks.

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

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The request was answered.
    Answered(Answer),
    /// It is answered now. It began at this time, this or an earlier attempt: who makes ids from it makes the same.
    Since(UnixMillis),
}

/// Status of a request that was not answered yet.
const OPEN: i64 = 0;

/// Begins the request of `who` with this key, or tells the answer that there was.
///
/// # Errors
/// The key came with another request before, is too long, or the database fails.
pub async fn begin(database: &Database, who: &str, key: &str, request: &[u8], now: UnixMillis) -> Result<Begun> {
    if key.is_empty() || key.len() > KEY_BYTES {
        return Err(ControlError::Invalid(format!("an idempotency key is 1 to {KEY_BYTES} bytes")));
    }
    let request_hash = hash(request);
    database
        .change(async |tx| {
            tx.execute("DELETE FROM idempotency WHERE at < $1", arguments![now.minus(KEPT)]).await?;
            tx.execute(
                "INSERT INTO idempotency (who, name, request_hash, status, body, at) VALUES ($1, $2, $3, $4, '', $5)
                 ON CONFLICT (who, name) DO NOTHING",
                arguments![who, key, &request_hash, OPEN, now],
            )
            .await?;
            let row = tx.one("SELECT * FROM idempotency WHERE who = $1 AND name = $2", arguments![who, key]).await?;
            if row.text("request_hash")? != request_hash {
                return Err(ControlError::Conflict("this idempotency key came with another request before".to_owned()));
            }
            let status = row.number("status")?;
            if status == OPEN {
                return Ok(Begun::Since(row.time("at")?));
            }
            let status = u16::try_from(status).map_err(|error| ControlError::damaged("idempotency", error))?;
            Ok(Begun::Answered(Answer { status, body: row.text("body")? }))
        })
        .await
}

/// Frees the key of a request that was refused: nothing was done under it, so another request may have it.
///
/// # Errors
/// The database fails.
pub async fn free(database: &Database, who: &str, key: &str) -> Result<()> {
    let sql = "DELETE FROM idempotency WHERE who = $1 AND name = $2 AND status = $3";
    database.change(async |tx| tx.execute(sql, arguments![who, key, OPEN]).await).await?;
    Ok(())
}

/// Keeps the answer of a request that was begun; one that is there already stays.
///
/// # Errors
/// The database fails.
pub async fn end(database: &Database, who: &str, key: &str, answer: &Answer) -> Result<()> {
    let sql = "UPDATE idempotency SET status = $1, body = $2 WHERE who = $3 AND name = $4 AND status = $5";
    let status = i64::from(answer.status);
    database.change(async |tx| tx.execute(sql, arguments![status, &answer.body, who, key, OPEN]).await).await?;
    Ok(())
}

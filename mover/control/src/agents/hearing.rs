//! Whether agents could have been heard at all.
//!
//! An agent that nobody has heard for [`CONNECTED`] is away, but only if somebody listened. After a time in which no server
//! ran, the database was away, or the clock jumped, those that were connected before it have [`CONNECTED`] to let
//! themselves be heard again: else the first look at the calendar would leave out every run of a pool whose agents live.

use std::time::Duration;

use crate::arguments;
use crate::database::{Database, Transaction};
use crate::error::Result;
use crate::ids::{AgentId, UnixMillis};

use super::{CONNECTED, store};

/// A longer time in which no server wrote down whom it heard is one in which none listened.
const DEAF: Duration = Duration::from_secs(20);

/// Goes on listening: true if nobody had for a while.
///
/// # Errors
/// The database fails.
pub async fn go_on(database: &Database, now: UnixMillis) -> Result<bool> {
    let last = database.read(async |tx| last(tx).await).await?;
    if !is_deaf(last, now) {
        return Ok(false);
    }
    database
        .decide(async |tx| {
            let last = self::last(tx).await?;
            if !is_deaf(last, now) {
                return Ok(false);
            }
            if last.0 > 0 {
                let sql = "UPDATE agents SET last_seen = $1 WHERE revoked = 0 AND last_seen >= $2";
                tx.execute(sql, arguments![now, last.minus(CONNECTED)]).await?;
            }
            listened(tx, now).await?;
            Ok(last.0 > 0)
        })
        .await
}

/// Writes down whom this server has heard, and that it listens.
///
/// # Errors
/// The database fails.
pub async fn listen(database: &Database, heard: &[(AgentId, UnixMillis)], now: UnixMillis) -> Result<()> {
    go_on(database, now).await?;
    database
        .change(async |tx| {
            store::note_seen(tx, heard).await?;
            listened(tx, now).await
        })
        .await
}

async fn listened(tx: &mut Transaction, now: UnixMillis) -> Result<()> {
    tx.execute("UPDATE hearing SET at = $1", arguments![now]).await.map(|_| ())
}

async fn last(tx: &mut Transaction) -> Result<UnixMillis> {
    tx.one("SELECT at FROM hearing", &[]).await?.number("at").map(UnixMillis)
}

/// A clock that was set back makes deaf too: what it wrote before lies in the future.
fn is_deaf(last: UnixMillis, now: UnixMillis) -> bool {
    last < now.minus(DEAF) || last > now.plus(DEAF)
}

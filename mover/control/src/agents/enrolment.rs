//! How an agent joins: a token that an admin made, used once, within its time.
//!
//! The certificate is made by who calls (the HTTP layer has the authority); here the token is spent and the agent
//! stored in one transaction, so a token never makes two agents.

use std::time::Duration;

use crate::access::secret::{self, Secret};
use crate::arguments;
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, UnixMillis};

use super::{Agent, Description, store};

/// Longest life of an enrolment token.
pub const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes a token for one agent of `pool`.
///
/// # Errors
/// Its life is 0 or over [`LIFE_MAX`], or the database fails.
pub async fn create(
    database: &Database,
    pool: &str,
    life: Duration,
    created_by: &str,
    now: UnixMillis,
) -> Result<Secret> {
    if life.is_zero() || life > LIFE_MAX {
        return Err(ControlError::Invalid("an enrolment lives at most 7 days, and longer than nothing".to_owned()));
    }
    if pool.is_empty() || pool.contains('/') || pool.len() > 256 {
        return Err(ControlError::Invalid("the name of a pool is 1 to 256 bytes without a slash".to_owned()));
    }
    let secret = Secret::new("mve");
    let hash = secret::hash(secret.reveal());
    database
        .change(async |tx| {
            tx.execute(
                "INSERT INTO enrolments (hash, pool, created_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (hash) DO NOTHING",
                arguments![&hash, pool, created_by, now, now.plus(life)],
            )
            .await
        })
        .await?;
    Ok(secret)
}

/// Spends a token: the agent `id` is known from now on by `fingerprint`.
///
/// The same agent with the same token and certificate again changes nothing, so a lost answer does no harm.
///
/// # Errors
/// The token is unknown, spent or over (all told alike), the name is taken, or the database fails.
pub async fn enrol(
    database: &Database,
    token: &str,
    id: &AgentId,
    name: &str,
    description: &Description,
    fingerprint: &str,
    now: UnixMillis,
) -> Result<Agent> {
    if name.is_empty() || name.len() > 256 {
        return Err(ControlError::Invalid("the name of an agent is 1 to 256 bytes".to_owned()));
    }
    let refused = || ControlError::Forbidden("the enrolment token is unknown, used already, or over".to_owned());
    let hash = secret::hash(token);
    database
        .decide(async |tx| {
            let row = tx.optional("SELECT * FROM enrolments WHERE hash = $1", arguments![&hash]).await?;
            let row = row.ok_or_else(refused)?;
            if !secret::matches(token, &row.text("hash")?) {
                return Err(refused());
            }
            if row.maybe_text("used_by")?.as_deref() == Some(id.as_str()) {
                let agent = store::find(tx, id).await?;
                return if agent.fingerprint == fingerprint { Ok(agent) } else { Err(refused()) };
            }
            let spent = tx
                .execute(
                    "UPDATE enrolments SET used_by = $1 WHERE hash = $2 AND used_by IS NULL AND expires_at > $3",
                    arguments![id, &hash, now],
                )
                .await?;
            if spent != 1 {
                return Err(refused());
            }
            let agent = Agent {
                id: id.clone(),
                name: name.to_owned(),
                pool: row.text("pool")?,
                description: description.clone(),
                fingerprint: fingerprint.to_owned(),
                enrolled_at: now,
                last_seen: now,
                draining: false,
                revoked: false,
            };
            store::insert(tx, &agent).await?;
            Ok(agent)
        })
        .await
}

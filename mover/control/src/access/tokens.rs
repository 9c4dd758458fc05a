//! API tokens: made by an admin, shown once, stored as a hash.

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, Record, word};
use crate::error::{ControlError, Result};
use crate::ids::{RecordId, UnixMillis};

use super::Role;
use super::secret::{self, Secret};

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: RecordId,
    /// Whose it is: the name in the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it ends by itself.
    pub expires_at: Option<UnixMillis>,
    /// Ended by an admin.
    pub revoked: bool,
}

fn from_record(row: &Record) -> Result<Token> {
    Ok(Token {
        id: row.text("id")?.into(),
        name: row.text("name")?,
        role: row.word("role")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        revoked: row.number("revoked")? != 0,
    })
}

/// Makes a token: the secret is in the answer and nowhere else.
///
/// # Errors
/// The role is that of agents, the name is empty, or the database fails.
pub async fn create(
    database: &Database,
    name: &str,
    role: Role,
    expires_at: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<(Token, Secret)> {
    if role == Role::Agent {
        return Err(ControlError::Invalid("agents have certificates, not tokens; make an enrolment".to_owned()));
    }
    if name.is_empty() || name.len() > 256 {
        return Err(ControlError::Invalid("the name of a token is 1 to 256 bytes".to_owned()));
    }
    let secret = Secret::new("mvr");
    let id = RecordId::new(now);
    let token = Token { id, name: name.to_owned(), role, created_at: now, expires_at, revoked: false };
    let hash = secret::hash(secret.reveal());
    database
        .change(async |tx| {
            tx.execute(
                "INSERT INTO tokens (id, hash, name, role, created_at, expires_at, revoked)
                 VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT (id) DO NOTHING",
                arguments![&token.id, &hash, name, word(&role), now, expires_at],
            )
            .await
        })
        .await?;
    Ok((token, secret))
}

/// Whose token this is, if it counts now.
///
/// # Errors
/// It is unknown, ended or revoked: all told alike; or the database fails.
pub async fn authenticate(database: &Database, secret: &str, now: UnixMillis) -> Result<Token> {
    let refused = || ControlError::Forbidden("the token is unknown, ended or revoked".to_owned());
    let sql = "SELECT * FROM tokens WHERE hash = $1";
    let row = database.read(async |tx| tx.optional(sql, arguments![secret::hash(secret)]).await).await?;
    let row = row.ok_or_else(refused)?;
    let token = from_record(&row)?;
    let is_over = token.expires_at.is_some_and(|end| end <= now);
    if token.revoked || is_over || !secret::matches(secret, &row.text("hash")?) {
        return Err(refused());
    }
    Ok(token)
}

/// Ends a token.
///
/// # Errors
/// There is none, or the database fails.
pub async fn revoke(database: &Database, id: &RecordId) -> Result<()> {
    let sql = "UPDATE tokens SET revoked = 1 WHERE id = $1";
    let rows = database.change(async |tx| tx.execute(sql, arguments![id]).await).await?;
    if rows == 0 { Err(ControlError::not_found("token", id)) } else { Ok(()) }
}

/// All tokens, oldest first, after `cursor`.
///
/// # Errors
/// The database fails.
pub async fn list(database: &Database, cursor: Option<&RecordId>, limit: u32) -> Result<Vec<Token>> {
    let cursor = cursor.map_or("", RecordId::as_str);
    let sql = "SELECT * FROM tokens WHERE id > $1 ORDER BY id LIMIT $2";
    database.read(async |tx| tx.all(sql, arguments![cursor, limit]).await?.iter().map(from_record).collect()).await
}

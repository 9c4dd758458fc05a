//! API tokens: made by an admin, shown once, stored as a hash.

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, Record, Transaction, word};
use crate::error::{ControlError, Result};
use crate::ids::{RecordId, UnixMillis};

use super::Role;
use super::secret::{self, Secret};

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// For a session of the console: the token that it was opened with. It ends with that one.
    pub parent: Option<RecordId>,
}

fn from_record(row: &Record) -> Result<Token> {
    Ok(Token {
        id: row.text("id")?.into(),
        name: row.text("name")?,
        role: row.word("role")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        revoked: row.number("revoked")? != 0,
        parent: row.maybe_text("parent")?.map(RecordId::from),
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
    let id = RecordId::new(now);
    let token = Token { id, name: name.to_owned(), role, created_at: now, expires_at, revoked: false, parent: None };
    let secret = store(database, &token, "mvr").await?;
    Ok((token, secret))
}

/// Opens a session of the console for who holds `parent`: a token of its own that ends by itself, and with its parent.
///
/// # Errors
/// `parent` is a session itself, or the database fails.
pub async fn open_session(
    database: &Database,
    parent: &Token,
    life: std::time::Duration,
    now: UnixMillis,
) -> Result<(Token, Secret)> {
    if parent.parent.is_some() {
        return Err(ControlError::Invalid("a session is opened with a token, not with another session".to_owned()));
    }
    let end = now.plus(life);
    let session = Token {
        id: RecordId::new(now),
        created_at: now,
        expires_at: Some(parent.expires_at.map_or(end, |own| own.min(end))),
        parent: Some(parent.id.clone()),
        ..parent.clone()
    };
    let secret = Secret::new("mvs");
    let hash = secret::hash(secret.reveal());
    let opened = database
        .change(async |tx| {
            // A revocation that runs at the same time waits for this one, or this one for it.
            tx.locked("SELECT id FROM tokens WHERE id = $1", arguments![&parent.id]).await?;
            tx.execute(
                "INSERT INTO tokens (id, hash, name, role, created_at, expires_at, revoked, parent)
                 SELECT $1, $2, name, role, $3, $4, 0, id FROM tokens
                 WHERE id = $5 AND revoked = 0 AND (expires_at IS NULL OR expires_at > $3)
                 ON CONFLICT (id) DO NOTHING",
                arguments![&session.id, &hash, now, session.expires_at, &parent.id],
            )
            .await?;
            tx.optional("SELECT id FROM tokens WHERE id = $1 AND revoked = 0", arguments![&session.id]).await
        })
        .await?;
    match opened {
        Some(_) => Ok((session, secret)),
        None => Err(refused()),
    }
}

fn refused() -> ControlError {
    ControlError::Forbidden("the token is unknown, ended or revoked".to_owned())
}

/// Whether `secret` has the form of one: nothing else is worth a look into the database.
pub fn is_well_formed(secret: &str) -> bool {
    let hex = secret.strip_prefix("mvr_").or_else(|| secret.strip_prefix("mvs_"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Whether a token counts still: for who was let in a while ago.
///
/// # Errors
/// The database fails.
pub async fn counts(database: &Database, id: &RecordId, now: UnixMillis) -> Result<bool> {
    let sql = "SELECT id FROM tokens WHERE id = $1 AND revoked = 0 AND (expires_at IS NULL OR expires_at > $2)";
    let row = database.read(async |tx| tx.optional(sql, arguments![id, now]).await).await?;
    Ok(row.is_some())
}

async fn store(database: &Database, token: &Token, prefix: &str) -> Result<Secret> {
    let secret = Secret::new(prefix);
    let hash = secret::hash(secret.reveal());
    database
        .change(async |tx| {
            tx.execute(
                "INSERT INTO tokens (id, hash, name, role, created_at, expires_at, revoked, parent)
                 VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT (id) DO NOTHING",
                arguments![
                    &token.id,
                    &hash,
                    &token.name,
                    word(&token.role),
                    token.created_at,
                    token.expires_at,
                    token.parent.as_ref().map(RecordId::as_str)
                ],
            )
            .await
        })
        .await?;
    Ok(secret)
}

/// Whose token this is, if it counts now.
///
/// # Errors
/// It is unknown, ended or revoked: all told alike; or the database fails.
pub async fn authenticate(database: &Database, secret: &str, now: UnixMillis) -> Result<Token> {
    if !is_well_formed(secret) {
        return Err(refused());
    }
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

/// What the audit log calls a token that was refused: whose it was, or the begin that it has in public.
///
/// # Errors
/// The database fails.
pub async fn known_as(database: &Database, secret: &str) -> Result<String> {
    let sql = "SELECT name FROM tokens WHERE hash = $1";
    let row = database.read(async |tx| tx.optional(sql, arguments![secret::hash(secret)]).await).await?;
    match row {
        Some(row) => row.text("name"),
        None => Ok(secret::public(secret)),
    }
}

/// Ends a token and the sessions that were opened with it.
///
/// # Errors
/// There is none, or the database fails.
pub async fn revoke(database: &Database, id: &RecordId) -> Result<()> {
    let own = "UPDATE tokens SET revoked = 1 WHERE id = $1";
    let sessions = "UPDATE tokens SET revoked = 1 WHERE parent = $1";
    let work = async |tx: &mut Transaction| {
        // Its own row first: whoever opens a session holds it.
        let rows = tx.execute(own, arguments![id]).await?;
        tx.execute(sessions, arguments![id]).await?;
        Ok(rows)
    };
    let rows = database.change(work).await?;
    if rows == 0 { Err(ControlError::not_found("token", id)) } else { Ok(()) }
}

/// How many tokens of this role count now; sessions are not counted.
///
/// # Errors
/// The database fails.
pub async fn count(database: &Database, role: Role, now: UnixMillis) -> Result<i64> {
    let sql = "SELECT COUNT(*) AS n FROM tokens WHERE role = $1 AND revoked = 0 AND parent IS NULL
               AND (expires_at IS NULL OR expires_at > $2)";
    database.read(async |tx| tx.one(sql, arguments![word(&role), now]).await?.number("n")).await
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

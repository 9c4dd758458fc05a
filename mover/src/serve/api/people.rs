//! Tokens, sessions of the console, and the audit log.

use std::time::Duration;

use actix_web::cookie::{Cookie, SameSite, time};
use mover_control::ControlError;
use mover_control::access::tokens::{self, Token};
use mover_control::access::{Role, audit as log};
use mover_control::ids::{RecordId, UnixMillis};
use serde::{Deserialize, Serialize};

use super::{Answer, Cursor, PageQuery};
use crate::serve::call::{Call, Page, Reply, page_limit};
use crate::serve::dispatch::COOKIE;
use crate::serve::problem::Problem;

/// How long a session of the console lasts.
const SESSION: Duration = Duration::from_secs(12 * 3600);

/// A body with one token at most.
pub const LOGIN_BYTES: usize = 8 << 10;

/// A token that somebody wants.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose it is: the name in the audit log.
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// What it may do: admin, operator or viewer.
    role: PersonRole,
    /// When it ends by itself, unix milliseconds.
    #[serde(default)]
    expires_at: Option<UnixMillis>,
}

/// Roles of people.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PersonRole {
    /// Looks.
    Viewer,
    /// Runs jobs.
    Operator,
    /// Everything.
    Admin,
}

impl From<PersonRole> for Role {
    fn from(role: PersonRole) -> Role {
        match role {
            PersonRole::Viewer => Role::Viewer,
            PersonRole::Operator => Role::Operator,
            PersonRole::Admin => Role::Admin,
        }
    }
}

/// A token in the moment of its making.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MadeToken {
    /// What is kept of it.
    #[serde(flatten)]
    token: Token,
    /// Shown once.
    secret: String,
}

/// A token to log in with.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The token.
    #[schema(min_length = 1, max_length = 1024)]
    token: String,
}

/// Who asks.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Me {
    /// Name of the token.
    name: String,
    /// What it may do.
    role: Role,
    /// When it ends by itself.
    expires_at: Option<UnixMillis>,
}

impl Me {
    fn of(token: &Token) -> Me {
        Me { name: token.name.clone(), role: token.role, expires_at: token.expires_at }
    }
}

/// Lists.
pub async fn list(call: Call) -> Answer {
    let asked: PageQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    let cursor = asked.cursor.map(Cursor::id::<RecordId>);
    let found = tokens::list(call.database(), cursor.as_ref(), limit + 1).await?;
    Ok(Reply::json(&Page::of(found, limit, |token| token.id.to_string())))
}

/// Makes one.
pub async fn create(call: Call) -> Answer {
    let asked: NewToken = call.body()?;
    let made = tokens::create(call.database(), &asked.name, asked.role.into(), asked.expires_at, call.now()).await?;
    let (token, secret) = made;
    let object = token.id.to_string();
    Ok(Reply::created(&MadeToken { token, secret: secret.reveal().to_owned() }, object))
}

/// Ends one.
pub async fn revoke(call: Call) -> Answer {
    tokens::revoke(call.database(), &RecordId::from(call.place(0))).await?;
    Ok(Reply::empty())
}

/// Who asks.
pub async fn who(call: Call) -> Answer {
    Ok(Reply::json(&Me::of(call.token())))
}

fn cookie(value: String, life: Duration) -> String {
    let mut cookie = Cookie::new(COOKIE, value);
    cookie.set_path("/");
    cookie.set_http_only(true);
    cookie.set_secure(true);
    cookie.set_same_site(SameSite::Strict);
    cookie.set_max_age(time::Duration::seconds(life.as_secs() as i64));
    cookie.to_string()
}

/// Opens a session.
pub async fn login(call: Call) -> Answer {
    let asked: Login = call.body()?;
    let token = match tokens::authenticate(call.database(), &asked.token, call.now()).await {
        Ok(token) => token,
        Err(ControlError::Forbidden(why)) => {
            let tried = tokens::known_as(call.database(), &asked.token).await?;
            return Err(Problem::unauthenticated(why).by(tried, Role::Viewer));
        }
        Err(error) => return Err(error.into()),
    };
    let (session, secret) = tokens::open_session(call.database(), &token, SESSION, call.now()).await?;
    let reply = Reply::created(&Me::of(&session), format!("{} of {}", session.id, session.name));
    Ok(reply.by(session.name, session.role).header("set-cookie", cookie(secret.reveal().to_owned(), SESSION)))
}

/// Closes it.
pub async fn logout(call: Call) -> Answer {
    let token = call.token();
    if token.parent.is_none() {
        return Err(Problem::malformed("this is a token, not a session; revoke it to end it"));
    }
    tokens::revoke(call.database(), &token.id).await?;
    Ok(Reply::empty().header("set-cookie", cookie(String::new(), Duration::ZERO)))
}

/// The audit log.
pub async fn audit(call: Call) -> Answer {
    let asked: PageQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    let cursor = asked.cursor.map(Cursor::id::<RecordId>);
    let acts = log::list(call.database(), cursor.as_ref(), limit + 1).await?;
    Ok(Reply::json(&Page::of(acts, limit, |act| act.id.to_string())))
}

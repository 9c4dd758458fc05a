//! Agents, as people see and handle them.

use std::time::Duration;

use mover_control::agents::{Agent, enrolment, store};
use mover_control::ids::AgentId;
use mover_control::job::store as jobs;
use serde::{Deserialize, Serialize};

use super::{Answer, Cursor, PageQuery};
use crate::serve::call::{Call, Page, Reply, page_limit};

/// Life of an enrolment token when nobody says otherwise.
const ENROLMENT_LIFE_SECONDS: u64 = 3600;
/// Jobs that are looked at for who runs how many.
const ACTIVE_MAX: u32 = 10_000;

/// An agent and what it does now.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SeenAgent {
    /// As it is stored.
    #[serde(flatten)]
    agent: Agent,
    /// It was heard lately.
    connected: bool,
    /// Jobs that it may run at once.
    slots: u32,
    /// Jobs that it runs.
    running: u32,
}

/// Who may join.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnrolment {
    /// The pool that it joins; `main` if not said.
    #[serde(default = "main_pool")]
    #[schema(min_length = 1, max_length = 256, pattern = "^[^/]+$")]
    pool: String,
    /// How long the token counts; an hour if not said.
    #[serde(default = "enrolment_life")]
    #[schema(minimum = 1, maximum = 604800)]
    life_seconds: u64,
}

fn main_pool() -> String {
    "main".to_owned()
}

fn enrolment_life() -> u64 {
    ENROLMENT_LIFE_SECONDS
}

/// What an agent joins with.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Enrolment {
    /// Shown once.
    pub token: String,
    /// How agents reach this server.
    pub server: String,
    /// SHA-256 of the certificate of the authority: what the agent checks the server by when it joins.
    pub authority_sha256: String,
    /// The command that joins.
    pub command: String,
}

impl Enrolment {
    /// For this token.
    pub fn of(app: &crate::serve::app::App, token: &str) -> Enrolment {
        let (server, pin) = (app.agents_url.clone(), app.authority.pin());
        let command = format!("mover agent enrol --server {server} --ca-fingerprint {pin} --token {token}");
        Enrolment { token: token.to_owned(), server, authority_sha256: pin, command }
    }
}

async fn seen(call: &Call, agents: Vec<Agent>) -> Result<Vec<SeenAgent>, mover_control::ControlError> {
    let now = call.now();
    let active = jobs::active(call.database(), ACTIVE_MAX).await?;
    let running = |id: &AgentId| active.iter().filter(|job| job.agent.as_ref() == Some(id)).count() as u32;
    let one = |agent: Agent| SeenAgent {
        connected: agent.is_connected(now),
        slots: agent.slots(),
        running: running(&agent.id),
        agent,
    };
    Ok(agents.into_iter().map(one).collect())
}

/// Lists.
pub async fn list(call: Call) -> Answer {
    let asked: PageQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    let cursor = asked.cursor.map(Cursor::id::<AgentId>);
    let agents = store::list(call.database(), cursor.as_ref(), limit + 1).await?;
    let page = Page::of(agents, limit, |agent| agent.id.to_string());
    Ok(Reply::json(&Page { items: seen(&call, page.items).await?, next: page.next }))
}

async fn one(call: &Call) -> Result<Agent, mover_control::ControlError> {
    store::get(call.database(), &AgentId::from(call.place(0))).await
}

/// One.
pub async fn get(call: Call) -> Answer {
    let agent = one(&call).await?;
    Ok(Reply::json(&seen(&call, vec![agent]).await?[0]))
}

/// Gives it no new work.
pub async fn drain(call: Call) -> Answer {
    store::drain(call.database(), &AgentId::from(call.place(0)), true).await?;
    Ok(Reply::json(&one(&call).await?))
}

/// Gives it work again.
pub async fn undrain(call: Call) -> Answer {
    store::drain(call.database(), &AgentId::from(call.place(0)), false).await?;
    call.app.wake();
    Ok(Reply::json(&one(&call).await?))
}

/// Takes everything from it.
pub async fn revoke(call: Call) -> Answer {
    store::revoke(call.database(), &AgentId::from(call.place(0))).await?;
    Ok(Reply::json(&one(&call).await?))
}

/// Removes it.
pub async fn remove(call: Call) -> Answer {
    one(&call).await?;
    store::remove(call.database(), &AgentId::from(call.place(0)), call.now()).await?;
    Ok(Reply::empty())
}

/// Lets one join.
pub async fn enrol(call: Call) -> Answer {
    let asked: NewEnrolment = call.body()?;
    let life = Duration::from_secs(asked.life_seconds);
    let secret = enrolment::create(call.database(), &asked.pool, life, call.who.name(), call.now()).await?;
    Ok(Reply::created(&Enrolment::of(&call.app, secret.reveal()), asked.pool))
}

//! Agents: how they join, what they can do, and when they were heard last.
//!
//! An agent enrols once with a short-lived token ([`enrolment`]), is known from then on by the fingerprint of its
//! certificate, and says at each start what it is ([`store::hello`]). *Connected* means heard within [`CONNECTED`].
//! A revoked agent gets no work and its reports are refused; one that drains finishes what it has. Times of hearing are
//! collected by the registry actor and written together, so a thousand agents cost a transaction every few seconds; they
//! say nothing of a time in which nobody listened ([`hearing`]).

pub mod enrolment;
pub mod hearing;
pub mod store;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, UnixMillis};

/// An agent that was not heard for so long is away.
pub const CONNECTED: Duration = Duration::from_secs(60);
/// How often an agent is told to let itself be heard.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Its version.
    pub version: String,
    /// Cores that it may use.
    pub cores: u32,
    /// Memory that it may use.
    pub memory_bytes: u64,
    /// Free words, for people and filters.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What it reaches besides its own files: names of filers, databases, disk arrays.
    #[serde(default)]
    pub reaches: Vec<String>,
    /// Another one at each start of its process.
    pub instance: String,
}

/// An agent as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name, unique.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// What it said of itself last.
    pub description: Description,
    /// Of its certificate.
    pub fingerprint: String,
    /// When it joined.
    pub enrolled_at: UnixMillis,
    /// When it was heard last.
    pub last_seen: UnixMillis,
    /// Gets no new work.
    pub draining: bool,
    /// Gets nothing any more.
    pub revoked: bool,
}

impl Agent {
    /// Whether it was heard lately.
    pub fn is_connected(&self, now: UnixMillis) -> bool {
        !self.revoked && self.last_seen >= now.minus(CONNECTED)
    }

    /// Jobs that it runs at once.
    pub fn slots(&self) -> u32 {
        crate::placement::slots::slots(self.description.cores, self.description.memory_bytes)
    }
}

//! What an agent and a server say to each other: JSON bodies of POST requests over mutual TLS.
//!
//! The agent always begins: it sits behind firewalls and nothing of it listens. Only [`path::ENROL`] is asked without a
//! client certificate. Who the agent is comes from its certificate alone, never from a body. Errors are problem
//! details (RFC 9457) whose `type` ends with one of [`problem`]; an agent decides by that, never by the words.
//!
//! Unknown fields in requests are refused by the server and unknown fields in answers ignored by the agent, so that a
//! server may be newer than its agents, never older.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agents::{self, Agent, Description};
use crate::ids::{AgentId, RecordId};
use crate::job::{JobState, Outcome, Progress};
use crate::lease::report::{Advice, Ending, Held};
use crate::lease::take::Lease;

/// How long a poll of an agent waits for work. An agent without jobs sends no heartbeats: it is heard by its polls, and
/// must not count as away between two of them.
pub const POLL_WAIT: Duration = Duration::from_secs(20);

const _: () = assert!(2 * POLL_WAIT.as_secs() < agents::CONNECTED.as_secs());

/// Where each request goes.
pub mod path {
    /// [`EnrolRequest`](super::EnrolRequest) → [`EnrolAnswer`](super::EnrolAnswer); without a client certificate.
    pub const ENROL: &str = "/agent/v1/enrol";
    /// [`RenewRequest`](super::RenewRequest) → [`EnrolAnswer`](super::EnrolAnswer): a new certificate before the old ends.
    pub const RENEW: &str = "/agent/v1/renew";
    /// [`HelloRequest`](super::HelloRequest) → [`HelloAnswer`](super::HelloAnswer), at each start of the agent.
    pub const HELLO: &str = "/agent/v1/hello";
    /// [`PollRequest`](super::PollRequest) → [`PollAnswer`](super::PollAnswer); waits.
    pub const POLL: &str = "/agent/v1/poll";
    /// [`BeatRequest`](super::BeatRequest) → [`BeatAnswer`](super::BeatAnswer).
    pub const BEAT: &str = "/agent/v1/beat";
    /// [`AdvanceRequest`](super::AdvanceRequest) → [`Advice`](super::Advice).
    pub const ADVANCE: &str = "/agent/v1/advance";
    /// [`GrantRequest`](super::GrantRequest) → nothing: the recovery point may be published.
    pub const GRANT: &str = "/agent/v1/grant";
    /// [`FinishRequest`](super::FinishRequest) → [`FinishAnswer`](super::FinishAnswer); the same again is harmless.
    pub const FINISH: &str = "/agent/v1/finish";
    /// [`ReplyRequest`](super::ReplyRequest) → nothing.
    pub const REPLY: &str = "/agent/v1/reply";
}

/// Ends of problem types that an agent acts on.
pub mod problem {
    /// Somebody else has the job: stop, write nothing.
    pub const STALE_FENCE: &str = "stale-fence";
    /// The job has ended.
    pub const ENDED: &str = "ended";
    /// There is no such job.
    pub const NOT_FOUND: &str = "not-found";
    /// Not as things are: the job is to be stopped, or a poll was followed by another.
    pub const CONFLICT: &str = "conflict";
    /// The agent was revoked. Enrol it anew under another name, or remove it first.
    pub const AGENT_REVOKED: &str = "agent-revoked";
    /// The version of the agent does not fit that of the server.
    pub const AGENT_VERSION: &str = "agent-version";
    /// The request came without a client certificate.
    pub const CERTIFICATE_MISSING: &str = "certificate-missing";
    /// Our authority signed the certificate, but no agent has its key: it was removed. Enrol anew.
    pub const CERTIFICATE_UNKNOWN: &str = "certificate-unknown";
    /// Another authority signed the certificate.
    pub const CERTIFICATE_AUTHORITY: &str = "certificate-authority";
    /// The certificate has ended. Enrol anew.
    pub const CERTIFICATE_EXPIRED: &str = "certificate-expired";
    /// The certificate does not count yet, by the clock of the server: one of the two clocks is wrong. Say the same again.
    pub const CERTIFICATE_NOT_YET_VALID: &str = "certificate-not-yet-valid";
    /// The certificate is not one of an agent, or is that of another agent.
    pub const CERTIFICATE_NAME: &str = "certificate-name";
    /// The database is away for a moment: nothing was changed, say the same again after `Retry-After`.
    pub const DATABASE_AWAY: &str = "database-away";
    /// Too many requests: say the same again after `Retry-After`.
    pub const TOO_MANY: &str = "too-many-requests";
}

/// A host wants to become an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// What an admin handed out.
    pub token: String,
    /// Drawn by the agent once, kept by it.
    pub agent: AgentId,
    /// Unique, for people.
    pub name: String,
    /// What it is.
    pub description: Description,
    /// PKCS #10, PEM. Its key never leaves the agent.
    pub certificate_request: String,
}

/// An agent asks for a new certificate, for the key that it has: an agent is known by its key, so a lost answer does no
/// harm. Who wants another key enrols anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS #10, PEM.
    pub certificate_request: String,
}

/// An agent's papers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolAnswer {
    /// As it is stored.
    pub agent: Agent,
    /// PEM.
    pub certificate: String,
    /// PEM of who signs for servers and agents.
    pub authority: String,
}

/// An agent has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelloRequest {
    /// What it is now.
    pub description: Description,
    /// Of the kernel that its host runs, as `/proc/sys/kernel/random/boot_id` tells it: another one than before is a
    /// restart of the host.
    #[serde(default)]
    pub boot: Option<String>,
    /// Jobs that it knows and goes on with. When its process is another one than before, all others that it had go
    /// back to the queue at once instead of after the silence of a lease.
    #[serde(default)]
    pub held: Vec<Held>,
}

/// What an agent needs to know at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// As it is stored.
    pub agent: Agent,
    /// Version of the server.
    pub server_version: String,
    /// How often it shall let itself be heard.
    pub heartbeat_seconds: u64,
    /// Jobs that it may run at once.
    pub slots: u32,
}

/// An agent asks for work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollRequest {
    /// What asks is of this version. The stored one is as old as its last hello: either side may have been upgraded since.
    pub version: String,
    /// Jobs that it takes now.
    pub free: u32,
    /// Repositories whose index it need not fetch: those that its latest jobs used and that are cached on its disk. A few,
    /// and a hint only.
    #[serde(default)]
    pub resident: Vec<String>,
    /// Questions that it is about to answer, and is not asked again. One that is not named here was lost on its way.
    #[serde(default)]
    pub answering: Vec<RecordId>,
    /// How long it waits for some.
    pub wait_seconds: u64,
}

/// What an agent gets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PollAnswer {
    /// Jobs.
    #[serde(default)]
    pub leases: Vec<Lease>,
    /// To be answered at once, beside the jobs.
    #[serde(default)]
    pub questions: Vec<Question>,
}

/// A person looks at what is in a repository. Only agents hold its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Goes with the reply.
    pub id: RecordId,
    /// The repository.
    pub repository: String,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The recovery points of the repository, as `mover points --json` tells them.
    Points {
        /// Only of this set.
        set: Option<String>,
    },
    /// One directory of a recovery point, as `mover ls --json` tells it.
    List {
        /// The recovery point.
        point: String,
        /// The directory.
        path: String,
        /// At most so many entries.
        limit: u32,
    },
}

/// The reply to a question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyRequest {
    /// Of the question.
    pub id: RecordId,
    /// One JSON object an entry, or why there are none.
    pub reply: Result<Vec<serde_json::Value>, String>,
}

/// All jobs that an agent works on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeatRequest {
    /// Each with how far it is.
    pub jobs: Vec<(Held, Option<Progress>)>,
}

/// One advice a job, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BeatAnswer {
    /// See [`Advice`].
    pub advice: Vec<Advice>,
}

/// A job enters another state, or another fileset.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvanceRequest {
    /// Which job.
    pub held: Held,
    /// Its state now.
    pub state: JobState,
    /// How far it is.
    pub progress: Progress,
}

/// May the recovery point be published?
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Which job.
    pub held: Held,
}

/// A job is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishRequest {
    /// Which job.
    pub held: Held,
    /// How it ended.
    pub ending: Ending,
    /// What came of it.
    pub outcome: Outcome,
}

/// What became of the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinishAnswer {
    /// Its state now: a failed attempt may be queued again.
    pub state: JobState,
    /// It had been said before.
    pub repeated: bool,
}

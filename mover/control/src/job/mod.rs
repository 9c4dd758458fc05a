//! A job: one order, its state, and everything that is known of it.
//!
//! [`NewJob`] is what somebody asks for, [`admission`] decides what becomes of it, [`Job`] is the row, [`state`] the
//! legal moves, [`store`] the only code that writes a row of a job: each move commits with its event and its
//! notifications, or not at all.

pub mod admission;
pub mod events;
pub(crate) mod figures;
pub mod order;
pub mod points;
pub mod progress;
pub(crate) mod ranks;
pub mod requests;
pub mod state;
pub mod store;
pub mod waiting;

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, JobId, PolicyId, UnixMillis};

pub use order::JobOrder;
pub use progress::{Exception, Outcome, Progress};
pub use state::{JobState, Phase};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Source to repository.
    Backup,
    /// Repository to target.
    Restore,
    /// Prove what a repository holds.
    Verify,
    /// Free what no recovery point needs.
    Prune,
    /// Forget recovery points by the rules of a policy.
    Retention,
}

/// What kind of thing is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Files of the host that the agent runs on.
    FileServer,
    /// A share, read by a proxy.
    Nas,
    /// Microsoft SQL Server.
    SqlServer,
    /// Machines of a Hyper-V host.
    HyperV,
    /// Machines of a hypervisor, read by a proxy.
    VirtualMachine,
    /// Oracle, streamed straight to the repository.
    OracleDirect,
    /// Oracle, by way of a mounted backup store.
    OracleStore,
    /// Any other database that a proxy reaches.
    Database,
    /// A block device or image.
    Disk,
}

/// Who started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A person or a script, now.
    OnDemand,
    /// The calendar of a policy.
    Scheduled,
}

/// Who can do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Place {
    /// One host: its own files.
    Host {
        /// Its agent.
        agent: AgentId,
    },
    /// Any agent of a pool.
    Pool {
        /// The pool.
        pool: String,
        /// Only those that can reach this, as they said when they registered.
        reach: Option<String>,
        /// Whose work it is as long as it is there (NAS).
        preferred: Option<AgentId>,
    },
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// Its id, made by who asks: the same request twice makes one job.
    pub id: JobId,
    /// What is to be done.
    pub kind: JobKind,
    /// To what kind of thing.
    pub workload: Workload,
    /// Who started it.
    pub origin: Origin,
    /// Of which policy.
    pub policy: Option<PolicyId>,
    /// The set whose recovery points it makes or reads.
    pub set: String,
    /// Where the source is found.
    pub source: String,
    /// Where the repository is found.
    pub repository: String,
    /// Who can do it.
    pub place: Place,
    /// Higher goes first.
    pub priority: i64,
    /// Who shares fairly with whom: by default the policy, else who asks.
    pub share: Option<String>,
    /// Weight of the share, from 1.
    pub weight: u32,
    /// Not leased earlier.
    pub not_before: Option<UnixMillis>,
    /// End of the window in which it may begin.
    pub expires_at: Option<UnixMillis>,
    /// Jobs of this source that may run at once.
    pub source_limit: Option<u32>,
    /// Jobs of this repository that may run at once.
    pub repository_limit: Option<u32>,
    /// Who asks.
    pub requested_by: String,
    /// Wait for an agent that is away, where the table says "fails at once".
    pub wait: bool,
    /// What the agent is told.
    pub order: JobOrder,
}

/// A job as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Job {
    /// Its id; a recovery point is created under it.
    pub id: JobId,
    /// What is to be done.
    pub kind: JobKind,
    /// To what kind of thing.
    pub workload: Workload,
    /// Who started it.
    pub origin: Origin,
    /// Of which policy.
    pub policy: Option<PolicyId>,
    /// The set.
    pub set: String,
    /// The source.
    pub source: String,
    /// The repository.
    pub repository: String,
    /// The pool whose slots it uses.
    pub pool: String,
    /// Who can do it: see [`crate::placement::lane`].
    pub lane: String,
    /// Who else may do it once its own agent has lost it.
    pub lane_of_others: Option<String>,
    /// The agent whose work it was meant to be, also after others may do it.
    pub preferred: Option<AgentId>,
    /// Higher goes first.
    pub priority: i64,
    /// Its share.
    pub share: String,
    /// Weight of that share.
    pub weight: i64,
    /// Its place among jobs of equal priority.
    pub rank: i64,
    /// Where it stands.
    pub state: JobState,
    /// What keeps a queued job from being leased: `time`, `set:…`, `source:…`, `repository:…`.
    pub waits_on: Option<String>,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// Not leased earlier.
    pub not_before: UnixMillis,
    /// End of its window.
    pub expires_at: Option<UnixMillis>,
    /// When it was leased first.
    pub started_at: Option<UnixMillis>,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
    /// How often it was leased.
    pub attempt: i64,
    /// How many of these leases ended since its agent was lost, which is no attempt that failed.
    #[serde(default)]
    pub lapses: i64,
    /// The fencing token of its last lease: only grows.
    pub fence: i64,
    /// Whose that lease is, or was.
    pub agent: Option<AgentId>,
    /// Whether its commit was permitted.
    pub granted: bool,
    /// Why its agent is asked to stop.
    pub stop: Option<String>,
    /// Jobs of this source that may run at once.
    pub source_limit: Option<i64>,
    /// Jobs of this repository that may run at once.
    pub repository_limit: Option<i64>,
    /// Who asked.
    pub requested_by: String,
    /// What it made.
    pub recovery_point: Option<String>,
    /// The last thing to say of it, for people.
    pub message: Option<String>,
    /// What the agent is told.
    pub order: JobOrder,
    /// How far it is.
    pub progress: Progress,
    /// What came of it.
    pub outcome: Option<Outcome>,
}

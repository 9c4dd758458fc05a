//! What an agent is told to do: a document that travels with the lease.
//!
//! Plain data with bounds; unknown fields are refused, so that an agent of another version never silently ignores
//! what it was told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::service::notification::{NotifyRule, REDACTED};

/// Attempts of a job when nobody says otherwise.
pub const ATTEMPTS: u32 = 3;
/// Pause between two attempts when nobody says otherwise.
pub const RETRY_PAUSE_SECONDS: u64 = 300;

/// What becomes of a job whose host restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It goes on from what is durable.
    #[default]
    Resume,
    /// It ends as aborted; a fresh one follows the schedule (S-010).
    Abort,
}

/// One step of a job: filesets run one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fileset {
    /// Its name, unique in the job.
    pub name: String,
    /// What belongs to it.
    pub paths: Vec<String>,
    /// Patterns of what does not; counted by the agent, a number a pattern.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Leave out directories that hold a file of this name.
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    /// Leave out directories marked as caches.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Stay on the file system of each path.
    #[serde(default)]
    pub one_file_system: bool,
}

/// A program that runs before or after the data is moved, on the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; no shell is involved.
    pub arguments: Vec<String>,
    /// It is killed after so long, and has failed.
    pub limit_seconds: u64,
    /// Whether its failure fails the job; else it is an exception.
    #[serde(default)]
    pub required: bool,
}

/// What a restore needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreOrder {
    /// Id, `latest`, or a time.
    pub point: String,
    /// A directory; without it, in place.
    pub target: Option<String>,
    /// What to restore; nothing named is everything.
    #[serde(default)]
    pub paths: Vec<String>,
    /// `always`, `if-changed`, `if-newer` or `never`, as the command line has it.
    pub overwrite: Option<String>,
    /// Read back and compare.
    #[serde(default)]
    pub verify: bool,
}

/// What an agent is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobOrder {
    /// What is moved, in this order.
    #[serde(default)]
    pub filesets: Vec<Fileset>,
    /// Take over nothing unread from earlier recovery points.
    #[serde(default)]
    pub full: bool,
    /// Bandwidth calendar, as the command line has it. `None`: the limit of the agent holds.
    #[serde(default)]
    pub bandwidth: Option<String>,
    /// Before the data is moved.
    #[serde(default)]
    pub before: Vec<Command>,
    /// After it, whatever came of it.
    #[serde(default)]
    pub after: Vec<Command>,
    /// Share of the stored data that is read and compared in this run, in percent.
    #[serde(default)]
    pub verify_percent: u8,
    /// For a restore.
    #[serde(default)]
    pub restore: Option<RestoreOrder>,
    /// For retention: the rules.
    #[serde(default)]
    pub retention: Option<crate::policy::Retention>,
    /// How often it is tried in all.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// Pause before the next attempt.
    #[serde(default = "retry_pause")]
    pub retry_pause_seconds: u64,
    /// What becomes of it when its host restarts.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whom to tell of which states.
    #[serde(default)]
    pub notify: Vec<NotifyRule>,
}

fn attempts() -> u32 {
    ATTEMPTS
}

fn retry_pause() -> u64 {
    RETRY_PAUSE_SECONDS
}

impl Default for JobOrder {
    fn default() -> JobOrder {
        JobOrder {
            filesets: Vec::new(),
            full: false,
            bandwidth: None,
            before: Vec::new(),
            after: Vec::new(),
            verify_percent: 0,
            restore: None,
            retention: None,
            attempts: ATTEMPTS,
            retry_pause_seconds: RETRY_PAUSE_SECONDS,
            restart: RestartPolicy::Resume,
            notify: Vec::new(),
        }
    }
}

impl Command {
    /// The program without its arguments, which may hold a secret.
    pub(crate) fn redacted(mut self) -> Command {
        self.arguments.iter_mut().skip(1).for_each(|argument| *argument = REDACTED.to_owned());
        self
    }
}

impl JobOrder {
    /// For eyes below admin: no argument of a command, no address of a message.
    pub fn redacted(mut self) -> JobOrder {
        self.before = self.before.into_iter().map(Command::redacted).collect();
        self.after = self.after.into_iter().map(Command::redacted).collect();
        self.notify = self.notify.into_iter().map(NotifyRule::redacted).collect();
        self
    }

    /// Whether it runs programs or tells others: what only an admin may ask for.
    pub fn needs_admin(&self) -> bool {
        !(self.before.is_empty() && self.after.is_empty() && self.notify.is_empty())
    }

    /// Pause before the next attempt.
    pub fn retry_pause(&self) -> Duration {
        Duration::from_secs(self.retry_pause_seconds)
    }
}

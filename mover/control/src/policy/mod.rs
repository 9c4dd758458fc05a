//! A policy: what is protected, when, how, for how long, and with what proof. One document, JSON.
//!
//! [`Policy::validate`] refuses, with the reason, what could never work; [`runs`] turns *when* into points in time;
//! [`store`] keeps the documents. Whether a backup is full or incremental is a fact of the data path: the first of a set
//! is full and all later ones incremental, whoever starts them (S-013), so there is no knob for it here.

pub mod calendar;
pub mod runs;
pub mod store;
pub mod validate;
pub mod week;

use serde::{Deserialize, Serialize};

use crate::job::order::{Command, Fileset, RestartPolicy};
use crate::job::{Place, Workload};
use crate::placement::away::AwayTable;
use crate::service::notification::NotifyRule;

/// What is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct What {
    /// What kind of thing.
    pub workload: Workload,
    /// Who can read it.
    pub place: Place,
    /// Where it is found: a host, a share, a database.
    pub source: String,
    /// Where its recovery points go.
    pub repository: String,
    /// The set of its recovery points; by default the name of the policy.
    #[serde(default)]
    pub set: Option<String>,
    /// Moved one after the other.
    pub filesets: Vec<Fileset>,
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// Points in time that come again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// On these days of the week; none named is all.
    #[serde(default)]
    pub days: Vec<Day>,
    /// On these days of the month, −1 is the last; none named is all.
    #[serde(default)]
    pub month_days: Vec<i8>,
    /// At these times, `HH:MM`.
    #[serde(default)]
    pub at: Vec<String>,
    /// Or every so many minutes from the begin of each such day.
    #[serde(default)]
    pub every_minutes: Option<u32>,
}

/// A span of the week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// On these days, that of its begin; none named is all.
    #[serde(default)]
    pub days: Vec<Day>,
    /// `HH:MM`.
    pub begin: String,
    /// `HH:MM`, to `24:00`; before the begin it is on the day after.
    pub end: String,
}

/// What becomes of a run that was missed while no control plane was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// One run for all that were missed.
    #[default]
    Once,
    /// They are left out.
    Skip,
}

/// When it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// IANA time zone of all times here.
    pub zone: String,
    /// Runs are due at these; none: on demand only.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
    /// A run begins only within one of these; none: at any time.
    #[serde(default)]
    pub windows: Vec<Span>,
    /// And never within one of these.
    #[serde(default)]
    pub blackouts: Vec<Span>,
    /// Each policy begins later by its own part of this.
    #[serde(default)]
    pub jitter_seconds: u32,
    /// Missed runs.
    #[serde(default)]
    pub catch_up: CatchUp,
}

/// How it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct How {
    /// Bandwidth calendar, as the command line has it.
    pub bandwidth: Option<String>,
    /// Attempts in all.
    pub attempts: u32,
    /// Pause between two.
    pub retry_pause_seconds: u64,
    /// Higher goes first.
    pub priority: i64,
    /// Of its fair share.
    pub weight: u32,
    /// Jobs of the source that may run at once.
    pub source_limit: Option<u32>,
    /// Jobs of the repository that may run at once.
    pub repository_limit: Option<u32>,
    /// Before the data is moved.
    pub before: Vec<Command>,
    /// After it.
    pub after: Vec<Command>,
    /// When its host restarts.
    pub restart: RestartPolicy,
    /// Rows that replace those of the server's table *Agent away*.
    pub away: Option<AwayTable>,
}

impl Default for How {
    fn default() -> How {
        How {
            bandwidth: None,
            attempts: crate::job::order::ATTEMPTS,
            retry_pause_seconds: crate::job::order::RETRY_PAUSE_SECONDS,
            priority: 0,
            weight: 1,
            source_limit: None,
            repository_limit: None,
            before: Vec::new(),
            after: Vec::new(),
            restart: RestartPolicy::Resume,
            away: None,
        }
    }
}

/// What is kept: the newest recovery point of each of so many periods, as `mover forget` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// The newest, whatever their time.
    pub last: u32,
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// Free the space of what is forgotten too.
    pub prune: bool,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, unique.
    pub name: String,
    /// What is protected.
    pub what: What,
    /// When it runs.
    pub when: When,
    /// How it runs.
    #[serde(default)]
    pub how: How,
    /// What is kept; none: everything.
    #[serde(default)]
    pub keep: Option<Retention>,
    /// Share of the stored data that each run reads and compares, in percent.
    #[serde(default)]
    pub verify_percent: u8,
    /// Whom to tell of which states.
    #[serde(default)]
    pub notify: Vec<NotifyRule>,
}

impl Policy {
    /// The set of its recovery points.
    pub fn set(&self) -> &str {
        self.what.set.as_deref().unwrap_or(&self.name)
    }

    /// For eyes below admin: no argument of a command, no address of a message.
    pub fn redacted(mut self) -> Policy {
        self.how.before = self.how.before.into_iter().map(Command::redacted).collect();
        self.how.after = self.how.after.into_iter().map(Command::redacted).collect();
        self.notify = self.notify.into_iter().map(NotifyRule::redacted).collect();
        self
    }
}

#[cfg(test)]
mod tests;

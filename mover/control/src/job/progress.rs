//! How far a job is, and what came of it: written by its agent with each heartbeat and at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Exceptions kept with a job; all are counted.
pub const EXCEPTIONS_KEPT: usize = 1000;

/// Bytes by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct BytesByClass {
    /// Read from the source, or from the repository by a restore.
    pub read: u64,
    /// Taken over unread from the parent.
    pub unchanged: u64,
    /// Not in the repository before.
    pub new: u64,
    /// Stored, compressed and sealed.
    pub stored: u64,
    /// Written to the target by a restore.
    pub restored: u64,
    /// Read again and compared.
    pub verified: u64,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Progress {
    /// The fileset in work, from 1; 0 before the first.
    pub fileset: u32,
    /// How many there are.
    pub filesets: u32,
    /// Files seen so far.
    pub files: u64,
    /// Files estimated.
    pub files_estimated: u64,
    /// Bytes estimated.
    pub bytes_estimated: u64,
    /// Bytes so far.
    pub bytes: BytesByClass,
    /// Bytes a second at the moment.
    pub bytes_per_second: u64,
    /// The stage that all others wait for.
    pub bottleneck: Option<String>,
    /// Files that could not be read or set, so far.
    pub exceptions: u64,
}

/// One file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exception {
    /// Its path.
    pub path: String,
    /// Why.
    pub cause: String,
}

/// What came of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Outcome {
    /// The recovery point that it made.
    pub recovery_point: Option<String>,
    /// Whether everything was read, or only what changed.
    pub full: bool,
    /// For people: the cause of a failure, or a summary.
    pub message: Option<String>,
    /// The first exceptions.
    pub exceptions: Vec<Exception>,
    /// How many there were.
    pub exceptions_total: u64,
    /// Files and directories that each filter left out.
    pub excluded: BTreeMap<String, u64>,
    /// How far it came.
    pub progress: Progress,
}

impl Outcome {
    /// Within what is kept.
    pub(crate) fn bounded(mut self) -> Outcome {
        self.exceptions_total = self.exceptions_total.max(self.exceptions.len() as u64);
        self.exceptions.truncate(EXCEPTIONS_KEPT);
        self
    }
}

//! What can go wrong in the control plane: operation, object, cause, and whether a retry helps.
//!
//! A refusal (stale fence, illegal move, not found) is told apart from a fault of the database, for the one is an
//! answer to who asked and the other is nobody's fault.

use crate::ids::{AgentId, JobId};
use crate::job::JobState;

/// Result of the control plane.
pub type Result<T> = std::result::Result<T, ControlError>;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The database did not do what it was asked.
    #[error("{operation}: the database failed")]
    Database {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        cause: sqlx::Error,
    },
    /// The database was written by a newer program.
    #[error(
        "the database has schema {found}, this program knows up to {known}; run the newer program that wrote it, or restore a copy of the database from before the upgrade"
    )]
    SchemaTooNew {
        /// Number in the database.
        found: i64,
        /// Highest number known here.
        known: i64,
    },
    /// What is stored cannot be read as what it should be.
    #[error("{object} in the database is damaged: {reason}")]
    Damaged {
        /// Which row and column.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing has this name.
    #[error("no {kind} {name}")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// Its name or id.
        name: String,
    },
    /// The name or the state of the object forbids it.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for makes no sense, with the reason.
    #[error("{0}")]
    Invalid(String),
    /// The lease has gone to somebody else, or back to the queue: stop, and write nothing more.
    #[error("fence {given} of job {job} is stale, the job is at fence {current}; stop working on it")]
    StaleFence {
        /// The job.
        job: JobId,
        /// What the agent holds.
        given: i64,
        /// What counts now.
        current: i64,
    },
    /// The job is no longer anybody's work.
    #[error("job {job} has already ended: {state}")]
    Ended {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
    },
    /// The table of moves has no such row.
    #[error("job {job} cannot go from {from} to {to}")]
    IllegalMove {
        /// The job.
        job: JobId,
        /// Its state.
        from: JobState,
        /// The state that was asked for.
        to: JobState,
    },
    /// The agent may not work: revoked, or of a version that does not fit.
    #[error("agent {agent} gets no work: {reason}")]
    AgentRefused {
        /// The agent.
        agent: AgentId,
        /// Which of the two.
        refusal: Refusal,
        /// Why.
        reason: String,
    },
    /// Who asks could not prove who they are, or may not do this.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// Too much is asked at once; the same may succeed a little later.
    #[error("{0}")]
    Busy(String),
    /// A message could not be delivered.
    #[error("delivery to {target} failed: {reason}")]
    Delivery {
        /// Where it should have gone.
        target: String,
        /// Why it did not.
        reason: String,
    },
}

/// Why an agent may not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An admin took everything from it.
    Revoked,
    /// Its version does not fit.
    Version,
}

impl ControlError {
    /// True if the same call may succeed a little later, with nothing changed by who asks.
    pub fn is_transient(&self) -> bool {
        match self {
            ControlError::Database { cause, .. } => is_transient(cause),
            _ => false,
        }
    }

    pub(crate) fn not_found(kind: &'static str, name: impl ToString) -> ControlError {
        ControlError::NotFound { kind, name: name.to_string() }
    }

    pub(crate) fn damaged(object: impl ToString, reason: impl ToString) -> ControlError {
        ControlError::Damaged { object: object.to_string(), reason: reason.to_string() }
    }
}

/// Lock conflicts, lost connections, a full disk, a server that starts or stops; never a constraint or a wrong statement.
fn is_transient(cause: &sqlx::Error) -> bool {
    match cause {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(inner) => inner.code().is_some_and(|code| is_transient_code(&code)),
        _ => false,
    }
}

/// SQLite has result codes (the low byte is the primary one), PostgreSQL has SQLSTATE.
fn is_transient_code(code: &str) -> bool {
    const SQLITE_BUSY: u32 = 5;
    const SQLITE_LOCKED: u32 = 6;
    const SQLITE_IOERR: u32 = 10;
    const SQLITE_FULL: u32 = 13;
    const SQLITE_CANTOPEN: u32 = 14;
    const SQLITE: [u32; 5] = [SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN];
    // Connection exceptions, serialization and deadlock, disk full, too many connections, shutdown and start of the server.
    const POSTGRES: [&str; 13] = [
        "08000", "08001", "08003", "08004", "08006", "40001", "40P01", "53100", "53300", "55P03", "57P01", "57P02",
        "57P03",
    ];
    if code.len() == 5 {
        return POSTGRES.contains(&code);
    }
    let primary = code.parse::<u32>().map(|number| number & 0xff);
    primary.is_ok_and(|number| SQLITE.contains(&number))
}

//! Recovery points as the control plane knows them: what backups that ended made. The repository is what counts; an
//! agent that has its keys tells what is there now ([`crate::browse`]).

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Database, before};
use crate::error::Result;
use crate::ids::{AgentId, JobId, PolicyId, UnixMillis};

use super::{Job, store};

/// A recovery point that a job made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KnownPoint {
    /// Its name in the repository.
    pub id: String,
    /// The job that made it; also the cursor of a list.
    pub job: JobId,
    /// Its set.
    pub set: String,
    /// Where it is.
    pub repository: String,
    /// What it is of.
    pub source: String,
    /// Of which policy.
    pub policy: Option<PolicyId>,
    /// Who made it.
    pub agent: Option<AgentId>,
    /// When it was done.
    pub finished_at: Option<UnixMillis>,
    /// Files in it.
    pub files: u64,
    /// Bytes that were new.
    pub bytes_new: u64,
    /// Bytes that were stored for it.
    pub bytes_stored: u64,
    /// Files that are not in it as they should be.
    pub exceptions: u64,
}

impl KnownPoint {
    fn of(job: Job) -> Option<KnownPoint> {
        Some(KnownPoint {
            id: job.recovery_point?,
            job: job.id,
            set: job.set,
            repository: job.repository,
            source: job.source,
            policy: job.policy,
            agent: job.agent,
            finished_at: job.ended_at,
            files: job.progress.files,
            bytes_new: job.progress.bytes.new,
            bytes_stored: job.progress.bytes.stored,
            exceptions: job.outcome.map_or(0, |outcome| outcome.exceptions_total),
        })
    }
}

/// Which recovery points a list shows; `None` is any.
#[derive(Clone, Debug, Default)]
pub struct PointFilter {
    /// Of this set.
    pub set: Option<String>,
    /// In this repository.
    pub repository: Option<String>,
    /// Made by a job before this one.
    pub before: Option<JobId>,
}

/// Recovery points, newest first, at most `limit`.
///
/// # Errors
/// The database fails.
pub async fn list(database: &Database, filter: &PointFilter, limit: u32) -> Result<Vec<KnownPoint>> {
    let (page, cursor) = before("id", 4, filter.before.as_ref().map(JobId::as_str));
    let sql = format!(
        "SELECT * FROM jobs WHERE recovery_point IS NOT NULL AND kind = 'backup'
         AND ($1 IS NULL OR set_name = $1) AND ($2 IS NULL OR repository = $2){page} ORDER BY id DESC LIMIT $3"
    );
    let asked = arguments![filter.set.clone(), filter.repository.clone(), limit];
    let asked = [&asked[..], &cursor[..]].concat();
    database
        .read(async |tx| {
            let rows = tx.all(&sql, &asked).await?;
            Ok(store::from_records(&rows)?.into_iter().filter_map(KnownPoint::of).collect())
        })
        .await
}

//! Recovery points: those that jobs made, what an agent finds in a repository, and restores.

use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use mover_control::browse::{self, ENTRIES_MAX, PATIENCE, Reply as Told};
use mover_control::ids::{JobId, RecordId};
use mover_control::job::order::RestoreOrder;
use mover_control::job::points::{self, PointFilter};
use mover_control::job::{JobKind, JobOrder, NewJob, Origin, Place, Workload};
use mover_control::protocol::{Ask, Question};
use serde::{Deserialize, Serialize};

use super::{Answer, Cursor, jobs};
use crate::serve::call::{Call, Page, Reply, page_limit};
use crate::serve::problem::Problem;

/// How often it is looked for a reply.
const LOOK: Duration = Duration::from_millis(150);

/// Which recovery points a list shows.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PointQuery {
    /// Of this set.
    set: Option<String>,
    /// In this repository.
    repository: Option<String>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, max_length = 64)]
    cursor: Option<Cursor>,
    /// Entries of a page; 100 if not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Which recovery points of a repository.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RepositoryQuery {
    /// The repository.
    #[param(min_length = 1, max_length = 1024)]
    repository: String,
    /// Only of this set.
    set: Option<String>,
}

/// Which directory.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct BrowseQuery {
    /// The repository.
    #[param(min_length = 1, max_length = 1024)]
    repository: String,
    /// The recovery point: an id, or `latest`.
    #[param(min_length = 1, max_length = 1024)]
    point: String,
    /// The directory; `/` if not said.
    path: Option<String>,
    /// Entries at most; 1000 if not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What an agent found.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Listing {
    /// One object an entry, as `mover points --json` and `mover ls --json` tell them.
    items: Vec<serde_json::Value>,
}

/// Where a restore goes.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The repository that holds the recovery point.
    #[schema(min_length = 1, max_length = 1024)]
    repository: String,
    /// Its set.
    #[schema(min_length = 1, max_length = 1024)]
    set: String,
    /// What kind of thing it is of.
    workload: Workload,
    /// Where it is put back: a host, or a pool that reaches the target.
    place: Place,
    /// A directory; without it, in place.
    #[serde(default)]
    target: Option<String>,
    /// What to restore; nothing named is everything.
    #[serde(default)]
    paths: Vec<String>,
    /// Which existing files to replace.
    #[serde(default)]
    overwrite: Option<Overwrite>,
    /// Read back and compare.
    #[serde(default)]
    verify: bool,
}

/// Which existing files to replace.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// All.
    Always,
    /// Those that differ.
    IfChanged,
    /// Those that are older.
    IfNewer,
    /// None.
    Never,
}

impl Overwrite {
    fn word(self) -> &'static str {
        match self {
            Overwrite::Always => "always",
            Overwrite::IfChanged => "if-changed",
            Overwrite::IfNewer => "if-newer",
            Overwrite::Never => "never",
        }
    }
}

/// Lists what jobs made.
pub async fn list(call: Call) -> Answer {
    let asked: PointQuery = call.query()?;
    let limit = page_limit(asked.limit)?;
    let filter =
        PointFilter { set: asked.set, repository: asked.repository, before: asked.cursor.map(Cursor::id::<JobId>) };
    let found = points::list(call.database(), &filter, limit + 1).await?;
    Ok(Reply::json(&Page::of(found, limit, |point| point.job.to_string())))
}

/// Asks an agent for the recovery points.
pub async fn ask_points(call: Call) -> Answer {
    let asked: RepositoryQuery = call.query()?;
    ask(&call, asked.repository, Ask::Points { set: asked.set }).await
}

/// Asks an agent for a directory.
pub async fn browse(call: Call) -> Answer {
    let asked: BrowseQuery = call.query()?;
    let limit = asked.limit.unwrap_or(ENTRIES_MAX);
    let path = asked.path.unwrap_or_else(|| "/".to_owned());
    ask(&call, asked.repository, Ask::List { point: asked.point, path, limit }).await
}

async fn ask(call: &Call, repository: String, ask: Ask) -> Answer {
    let question = Question { id: RecordId::new(call.now()), repository, ask };
    browse::ask(call.database(), &question, call.now()).await?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK).await;
        match browse::reply(call.database(), &question.id).await {
            Ok(Told::Some(Ok(items))) => return Ok(Reply::json(&Listing { items })),
            Ok(Told::Some(Err(why))) => {
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "repository", why));
            }
            Ok(Told::None) => {}
            Err(mover_control::ControlError::NotFound { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let detail = format!("no agent replied within {} s; ask again", PATIENCE.as_secs());
    Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "no-reply", detail).retry_after(2))
}

/// Submits a restore.
pub async fn restore(call: Call) -> Answer {
    let asked: Restore = call.body()?;
    let source = match &asked.place {
        Place::Host { agent } => agent.to_string(),
        Place::Pool { pool, reach, .. } => reach.clone().unwrap_or_else(|| pool.clone()),
    };
    let order = RestoreOrder {
        point: call.place(0).to_owned(),
        target: asked.target,
        paths: asked.paths,
        overwrite: asked.overwrite.map(|which| which.word().to_owned()),
        verify: asked.verify,
    };
    let new = NewJob {
        id: call.new_id(),
        kind: JobKind::Restore,
        workload: asked.workload,
        origin: Origin::OnDemand,
        policy: None,
        set: asked.set,
        source,
        repository: asked.repository,
        place: asked.place,
        priority: 0,
        share: None,
        weight: 1,
        not_before: None,
        expires_at: None,
        source_limit: None,
        repository_limit: None,
        requested_by: call.who.name().to_owned(),
        wait: true,
        order: JobOrder { restore: Some(order), ..JobOrder::default() },
    };
    jobs::enter(&call, new).await
}

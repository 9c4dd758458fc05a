//! `mover protect`: has the store keep recovery points, by object lock, and says until when it does.

use std::time::Duration;

use futures_lite::future::block_on;
use mover_repository::Repository;
use mover_repository::ids::UnixNanos;
use mover_repository::log::RecoveryPoint;
use mover_repository::protection::Protector;
use serde_json::json;

use super::Session;
use super::args::ProtectArgs;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::repository::{self, short};
use super::text::{local_time, rfc3339};
use super::units::human_count;

/// Protects.
pub fn run(session: &Session, args: &ProtectArgs) -> Result<Exit> {
    repository::refuse_without_lock(repository::place(session)?)?;
    let opened = repository::open_cached(session)?;
    let history = block_on(opened.history())?;
    let points: Vec<RecoveryPoint> = match args.all {
        true => history.points().map(|(_, point)| point.clone()).collect(),
        false => {
            let found = repository::find_points(&history, &args.points, args.set.as_deref())?;
            found.into_iter().map(|(_, point)| point).collect()
        }
    };
    let until = until(UnixNanos::now(), args.period.0);
    let mut protector = Protector::new(&opened, &history, memory_bytes(session))?;
    for point in points.iter().filter(|point| args.set.as_ref().is_none_or(|set| point.set == *set)) {
        let objects = protector.protect(point, until)?;
        let fields = json!({ "id": point.id.to_string(), "protected_until": rfc3339(until), "objects": objects });
        session.output.object("point", fields)?;
        session.output.say(&format!(
            "recovery point {} is protected until {}: {} objects",
            short(&point.id),
            local_time(until),
            human_count(objects as u64)
        ))?;
    }
    let fields = json!({ "points": points.len(), "protected_until": rfc3339(until), "exit_code": 0 });
    session.output.object("summary", fields)?;
    Ok(Exit::Done)
}

/// What a backup does for its own point: what it took over of earlier ones is kept as long as what it stored.
pub fn after_backup(
    session: &Session,
    opened: &Repository,
    point: &RecoveryPoint,
    started: UnixNanos,
    period: Duration,
) -> Result<UnixNanos> {
    let until = until(started, period);
    let history = block_on(opened.history())?;
    Protector::new(opened, &history, memory_bytes(session))?.protect(point, until).map_err(CliError::from)?;
    Ok(until)
}

/// Whole seconds, as locks have them.
fn until(from: UnixNanos, period: Duration) -> UnixNanos {
    let seconds = from.0.div_euclid(1_000_000_000) + i128::from(period.as_secs());
    UnixNanos(seconds * 1_000_000_000)
}

/// The budget of what looks for objects.
pub fn memory_bytes(session: &Session) -> usize {
    usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX)
}

//! `mover points`: the recovery points, oldest first.

use std::collections::HashMap;

use futures_lite::future::block_on;
use mover_repository::Repository;
use mover_repository::ids::{ObjectId, UnixNanos};
use mover_repository::log::{Grade, History, RecoveryPoint, Totals};
use mover_repository::protection::{Protector, recorded};
use mover_repository::retention;
use serde_json::{Map, Value, json};

use super::Session;
use super::args::PointsArgs;
use super::error::Result;
use super::exit::Exit;
use super::table::Table;
use super::text::{escape, local_time, rfc3339};
use super::units::human_bytes;
use super::{protect, repository};

/// Lists them.
pub fn run(session: &Session, args: &PointsArgs) -> Result<Exit> {
    let opened = repository::open_cached(session)?;
    let (history, exceptions) = repository::history(session, &opened)?;
    let output = &session.output;
    let can_lock = opened.backend().can_retain();
    let mut columns = vec!["id", "time", "set", "host", "tags", ">size", ">new", "grade", ">errors"];
    columns.extend(can_lock.then_some("protected until"));
    let mut table = Table::new(&columns);
    let mut count = 0u64;
    let in_set = |point: &RecoveryPoint| args.set.as_ref().is_none_or(|set| point.set == *set);
    let forgotten = args.forgotten.then(|| retention::forgotten(&history));
    let points: Vec<&RecoveryPoint> = match &forgotten {
        Some(forgotten) => forgotten.iter().collect(),
        None => history.points().map(|(_, point)| point).collect(),
    };
    let points: Vec<&RecoveryPoint> = points.into_iter().filter(|point| in_set(point)).collect();
    let protected = protected(session, args, &opened, &history, &points)?;
    for point in points {
        count += 1;
        let until = protected.get(&point.id).copied();
        output.object("point", point_json(point, until))?;
        let mut row = vec![
            repository::short(&point.id),
            local_time(point.finished),
            escape(point.set.as_bytes()),
            escape(point.host.as_bytes()),
            escape(point.tags.join(",").as_bytes()),
            human_bytes(point.totals.bytes),
            human_bytes(point.totals.bytes_new),
            grade_name(point.grade).to_owned(),
            point.errors.to_string(),
        ];
        row.extend(can_lock.then(|| until.map_or_else(|| "-".to_owned(), local_time)));
        table.row(row);
    }
    if count > 0 && !output.json {
        for line in table.lines() {
            output.line(&line)?;
        }
    }
    if count == 0 && args.forgotten {
        output.say("no recovery point was forgotten")?;
    } else if count == 0 {
        output.say("no recovery point yet: make one with `mover backup`")?;
    }
    let exit = Exit::from_exceptions(exceptions);
    let fields = json!({
        "repository": opened.id().to_string(),
        "points": count,
        "exit_code": exit.code(),
    });
    output.object("summary", fields)?;
    Ok(exit)
}

/// Until when the store keeps each point: as the records say, or as it tells itself.
fn protected(
    session: &Session,
    args: &PointsArgs,
    opened: &Repository,
    history: &History,
    points: &[&RecoveryPoint],
) -> Result<HashMap<ObjectId, UnixNanos>> {
    if !args.prove_protection {
        return match opened.backend().can_retain() {
            true => Ok(block_on(recorded(opened.backend().as_ref()))?),
            false => Ok(HashMap::new()),
        };
    }
    repository::refuse_without_lock(repository::place(session)?)?;
    let mut protector = Protector::new(opened, history, protect::memory_bytes(session))?;
    let mut proven = HashMap::new();
    for point in points {
        if let Some(until) = protector.proven(point)? {
            proven.insert(point.id, until);
        }
    }
    Ok(proven)
}

/// The name of a grade.
pub fn grade_name(grade: Grade) -> &'static str {
    match grade {
        Grade::Torn => "torn",
        Grade::Stable => "stable",
        Grade::Snapshot => "snapshot",
    }
}

/// The fields of totals, by their names.
pub fn totals_json(totals: &Totals) -> Map<String, Value> {
    let fields = json!({
        "files": totals.files,
        "directories": totals.directories,
        "others": totals.others,
        "bytes": totals.bytes,
        "bytes_read": totals.bytes_read,
        "bytes_new": totals.bytes_new,
        "bytes_stored": totals.bytes_stored,
        "files_torn": totals.files_torn,
        "files_unreadable": totals.files_unreadable,
        "sockets_skipped": totals.sockets_skipped,
        "excluded": totals.excluded,
    });
    match fields {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn point_json(point: &RecoveryPoint, protected_until: Option<UnixNanos>) -> Value {
    let paths: Vec<String> = point.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    let mut fields = totals_json(&point.totals);
    let own = json!({
        "id": point.id.to_string(),
        "set": point.set,
        "host": point.host,
        "paths": paths,
        "tags": point.tags,
        "started": rfc3339(point.started),
        "finished": rfc3339(point.finished),
        "parent": point.parent.map(|parent| parent.to_string()),
        "depends_on": point.depends_on.map(|base| base.to_string()),
        "grade": grade_name(point.grade),
        "errors": point.errors,
        "protected_until": protected_until.map(rfc3339),
    });
    if let Value::Object(own) = own {
        fields.extend(own);
    }
    Value::Object(fields)
}

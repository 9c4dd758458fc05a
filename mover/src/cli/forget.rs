//! `mover forget`: recovery points that count no more, by rule or by name, and why the others stay.
//!
//! Writes one record and deletes nothing: `mover prune` frees the room, and until it has, `--undo` brings a
//! point back.

use std::collections::HashSet;

use futures_lite::future::block_on;
use jiff::tz::TimeZone;
use mover_repository::Repository;
use mover_repository::ids::{ObjectId, UnixNanos};
use mover_repository::log::{History, Outcome, RecoveryPoint, Role};
use mover_repository::prune::bring_back;
use mover_repository::retention::{self, Period, Policy, Verdict};
use serde_json::json;

use super::Session;
use super::args::ForgetArgs;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::repository::{self, short};
use super::table::Table;
use super::text::{escape, local_time, rfc3339};

/// Points in one record, so that it stays within its limit.
const POINTS_A_RECORD: usize = 16_000;

/// Forgets.
pub fn run(session: &Session, args: &ForgetArgs) -> Result<Exit> {
    let policy = policy(args);
    if args.points.is_empty() && args.undo.is_none() && policy.is_empty() {
        return Err(CliError::usage(
            "no rule says what to keep",
            "give --keep-last, --keep-daily, … or name the points to forget; nothing was forgotten",
        ));
    }
    let zone = zone(args)?;
    let opened = repository::open_as_admin(session)?;
    if let Some(spec) = &args.undo {
        return undo(session, &opened, spec);
    }
    let history = block_on(opened.history())?;
    let verdicts = match args.points.is_empty() {
        true => {
            let selected = |point: &RecoveryPoint| {
                (args.sets.is_empty() || args.sets.contains(&point.set))
                    && (args.tags.is_empty() || point.tags.iter().any(|tag| args.tags.contains(tag)))
            };
            retention::judge(&history, opened.secrets(), &policy, &zone, UnixNanos::now(), selected)
        }
        false => named(&history, args)?,
    };
    let reason = match args.points.is_empty() {
        true => format!("retention: {}", rules(&policy)),
        false => "named by the user".to_owned(),
    };
    print(session, &verdicts)?;
    let doomed: Vec<ObjectId> =
        verdicts.iter().filter(|verdict| verdict.reasons.is_empty()).map(|verdict| verdict.point.id).collect();
    if !args.dry_run {
        for part in doomed.chunks(POINTS_A_RECORD) {
            let registration = block_on(opened.register(repository::open_record(Role::Admin, "")?))?;
            block_on(registration.commit(Outcome::Forget { points: part.to_vec(), reason: reason.clone() }))?;
        }
    }
    summarise(session, args, &verdicts, doomed.len())
}

fn policy(args: &ForgetArgs) -> Policy {
    let counts = [args.keep_hourly, args.keep_daily, args.keep_weekly, args.keep_monthly, args.keep_yearly];
    Policy {
        last: args.keep_last.unwrap_or(0),
        periods: Period::ALL.into_iter().zip(counts).filter_map(|(period, count)| Some((period, count?))).collect(),
        within: args.keep_within.map(|within| within.0),
        tags: args.keep_tags.clone(),
    }
}

/// The rules in one line, for the record.
fn rules(policy: &Policy) -> String {
    let mut rules = Vec::new();
    if policy.last > 0 {
        rules.push(format!("last {}", policy.last));
    }
    rules.extend(policy.periods.iter().map(|(period, count)| format!("{period} {count}")));
    rules.extend(policy.within.map(|within| format!("within {}", super::units::Period(within))));
    let tags: Vec<String> = policy.tags.iter().map(|tag| format!("tag {tag}")).collect();
    rules.extend(tags.into_iter().take(3));
    let mut text = format!("keep {}", rules.join(", "));
    let end = (0..=text.len().min(1000)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

fn zone(args: &ForgetArgs) -> Result<TimeZone> {
    let Some(name) = &args.timezone else { return Ok(TimeZone::system()) };
    TimeZone::get(name).map_err(|error| {
        CliError::usage(
            format!("unknown time zone {name}: {error}"),
            "write it as Europe/Berlin or UTC; see /usr/share/zoneinfo",
        )
    })
}

/// The points that were named, as verdicts without a reason to stay.
fn named(history: &History, args: &ForgetArgs) -> Result<Vec<Verdict>> {
    let set = match &args.sets[..] {
        [] => None,
        [set] => Some(set.as_str()),
        _ => return Err(CliError::usage("several sets for named points", "give one --set, or the ids alone")),
    };
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut named = HashSet::new();
    for (number, point) in repository::find_points(history, &args.points, set)? {
        if named.insert(point.id) {
            verdicts.push(Verdict { number, time: point.finished, point, reasons: Vec::new() });
        }
    }
    let doomed: Vec<ObjectId> = verdicts.iter().map(|verdict| verdict.point.id).collect();
    match retention::dependents(history, &doomed).first() {
        None => Ok(verdicts),
        Some((dependent, base)) => Err(CliError::failed(
            format!("{} is needed: {} depends on it", short(base), short(&dependent.id)),
            "name that point too, or keep both; nothing was forgotten",
        )),
    }
}

fn undo(session: &Session, opened: &Repository, spec: &str) -> Result<Exit> {
    let history = block_on(opened.history())?;
    let matching: Vec<ObjectId> = retention::forgotten(&history)
        .into_iter()
        .map(|point| point.id)
        .filter(|id| !spec.is_empty() && id.to_string().starts_with(spec))
        .collect();
    let id = match matching[..] {
        [id] => id,
        [] => {
            return Err(CliError::failed(
                format!("no forgotten point {spec}"),
                "`mover points --forgotten` lists them",
            ));
        }
        _ => return Err(CliError::usage(format!("{spec} is ambiguous"), "give more digits of the id")),
    };
    let memory_bytes = usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX);
    bring_back(opened, &repository::open_record(Role::Writer, "")?, id, memory_bytes)?;
    session.output.say(&format!("recovery point {} is back", short(&id)))?;
    session.output.object("summary", json!({ "brought_back": id.to_string(), "exit_code": 0 }))?;
    Ok(Exit::Done)
}

fn print(session: &Session, verdicts: &[Verdict]) -> Result<()> {
    let output = &session.output;
    let mut table = Table::new(&["", "id", "time", "set", "tags", "why"]);
    for verdict in verdicts {
        let (point, is_kept) = (&verdict.point, !verdict.reasons.is_empty());
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        let mut why = if is_kept { reasons.join(", ") } else { "no rule keeps it".to_owned() };
        if verdict.time != point.finished {
            why.push_str(&format!("; its clock said {}", local_time(point.finished)));
        }
        output.object(
            "point",
            json!({
                "id": point.id.to_string(),
                "set": point.set,
                "tags": point.tags,
                "finished": rfc3339(point.finished),
                "time": rfc3339(verdict.time),
                "keep": is_kept,
                "reasons": reasons,
            }),
        )?;
        table.row(vec![
            if is_kept { "keep" } else { "forget" }.to_owned(),
            short(&point.id),
            local_time(verdict.time),
            escape(point.set.as_bytes()),
            escape(point.tags.join(",").as_bytes()),
            escape(why.as_bytes()),
        ]);
    }
    if !verdicts.is_empty() && !output.json {
        table.lines().iter().try_for_each(|line| output.line(line))?;
    }
    Ok(())
}

fn summarise(session: &Session, args: &ForgetArgs, verdicts: &[Verdict], forgotten: usize) -> Result<Exit> {
    let output = &session.output;
    let kept = verdicts.len() - forgotten;
    output.say(&match args.dry_run {
        true => format!("would forget {forgotten} recovery points and keep {kept}; nothing was changed"),
        false => format!("forgot {forgotten} recovery points, kept {kept}"),
    })?;
    if forgotten > 0 && !args.dry_run {
        output.note("`mover prune` frees their room; until then `mover forget --undo POINT` brings one back");
    }
    let fields = json!({ "forgotten": forgotten, "kept": kept, "dry_run": args.dry_run, "exit_code": 0 });
    output.object("summary", fields)?;
    Ok(Exit::Done)
}

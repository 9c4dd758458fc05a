//! `mover copy`: recovery points of one repository into another one.
//!
//! Registers as a reader in FROM, so that no prune deletes beneath it. A point that is damaged in FROM is listed with the
//! files that it costs, and makes the exit code 3; it is not in TO then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use mover_repository::copy::{CopyCounters, CopyOptions, CopyReport, PointOutcome, copy};
use mover_repository::heartbeat::{Heartbeat, SIGN_OF_LIFE_EVERY};
use mover_repository::ids::ObjectId;
use mover_repository::log::{History, Outcome, RecoveryPoint, Role};
use mover_repository::repository::Repository;
use serde_json::json;

use super::Session;
use super::args::CopyArgs;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::interrupt;
use super::other::Other;
use super::progress_view::{ProgressView, Snapshot};
use super::repository::{self, short};
use super::terminal;
use super::text::{escape, local_time, rfc3339};
use super::units::{human_bytes, human_count, human_duration};
use super::verify::print_hurt_file;

/// What the first interrupt says.
const ON_INTERRUPT: &str = "storing what was read; the next copy goes on from there";

/// Copies.
pub fn run(session: &Session, args: &CopyArgs) -> Result<Exit> {
    let (password_file, key_file) = (args.to_password_file.as_ref(), args.to_key_file.as_ref());
    let other = Other { place: &args.to, word: "to", password_file, key_file };
    let from = repository::open(session)?;
    let to = other.open(session)?;
    if !args.dry_run {
        repository::remove_leftovers(session, &to);
    }
    let set = args.set.as_deref().unwrap_or_default();
    let reader = if args.dry_run { None } else { repository::register_reader(session, &from, set)? };
    let heartbeat = reader.as_ref().map(|reader| Heartbeat::start(reader, SIGN_OF_LIFE_EVERY));
    let started = Instant::now();
    // A log of which something is lost is listed; what is whole of it is copied.
    let history = match &reader {
        Some(reader) => {
            repository::tell_refused(session, reader.history());
            Ok((reader.history().clone(), repository::list_damage(session, reader.damage())))
        }
        None => repository::history(session, &from),
    };
    let copied = history.and_then(|(history, lost)| Ok((copied(session, args, &from, &history, &to)?, lost)));
    drop(heartbeat);
    if let Some(reader) = reader {
        let reason = if copied.is_ok() { "copied" } else { "a copy that failed" };
        // What came of the copy is what the caller has to hear.
        let _ = block_on(reader.commit(Outcome::Ended { reason: reason.into() }));
    }
    let (report, lost) = copied?;
    print(session, args, &report)?;
    summarise(session, args, &report, lost, started)
}

fn copied(
    session: &Session,
    args: &CopyArgs,
    from: &Repository,
    history: &History,
    to: &Repository,
) -> Result<CopyReport> {
    let chosen = chosen(args, history)?;
    let options = CopyOptions {
        dry_run: args.dry_run,
        memory_bytes: usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX),
        threads: session.resolved.shards,
        stop: Arc::new(AtomicBool::new(false)),
        counters: Arc::new(CopyCounters::default()),
    };
    let stop = Arc::clone(&options.stop);
    let _graceful = interrupt::graceful(move || {
        terminal::say(&format!("interrupted: {ON_INTERRUPT} (once more to stop at once)"));
        stop.store(true, Ordering::Relaxed);
    });
    let counters = Arc::clone(&options.counters);
    let interval = session.resolved.settings.progress_interval.map_or(Duration::from_secs(5), |period| period.0);
    let _view = ProgressView::start(&session.output, "copy", interval, move || {
        let now = counters.totals();
        Snapshot {
            files: now.chunks,
            unit: "chunks",
            bytes: now.bytes_read,
            bytes_stored: Some(now.bytes_stored),
            ..Snapshot::default()
        }
    });
    let who = repository::open_record(Role::Writer, "")?;
    Ok(copy(from, history, to, &chosen, &who, &options)?)
}

fn chosen(args: &CopyArgs, history: &History) -> Result<Vec<ObjectId>> {
    let set = args.set.as_deref();
    if !args.all {
        let found = repository::find_points(history, &args.points, set)?;
        return Ok(found.into_iter().map(|(_, point)| point.id).collect());
    }
    let is_wanted = |point: &&RecoveryPoint| set.is_none_or(|set| point.set == set);
    let chosen: Vec<ObjectId> =
        history.points().map(|(_, point)| point).filter(is_wanted).map(|point| point.id).collect();
    match (chosen.is_empty(), set) {
        (true, Some(set)) => Err(CliError::failed(
            format!("there is no recovery point of set '{set}'"),
            "`mover points` lists them with their sets",
        )),
        _ => Ok(chosen),
    }
}

/// What became of a point, in one word.
fn word(outcome: &PointOutcome, dry_run: bool) -> &'static str {
    match outcome {
        PointOutcome::Copied if dry_run => "would be copied",
        PointOutcome::Copied => "copied",
        PointOutcome::AlreadyThere => "already there",
        PointOutcome::Damaged { .. } => "damaged",
        PointOutcome::WithoutBase { .. } => "without base",
    }
}

/// Tells of each point.
fn print(session: &Session, args: &CopyArgs, report: &CopyReport) -> Result<()> {
    let output = &session.output;
    for (point, outcome) in &report.points {
        let word = word(outcome, args.dry_run);
        let fields = json!({
            "id": point.id.to_string(),
            "set": point.set,
            "finished": rfc3339(point.finished),
            "outcome": word.replace(' ', "_"),
        });
        output.object("point", fields)?;
        let (time, set) = (local_time(point.finished), escape(point.set.as_bytes()));
        let name = format!("{} of {time}, set {set}", short(&point.id));
        match outcome {
            PointOutcome::Copied | PointOutcome::AlreadyThere => output.say(&format!("{word}: {name}"))?,
            PointOutcome::Damaged { files } => {
                output.warn(&format!("not copied: {name}: it is damaged where it is"));
                files.iter().try_for_each(|file| print_hurt_file(output, file))?;
            }
            PointOutcome::WithoutBase { base } => {
                output.warn(&format!("not copied: {name}: it depends on {}, which is not there", short(base)));
            }
        }
    }
    Ok(())
}

/// Tells what it came to. `lost` records of the log could not be read.
fn summarise(session: &Session, args: &CopyArgs, report: &CopyReport, lost: u64, started: Instant) -> Result<Exit> {
    let (output, totals) = (&session.output, &report.totals);
    let count = |is_wanted: fn(&PointOutcome) -> bool| {
        report.points.iter().filter(|(_, outcome)| is_wanted(outcome)).count() as u64
    };
    let copied = count(|outcome| matches!(outcome, PointOutcome::Copied));
    let skipped = count(|outcome| matches!(outcome, PointOutcome::AlreadyThere));
    let failed = report.points.len() as u64 - copied - skipped;
    let (chunks, bytes) = (human_count(totals.chunks), human_bytes(totals.bytes));
    output.say(&match args.dry_run {
        true => format!(
            "would copy {copied} recovery points, {skipped} are there; would send at most {chunks} chunks, {bytes} before \
             compression"
        ),
        false => format!(
            "copied {copied} recovery points, {skipped} were there; read {}, stored {chunks} chunks, {bytes} before and {} \
             after compression, in {}",
            human_bytes(totals.bytes_read),
            human_bytes(totals.bytes_stored),
            human_duration(started.elapsed())
        ),
    })?;
    let exit = match report.is_interrupted {
        true => Exit::Interrupted,
        false => Exit::from_exceptions(failed + lost),
    };
    if report.is_interrupted {
        output.warn("interrupted: run it again to go on from there");
    }
    let fields = json!({
        "dry_run": args.dry_run,
        "points_copied": copied,
        "points_skipped": skipped,
        "points_failed": failed,
        "records_lost": lost,
        "chunks": totals.chunks,
        "bytes": totals.bytes,
        "bytes_read": totals.bytes_read,
        "bytes_stored": totals.bytes_stored,
        "frames_reused": totals.frames_reused,
        "interrupted": report.is_interrupted,
        "seconds": started.elapsed().as_secs_f64(),
        "exit_code": exit.code(),
    });
    output.object("summary", fields)?;
    Ok(exit)
}

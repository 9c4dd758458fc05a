//! `mover verify`: records, tables of contents, index, manifests, and on request the data.
//!
//! Registers as a reader and leaves what it proved as its outcome; changes nothing else. Whatever is wrong is listed,
//! down to the files that it costs, and makes the exit code 1.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_lite::future::block_on;
use mover_repository::heartbeat::{Heartbeat, SIGN_OF_LIFE_EVERY};
use mover_repository::ids::UnixNanos;
use mover_repository::log::{Outcome, Registration};
use mover_repository::repository::Repository;
use mover_repository::verify::{Data, HurtFile, ProofStatus, VerifyOptions, VerifyProgress, VerifyReport, verify};
use serde_json::{Map, Value, json};

use super::Session;
use super::args::VerifyArgs;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::interrupt;
use super::output::Output;
use super::progress_view::{ProgressView, Snapshot};
use super::repository;
use super::terminal;
use super::text::{escape, json_path, local_time, rfc3339};
use super::units::{DataShare, human_bytes, human_count, human_duration};

/// What the first interrupt says.
const ON_INTERRUPT: &str = "finishing what is being read; what was proven is remembered";

/// Checks.
pub fn run(session: &Session, args: &VerifyArgs) -> Result<Exit> {
    let options = options(session, data(args)?);
    let opened = repository::open(session)?;
    // what cannot be registered is checked all the same
    let registration = repository::register_reader(session, &opened, "").unwrap_or_else(|error| {
        session.output.note(&format!("verifying without a registration: {error}"));
        None
    });
    registration.iter().for_each(|reader| repository::tell_refused(session, reader.history()));
    let heartbeat = registration.as_ref().map(|reader| Heartbeat::start(reader, SIGN_OF_LIFE_EVERY));
    let started = Instant::now();
    // without data there is nothing to keep: the first interrupt ends it
    let _graceful = (options.data != Data::None).then(|| {
        let stop = Arc::clone(&options.stop);
        interrupt::graceful(move || {
            terminal::say(&format!("interrupted: {ON_INTERRUPT} (once more to stop at once)"));
            stop.store(true, Ordering::Relaxed);
        })
    });
    let report = check(session, &opened, &options)?;
    drop(heartbeat);
    if let Some(registration) = registration {
        let outcome = outcome(session, &opened, &registration, &report);
        block_on(registration.commit(outcome))?;
    }
    if let Some(status) = &report.proof {
        tell_proof(session, args, status)?;
    }
    print(session, &report, started)
}

fn data(args: &VerifyArgs) -> Result<Data> {
    Ok(match (args.data, args.max_age) {
        (Some(DataShare::Percent(_)), Some(_)) => {
            return Err(CliError::usage("a share and --max-age exclude each other", "leave one of them out"));
        }
        (_, Some(age)) => Data::Due { max_age: age.0, budget_bytes: args.budget.map_or(u64::MAX, |budget| budget.0) },
        (None, None) => Data::None,
        (Some(DataShare::Percent(percent)), None) => Data::Percent(percent),
        (Some(DataShare::All), None) => Data::All,
    })
}

/// What is left in the log: what was proven, if it would count.
fn outcome(session: &Session, opened: &Repository, reader: &Registration, report: &VerifyReport) -> Outcome {
    let note = |text| session.output.note(text);
    let reason = if report.is_clean() { "verified" } else { "verified, damage found" };
    let ended = Outcome::Ended { reason: reason.to_owned() };
    let Some(verification) = &report.verification else { return ended };
    if !opened.secrets().is_admin() {
        note("what was read is not remembered: this key may only add to the repository");
        return ended;
    }
    if !reader.damage().is_empty() {
        note("what was read is not remembered: the log is damaged");
        return ended;
    }
    Outcome::Verified(verification.clone())
}

/// How much is proven, how old that is, and how long the rest takes.
fn tell_proof(session: &Session, args: &VerifyArgs, status: &ProofStatus) -> Result<()> {
    let (output, now) = (&session.output, UnixNanos::now());
    let age = args.max_age.map_or_else(String::new, |age| age.to_string());
    output.say(&format!(
        "{} of {} are proven within {age}, {}; {} packs are due, {}",
        human_bytes(status.proven_bytes),
        human_bytes(status.bytes),
        percent(status.proven_bytes, status.bytes),
        human_count(status.due_packs),
        human_bytes(status.due_bytes)
    ))?;
    if let Some(oldest) = status.oldest {
        let days = now.0.saturating_sub(oldest.0).max(0) / 86_400_000_000_000;
        output.say(&format!("the oldest proof is of {}, {days} days ago", local_time(oldest)))?;
    }
    if status.never_packs > 0 {
        output.say(&format!("{} packs were never proven", human_count(status.never_packs)))?;
    }
    if status.undecided_packs > 0 {
        output.note(&format!(
            "{} packs are of runs that have not ended and stay due; `mover prune` ends those that are dead",
            human_count(status.undecided_packs)
        ));
    }
    if let Some(budget) = args.budget {
        output.say(&format!(
            "at {budget} a run what is due takes {}, everything {}",
            runs_text(runs(status.due_bytes, budget.0)),
            runs_text(runs(status.bytes, budget.0))
        ))?;
    }
    let fields = json!({
        "max_age_seconds": args.max_age.map(|age| age.0.as_secs()),
        "packs": status.packs,
        "bytes": status.bytes,
        "bytes_proven": status.proven_bytes,
        "packs_due": status.due_packs,
        "bytes_due": status.due_bytes,
        "packs_never_proven": status.never_packs,
        "packs_undecided": status.undecided_packs,
        "oldest": status.oldest.map(rfc3339),
        "budget_bytes": args.budget.map(|budget| budget.0),
        "runs_due": args.budget.and_then(|budget| runs(status.due_bytes, budget.0)),
        "runs_everything": args.budget.and_then(|budget| runs(status.bytes, budget.0)),
    });
    output.object("proof", fields)
}

/// Runs of a budget that so many bytes take; none if no number of them is enough.
fn runs(bytes: u64, budget_bytes: u64) -> Option<u64> {
    if bytes == 0 { Some(0) } else { bytes.checked_sub(1)?.checked_div(budget_bytes).map(|full| full + 1) }
}

fn runs_text(runs: Option<u64>) -> String {
    match runs {
        None => "forever".to_owned(),
        Some(1) => "1 run".to_owned(),
        Some(count) => format!("{} runs", human_count(count)),
    }
}

/// Rounded down: all is said of all alone.
fn percent(part: u64, whole: u64) -> String {
    let thousandths = if whole == 0 { 1000 } else { u128::from(part) * 1000 / u128::from(whole) };
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

/// Shares of the memory that the settings allow.
pub fn options(session: &Session, data: Data) -> VerifyOptions {
    let quarter = usize::try_from(session.resolved.memory_bytes / 4).unwrap_or(usize::MAX);
    VerifyOptions {
        data,
        threads: session.resolved.shards,
        index_bytes: quarter,
        cache_bytes: quarter,
        now: UnixNanos::now(),
        ..VerifyOptions::default()
    }
}

/// Runs the checks under a progress view.
pub fn check(session: &Session, opened: &Repository, options: &VerifyOptions) -> Result<VerifyReport> {
    let (done, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (seen_done, seen_bytes) = (Arc::clone(&done), Arc::clone(&bytes));
    let interval = session.resolved.settings.progress_interval.map_or(std::time::Duration::from_secs(5), |p| p.0);
    let _view = ProgressView::start(&session.output, "verify", interval, move || Snapshot {
        files: seen_done.load(Ordering::Relaxed),
        bytes: seen_bytes.load(Ordering::Relaxed),
        unit: "objects",
        ..Snapshot::default()
    });
    let progress = move |now: VerifyProgress| {
        done.store(now.done, Ordering::Relaxed);
        bytes.fetch_max(now.bytes, Ordering::Relaxed);
    };
    Ok(verify(opened, options, &progress)?)
}

/// Tells what was found, and gives the exit code that it deserves.
pub fn print(session: &Session, report: &VerifyReport, started: Instant) -> Result<Exit> {
    let output = &session.output;
    for error in &report.errors {
        output.object("damage", json!({ "object": error.object, "reason": error.reason }))?;
        if !output.json {
            output.line(&format!("DAMAGED {}: {}", error.object, error.reason))?;
        }
    }
    report.hurt_files.iter().try_for_each(|file| print_hurt_file(output, file))?;
    let unlisted = (report.errors_total + report.hurt_files_total)
        .saturating_sub((report.errors.len() + report.hurt_files.len()) as u64);
    if unlisted > 0 {
        output.note(&format!("{unlisted} more are not listed"));
    }
    summarise(session, report, started)
}

/// A file that a recovery point has lost.
pub(super) fn print_hurt_file(output: &Output, file: &HurtFile) -> Result<()> {
    let path = match (file.root_path.as_slice(), file.path.as_slice()) {
        (root, b"") => root.to_vec(),
        (b"/", path) => [b"/", path].concat(),
        (root, path) => [root, b"/", path].concat(),
    };
    let mut object = Map::new();
    json_path(&mut object, &path);
    object.insert("point".to_owned(), file.point.to_string().into());
    object.insert("set".to_owned(), file.set.clone().into());
    object.insert("reason".to_owned(), file.reason.clone().into());
    output.object("hurt_file", Value::Object(object))?;
    if output.json {
        return Ok(());
    }
    let point = repository::short(&file.point);
    output.line(&format!("LOST in {point}: {}: {}", escape(&path), file.reason))
}

fn summarise(session: &Session, report: &VerifyReport, started: Instant) -> Result<Exit> {
    let output = &session.output;
    output.say(&format!(
        "checked {} recovery points, {} entries, {} packs in {}; read the data of {} packs, {}",
        human_count(report.points),
        human_count(report.entries),
        human_count(report.packs),
        human_duration(started.elapsed()),
        human_count(report.packs_read),
        human_bytes(report.bytes_read),
    ))?;
    if report.frames_unopened > 0 {
        output.note(&format!("{} frames were not opened: this key may only add", report.frames_unopened));
    }
    if report.frames_marked > 0 {
        output.note(&format!("{} damaged frames are marked: nothing relies on them", report.frames_marked));
    }
    if report.unfinished.files > 0 {
        output.note(&repository::unfinished_text(&report.unfinished));
    }
    let exit = match (report.is_clean(), report.is_interrupted) {
        (true, false) => Exit::Done,
        (true, true) => Exit::Interrupted,
        (false, _) => Exit::Failed,
    };
    match exit {
        Exit::Done => output.say("nothing is wrong")?,
        Exit::Interrupted => {
            output.warn("interrupted: nothing was wrong in what was looked at; run it again to go on from there")
        }
        _ => {
            output.warn(&format!("{} errors, {} files hurt", report.errors_total, report.hurt_files_total));
            terminal::say(
                "help: `mover repair index` rebuilds a damaged index; `mover repair packs` marks damaged data, and the next backup \
                 stores again what the sources still hold",
            );
        }
    }
    let fields = json!({
        "points": report.points,
        "entries": report.entries,
        "chunks": report.chunks,
        "packs": report.packs,
        "packs_unindexed": report.packs_unindexed,
        "unfinished_files": report.unfinished.files,
        "unfinished_bytes": report.unfinished.bytes,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "frames_unopened": report.frames_unopened,
        "frames_marked": report.frames_marked,
        "errors": report.errors_total,
        "hurt_files": report.hurt_files_total,
        "interrupted": report.is_interrupted,
        "seconds": started.elapsed().as_secs_f64(),
        "exit_code": exit.code(),
    });
    output.object("summary", fields)?;
    Ok(exit)
}

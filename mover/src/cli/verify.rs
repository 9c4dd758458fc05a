//! `mover verify`: records, tables of contents, index, manifests, and on request the data.
//!
//! Registers as a reader, changes nothing else. Whatever is wrong is listed, down to the files that it
//! costs, and makes the exit code 1.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_lite::future::block_on;
use mover_repository::heartbeat::{Heartbeat, SIGN_OF_LIFE_EVERY};
use mover_repository::log::Outcome;
use mover_repository::repository::Repository;
use mover_repository::verify::{Data, VerifyOptions, VerifyProgress, VerifyReport, verify};
use serde_json::{Map, Value, json};

use super::Session;
use super::args::VerifyArgs;
use super::error::Result;
use super::exit::Exit;
use super::progress_view::{ProgressView, Snapshot};
use super::repository;
use super::terminal;
use super::text::{escape, json_path};
use super::units::{DataShare, human_bytes, human_count, human_duration};

/// Checks.
pub fn run(session: &Session, args: &VerifyArgs) -> Result<Exit> {
    let opened = repository::open(session)?;
    // what cannot be registered is checked all the same
    let registration = repository::register_reader(session, &opened, "").unwrap_or_else(|error| {
        session.output.note(&format!("verifying without a registration: {error}"));
        None
    });
    let heartbeat = registration.as_ref().map(|reader| Heartbeat::start(reader, SIGN_OF_LIFE_EVERY));
    let data = match args.data {
        None => Data::None,
        Some(DataShare::Percent(percent)) => Data::Percent(percent),
        Some(DataShare::All) => Data::All,
    };
    let options = options(session, data);
    let started = Instant::now();
    let report = check(session, &opened, &options)?;
    drop(heartbeat);
    if let Some(registration) = registration {
        let reason = if report.is_clean() { "verified" } else { "verified, damage found" };
        block_on(registration.commit(Outcome::Ended { reason: reason.to_owned() }))?;
    }
    print(session, &report, started)
}

/// Shares of the memory that the settings allow.
pub fn options(session: &Session, data: Data) -> VerifyOptions {
    let quarter = usize::try_from(session.resolved.memory_bytes / 4).unwrap_or(usize::MAX);
    VerifyOptions {
        data,
        threads: session.resolved.shards,
        index_bytes: quarter,
        cache_bytes: quarter,
        now: repository::now(),
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
    for file in &report.hurt_files {
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
        if !output.json {
            let point = repository::short(&file.point);
            output.line(&format!("LOST in {point}: {}: {}", escape(&path), file.reason))?;
        }
    }
    let unlisted = (report.errors_total + report.hurt_files_total)
        .saturating_sub((report.errors.len() + report.hurt_files.len()) as u64);
    if unlisted > 0 {
        output.note(&format!("{unlisted} more are not listed"));
    }
    summarise(session, report, started)
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
    let exit = if report.is_clean() { Exit::Done } else { Exit::Failed };
    match exit {
        Exit::Done => output.say("nothing is wrong")?,
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
        "seconds": started.elapsed().as_secs_f64(),
        "exit_code": exit.code(),
    });
    output.object("summary", fields)?;
    Ok(exit)
}

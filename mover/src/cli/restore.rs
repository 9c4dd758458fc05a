//! `mover restore`: puts files of a recovery point back, below a target or in place.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mover_actors::restore::file_target::{FileTarget, FileTargetOptions};
use mover_actors::restore::pipeline::{RestoreJob, run_restore};
use mover_actors::restore::report::RestoreReport;
use mover_actors::restore::target::{AttributeKind, AttributeProblem, Overwrite, Target};
use mover_repository::heartbeat::{Heartbeat, SIGN_OF_LIFE_EVERY};
use mover_repository::log::RecoveryPoint;
use serde_json::json;

use super::args::{self, RestoreArgs};
use super::engine::{Engine, View};
use super::error::{CliError, Result};
use super::exit::Exit;
use super::output::Output;
use super::text::escape;
use super::units::{human_bytes, human_count, human_duration};
use super::{Session, repository, stats};

/// What is said when a signal asks a restore to stop.
pub const ON_INTERRUPT: &str = "finishing the files that are begun, leaving the rest";

/// Restores.
pub fn run(session: &Session, args: &RestoreArgs) -> Result<Exit> {
    let opened = repository::open_cached(session)?;
    let registration = match args.dry_run {
        true => None,
        false => repository::register_reader(session, &opened, args.set.as_deref().unwrap_or_default())?,
    };
    let (history, damaged_records) = match &registration {
        Some(registration) => (registration.history().clone(), repository::list_damage(session, registration.damage())),
        None => repository::history(session, &opened)?,
    };
    let point = repository::find_point(&history, &args.point, args.set.as_deref())?;
    if args.in_place {
        refuse_streams_in_place(&point)?;
    }
    let settings = &session.resolved.settings.restore;
    let overwrite = overwrite(settings.overwrite);
    let target = open_target(session, args, overwrite)?;
    let mut job = RestoreJob::new(opened, point, target);
    job.paths = args.paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
    job.overwrite = overwrite;
    job.dry_run = args.dry_run;
    job.verify = settings.verify.unwrap_or(false);
    job.memory_bytes = usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX);
    job.registration = registration;

    let _heartbeat = job.registration.as_ref().map(|reader| Heartbeat::start(reader, SIGN_OF_LIFE_EVERY));
    let engine = Engine::start(session)?;
    let view = View {
        title: "restore",
        on_interrupt: ON_INTERRUPT,
        bytes_expected: Box::new(|| None),
        slowed: args.stats.slowed(),
    };
    let started = std::time::Instant::now();
    let report = engine
        .run(session, view, move |runtime, progress, stop| run_restore(runtime, job, progress, stop))
        .map_err(|error| name_target(error, args.target.as_deref()))?;
    print(session, args, &report, started.elapsed(), damaged_records)
}

/// A stream has a name and no place that it came from: in place it would land in the root directory.
fn refuse_streams_in_place(point: &RecoveryPoint) -> Result<()> {
    let stream = point.filesets.iter().find(|fileset| !fileset.root_path.starts_with(b"/"));
    let Some(stream) = stream else { return Ok(()) };
    let name = escape(&stream.root_path);
    Err(CliError::usage(
        format!("{name} is a stream: there is no place that it came from"),
        format!("restore it below a directory with --target DIR, or write it to a pipe with `mover dump POINT {name}`"),
    ))
}

/// The pipeline knows paths below the target; a person wants to know which target it was.
fn name_target(mut error: CliError, target: Option<&Path>) -> CliError {
    let place = target.unwrap_or(Path::new("/")).display().to_string();
    error.message = error.message.replace("(source side)", "(target side)");
    if !error.message.contains(&place) {
        error.message = format!("restore to {place}: {}", error.message);
    }
    error
}

/// The rule of the settings as the pipeline knows it.
fn overwrite(rule: Option<args::Overwrite>) -> Overwrite {
    match rule {
        None | Some(args::Overwrite::Always) => Overwrite::Always,
        Some(args::Overwrite::IfChanged) => Overwrite::IfChanged,
        Some(args::Overwrite::IfNewer) => Overwrite::IfNewer,
        Some(args::Overwrite::Never) => Overwrite::Never,
    }
}

fn open_target(session: &Session, args: &RestoreArgs, overwrite: Overwrite) -> Result<Arc<dyn Target>> {
    let directory = match &args.target {
        Some(directory) => directory.clone(),
        None => PathBuf::from("/"),
    };
    let mut options = FileTargetOptions::new(directory);
    options.create = !args.in_place;
    options.threads = session.resolved.shards.max(2) * 2;
    options.overwrite = overwrite;
    let target = FileTarget::new(options).map_err(|error| {
        CliError::failed(error.to_string(), "name a directory that can be written, or one that does not exist yet")
    })?;
    Ok(Arc::new(target))
}

/// What an attribute that could not be set is called.
pub fn attribute_text(problem: &AttributeProblem) -> String {
    let name = match &problem.attribute {
        AttributeKind::Owner => "owner".to_owned(),
        AttributeKind::Mode => "mode".to_owned(),
        AttributeKind::Times => "times".to_owned(),
        AttributeKind::Xattr(name) => format!("attribute {}", escape(name)),
        AttributeKind::Device => "device node".to_owned(),
        _ => "attribute".to_owned(),
    };
    format!("{name} could not be set: {}", problem.cause)
}

/// Lists what could not be restored as it was, by its path in `target`. Gives their number.
pub fn list_problems(output: &Output, report: &RestoreReport, target: &Path) -> u64 {
    let place = |path: &[u8]| target.join(OsStr::from_bytes(path)).into_os_string().into_vec();
    for problem in &report.problems {
        output.problem(&place(&problem.path), &problem.cause);
    }
    for problem in &report.attributes {
        output.problem(&place(&problem.path), &attribute_text(problem));
    }
    let listed = (report.problems.len() + report.attributes.len()) as u64;
    let all = report.problems_count + report.attributes_count;
    if all > listed {
        output.note(&format!("{} more problems are not listed", all - listed));
    }
    all
}

fn print(
    session: &Session,
    args: &RestoreArgs,
    report: &RestoreReport,
    took: std::time::Duration,
    damaged_records: u64,
) -> Result<Exit> {
    let output = &session.output;
    let exceptions = damaged_records + list_problems(output, report, args.target.as_deref().unwrap_or(Path::new("/")));
    let totals = &report.totals;
    let verb = if report.dry_run { "would restore" } else { "restored" };
    output.say(&format!(
        "{verb} {} files, {} directories, {} links and nodes, {} in {}",
        human_count(totals.files),
        human_count(totals.directories),
        human_count(totals.symlinks + totals.nodes + totals.hard_links),
        human_bytes(totals.bytes),
        human_duration(took),
    ))?;
    if totals.skipped > 0 {
        output.say(&format!("{} entries were kept as they are", human_count(totals.skipped)))?;
    }
    if totals.chunks_rescued > 0 {
        output.note(&format!("{} chunks were damaged in one place and read from another", totals.chunks_rescued));
    }
    if let Some(verified) = &report.verified {
        let text = format!("verified {} files, {}", human_count(verified.files), human_bytes(verified.bytes));
        output.say(&format!("{text}: {} differ", verified.different))?;
        if verified.unreadable > 0 {
            let count = human_count(verified.unreadable);
            output.say(&format!("{count} entries could not be read when they were backed up: nothing to verify"))?;
        }
    }
    let different = report.verified.as_ref().map_or(0, |verified| verified.different);
    let exit = match (report.stopped, different) {
        (true, _) => Exit::Interrupted,
        (false, 1..) => Exit::Failed,
        (false, 0) => Exit::from_exceptions(exceptions),
    };
    if let Some(bottleneck) = &report.bottleneck {
        stats::print(output, &args.stats, &report.actors, bottleneck)?;
    }
    output.object("summary", summary(args, report, took, exit))?;
    if report.stopped {
        output.warn("interrupted: what was restored is kept; run it again with --overwrite if-changed to complete it");
    }
    Ok(exit)
}

fn summary(args: &RestoreArgs, report: &RestoreReport, took: std::time::Duration, exit: Exit) -> serde_json::Value {
    let totals = &report.totals;
    json!({
        "point": args.point,
        "target": args.target.as_ref().map_or("/".into(), |target| target.to_string_lossy()),
        "dry_run": report.dry_run,
        "files": totals.files,
        "directories": totals.directories,
        "symlinks": totals.symlinks,
        "nodes": totals.nodes,
        "hard_links": totals.hard_links,
        "skipped": totals.skipped,
        "bytes": totals.bytes,
        "bytes_written": totals.bytes_written,
        "bytes_read": totals.bytes_read,
        "requests": totals.requests,
        "chunks_rescued": totals.chunks_rescued,
        "unfinished": totals.unfinished,
        "problems": report.problems_count,
        "attribute_problems": report.attributes_count,
        "verified_files": report.verified.as_ref().map(|verified| verified.files),
        "verified_different": report.verified.as_ref().map(|verified| verified.different),
        "verified_unreadable": report.verified.as_ref().map(|verified| verified.unreadable),
        "interrupted": report.stopped,
        "bottleneck": report.bottleneck.as_ref().map(stats::to_json),
        "seconds": took.as_secs_f64(),
        "exit_code": exit.code(),
    })
}

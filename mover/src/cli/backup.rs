//! `mover backup`: files and directories, or standard input, into a recovery point.

use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use mover_actors::backup::{BackupJob, BackupOptions, BackupReport, LevelUse, VerifyBeforeUpload, run_backup};
use mover_actors::scratch::default_scratch;
use mover_actors::source::Source;
use mover_actors::source::stream::StreamSource;
use mover_repository::heartbeat::SIGN_OF_LIFE_EVERY;
use mover_repository::ids::UnixNanos;
use mover_repository::log::{Totals, job_identity};
use mover_repository::manifest::check_path;
use mover_repository::repository::Repository;
use serde_json::json;

use super::args::{self, BackupArgs};
use super::engine::{Engine, View};
use super::error::{CliError, Result};
use super::estimate::Estimate;
use super::exit::Exit;
use super::filesets::{self, Root};
use super::points::{grade_name, totals_json};
use super::text::{local_time, rfc3339};
use super::units::{human_bytes, human_count, human_duration};
use super::{Session, commit_gate, protect, repository, stats};

/// What is said when a signal asks a backup to stop.
pub const ON_INTERRUPT: &str = "storing what is begun; what is stored is kept, and the next run goes on from there";

/// Where a backup reads from, and what its set is called.
struct Input {
    source: Arc<dyn Source>,
    default_set: String,
    estimate: Option<Estimate>,
}

/// Backs up.
pub fn run(session: &Session, args: &BackupArgs) -> Result<Exit> {
    let settings = &session.resolved.settings;
    // wrong usage is told before a password is asked for
    repository::place(session)?;
    if settings.backup.set.as_deref() == Some("") {
        return Err(CliError::usage("a set needs a name", "leave --set away for <host>:<sorted absolute paths>"));
    }
    let roots = match &args.stdin {
        Some(name) => {
            check_stream_name(name)?;
            Vec::new()
        }
        None => filesets::roots(&args.paths, &settings.fileset)?,
    };
    let opened = repository::open_cached(session)?;
    if !args.dry_run {
        repository::remove_leftovers(session, &opened);
    }
    let host = repository::host();
    let input = match &args.stdin {
        Some(name) => stream_input(&host, name)?,
        None => file_input(session, args, &host, &roots)?,
    };
    let job = BackupJob {
        set: settings.backup.set.clone().unwrap_or(input.default_set),
        options: options(session, args, &opened)?,
        repository: opened.clone(),
        source: input.source,
        is_stream: args.stdin.is_some(),
        host,
        tags: settings.backup.tags.clone().unwrap_or_default(),
        job: match &args.job {
            Some(name) => job_identity(name),
            None => repository::new_job_id()?,
        },
        process_id: std::process::id(),
        scratch: default_scratch(),
    };
    let set = job.set.clone();
    let bytes_expected: Box<dyn Fn() -> Option<u64> + Send> = match &input.estimate {
        Some(estimate) => Box::new(estimate.bytes()),
        None => Box::new(|| None),
    };
    let engine = Engine::start(session)?;
    let view = View { title: "backup", on_interrupt: ON_INTERRUPT, bytes_expected, slowed: args.stats.slowed() };
    let (started, began) = (Instant::now(), UnixNanos::now());
    let report = engine.run(session, view, move |runtime, progress, stop| run_backup(runtime, job, progress, stop))?;
    let totals = shown_totals(&report, args.dry_run);
    let lock = lock(session, &opened, &report, began);
    let tell = || {
        print(session, args, &set, &report, &totals, started.elapsed())?;
        lock.tell(session)?;
        if args.stats.stats {
            print_levels(session, &report.levels)?;
        }
        stats::print(&session.output, &args.stats, &report.actors, &report.bottleneck)?;
        let exit = finish(session, args, &set, &report, &totals, &lock, started.elapsed())?;
        session.output.flush().map(|()| exit)
    };
    tell().map_err(|error| with_point(error, &report))
}

/// What came of the object lock of a new point.
#[derive(Default)]
struct Lock {
    until: Option<UnixNanos>,
    failed: Option<CliError>,
}

/// Locks what the new point took over from earlier ones, if uploads are locked.
fn lock(session: &Session, opened: &Repository, report: &BackupReport, began: UnixNanos) -> Lock {
    let period = session.resolved.settings.object_lock;
    let (Some(period), Some(point)) = (period, &report.point) else { return Lock::default() };
    match protect::after_backup(session, opened, point, began, period.0) {
        Ok(until) => Lock { until: Some(until), failed: None },
        Err(error) => Lock { until: None, failed: Some(error) },
    }
}

impl Lock {
    fn tell(&self, session: &Session) -> Result<()> {
        if let Some(error) = &self.failed {
            session.output.warn(&format!("the backup is done, but not all that it needs is locked: {error}"));
            session.output.note("`mover protect latest --for DURATION` tries that again");
        }
        match self.until {
            Some(until) => session.output.say(&format!("protected until {}", local_time(until))),
            None => Ok(()),
        }
    }
}

/// What could not be told is there all the same.
fn with_point(mut error: CliError, report: &BackupReport) -> CliError {
    if let Some(point) = report.point.as_ref().filter(|_| !error.message.is_empty()) {
        error.message.push_str(&format!("; the backup itself is done: recovery point {}", point.id));
        error.help = Some("`mover points` shows it; what could not be printed is lost".to_owned());
    }
    error
}

/// The totals of the recovery point; a dry run has none, but it has counted.
fn shown_totals(report: &BackupReport, dry_run: bool) -> Totals {
    if !dry_run {
        return report.totals;
    }
    let counts = &report.counts;
    Totals {
        files: counts.files,
        directories: counts.directories,
        others: counts.others,
        bytes: counts.bytes,
        bytes_read: counts.bytes_read,
        excluded: report.lists.excluded.entries,
        ..report.totals
    }
}

/// A stream's name is a relative path without steps upwards, for it becomes one below the target.
fn check_stream_name(name: &str) -> Result<()> {
    if name.is_empty() || check_path(name.as_bytes()).is_err() {
        return Err(CliError::usage(
            format!("'{name}' cannot be the name of a stream"),
            "give a relative path without '..', for example dump.sql",
        ));
    }
    Ok(())
}

fn stream_input(host: &str, name: &str) -> Result<Input> {
    let source = StreamSource::new(name.as_bytes().to_vec(), std::io::stdin())
        .map_err(|error| CliError::system("read", "standard input", error))?;
    let default_set = filesets::default_set(host, &[name.as_bytes()]);
    Ok(Input { source: Arc::new(source), default_set, estimate: None })
}

fn file_input(session: &Session, args: &BackupArgs, host: &str, roots: &[Root]) -> Result<Input> {
    let place = Path::new(repository::place(session)?);
    filesets::refuse_below(place, roots)?;
    let left_out = filesets::leave_out(place, "the repository itself was left out").into_iter().collect();
    let source = filesets::source(session, roots, args.list_excluded, left_out)?;
    let paths: Vec<&[u8]> = roots.iter().map(|root| root.path.as_os_str().as_bytes()).collect();
    let has_terminal =
        !session.output.json && !session.output.quiet && std::io::IsTerminal::is_terminal(&std::io::stderr());
    // whoever orders a job is told how much there is (S-016)
    let is_watched = has_terminal || args.job.is_some();
    let estimate = is_watched.then(|| Estimate::start(roots.iter().map(|root| root.path.clone()).collect()));
    Ok(Input { source, default_set: filesets::default_set(host, &paths), estimate })
}

fn options(session: &Session, args: &BackupArgs, opened: &Repository) -> Result<BackupOptions> {
    let backup = &session.resolved.settings.backup;
    let levels = levels(session, opened)?;
    let depends_on = match &args.depends_on {
        None => None,
        Some(spec) => Some(repository::find_point(&block_on(opened.history())?, spec, None)?.id),
    };
    Ok(BackupOptions {
        memory_bytes: usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX),
        levels,
        verify_before_upload: match backup.verify_before_upload {
            Some(args::VerifyBeforeUpload::Always) => VerifyBeforeUpload::Always,
            Some(args::VerifyBeforeUpload::Never) => VerifyBeforeUpload::Never,
            None | Some(args::VerifyBeforeUpload::Sample) => VerifyBeforeUpload::Sample,
        },
        reread_one_in: backup.reread.map(|share| u64::from(share.0)),
        reread_salt: UnixNanos::now().0 as u64,
        dry_run: args.dry_run,
        depends_on,
        alive_every: Some(SIGN_OF_LIFE_EVERY),
        gate: args.ask_before_commit.then(|| commit_gate::gate(&session.output)),
        ..BackupOptions::default()
    })
}

/// A fixed level, or the bounds of the settings, or else those of the repository.
fn levels(session: &Session, opened: &Repository) -> Result<RangeInclusive<i32>> {
    let backup = &session.resolved.settings.backup;
    if let Some(level) = backup.level {
        return Ok(level..=level);
    }
    let bounds = &opened.config().compression;
    let (own_lowest, own_highest) = (i32::from(bounds.level_min), i32::from(bounds.level_max));
    let lowest = backup.level_min.unwrap_or(own_lowest.min(backup.level_max.unwrap_or(own_lowest)));
    let highest = backup.level_max.unwrap_or(own_highest.max(lowest));
    Ok(lowest..=highest)
}

fn print(
    session: &Session,
    args: &BackupArgs,
    set: &str,
    report: &BackupReport,
    totals: &Totals,
    took: Duration,
) -> Result<()> {
    let output = &session.output;
    for note in &report.lists.notes {
        output.note(note);
    }
    for path in &report.lists.excluded.paths {
        output.excluded(path)?;
    }
    for problem in &report.lists.problems {
        output.problem(&problem.path, &problem.cause);
    }
    for path in &report.lists.torn {
        output.problem(path, "changed while it was read: recorded as torn");
    }
    if report.lists.problems_unlisted > 0 {
        output.note(&format!("{} more problems are not listed", report.lists.problems_unlisted));
    }
    if report.interrupted {
        let counts = &report.counts;
        let (read, stored) = (human_bytes(counts.bytes_read), human_bytes(counts.bytes_stored));
        return output.say(&format!("stopped after reading {read}; {stored} are stored and kept"));
    }
    if report.made_before {
        let point = report.point.as_ref().map(|point| repository::short(&point.id)).unwrap_or_default();
        return output.say(&format!("this job has made recovery point {point} before: nothing is left to do"));
    }
    let rate = totals.bytes_read as f64 / took.as_secs_f64().max(0.001);
    let verb = if args.dry_run { "would back up" } else { "backed up" };
    output.say(&format!(
        "{verb} {} files, {} directories, {} others: {} in {}",
        human_count(totals.files),
        human_count(totals.directories),
        human_count(totals.others),
        human_bytes(totals.bytes),
        human_duration(took),
    ))?;
    let (read, unchanged) = (human_bytes(totals.bytes_read), human_count(report.counts.files_reused));
    output.say(&match args.dry_run {
        true => format!("would read {read}; {unchanged} files unchanged"),
        false => format!(
            "read {read} ({}/s), new {}, stored {}; {unchanged} files unchanged",
            human_bytes(rate as u64),
            human_bytes(totals.bytes_new),
            human_bytes(totals.bytes_stored),
        ),
    })?;
    if totals.excluded + totals.sockets_skipped > 0 {
        output.say(&format!(
            "left out: {} by rules ({}), {} sockets",
            human_count(totals.excluded),
            human_bytes(report.lists.excluded.bytes),
            human_count(totals.sockets_skipped),
        ))?;
    }
    if let Some(point) = &report.point {
        output.say(&format!(
            "recovery point {} of set {set} ({})",
            repository::short(&point.id),
            grade_name(point.grade)
        ))?;
    }
    Ok(())
}

/// How many things are in the recovery point otherwise than they should be.
pub fn exceptions(report: &BackupReport) -> u64 {
    report.lists.problems.len() as u64 + report.lists.problems_unlisted + report.totals.files_torn
}

fn finish(
    session: &Session,
    args: &BackupArgs,
    set: &str,
    report: &BackupReport,
    totals: &Totals,
    lock: &Lock,
    took: Duration,
) -> Result<Exit> {
    let exceptions = exceptions(report) + u64::from(lock.failed.is_some());
    let exit = if report.interrupted { Exit::Interrupted } else { Exit::from_exceptions(exceptions) };
    let mut fields = totals_json(totals);
    let own = json!({
        "point": report.point.as_ref().map(|point| point.id.to_string()),
        "parent": report.parent.map(|parent| parent.to_string()),
        "set": set,
        "made_before": report.made_before,
        "excluded_by_rule": report.lists.excluded.by_rule,
        "grade": report.point.as_ref().map(|point| grade_name(point.grade)),
        "protected_until": lock.until.map(rfc3339),
        "dry_run": args.dry_run,
        "interrupted": report.interrupted,
        "files_reused": report.counts.files_reused,
        "chunks": report.counts.chunks,
        "chunks_new": report.counts.chunks_new,
        "problems": report.lists.problems.len() as u64 + report.lists.problems_unlisted,
        "packs": report.packs,
        "segments": report.segments,
        "frames_verified": report.frames_verified.0,
        "frames_mismatched": report.frames_verified.1,
        "bottleneck": stats::to_json(&report.bottleneck),
        "levels": report.levels.iter().map(level_json).collect::<Vec<_>>(),
        "seconds": took.as_secs_f64(),
        "exit_code": exit.code(),
    });
    if let serde_json::Value::Object(own) = own {
        fields.extend(own);
    }
    session.output.object("summary", serde_json::Value::Object(fields))?;
    if report.interrupted {
        session
            .output
            .warn("interrupted: no recovery point was made; what is stored is kept: run it again to go on from there");
    }
    Ok(exit)
}

fn level_json(used: &LevelUse) -> serde_json::Value {
    json!({ "level": used.level, "frames": used.frames, "plain_bytes": used.plain_bytes })
}

/// The levels that compression went through, and how much was stored as it is.
fn print_levels(session: &Session, levels: &[LevelUse]) -> Result<()> {
    let name = |level: i32| if level == 0 { "raw".to_owned() } else { format!("zstd {level}") };
    let used: Vec<String> =
        levels.iter().map(|used| format!("{} {}", name(used.level), human_bytes(used.plain_bytes))).collect();
    session
        .output
        .say(&format!("stored as {}", if used.is_empty() { "nothing new".to_owned() } else { used.join(", ") }))
}

//! `mover try`: back PATH up into a throw-away encrypted repository, back it up again, restore it,
//! compare every byte and attribute, and print the figures.
//!
//! Everything is made below one temporary directory, which is removed at the end, whatever the end
//! is; if it lies inside PATH, it is left out. Must never change PATH.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use std::{fs, io};

use futures_lite::future::block_on;
use mover_actors::backup::{BackupJob, BackupOptions, BackupReport, run_backup};
use mover_actors::restore::file_target::{FileTarget, FileTargetOptions};
use mover_actors::restore::pipeline::{RestoreJob, run_restore};
use mover_actors::restore::report::RestoreReport;
use mover_actors::scratch::default_scratch;
use mover_actors::source::file::{FileSource, FileSourceOptions};
use mover_repository::ids::UnixNanos;
use mover_repository::log::RecoveryPoint;
use mover_repository::repository::{InitOptions, Repository};

use super::args::TryArgs;
use super::compare::{CompareOptions, CompareReport, compare_trees};
use super::engine::{Engine, View};
use super::error::{CliError, Result};
use super::estimate::{Estimate, Found};
use super::exit::Exit;
use super::progress_view::{ProgressView, Snapshot};
use super::try_report::{self, Step};
use super::units::human_bytes;
use super::{Session, backup, filesets, interrupt, repository, restore, secret};

/// Room beside the data: indexes, manifests, the file system's own.
const SPARE_BYTES: u64 = 64 << 20;
/// Inodes beside the restored entries.
const SPARE_INODES: u64 = 10_000;

/// Attributes that could not be set and are shown; as somebody other than root it may be all of them.
const EXCEPTIONS_SHOWN_MAX: usize = 20;

/// Where everything of one trial lies.
struct Place {
    directory: tempfile::TempDir,
    repository: PathBuf,
    restored: PathBuf,
    key: PathBuf,
}

impl Place {
    fn create() -> Result<Place> {
        let parent = std::env::temp_dir();
        let directory = tempfile::Builder::new().prefix("mover-try-").tempdir_in(&parent).map_err(|error| {
            CliError::system("make a directory in", parent.display(), error).with_help("set TMPDIR to one with room")
        })?;
        let below = |name: &str| directory.path().join(name);
        Ok(Place { repository: below("repository"), restored: below("restored"), key: below("key"), directory })
    }
}

/// What the steps need.
struct Trial<'s> {
    session: &'s Session,
    engine: Engine,
    repository: Repository,
    path: PathBuf,
    place: Place,
    found: Found,
}

/// Runs the trial.
pub fn run(session: &Session, args: &TryArgs) -> Result<Exit> {
    let path = filesets::real_path(&args.path)?;
    let place = Place::create()?;
    let found = Estimate::start(vec![path.clone()]).wait();
    check_room(place.directory.path(), &found)?;
    let key = secret::key_credential(secret::create_key_file(&place.key)?)?;
    let store = repository::backend(session, &place.repository.to_string_lossy(), true)?;
    let repository = block_on(Repository::init(store, &key, InitOptions::default()))?;
    let trial = Trial { session, engine: Engine::start(session)?, repository, path, place, found };
    let exit = trial.run();
    let Trial { place, .. } = trial;
    let directory = place.directory.keep();
    if args.keep {
        session
            .output
            .say(&format!("kept in {}: repository, restored, and the key file `key`", directory.display()))?;
    } else if let Err(error) = remove_tree(&directory) {
        session.output.note(&format!("{} could not be removed: {error}", directory.display()));
    }
    exit
}

/// Removes what the trial made, also below restored directories that nobody may enter.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let first = fs::remove_dir_all(directory);
    if !first.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        return first;
    }
    let mut closed = vec![directory.to_owned()];
    while let Some(place) = closed.pop() {
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&place)? {
            let entry = entry?;
            closed.extend(entry.file_type()?.is_dir().then(|| entry.path()));
        }
    }
    fs::remove_dir_all(directory)
}

/// The data comes twice: as packs and restored.
fn check_room(place: &Path, found: &Found) -> Result<()> {
    let space = rustix::fs::statvfs(place).map_err(|error| CliError::system("examine", place.display(), error))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let needed = found.bytes_allocated.min(found.bytes).saturating_mul(2).saturating_add(SPARE_BYTES);
    let help = "set TMPDIR to a directory on a file system with more room, or try a smaller PATH";
    if free < needed {
        let message =
            format!("{} has {} free, the trial may need {}", place.display(), human_bytes(free), human_bytes(needed));
        return Err(CliError::failed(message, help));
    }
    // file systems that make inodes as they need them report none at all
    if space.f_files > 0 && space.f_favail < found.entries + SPARE_INODES {
        let message = format!("{} has {} inodes free, too few for the trial", place.display(), space.f_favail);
        return Err(CliError::failed(message, help));
    }
    Ok(())
}

impl Trial<'_> {
    fn run(&self) -> Result<Exit> {
        let started = UnixNanos::now();
        let (first, first_step) = self.back_up("backup")?;
        let Some(_) = &first.point else { return Ok(Exit::Interrupted) };
        let (second, second_step) = self.back_up("again")?;
        let Some(point) = second.point.clone() else { return Ok(Exit::Interrupted) };
        let (restored, restore_step) = self.restore(point)?;
        if restored.stopped {
            return Ok(Exit::Interrupted);
        }
        let Some(compared) = self.compare(started, &second, &restored)? else { return Ok(Exit::Interrupted) };
        let exceptions = backup::exceptions(&second) + restored.problems_count + restored.attributes_count;
        let exit = match compared.unexplained {
            0 => Exit::from_exceptions(exceptions),
            _ => Exit::Failed,
        };
        try_report::print(self.session, &self.path, &[first_step, second_step, restore_step], &compared, exit)?;
        self.list_exceptions(&second, &restored);
        Ok(exit)
    }

    /// One backup of the path; the second one finds the first as its parent.
    fn back_up(&self, title: &'static str) -> Result<(BackupReport, Step)> {
        let mut options = FileSourceOptions::new(vec![self.path.clone()]);
        options.threads = self.session.resolved.shards.max(2) * 2;
        let note = "the temporary directory of this trial was left out";
        options.excluded_inodes.extend(filesets::leave_out(self.place.directory.path(), note));
        let source = FileSource::new(options)
            .map_err(|error| CliError::failed(error.to_string(), "check the path and run it again"))?;
        let compression = &self.repository.config().compression;
        let levels = i32::from(compression.level_min)..=i32::from(compression.level_max);
        let memory_bytes = usize::try_from(self.session.resolved.memory_bytes).unwrap_or(usize::MAX);
        let job = BackupJob {
            repository: self.repository.clone(),
            source: Arc::new(source),
            is_stream: false,
            set: "try".to_owned(),
            host: repository::host(),
            tags: Vec::new(),
            job: repository::new_job_id()?,
            process_id: std::process::id(),
            options: BackupOptions { memory_bytes, levels, ..BackupOptions::default() },
            scratch: default_scratch(),
        };
        let bytes = self.found.bytes;
        let view = View {
            title,
            on_interrupt: "ending the trial",
            bytes_expected: Box::new(move || Some(bytes)),
            slowed: None,
        };
        let started = Instant::now();
        let report =
            self.engine.run(self.session, view, move |rt, progress, stop| run_backup(rt, job, progress, stop))?;
        for note in report.lists.notes.iter().filter(|_| title == "backup") {
            self.session.output.note(note);
        }
        let totals = &report.totals;
        let step = Step {
            name: if title == "backup" { "backup" } else { "backup again" },
            files: totals.files,
            bytes: totals.bytes,
            bytes_read: totals.bytes_read,
            bytes_new: Some(totals.bytes_new),
            bytes_stored: totals.bytes_stored,
            took: started.elapsed(),
        };
        Ok((report, step))
    }

    fn restore(&self, point: RecoveryPoint) -> Result<(RestoreReport, Step)> {
        let mut options = FileTargetOptions::new(self.place.restored.clone());
        options.threads = self.session.resolved.shards.max(2) * 2;
        let target = FileTarget::new(options)
            .map_err(|error| CliError::failed(error.to_string(), "set TMPDIR to a directory that can be written"))?;
        let mut job = RestoreJob::new(self.repository.clone(), point, Arc::new(target));
        job.memory_bytes = usize::try_from(self.session.resolved.memory_bytes).unwrap_or(usize::MAX);
        let view = View {
            title: "restore",
            on_interrupt: "ending the trial",
            bytes_expected: Box::new(|| None),
            slowed: None,
        };
        let started = Instant::now();
        let report =
            self.engine.run(self.session, view, move |rt, progress, stop| run_restore(rt, job, progress, stop))?;
        let step = Step {
            name: "restore",
            files: report.totals.files,
            bytes: report.totals.bytes,
            bytes_read: report.totals.bytes_read,
            bytes_new: None,
            bytes_stored: report.totals.bytes_written,
            took: started.elapsed(),
        };
        Ok((report, step))
    }

    /// Compares; `None` if it was interrupted.
    fn compare(
        &self,
        started: UnixNanos,
        backed_up: &BackupReport,
        restored: &RestoreReport,
    ) -> Result<Option<CompareReport>> {
        let bytes = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let mut options = CompareOptions {
            threads: self.session.resolved.shards.max(2),
            exclude: vec![self.place.directory.path().to_owned()],
            changed_since: Some(started),
            progress: Some(Arc::clone(&bytes)),
            ..CompareOptions::default()
        };
        for problem in &backed_up.lists.problems {
            let reason = format!("it could not be backed up: {}", problem.cause);
            options.unread.insert(self.absolute(&problem.path), reason);
        }
        for path in &backed_up.lists.torn {
            options.unread.insert(self.absolute(path), "it changed while it was read".to_owned());
        }
        for problem in &restored.attributes {
            options.attributes.insert([b"/", &problem.path[..]].concat(), restore::attribute_text(problem));
        }
        let expected = self.found.bytes;
        let interval =
            self.session.resolved.settings.progress_interval.map_or(std::time::Duration::from_secs(5), |p| p.0);
        let _view = ProgressView::start(&self.session.output, "compare", interval, move || Snapshot {
            bytes: bytes.load(std::sync::atomic::Ordering::Relaxed),
            bytes_expected: Some(expected),
            ..Snapshot::default()
        });
        let stop = Arc::clone(&options.stop);
        let _graceful = interrupt::graceful(move || stop.store(true, std::sync::atomic::Ordering::Relaxed));
        let copy = self.place.restored.join(self.path.strip_prefix("/").unwrap_or(&self.path));
        let report = compare_trees(&self.path, &copy, options)
            .map_err(|error| CliError::system("compare with", copy.display(), error))?;
        Ok((!interrupt::requested()).then_some(report))
    }

    fn absolute(&self, path: &[u8]) -> Vec<u8> {
        self.path.join(std::ffi::OsStr::from_bytes(path)).as_os_str().as_bytes().to_vec()
    }

    /// What neither step could do, each once: what was not read could not be restored either.
    fn list_exceptions(&self, backed_up: &BackupReport, restored: &RestoreReport) {
        for problem in &backed_up.lists.problems {
            self.session.output.problem(&self.absolute(&problem.path), &problem.cause);
        }
        let was_read = |path: &[u8]| {
            let original = [b"/", path].concat();
            !backed_up.lists.problems.iter().any(|problem| self.absolute(&problem.path) == original)
        };
        let mut only_restored = restored.clone();
        only_restored.problems.retain(|problem| was_read(&problem.path));
        only_restored.problems_count -= (restored.problems.len() - only_restored.problems.len()) as u64;
        only_restored.attributes.truncate(EXCEPTIONS_SHOWN_MAX);
        restore::list_problems(&self.session.output, &only_restored, &self.place.restored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_directories_are_removed_too() {
        let directory = tempfile::tempdir().unwrap().keep();
        fs::create_dir_all(directory.join("closed/inner")).unwrap();
        fs::write(directory.join("closed/inner/file"), b"x").unwrap();
        for name in ["closed/inner", "closed"] {
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&directory).unwrap();
        assert!(!directory.exists());
    }
}

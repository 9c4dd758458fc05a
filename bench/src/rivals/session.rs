//! One round over one data set: every tool does each phase before the next phase begins (A B C, A B C, …), on the same
//! tree, with a warm cache, after a sync. The order of the tools turns by one each round.
//!
//! Works on a copy of the data, in a scratch directory: what the user named is only read. A tool that fails is recorded
//! with its words and leaves the round; a restore that differs from the source is a failure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cage::Cage;
use super::measure::{self, Measured, Order};
use super::processes::Surroundings;
use super::record::{DataSet, Phase, Run};
use super::tools::{Restored, Tool, Words};
use super::{compare, summaries};
use crate::corpus::edit;
use crate::inventory::Inventory;
use crate::{Result, during, files, reference};

/// Tools that go by times distrust what changed in the last moment: an edit rests for so long before a backup.
const REST: Duration = Duration::from_millis(2_500);
const PASSWORD: &str = "a password for the benchmark";

/// One tool that takes part.
pub struct Contender {
    /// Its row in the table.
    pub tool: &'static Tool,
    /// Its binary.
    pub program: PathBuf,
}

/// What all rounds share.
pub struct Session<'s> {
    /// The tools.
    pub contenders: &'s [Contender],
    /// The limits.
    pub cage: &'s Cage,
    /// Where everything lies.
    pub scratch: &'s Path,
    /// Where repositories lie.
    pub repositories: PathBuf,
    /// Where they are reached, if the way there is a mount.
    pub mount: Option<PathBuf>,
    /// A network namespace for the tools.
    pub namespace: Option<PathBuf>,
    /// How to reach a repository by the tool's own transport: values of `{host}`.
    pub host: Option<String>,
    /// Processes that serve the tools and are no disturbance, with their children.
    pub helpers: Vec<u32>,
    /// More environment for all tools.
    pub environment: Vec<(String, String)>,
    /// Values of words that the user chose.
    pub chosen: Vec<(&'static str, String)>,
    /// Phases that are asked for.
    pub phases: Vec<Phase>,
    /// Edits, each with a backup, before the other phases.
    pub generations: u32,
    /// Seed of the edits.
    pub seed: u64,
    /// After so long a command is killed.
    pub time_max: Duration,
}

/// One tool in one round.
struct Place<'p> {
    contender: &'p Contender,
    repository: PathBuf,
    state: PathBuf,
    /// Name of the last backup.
    label: String,
    /// The phase in which it failed.
    failed: Option<Phase>,
}

/// What one round works on.
struct Round<'r> {
    session: &'r Session<'r>,
    set: &'r str,
    number: u32,
    source: PathBuf,
    runs: Vec<Run>,
}

impl Session<'_> {
    /// Copies the data, runs all phases, removes everything; gives what was measured.
    pub fn round(&self, path: &Path, set: &str, number: u32) -> Result<(DataSet, Vec<Run>)> {
        let data = self.scratch.join("data");
        during("create a directory", std::fs::create_dir_all(&data))?;
        let source = data.join(set);
        if path.is_dir() {
            reference::copy(path, &source)?;
        } else {
            during("create a directory", std::fs::create_dir(&source))?;
            reference::copy(path, &source)?;
        }
        let inventory = Inventory::of(&source)?;
        let described = DataSet {
            name: set.to_owned(),
            files: inventory.files.len() as u64,
            bytes: inventory.files.iter().map(|file| file.bytes).sum(),
            data_bytes: inventory.data_bytes(),
        };
        let mut round = Round { session: self, set, number, source, runs: Vec::new() };
        let mut places = round.places()?;
        for phase in Phase::ALL {
            round.phase(phase, &mut places)?;
        }
        let runs = round.runs;
        for place in &places {
            during("retire a repository", files::retire(&place.repository, self.scratch))?;
            during("retire a state", files::retire(&place.state, self.scratch))?;
        }
        during("retire the data", files::retire(&data, self.scratch))?;
        Ok((described, runs))
    }
}

impl<'r> Round<'r> {
    /// A repository for every tool, made outside of the measurement.
    fn places(&mut self) -> Result<Vec<Place<'r>>> {
        let mut places = Vec::new();
        let count = self.session.contenders.len();
        for index in 0..count {
            let contender = &self.session.contenders[(index + self.number as usize - 1) % count];
            let name = contender.tool.program;
            let state = self.session.scratch.join(format!("{name}-state"));
            during("create a directory", std::fs::create_dir_all(&state))?;
            during("write a password file", write_private(&state.join("password")))?;
            let repository = self.session.repositories.join(format!("{name}-repository"));
            let mut place = Place { contender, repository, state, label: String::new(), failed: None };
            for template in contender.tool.init {
                let made = self.run(&place, template, None)?;
                if let Some(failed) = made.failed {
                    self.record_failure(&mut place, Phase::First, format!("it makes no repository: {failed}"));
                    break;
                }
            }
            places.push(place);
        }
        Ok(places)
    }

    fn record_failure(&mut self, place: &mut Place<'_>, phase: Phase, failed: String) {
        eprintln!("{} {}: {failed}", place.contender.tool.name, phase.name());
        self.runs.push(Run { failed: Some(failed), ..self.empty_run(place, phase) });
        place.failed.get_or_insert(phase);
    }

    fn empty_run(&self, place: &Place<'_>, phase: Phase) -> Run {
        Run {
            set: self.set.to_owned(),
            tool: place.contender.tool.name.to_owned(),
            phase: Some(phase),
            round: self.number,
            ..Run::default()
        }
    }

    fn phase(&mut self, phase: Phase, places: &mut [Place<'_>]) -> Result<()> {
        if !self.session.phases.contains(&phase) {
            return Ok(());
        }
        let repeats = if phase == Phase::Generation { self.session.generations } else { 1 };
        for repeat in 1..=repeats {
            self.prepare(phase, repeat)?;
            for place in places.iter_mut() {
                if !place.contender.tool.phases.contains(&phase) {
                    continue;
                }
                match place.failed {
                    Some(earlier) if earlier == phase => {}
                    Some(earlier) => {
                        self.record_failure(place, phase, format!("not run: {} has failed", earlier.name()));
                    }
                    None => self.measure(phase, repeat, place)?,
                }
            }
        }
        Ok(())
    }

    /// Brings the tree into the state that the phase is about.
    fn prepare(&self, phase: Phase, repeat: u32) -> Result<()> {
        let seed = self.session.seed;
        match phase {
            Phase::First | Phase::Restore | Phase::Unchanged => {}
            Phase::Generation => {
                during("edit the data", edit::apply(&self.source, seed, repeat, edit::AGEING))?;
            }
            Phase::Incremental => {
                let number = self.session.generations + 1;
                during("edit the data", edit::apply(&self.source, seed, number, edit::INCREMENTAL))?;
            }
            Phase::Rescan => {
                during("touch the data", edit::touch(&self.source))?;
            }
        }
        files::sync_file_system(self.session.scratch)?;
        std::thread::sleep(REST);
        Ok(())
    }

    /// Brings source and repository into the page cache: some tools drop from it what they have read or written, and
    /// the next one must not pay for that.
    fn warm(&self, place: &Place<'_>) -> Result<()> {
        files::open_stat_read_close(&Inventory::of(&self.source)?)?;
        if let Ok(inventory) = Inventory::of(&place.repository) {
            files::open_stat_read_close(&inventory)?;
        }
        Ok(())
    }

    fn measure(&mut self, phase: Phase, repeat: u32, place: &mut Place<'_>) -> Result<()> {
        let tool = place.contender.tool;
        let target = self.session.scratch.join("target");
        let template = if phase == Phase::Restore {
            during("create the target", std::fs::create_dir_all(&target))?;
            tool.restore
        } else {
            place.label = format!("{}-{repeat}", phase.name());
            tool.backup
        };
        files::sync_file_system(self.session.scratch)?;
        self.warm(place)?;
        let before = disk_bytes(&place.repository)?;
        let surroundings = Surroundings::before(self.session.cage.cores(), &self.session.helpers);
        let restored_to = (phase == Phase::Restore).then_some(target.as_path());
        let measured = self.run(place, template, restored_to)?;
        let (disturbed, calibration) = surroundings.after(measured.cpu_seconds);
        let synced = std::time::Instant::now();
        files::sync_file_system(self.session.scratch)?;
        let after = disk_bytes(&place.repository)?;
        let told = summaries::read(tool.name, &measured.output);
        let mut run = Run {
            wall_seconds: measured.wall_seconds,
            sync_seconds: synced.elapsed().as_secs_f64(),
            cpu_seconds: measured.cpu_seconds,
            memory_bytes_peak: measured.memory_bytes_peak,
            read_physical_bytes: measured.read_physical_bytes,
            read_syscall_bytes: measured.read_syscall_bytes,
            read_logical_bytes: told.read_logical_bytes,
            unique_bytes: told.unique_bytes,
            stored_bytes: after.saturating_sub(before),
            repository_bytes: after,
            calibration_seconds: calibration,
            disturbed,
            failed: measured.failed,
            memory_samples: measured.memory_samples,
            told: told.lines,
            repeat,
            ..self.empty_run(place, phase)
        };
        if phase == Phase::Restore {
            self.compare(tool, &target, &mut run)?;
            during("retire the target", files::retire(&target, self.session.scratch))?;
        }
        if run.failed.is_some() {
            place.failed = Some(phase);
        }
        print_line(&run);
        self.runs.push(run);
        Ok(())
    }

    fn compare(&self, tool: &Tool, target: &Path, run: &mut Run) -> Result<()> {
        if run.failed.is_some() {
            return Ok(());
        }
        let restored = match tool.restored {
            Restored::Content => target.to_owned(),
            Restored::AbsolutePath => target.join(self.source.strip_prefix("/").unwrap_or(&self.source)),
        };
        let difference = compare::difference(&self.source, &restored)?;
        run.restored_equal = Some(difference.is_none());
        run.failed = difference.map(|found| format!("restored data differ: {found}"));
        Ok(())
    }

    fn run(&self, place: &Place<'_>, template: &[&str], target: Option<&Path>) -> Result<Measured> {
        let (session, tool) = (self.session, place.contender.tool);
        let text = |path: &Path| path.display().to_string();
        let (source, state, key) = (text(&self.source), text(&place.state), text(&place.state.join("password")));
        let mut repository = match (&session.mount, place.repository.file_name()) {
            (Some(mount), Some(name)) if tool.remote.is_none() => text(&mount.join(name)),
            // Without a transport of its own every tool goes by the mount.
            (Some(mount), Some(name)) if session.host.is_none() => text(&mount.join(name)),
            _ => text(&place.repository),
        };
        if let (Some(host), Some(remote)) = (&session.host, tool.remote) {
            repository = Words(&[("host", host), ("repo", &repository)]).fill(remote).unwrap_or(repository);
        }
        let restored_to = target.map(text).unwrap_or_default();
        let mut words = vec![("source", &*source), ("repo", &*repository), ("state", &*state), ("key", &*key)];
        words.extend([("password", PASSWORD), ("label", &*place.label), ("target", &*restored_to)]);
        words.extend(session.chosen.iter().map(|(word, value)| (*word, value.as_str())));
        let words = Words(&words);
        let mut environment = vec![("HOME".to_owned(), state.clone()), ("LANG".to_owned(), "C.UTF-8".to_owned())];
        environment.push(("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()));
        environment.extend(session.environment.iter().cloned());
        for (name, value) in tool.environment {
            environment.extend(words.fill(value).map(|filled| ((*name).to_owned(), filled)));
        }
        let order = Order {
            program: place.contender.program.clone(),
            arguments: words.arguments(template),
            environment,
            directory: target.unwrap_or(&place.state).to_owned(),
            namespace: session.namespace.clone(),
        };
        let mut measured = measure::run(&order, session.cage, session.scratch, session.time_max)?;
        // Reports are read elsewhere: where the scratch directory was says nothing there.
        measured.failed = measured.failed.map(|said| said.replace(&text(session.scratch), "{scratch}"));
        Ok(measured)
    }
}

fn write_private(path: &Path) -> std::io::Result<()> {
    std::fs::write(path, format!("{PASSWORD}\n"))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

/// Room that a tree takes on the disk; nothing if it is not there.
fn disk_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let Ok(status) = std::fs::symlink_metadata(path) else { return Ok(0) };
    let mut bytes = status.blocks() * 512;
    if status.is_dir() {
        for entry in during(format!("list {}", path.display()), std::fs::read_dir(path))? {
            bytes += disk_bytes(&during(format!("list {}", path.display()), entry)?.path())?;
        }
    }
    Ok(bytes)
}

fn print_line(run: &Run) {
    let mark = run.failed.as_ref().or(run.disturbed.as_ref()).map_or(String::new(), |said| format!("  ({said})"));
    eprintln!(
        "{} round {} {:<11} {:<9} {:>8.2} s {:>8.2} CPU s {:>6} MiB peak {:>9.1} MB stored{mark}",
        run.set,
        run.round,
        run.phase.map_or("", Phase::name),
        run.tool,
        run.wall_seconds,
        run.cpu_seconds,
        run.memory_bytes_peak >> 20,
        run.stored_bytes as f64 / 1e6,
    );
}

//! `backup PATH` and `restore PATH`: the real thing, and its efficiency = ideal ÷ measured.
//!
//! The limits are measured on the same data right before each run, so that a machine whose speed drifts shifts both;
//! what is printed is the run with the middle efficiency. Both sides end with their data synced: `mover` does so by
//! itself, and the plain tools beside it are followed by a sync of their file system.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::clock::{Spent, median};
use crate::ideal::{Ideal, Moved};
use crate::limits;
use crate::subject::{Outcome, Subject};
use crate::{Options, Result, during, files, reference};

/// What `find` prints: the fields that an incremental backup compares.
const FIND_FORMAT: &str = "%y %m %U %G %s %T@ %C@ %i %n %l %P\\n";

/// One run beside the limits that were measured right before it.
struct Paired {
    ideal: Ideal,
    moved: Moved,
    outcome: Outcome,
    /// Seconds of the figure that a plain tool has too, and the tool's.
    ours: f64,
    theirs: f64,
}

/// Backs PATH up `--runs` times into fresh repositories, each time once more unchanged.
pub fn backup(options: &Options) -> Result<bool> {
    let directory = limits::scratch(options)?;
    let path = during("find the path", options.path.canonicalize())?;
    let mut runs = Vec::new();
    for run in 0..options.runs.max(1) {
        let (limits, _) = limits::measure(options, directory.path())?;
        let place = directory.path().join(format!("repository-{run}"));
        let subject = Subject::create(options, &place)?;
        files::sync_file_system(directory.path())?;
        let outcome = subject.backup(&path)?;
        let moved = outcome.moved()?;
        let ours = subject.backup(&path)?.spent.wall;
        let theirs = find_seconds(&path)?;
        during("remove the repository", std::fs::remove_dir_all(&place))?;
        runs.push(Paired { ideal: Ideal::of_backup(&limits, moved), moved, outcome, ours, theirs });
    }
    finish(options, "backup", "unchanged second backup ÷ find -printf", runs)
}

/// Backs PATH up once and restores it `--runs` times into fresh targets, which stay until the end: see
/// [`files::create_attributes_rename`].
pub fn restore(options: &Options) -> Result<bool> {
    let directory = limits::scratch(options)?;
    let path = during("find the path", options.path.canonicalize())?;
    let subject = Subject::create(options, &directory.path().join("repository"))?;
    let stored = subject.backup(&path)?.moved()?;
    let mut runs = Vec::new();
    for run in 0..options.runs.max(1) {
        let (limits, _) = limits::measure(options, directory.path())?;
        // What the backup read is what the restore writes; every stored byte is read.
        let moved = Moved { files: limits.inventory.files.len() as u64, ..stored };
        let target = directory.path().join(format!("target-{run}"));
        during("create the target", std::fs::create_dir(&target))?;
        files::sync_file_system(directory.path())?;
        let outcome = subject.restore(&target)?;
        files::sync_file_system(directory.path())?;
        let theirs = copy_and_sync(&path, &directory.path().join(format!("copied-{run}")))?;
        let ours = outcome.spent.wall;
        runs.push(Paired { ideal: Ideal::of_restore(&limits, moved), moved, outcome, ours, theirs });
    }
    finish(options, "restore", "restore ÷ cp -a and sync", runs)
}

fn middle(runs: &[Paired], figure: impl Fn(&Paired) -> f64) -> f64 {
    median(runs.iter().map(figure).collect())
}

/// Prints the run with the middle efficiency; false if that is below what is required.
fn finish(options: &Options, command: &str, pair: &str, mut runs: Vec<Paired>) -> Result<bool> {
    let efficiency_of = |run: &Paired| run.ideal.seconds() / run.outcome.spent.wall;
    runs.sort_by(|a, b| efficiency_of(a).total_cmp(&efficiency_of(b)));
    let (worst, best) = (efficiency_of(&runs[0]), efficiency_of(&runs[runs.len() - 1]));
    let ratio = middle(&runs, |run| run.ours / run.theirs);
    let (ours, theirs) = (middle(&runs, |run| run.ours), middle(&runs, |run| run.theirs));
    let run = &runs[runs.len() / 2];
    let (ideal, moved, spent) = (&run.ideal, run.moved, run.outcome.spent);
    let efficiency = efficiency_of(run);
    let good = options.require.is_none_or(|least| efficiency >= least);
    if options.json {
        let report = json!({
            "command": command, "runs": runs.len(), "files": moved.files, "bytes": moved.plain,
            "bytes_new": moved.new, "bytes_stored": moved.stored, "seconds": spent.wall, "cpu_seconds": spent.cpu,
            "ideal": ideal.json(), "efficiency": efficiency, "efficiency_worst": worst, "efficiency_best": best,
            "required": options.require, "pair": pair, "pair_seconds": ours, "pair_reference_seconds": theirs,
            "pair_ratio": ratio, "summary": run.outcome.summary,
        });
        println!("{report}");
        return Ok(good);
    }
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{command}: {} files, {:.0} MB, {:.0} MB new, {:.0} MB stored",
        moved.files,
        megabytes(moved.plain),
        megabytes(moved.new),
        megabytes(moved.stored)
    );
    for (name, seconds) in &ideal.stages {
        println!("  {name:<28} {seconds:>8.3} CPU s");
    }
    println!("  {:<28} {:>8.3} CPU s, used {:.3}", "all stages", ideal.cpu_seconds(), spent.cpu);
    println!("  read at least {:.3} s, write and sync at least {:.3} s", ideal.read_seconds, ideal.write_seconds);
    println!("ideal      {:.3} s, bound by {}", ideal.seconds(), ideal.bound());
    println!("measured   {:.3} s, {:.0} MB/s", spent.wall, megabytes(moved.plain) / spent.wall);
    let judged = if good { "" } else { ", below what is required" };
    let spread = format!("{} runs, {:.1} to {:.1} %", runs.len(), worst * 100.0, best * 100.0);
    println!("efficiency {:.1} % ({spread}){judged}", efficiency * 100.0);
    let crowd = ideal.seconds_in_a_crowd();
    println!(
        "a core among {} that work does {:.2} of what it does alone: ideal {crowd:.3} s, efficiency {:.1} %",
        crate::clock::cores(),
        ideal.in_a_crowd,
        crowd / spent.wall * 100.0
    );
    println!("{pair}: {ours:.3} s ÷ {theirs:.3} s = {ratio:.2}");
    Ok(good)
}

fn find_seconds(path: &Path) -> Result<f64> {
    let mut command = Command::new("find");
    command.arg(path).args(["-printf", FIND_FORMAT]).stdout(Stdio::null());
    let wall = Instant::now();
    let status = during("run find", command.status())?;
    if status.success() { Ok(wall.elapsed().as_secs_f64()) } else { Err(format!("find ended with {status}")) }
}

fn copy_and_sync(path: &Path, target: &Path) -> Result<f64> {
    let wall = Instant::now();
    let spent: Option<Spent> = reference::copy(path, target)?;
    files::sync_file_system(target)?;
    let seconds = wall.elapsed().as_secs_f64();
    spent.map(|_| seconds).ok_or_else(|| "cp is missing".to_owned())
}

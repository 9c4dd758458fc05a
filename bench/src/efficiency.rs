//! `backup PATH` and `restore PATH`: the real thing, and its efficiency = ideal ÷ measured.
//!
//! The limits are measured in the same run, on the same data. Both sides end with their data synced: `mover` does so by
//! itself, and the plain tools beside it are followed by a sync of their file system.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::clock::{Spent, median};
use crate::ideal::{Ideal, Moved};
use crate::limits::{self, Limits};
use crate::subject::{Outcome, Subject};
use crate::{Options, Result, during, files, reference};

/// What `find` prints: the fields that an incremental backup compares.
const FIND_FORMAT: &str = "%y %m %U %G %s %T@ %C@ %i %n %l %P\\n";

/// Backs PATH up `--runs` times into fresh repositories, then once more unchanged.
pub fn backup(options: &Options) -> Result<bool> {
    let directory = limits::scratch(options)?;
    let (limits, sample) = limits::measure(options, directory.path())?;
    drop(sample);
    let path = during("find the path", options.path.canonicalize())?;
    let mut outcomes = Vec::new();
    let mut second = Vec::new();
    for run in 0..options.runs.max(1) {
        let place = directory.path().join(format!("repository-{run}"));
        let subject = Subject::create(options, &place)?;
        files::sync_file_system(directory.path())?;
        outcomes.push(subject.backup(&path)?);
        second.push(subject.backup(&path)?.spent.wall);
        during("remove the repository", std::fs::remove_dir_all(&place))?;
    }
    let moved = outcomes[0].moved()?;
    let ideal = Ideal::of_backup(&limits, moved);
    let find = median((0..options.runs.max(1)).map(|_| find_seconds(&path)).collect::<Result<Vec<_>>>()?);
    let pair = Pair { name: "unchanged second backup ÷ find -printf", ours: median(second), theirs: find };
    finish(options, "backup", &limits, &ideal, moved, &outcomes, pair)
}

/// Backs PATH up once and restores it `--runs` times into fresh targets.
pub fn restore(options: &Options) -> Result<bool> {
    let directory = limits::scratch(options)?;
    let (limits, sample) = limits::measure(options, directory.path())?;
    drop(sample);
    let path = during("find the path", options.path.canonicalize())?;
    let subject = Subject::create(options, &directory.path().join("repository"))?;
    let stored = subject.backup(&path)?.moved()?;
    let mut outcomes = Vec::new();
    let mut copies = Vec::new();
    for run in 0..options.runs.max(1) {
        let target = directory.path().join(format!("target-{run}"));
        during("create the target", std::fs::create_dir(&target))?;
        files::sync_file_system(directory.path())?;
        outcomes.push(subject.restore(&target)?);
        during("remove the target", std::fs::remove_dir_all(&target))?;
        files::sync_file_system(directory.path())?;
        copies.push(copy_and_sync(&path, directory.path())?);
    }
    // What the backup read is what the restore writes; every stored byte is read.
    let moved = Moved { files: limits.inventory.files.len() as u64, ..stored };
    let ideal = Ideal::of_restore(&limits, moved);
    let pair = Pair { name: "restore ÷ cp -a and sync", ours: walls(&outcomes), theirs: median(copies) };
    finish(options, "restore", &limits, &ideal, moved, &outcomes, pair)
}

/// Our time beside that of a plain tool which does about the same.
struct Pair {
    name: &'static str,
    ours: f64,
    theirs: f64,
}

fn walls(outcomes: &[Outcome]) -> f64 {
    median(outcomes.iter().map(|outcome| outcome.spent.wall).collect())
}

fn finish(
    options: &Options,
    command: &str,
    limits: &Limits,
    ideal: &Ideal,
    moved: Moved,
    outcomes: &[Outcome],
    pair: Pair,
) -> Result<bool> {
    let wall = walls(outcomes);
    let cpu = median(outcomes.iter().map(|outcome| outcome.spent.cpu).collect());
    let efficiency = ideal.seconds() / wall;
    let good = options.require.is_none_or(|least| efficiency >= least);
    if options.json {
        let report = json!({
            "command": command, "files": limits.inventory.files.len(), "bytes": moved.plain, "bytes_new": moved.new,
            "bytes_stored": moved.stored, "seconds": wall, "cpu_seconds": cpu, "ideal": ideal.json(),
            "efficiency": efficiency, "required": options.require, "pair": pair.name, "pair_seconds": pair.ours,
            "pair_reference_seconds": pair.theirs, "pair_ratio": pair.ours / pair.theirs,
            "summary": outcomes.last().map(|outcome| &outcome.summary),
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
    println!("  {:<28} {:>8.3} CPU s, used {cpu:.3}", "all stages", ideal.cpu_seconds());
    println!("  read at least {:.3} s, write and sync at least {:.3} s", ideal.read_seconds, ideal.write_seconds);
    println!("ideal      {:.3} s, bound by {}", ideal.seconds(), ideal.bound());
    println!("measured   {wall:.3} s, {:.0} MB/s", megabytes(moved.plain) / wall);
    println!("efficiency {:.1} %{}", efficiency * 100.0, if good { "" } else { ", below what is required" });
    println!("{}: {:.3} s ÷ {:.3} s = {:.2}", pair.name, pair.ours, pair.theirs, pair.ours / pair.theirs);
    Ok(good)
}

fn find_seconds(path: &Path) -> Result<f64> {
    let mut command = Command::new("find");
    command.arg(path).args(["-printf", FIND_FORMAT]).stdout(Stdio::null());
    let wall = Instant::now();
    let status = during("run find", command.status())?;
    if status.success() { Ok(wall.elapsed().as_secs_f64()) } else { Err(format!("find ended with {status}")) }
}

fn copy_and_sync(path: &Path, scratch: &Path) -> Result<f64> {
    let target = scratch.join("copied");
    let wall = Instant::now();
    let spent: Option<Spent> = reference::copy(path, &target)?;
    files::sync_file_system(scratch)?;
    let seconds = wall.elapsed().as_secs_f64();
    during("remove the copy", reference::remove(&target))?;
    spent.map(|_| seconds).ok_or_else(|| "cp is missing".to_owned())
}

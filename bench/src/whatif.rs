//! `whatif PATH`: is the bottleneck report worth anything?
//!
//! A run foretells how long it would take if one of its stages needed twice its CPU time, and how long with one more
//! core. Here both happen: a stage is slowed down on purpose, and a run on all cores follows one on all but one. Runs are
//! paired, the one that foretells right before the one that is foretold; the middle of foretold ÷ measured counts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::clock::{Pinned, cores, median};
use crate::subject::{Outcome, Subject};
use crate::{Options, Result, during, files, limits};

/// What is foretold may miss by this share.
const TOLERANCE: f64 = 0.1;
/// Stages with a smaller share of the CPU time move nothing that could be measured.
const SHARE_MIN: f64 = 0.05;
/// Doubled is what the runs foretell.
const FACTOR: u32 = 2;

/// Options of `whatif`.
#[derive(Args, Clone)]
pub struct WhatIf {
    /// What it shares with `backup` and `restore`
    #[command(flatten)]
    pub options: Options,
}

/// Which of the two jobs.
#[derive(Clone, Copy, PartialEq)]
enum Job {
    Backup,
    Restore,
}

/// One thing that was foretold and came to pass, several times.
struct Foretold {
    job: Job,
    change: String,
    foretold: Vec<f64>,
    measured: Vec<f64>,
}

impl Foretold {
    fn ratio(&self) -> f64 {
        median(self.foretold.iter().zip(&self.measured).map(|(foretold, measured)| foretold / measured).collect())
    }

    fn holds(&self) -> bool {
        (self.ratio() - 1.0).abs() <= TOLERANCE
    }
}

/// The laboratory: one directory in which every run gets a fresh place.
struct Lab<'a> {
    options: &'a Options,
    path: PathBuf,
    place: &'a Path,
    /// Holds what is restored.
    stored: Subject,
    next: u32,
}

impl Lab<'_> {
    fn fresh(&mut self, name: &str) -> PathBuf {
        self.next += 1;
        self.place.join(format!("{name}-{}", self.next))
    }

    /// One run on `cores` cores; the room that it took is freed.
    fn run(&mut self, job: Job, slowed: Option<&str>, cores: usize) -> Result<Value> {
        let mut more: Vec<OsString> = vec!["--shards".into(), cores.to_string().into()];
        if let Some(stage) = slowed {
            more.extend(["--slow-stage".into(), format!("{stage}={FACTOR}").into()]);
        }
        let place = self.fresh("run");
        let subject = match job {
            Job::Backup => Some(Subject::create(self.options, &place)?),
            Job::Restore => None,
        };
        files::sync_file_system(self.place)?;
        let outcome: Result<Outcome> = {
            let _fewer = Pinned::to(cores);
            match &subject {
                Some(subject) => subject.backup_with(&self.path, &more),
                None => self.stored.restore_with(&place, &more),
            }
        };
        let outcome = outcome?;
        during("put away what a run wrote", files::retire(&place, self.place))?;
        Ok(outcome.summary["bottleneck"].clone())
    }

    fn one(&mut self, job: Job, slowed: Option<&str>, found: &mut Foretold) -> Result<()> {
        let all = cores();
        let (before, name) = match slowed {
            Some(stage) => (self.run(job, None, all)?, stage),
            None => (self.run(job, None, all - 1)?, ""),
        };
        let foretold = match slowed {
            Some(_) => stages(&before).find(|stage| stage["stage"] == name).map(|stage| &stage["seconds_if_doubled"]),
            None => Some(&before["seconds_with_one_more_core"]),
        };
        let foretold = foretold.and_then(Value::as_f64).ok_or_else(|| format!("nothing foretold: {before}"))?;
        let after = self.run(job, slowed, all)?;
        found.foretold.push(foretold);
        found.measured.push(after["wall_seconds"].as_f64().ok_or("no wall_seconds")?);
        Ok(())
    }
}

fn stages(bottleneck: &Value) -> impl Iterator<Item = &Value> {
    bottleneck["stages"].as_array().into_iter().flatten()
}

/// The actors with a share of the CPU time that can be seen.
fn actors(bottleneck: &Value) -> Vec<String> {
    let all = bottleneck["cpu_seconds"].as_f64().unwrap_or(f64::MAX);
    let is_actor = |stage: &&Value| ["busy", "starved", "blocked", "waiting"].iter().any(|share| stage[*share] != 0.0);
    let is_seen = |stage: &&Value| stage["cpu_seconds"].as_f64().unwrap_or(0.0) >= SHARE_MIN * all;
    let name = |stage: &Value| stage["stage"].as_str().unwrap_or_default().to_owned();
    stages(bottleneck).filter(is_actor).filter(is_seen).map(name).collect()
}

/// Foretells and measures; true if everything came to pass within a tenth.
pub fn run(whatif: &WhatIf) -> Result<bool> {
    let options = &whatif.options;
    let directory = limits::scratch(options)?;
    let path = during("find the path", options.path.canonicalize())?;
    let stored = Subject::create(options, &directory.path().join("stored"))?;
    stored.backup(&path)?;
    let mut lab = Lab { options, path, place: directory.path(), stored, next: 0 };
    let mut found: Vec<Foretold> = Vec::new();
    for job in [Job::Backup, Job::Restore] {
        let plain = lab.run(job, None, cores())?;
        let mut changes: Vec<Option<String>> = actors(&plain).into_iter().map(Some).collect();
        if cores() > 1 {
            changes.push(None);
        }
        for stage in changes {
            let change = match &stage {
                Some(stage) => format!("{stage} × {FACTOR}"),
                None => format!("{} cores instead of {}", cores(), cores() - 1),
            };
            let mut one = Foretold { job, change, foretold: vec![], measured: vec![] };
            for _ in 0..options.runs.max(1) {
                lab.one(job, stage.as_deref(), &mut one)?;
            }
            found.push(one);
        }
    }
    tell(options, &found);
    Ok(found.iter().all(Foretold::holds))
}

fn tell(options: &Options, found: &[Foretold]) {
    let name = |job| if job == Job::Backup { "backup" } else { "restore" };
    if options.json {
        let row = |one: &Foretold| {
            json!({
                "job": name(one.job), "change": one.change, "foretold": one.foretold, "measured": one.measured,
                "ratio": one.ratio(), "holds": one.holds(),
            })
        };
        println!("{}", json!({ "whatif": found.iter().map(row).collect::<Vec<_>>() }));
        return;
    }
    println!("{:<8} {:<28} {:>11} {:>11} {:>8}", "job", "change", "foretold s", "measured s", "ratio");
    for one in found {
        let (foretold, measured) = (median(one.foretold.clone()), median(one.measured.clone()));
        let verdict = if one.holds() { "" } else { "  misses by more than a tenth" };
        let (job, change, ratio) = (name(one.job), &one.change, one.ratio());
        println!("{job:<8} {change:<28} {foretold:>11.3} {measured:>11.3} {ratio:>8.2}{verdict}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_actors_that_can_be_seen_are_slowed() {
        let stage = |name: &str, cpu_seconds: f64, busy: f64| json!({ "stage": name, "cpu_seconds": cpu_seconds, "busy": busy, "starved": 0.0, "blocked": 0.0, "waiting": 0.0 });
        let told = json!({ "cpu_seconds": 10.0, "stages": [
            stage("compressor", 6.0, 0.9), stage("source reads", 2.0, 0.0), stage("deduplicator", 0.2, 0.1),
        ]});
        assert_eq!(actors(&told), ["compressor"]);
    }

    #[test]
    fn a_tenth_is_the_bound() {
        let one = |foretold: f64| Foretold {
            job: Job::Backup,
            change: String::new(),
            foretold: vec![foretold, 1.0, 5.0],
            measured: vec![1.0, 1.0, 4.0],
        };
        assert!(one(1.09).holds() && one(0.2).holds());
        assert!(!one(1.11).holds(), "the middle of the three is {}", one(1.11).ratio());
    }
}

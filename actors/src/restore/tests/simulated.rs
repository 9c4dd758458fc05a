//! The same actors on the seeded scheduler: many shards, the smallest memory, any order of steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mover_repository::log::RecoveryPoint;
use mover_repository::manifest::Kind;

use super::fixture::{Fixture, Part, noise};
use super::memory_target::{MemoryTarget, Node};
use crate::error::Side;
use crate::progress::Progress;
use crate::restore::pipeline::{RestoreJob, run_restore};
use crate::restore::report::RestoreReport;
use crate::runtime::StopSignal;
use crate::runtime::simulation::{Outcome, Simulation};

/// Memory far below the smallest that a user may ask for: one or two ranges fit at a time.
const MEMORY_BYTES: usize = 6 << 20;

/// A huge file first, then many small ones, with chunks in common, and further names.
fn tree() -> (Fixture, RecoveryPoint, BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut fixture = Fixture::new();
    let mut contents = BTreeMap::new();
    let mut add = |fixture: &mut Fixture, path: String, chunks: Vec<Vec<u8>>| {
        let parts: Vec<Part> = chunks.iter().map(|chunk| Part::Chunk(chunk.clone())).collect();
        fixture.file(&path, &parts);
        contents.insert(format!("src/tree/{path}").into_bytes(), chunks.concat());
    };
    add(&mut fixture, "a-huge".into(), (0..400).map(|at| noise(at % 390, 12_000)).collect());
    for directory in 0..8 {
        fixture.directory(&format!("d{directory}"));
        for number in 0..40u64 {
            let chunks = match number % 4 {
                0 => Vec::new(),
                1 => vec![noise(number, 12_000)],
                2 => vec![noise(10_000 + number, 700), noise(directory, 12_000)],
                _ => vec![noise(20_000 + directory * 100 + number, 300)],
            };
            add(&mut fixture, format!("d{directory}/f{number:02}"), chunks);
        }
        let first = format!("d{directory}/f03").into_bytes();
        fixture.entry(&format!("d{directory}/link"), Kind::HardLink { first }, 0o640);
    }
    let point = fixture.finish();
    (fixture, point, contents)
}

fn simulate(
    fixture: &Fixture,
    point: &RecoveryPoint,
    seed: u64,
    shards: usize,
) -> (Outcome<RestoreReport>, Arc<MemoryTarget>) {
    let simulation = Simulation::new(seed, shards);
    let target = Arc::new(MemoryTarget::new(simulation.handle()));
    *fixture.backend.simulated.lock() = Some(simulation.handle());
    fixture.backend.reset();
    let mut job = RestoreJob::new(fixture.repository.clone(), point.clone(), target.clone());
    job.memory_bytes = MEMORY_BYTES;
    job.verify = true;
    let outcome = simulation.run(|rt| run_restore(rt, job, Progress::new(), StopSignal::new()));
    *fixture.backend.simulated.lock() = None;
    (outcome, target)
}

#[test]
fn every_order_of_steps_restores_everything() {
    let (fixture, point, contents) = tree();
    for seed in 0..60 {
        let shards = [1, 2, 3, 64][seed as usize % 4];
        let (outcome, target) = simulate(&fixture, &point, seed, shards);
        let report = outcome.unwrap();
        assert!(report.is_clean(), "seed {seed}: {report:?}");
        let nodes = target.nodes();
        for (path, content) in &contents {
            let found = nodes.get(path).unwrap_or_else(|| panic!("seed {seed}: {}", String::from_utf8_lossy(path)));
            assert!(*found == Node::File(content.clone()), "seed {seed}: {}", String::from_utf8_lossy(path));
        }
        let finished = nodes.values().filter(|node| **node == Node::Directory { finished: true }).count();
        assert_eq!((report.totals.hard_links, finished), (8, 9), "seed {seed}");
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let (fixture, point, _) = tree();
    for seed in [5, 77] {
        let (first, _) = simulate(&fixture, &point, seed, 8);
        let (again, _) = simulate(&fixture, &point, seed, 8);
        assert_eq!((first.trace_hash, first.steps), (again.trace_hash, again.steps), "seed {seed}");
    }
}

#[test]
fn a_store_that_goes_away_at_any_moment_leaves_whole_files_only() {
    let (fixture, point, contents) = tree();
    let (whole, _) = simulate(&fixture, &point, 1, 4);
    whole.unwrap();
    let requests = fixture.backend.requests();
    for seed in 0..40 {
        fixture.backend.away_after.store(requests * seed as usize / 40, Ordering::SeqCst);
        let (outcome, target) = simulate(&fixture, &point, seed, 4);
        fixture.backend.is_away.store(false, Ordering::SeqCst);
        fixture.backend.away_after.store(usize::MAX, Ordering::SeqCst);
        // The same reads in another order may need a request less, and then nothing was amiss.
        match &outcome.result {
            Ok(report) => assert!(report.is_clean(), "seed {seed}: {report:?}"),
            Err(_) => assert_eq!(outcome.unwrap_failure().side, Side::Repository, "seed {seed}"),
        }
        assert_eq!(target.open_files(), 0, "seed {seed}: a temporary file is left");
        for (path, node) in target.nodes() {
            if let Node::File(content) = node {
                assert!(contents[&path] == content, "seed {seed}: {}", String::from_utf8_lossy(&path));
            }
        }
    }
}

//! Restores under faults and mutants, lost answers, and work that nobody may leave lying.

use mover_actors::Side;
use mover_actors::runtime::mutant::{Mutant, MutantSwitch};
use mover_actors::runtime::simulation::Ended;
use mover_actors::simulation::{Latency, SimTree, StoreFaults, TargetFaults};

use crate::small_trees;
use crate::world::{Objects, World, contents_of, verify_errors};

fn latency(seed: u64) -> Latency {
    Latency::micros(1, 1 + seed * 37 % 3000)
}

/// A world and what a clean backup of it has left.
fn backed_up(seed: u64, trees: Vec<SimTree>) -> (World, Objects) {
    let world = World::new(seed, 1 + (seed % 4) as usize, trees);
    let run = world.back_up(Objects::new());
    run.outcome.unwrap();
    (world, run.store.durable())
}

#[test]
fn a_restore_replayed_leaves_the_same_trace() {
    for seed in 0..10 {
        let (world, objects) = backed_up(seed, small_trees(seed));
        let [first, again] = [(), ()].map(|()| {
            let target = TargetFaults { latency: latency(seed), ..TargetFaults::default() };
            world.restore_with(objects.clone(), StoreFaults::default(), target).outcome
        });
        assert_eq!((first.trace_hash, first.steps), (again.trace_hash, again.steps), "seed {seed}");
    }
}

/// Whatever stops a restore: a file that is there under its name is whole, and the cause names its side.
#[test]
fn a_restore_that_stops_leaves_only_whole_files() {
    let mut stopped = [0; 2];
    for seed in 0..120 {
        let (world, objects) = backed_up(seed, small_trees(seed));
        let mut store = StoreFaults { latency: latency(seed), ..StoreFaults::default() };
        let mut target = TargetFaults { latency: latency(seed + 1), ..TargetFaults::default() };
        let side = if seed % 2 == 0 { Side::Repository } else { Side::Source };
        match side {
            Side::Repository => store.broken_after_calls = Some(seed % 23),
            _ => target.room_bytes = 1 + seed * 7919 % 500_000,
        }
        let run = world.restore_with(objects, store, target);
        match run.outcome.result {
            Ok(_) => {}
            Err(Ended::Failed(failure)) => {
                assert_eq!(failure.side, side, "seed {seed}: {failure}");
                stopped[usize::from(side == Side::Source)] += 1;
            }
            Err(ended) => panic!("seed {seed}: {ended}"),
        }
        for (restored, expected) in run.contents.iter().zip(contents_of(&world.trees)) {
            for (path, bytes) in restored {
                assert!(expected[path] == *bytes, "seed {seed}: {} is not whole", String::from_utf8_lossy(path));
            }
        }
    }
    assert!(stopped.iter().all(|count| *count > 10), "{stopped:?}");
}

/// The effect of a write is there although its answer was an error: the run stops by its cause or goes on, and the
/// next one completes on what is left.
#[test]
fn lost_answers_lose_nothing_that_was_reported() {
    let mut stopped = 0;
    for seed in 0..120 {
        let mut world = World::new(seed, 1 + (seed % 4) as usize, small_trees(seed));
        world.faults = StoreFaults { latency: latency(seed), lost_answer_per_mille: 60, ..StoreFaults::default() };
        let run = world.back_up(Objects::new());
        match run.outcome.result {
            Ok(_) => {}
            Err(Ended::Failed(failure)) => {
                assert_eq!(failure.side, Side::Repository, "seed {seed}: {failure}");
                stopped += 1;
            }
            Err(ended) => panic!("seed {seed}: {ended}"),
        }
        world.faults = StoreFaults::default();
        let next = world.back_up(run.store.survivors(seed));
        next.outcome.unwrap();
        let restored = world.restore(next.store.durable()).unwrap_or_else(|ended| panic!("seed {seed}: {ended}"));
        assert!(restored == contents_of(&world.trees), "seed {seed}");
    }
    assert!(stopped > 5, "{stopped} runs met a fault");
}

/// A directory that is listed only when all work before it is done: nobody else comes to wake a shard that has parked
/// beside a full queue.
fn gated_tree() -> Vec<SimTree> {
    let mut tree = SimTree::new("/gated");
    for number in 0..12 {
        let directory = format!("{number:02}");
        tree = tree.gated_directory(&directory);
        // Large enough to be handed out at once.
        tree = tree.file(&format!("{directory}/a"), 1, 1_100_000).file(&format!("{directory}/b"), 2, 1_100_000);
    }
    vec![tree]
}

#[test]
fn no_work_lies_while_the_scanner_waits_for_it() {
    let runs_into_a_deadlock = |seed| {
        let run = World::new(seed, 1, gated_tree()).back_up(Objects::new());
        match run.outcome.result {
            Ok(_) => false,
            Err(Ended::Deadlock { .. }) => true,
            Err(ended) => panic!("seed {seed}: {ended}"),
        }
    };
    assert!(!(0..20).any(runs_into_a_deadlock));
    let _off = MutantSwitch::set(Some(Mutant::LostWakeUp));
    assert!((0..60).any(runs_into_a_deadlock), "no seed lost a wake-up");
}

#[test]
fn a_restore_notices_a_permit_that_leaks() {
    let tree = (0..40).fold(SimTree::new("/much"), |tree, number| tree.file(&format!("{number:02}"), number, 6 << 20));
    let (world, objects) = backed_up(1, vec![tree]);
    assert!(world.restore(objects.clone()).is_ok());
    let _off = MutantSwitch::set(Some(Mutant::PermitLeak));
    assert!(matches!(world.restore(objects), Err(Ended::Deadlock { .. })));
}

/// F15: the encoder of another tool produced frames that did not decode, twice, and nobody noticed before a restore.
/// Here each frame that is looked at before it is uploaded is stored raw instead, counted, and makes all be looked at.
#[test]
fn f15_a_frame_that_decodes_to_something_else_is_stored_raw() {
    let world = World::new(15, 2, small_trees(15));
    let run = {
        let _faulty = MutantSwitch::set(Some(Mutant::FaultyEncoder));
        world.back_up(Objects::new())
    };
    let report = run.outcome.unwrap();
    assert!(report.frames_verified.1 > 0, "no frame was found wrong");
    let objects = run.store.durable();
    assert_eq!(verify_errors(&objects), [] as [String; 0]);
    assert!(world.restore(objects).unwrap() == contents_of(&world.trees));
}

//! The actors under the seeded runtime: any order, any delay, any fault, any crash.
//!
//! `MOVER_SIMULATION_SEED=n` replays one seed of the long test; a failure prints the seed that
//! made it. What decides a run follows from its seed, never from the time of day.

mod crash;
mod faults;
mod fenced;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use mover_actors::runtime::mutant::{Mutant, MutantSwitch};
use mover_actors::runtime::simulation::Ended;
use mover_actors::simulation::{Latency, SimBehaviour, SimFile, SimTree, StoreFaults};
use mover_actors::{Failure, Side};
use mover_repository::log::Grade;

use world::{MEMORY_BYTES_MIN, Objects, World, contents_of, read_back, verify_errors};

/// Seeds of the long test; ten times as many in the nightly form.
const SEEDS: u64 = 1000;

fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("MOVER_SIMULATION_SEED") {
        return vec![seed.parse().expect("MOVER_SIMULATION_SEED is a number")];
    }
    let count = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 10 * SEEDS } else { SEEDS };
    (0..count).collect()
}

/// A small tree with everything that takes a path of its own: shared content, empty files, files of
/// several chunks, a link, names around the separator.
fn small_trees(seed: u64) -> Vec<SimTree> {
    let mut first = SimTree::new("/first").directory("empty directory").symlink("link", "a/b").file("empty", 1, 0);
    for number in 0..4 + seed % 9 {
        first = first.file(&format!("d{}/f{number}", number % 3), seed * 1000 + number, (number * 7919) % 40_000);
    }
    for name in ["a/b", "a-b", "a.b", "z/same"] {
        first = first.file(name, seed, 150_000);
    }
    let second = SimTree::new("/second").file("same", seed, 150_000).file("own", seed + 1, 30_000);
    vec![first, second]
}

/// One world a seed: a third without faults, the others crash, break, fill up, or lose answers.
fn world_of(seed: u64) -> World {
    let mut world = World::new(seed, 1 + (seed % 4) as usize, small_trees(seed));
    world.source_latency = Latency::micros(1, 1 + seed % 700);
    world.faults.latency = Latency::micros(1, 1 + (seed * 31) % 5000);
    match seed % 9 {
        0..=1 => {}
        // One shard and one piece of work at a time: nobody else comes along to pick up what was missed.
        2 => {
            let lonely = |number: u64| SimTree::new(&format!("/lonely {number}")).file("f", seed, 100 + number);
            world = World::new(seed, 1, (0..16).map(lonely).collect());
            world.source_latency = Latency::micros(1, 4);
        }
        3..=5 => world.crash_after = Some(seed * 7919 % 230),
        6 => world.faults.broken_after_calls = Some(seed / 9 % 60),
        7 => world.faults.full_after_bytes = Some(seed * 7919 % 260_000),
        _ => world.faults.transient_per_mille = 15,
    }
    world
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    Completed,
    Crashed,
    Failed,
}

/// Everything that must hold after a run, however it ended. Gives the first thing that does not.
fn check(world: &World) -> Result<End, String> {
    let run = world.back_up(Objects::new());
    let expected = contents_of(&run.source.trees());
    let is_faulty = world.crash_after.is_some() || world.seed % 9 > 5;
    let (end, left) = match &run.outcome.result {
        Ok(report) => {
            let point = report.point.as_ref().ok_or("a backup without a recovery point")?;
            if point.errors > 0 || point.grade != Grade::Stable {
                return Err(format!("a clean source gave {} errors, grade {:?}", point.errors, point.grade));
            }
            // Power may be cut right after success is reported.
            (End::Completed, run.store.durable())
        }
        Err(Ended::Crashed) => (End::Crashed, run.store.survivors(world.seed)),
        Err(Ended::Failed(failure)) if is_faulty && failure.side == Side::Repository => (End::Failed, run.store.live()),
        Err(ended) => return Err(ended.to_string()),
    };
    let succeeded = end == End::Completed;
    if !run.outcome.left_over.is_empty() && succeeded {
        return Err(format!("tasks were left over: {:?}", run.outcome.left_over));
    }
    expect_points(&left, &expected, usize::from(succeeded))?;

    // The next backup completes on what is left, and relies on nothing that is not there. After an end that was none it
    // is the same job, taken over.
    let job = if succeeded { world::job(!world.seed) } else { world.job };
    let next = World { job, crash_after: None, faults: StoreFaults::default(), ..world.clone() };
    let run = next.back_up(left);
    match &run.outcome.result {
        Ok(report) if succeeded && report.totals.bytes_new > 0 => {
            return Err(format!("{} bytes were stored twice", report.totals.bytes_new));
        }
        Ok(_) => {}
        Err(ended) => return Err(format!("the next backup: {ended}")),
    }
    let left = run.store.durable();
    expect_points(&left, &expected, 1)?;
    if let Some(error) = verify_errors(&left).first() {
        return Err(format!("verify after the next backup: {error}"));
    }
    let restored = world.restore(left).map_err(|ended| format!("restore: {ended}"))?;
    if restored != expected {
        return Err("the restore does not hold what the source held".into());
    }
    Ok(end)
}

/// At least so many recovery points, each of them whole.
fn expect_points(objects: &Objects, expected: &world::Contents, points_min: usize) -> Result<(), String> {
    let points = read_back(objects).map_err(|failure: Failure| format!("read back: {failure}"))?;
    if points.len() < points_min {
        return Err(format!("{} recovery points, {points_min} were reported", points.len()));
    }
    match points.iter().find(|restorable| &restorable.contents != expected) {
        Some(wrong) => Err(format!("recovery point {} does not hold what the source held", wrong.point.id)),
        None => Ok(()),
    }
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    let seeds = seeds();
    let mut ends: BTreeMap<End, usize> = BTreeMap::new();
    for seed in &seeds {
        match check(&world_of(*seed)) {
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(broken) => panic!("seed {seed}: {broken}\nreplay it with MOVER_SIMULATION_SEED={seed}"),
        }
    }
    // A long test that has stopped to meet crashes and faults proves nothing.
    if seeds.len() as u64 >= SEEDS {
        let share = |end| ends.get(&end).copied().unwrap_or_default() * 100 / seeds.len();
        assert!(share(End::Completed) >= 35 && share(End::Crashed) >= 15 && share(End::Failed) >= 10, "{ends:?}");
    }
}

#[test]
fn one_seed_run_twice_leaves_one_trace() {
    for seed in [0, 1, 4, 6, 8, 13, 400] {
        let [first, second] = [(), ()].map(|()| world_of(seed).back_up(Objects::new()).outcome);
        assert_eq!((first.trace_hash, first.steps), (second.trace_hash, second.steps), "seed {seed}");
    }
    let [one, other] = [1, 2].map(|seed| world_of(seed).back_up(Objects::new()).outcome.trace_hash);
    assert_ne!(one, other);
}

/// Switches one guard off and expects some seed to notice.
fn is_found(mutant: Mutant) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (0..SEEDS).find(|seed| {
        let _off = MutantSwitch::set(Some(mutant));
        let world = world_of(*seed);
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&world)));
        !matches!(checked, Ok(Ok(_)))
    });
    std::panic::set_hook(hook);
    found.is_some()
}

#[test]
fn every_guard_that_is_switched_off_is_noticed() {
    for mutant in Mutant::ALL {
        assert!(is_found(mutant), "no seed noticed {mutant:?}");
    }
}

/// The first file of the second fileset is not read before the first fileset is sealed, and that is
/// not before its packs are durable. Its index segment is written beside that record, and before the next fileset too.
#[test]
fn no_byte_of_the_second_fileset_is_read_before_the_first_is_sealed() {
    for seed in 0..50 {
        let world = World {
            faults: StoreFaults { latency: Latency::micros(1, 20_000), ..StoreFaults::default() },
            ..World::new(seed, 3, small_trees(seed))
        };
        let run = world.back_up(Objects::new());
        run.outcome.unwrap();
        let last_of_first = run.source.reads().iter().rposition(|read| read.fileset == 0).expect("reads");
        let first_of_second = run.source.reads().iter().position(|read| read.fileset == 1).expect("reads");
        assert!(last_of_first < first_of_second, "seed {seed}");
        let sealed = run.store.effect_time("/sealed/").expect("a sealed fileset");
        assert!(sealed <= run.source.reads()[first_of_second].time, "seed {seed}");
        let journal = run.store.journal();
        let at = |what: &str| journal.iter().position(|effect| effect.contains(what)).expect("an effect");
        let last_pack = journal[..at("/sealed/")].iter().rposition(|effect| effect.starts_with("finish packs/"));
        assert!(last_pack.expect("packs") < at("barrier"), "seed {seed}: {journal:?}");
        assert!(at("barrier") < at("create index/") && at("barrier") < at("/sealed/"), "seed {seed}");
        let named = run.store.effect_time("create index/").expect("a segment");
        assert!(named <= run.source.reads()[first_of_second].time, "seed {seed}");
        assert!(journal.last().expect("effects").ends_with("/done"), "seed {seed}");
    }
}

/// Several extents of one large file are under way at the same time: the last of them is begun before the first ends.
#[test]
fn extents_of_one_large_file_are_read_side_by_side() {
    let extent = mover_repository::limits::EXTENT_BYTES;
    let world = World::new(7, 2, vec![SimTree::new("/one").file("large", 1, 3 * extent)]);
    let run = world.back_up(Objects::new());
    run.outcome.unwrap();
    let times = |number: u64| -> Vec<Duration> {
        let reads = run.source.reads().into_iter().filter(|read| read.offset / extent == number);
        reads.map(|read| read.time).collect()
    };
    let (first, last) = (times(0), times(2));
    assert!(first.len() > 8 && last.len() > 8, "each extent takes many reads");
    assert!(last[0] < first[first.len() - 1], "the last extent waits for the first");
}

/// FAILURES F02: the commit waits for everything that it depends on.
#[test]
fn f02_the_commit_is_the_last_effect_and_every_pack_is_durable_before() {
    for seed in 0..50 {
        let world = World::new(seed, 4, small_trees(seed));
        let run = world.back_up(Objects::new());
        run.outcome.unwrap();
        let journal = run.store.journal();
        let done = journal.iter().position(|effect| effect.ends_with("/done")).expect("a commit");
        let packs = journal.iter().filter(|effect| effect.starts_with("finish packs/")).count();
        let before = journal[..done].iter().filter(|effect| effect.starts_with("finish packs/")).count();
        assert_eq!(packs, before, "seed {seed}");
        let barrier = journal.iter().rposition(|effect| effect.starts_with("barrier")).expect("a barrier");
        let last_pack = journal.iter().rposition(|effect| effect.starts_with("finish packs/")).expect("a pack");
        assert!(last_pack < barrier && barrier < done, "seed {seed}");
    }
}

#[test]
fn identical_files_on_all_shards_at_once_leave_one_stored_copy() {
    for seed in 0..30 {
        let mut tree = SimTree::new("/twins");
        for number in 0..64 {
            tree = tree.file(&format!("{number:02}"), 7, 200_000);
        }
        let run = World::new(seed, 8, vec![tree]).back_up(Objects::new());
        let report = run.outcome.unwrap();
        assert_eq!((report.totals.bytes_read, report.totals.bytes_new), (64 * 200_000, 200_000), "seed {seed}");
    }
}

/// Backpressure from end to end: a store that stalls for good stops the reader within the budget.
#[test]
fn a_store_that_stalls_stops_the_reader_within_the_budget() {
    let mut tree = SimTree::new("/much");
    for number in 0..40 {
        tree = tree.file(&format!("{number:02}"), number, 16 << 20);
    }
    let mut world = World::new(5, 2, vec![tree]);
    world.faults.stall_after_bytes = Some(1 << 20);
    let run = world.back_up(Objects::new());
    assert!(matches!(run.outcome.result, Err(Ended::Deadlock { .. })), "nobody may give up by itself");
    let read = run.source.counts().bytes;
    assert!(read > 1 << 20, "the store stalled before anything was read");
    assert!(read <= (MEMORY_BYTES_MIN + (1 << 20)) as u64, "{read} bytes were read against a store that took 1 MiB");
}

/// The smallest budget for 64 shards, a huge file first, and a hundred thousand small ones that
/// all have to wait for it in path order.
#[test]
fn sixty_four_shards_one_huge_file_and_a_hundred_thousand_small_ones_come_to_an_end() {
    let small = 100_000;
    let mut tree = SimTree::new("/deep").file("0 huge", 1, 200 << 20);
    for number in 0..small {
        tree = tree.file(&format!("d{:03}/{number:06}", number / 500), 2 + number % 50, 200);
    }
    let mut world = World::new(11, 64, vec![tree]);
    world.source_latency = Latency::micros(100, 3000);
    let run = world.back_up(Objects::new());
    let report = run.outcome.unwrap();
    assert_eq!(report.totals.files, small + 1);
    assert_eq!(report.totals.bytes_read, (200 << 20) + small * 200);
}

#[test]
fn what_happens_to_a_file_while_it_is_read_is_said() {
    let file = |seed, behaviour| SimFile { seed, bytes: 10_000, behaviour };
    let tree = SimTree::new("/live")
        .file("steady", 1, 10_000)
        .file_that("settles", file(2, SimBehaviour::ChangesDuringReads(2)))
        .file_that("never settles", file(3, SimBehaviour::ChangesDuringReads(1000)))
        .file_that("shrinks", file(4, SimBehaviour::ShrinksDuringRead))
        .file_that("vanishes", file(5, SimBehaviour::Vanishes))
        .file_that("secret", file(6, SimBehaviour::Unreadable));
    for seed in 0..20 {
        let run = World::new(seed, 2, vec![tree.clone()]).back_up(Objects::new());
        let report = run.outcome.unwrap();
        let point = report.point.expect("a recovery point");
        assert_eq!(report.lists.torn, vec![b"/live/never settles".to_vec()]);
        assert_eq!((point.grade, point.totals.files_torn), (Grade::Torn, 1));
        let mut unread: Vec<&[u8]> = report.lists.problems.iter().map(|problem| &problem.path[..]).collect();
        unread.sort();
        assert_eq!(unread, [&b"/live/secret"[..], b"/live/vanishes"]);
        let restored = read_back(&run.store.durable()).expect("readable").pop().expect("a point").contents.remove(0);
        // F19: what shrank is as long as it was after, not padded to what it was before.
        assert_eq!(restored[&b"shrinks"[..]].len(), 5000);
        assert_eq!(restored[&b"steady"[..]].len(), 10_000);
        assert!(!restored.contains_key(&b"vanishes"[..]) && !restored.contains_key(&b"secret"[..]));
    }
}

/// A failure on the repository's side stops the job with its own cause and side (FAILURES F13).
#[test]
fn f13_a_full_store_is_told_as_a_full_store() {
    let mut world = World::new(3, 2, small_trees(3));
    world.faults.full_after_bytes = Some(100_000);
    let failure = world.back_up(Objects::new()).outcome.unwrap_failure();
    assert_eq!(failure.side, Side::Repository);
    assert!(failure.cause.contains("space"), "{failure}");
}

/// Simulated hours cost no real time, and a slow link changes nothing but the time.
#[test]
fn a_slow_store_changes_nothing_but_the_time() {
    let quick = World::new(2, 2, small_trees(2));
    let mut slow = quick.clone();
    slow.faults.latency = Latency { least: Duration::from_secs(5), most: Duration::from_secs(50) };
    let [quick, slow] = [quick, slow].map(|world| world.back_up(Objects::new()));
    assert!(slow.outcome.simulated > quick.outcome.simulated * 100);
    let contents = |objects| read_back(&objects).expect("readable").pop().expect("a point").contents;
    assert_eq!(contents(quick.store.durable()), contents(slow.store.durable()));
}

//! Rekeying: everything comes under the newest keys, in as many runs as it takes, and nothing is lost on the way.

use super::*;
use crate::prune::rekey::{RekeyOptions, RekeyReport, rekey};
use crate::rotation::rotate_keys;

fn rekeyed(bench: &Bench, move_bytes_max: u64) -> RekeyReport {
    let options = RekeyOptions { move_bytes_max, memory_bytes: 16 << 20, threads: 2, scratch: std::env::temp_dir() };
    rekey(&bench.repository, &who(), &options).unwrap()
}

/// Rotates, and opens the repository again.
fn rotated(bench: &Bench) -> Bench {
    block_on(rotate_keys(&bench.repository, &who(), Duration::ZERO)).unwrap();
    let credential = Credential::key_file(vec![7; 32]).unwrap();
    let repository = block_on(Repository::open(bench.store.clone(), &credential)).unwrap();
    Bench { store: bench.store.clone(), repository }
}

/// The generation of the keys of each pack that is there.
fn generations(bench: &Bench) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for name in bench.names("packs") {
        let info = block_on(crate::pack::read_contents(&bench.repository, &name)).unwrap().info();
        let read = if info.class == PackClass::Data { info.key_block.generation() } else { info.generation };
        found.push((info.generation, read));
    }
    found
}

#[test]
fn rekey_brings_all_packs_under_the_newest_keys_within_a_budget() {
    let bench = Bench::new();
    let (first, second) = (files(0..8), files(4..12));
    backup(&bench, &first);
    backup(&bench, &second);
    let bench = rotated(&bench);
    let third = files(10..14);
    backup(&bench, &third);
    let mut runs = 0;
    let mut left = usize::MAX;
    loop {
        let report = rekeyed(&bench, 45_000);
        assert_eq!(report.generation, 2);
        assert!(report.damaged.is_empty() && report.moved.packs > 0, "{report:?}");
        runs += 1;
        // Each run goes on where the one before ended, and all reads back between them.
        assert!((report.left.packs as usize) < left, "{report:?}");
        left = report.left.packs as usize;
        assert_whole(&bench, &[&first, &second, &third]);
        if left == 0 {
            break;
        }
    }
    assert!(runs > 1, "the budget bounded a run");
    assert_eq!(rekeyed(&bench, u64::MAX).moved, Packs::default(), "nothing is stored twice");
    pruned(&bench);
    assert!(generations(&bench).iter().all(|generations| *generations == (2, 2)), "{:?}", generations(&bench));
    assert_whole(&bench, &[&first, &second, &third]);
    let history = block_on(bench.repository.history()).unwrap();
    let reasons: Vec<&String> = history
        .entries()
        .iter()
        .filter_map(|entry| match entry.outcome()? {
            Outcome::Condemned { reason, .. } => Some(reason),
            _ => None,
        })
        .collect();
    assert!(reasons.iter().filter(|reason| reason.starts_with("rekey")).count() >= runs, "{reasons:?}");
}

#[test]
fn rekey_leaves_running_backups_alone_and_copies_compressed_frames_as_they_are() {
    let bench = Bench::new();
    let kept = files(0..4);
    backup(&bench, &kept);
    let running = Writer::begin(&bench);
    let own = files(5..7);
    running.store(&bench, &own, 2);
    let now = rotated(&bench);
    let report = rekeyed(&now, u64::MAX);
    assert!(report.left.packs > 0, "the packs of a running backup are not judged: {report:?}");
    running.commit(&bench, &own);
    assert_whole(&now, &[&kept, &own]);
    assert_eq!(rekeyed(&now, u64::MAX).left, Packs::default());
    assert_whole(&now, &[&kept, &own]);
    assert!(pruned(&now).deleted.packs > 0);
    assert_whole(&now, &[&kept, &own]);
}

/// A checkpoint leaves out the records of runs that came to nothing. Their packs, which others had come to use, counted as
/// those of a run that goes on, and were never stored under new keys.
#[test]
fn rekey_takes_packs_of_a_run_that_a_checkpoint_left_out() {
    let bench = Bench::new();
    let kept = files(0..4);
    let ended = Writer::begin(&bench);
    ended.store(&bench, &kept, 2);
    let number = ended.registration.number();
    block_on(ended.registration.commit(Outcome::Ended { reason: "interrupted".into() })).unwrap();
    let other = Writer::begin(&bench);
    assert_eq!(other.store(&bench, &kept, 2), 0, "it is there already");
    other.commit(&bench, &kept);
    bench.fill_log(500);
    assert!(pruned(&bench).summed_up > 0);
    let now = rotated(&bench);
    assert!(block_on(now.repository.history()).unwrap().entry(number).is_none(), "the checkpoint left it out");
    assert_eq!(rekeyed(&now, u64::MAX).left, Packs::default());
    pruned(&now);
    assert!(generations(&now).iter().all(|generations| *generations == (2, 2)), "{:?}", generations(&now));
    assert_whole(&now, &[&kept]);
}

#[test]
fn rekey_needs_the_read_key_of_an_admin() {
    let bench = Bench::new();
    let client = bench.put_only_client().repository;
    let options = RekeyOptions { move_bytes_max: 1, memory_bytes: 1 << 20, threads: 2, scratch: std::env::temp_dir() };
    assert!(matches!(rekey(&client, &who(), &options), Err(RepositoryError::NotSupported { .. })));
}

#[test]
fn rekey_that_fails_anywhere_loses_nothing_and_the_next_one_completes_it() {
    for nth in 1..60 {
        let bench = Bench::new();
        let kept = files(0..6);
        backup(&bench, &kept);
        let now = rotated(&bench);
        let faulty = FaultyBackend::new(bench.store.clone());
        let credential = Credential::key_file(vec![7; 32]).unwrap();
        let opened = block_on(Repository::open(Arc::new(faulty.clone()), &credential)).unwrap();
        faulty.plan(Fault { operation: None, prefix: String::new(), nth, forever: true, effect: Effect::Io });
        let options =
            RekeyOptions { move_bytes_max: u64::MAX, memory_bytes: 1 << 20, threads: 2, scratch: std::env::temp_dir() };
        let is_done = rekey(&opened, &who(), &options).is_ok();
        assert_whole(&now, &[&kept]);
        rekeyed(&now, u64::MAX);
        assert_whole(&now, &[&kept]);
        if is_done {
            return;
        }
    }
    panic!("a rekey has fewer writes than that");
}

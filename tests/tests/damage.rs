//! Every kind of repository object is flipped, cut, grown and deleted: a clear error or no effect, never a panic, and
//! never other bytes under a final name.

use std::path::{Path, PathBuf};

use mover_tests::damage::{Damage, Hurt, damages};
use mover_tests::mover::landed;
use mover_tests::random::Random;
use mover_tests::tree::{KIB, MIB, files_below, small_files, write_random};
use mover_tests::{Repo, exit};

struct Fixture {
    repo: Repo,
    source: PathBuf,
    point: String,
}

/// Two recovery points with data of all kinds: shared frames, large chunks, a chunk list of several pages.
fn fixture() -> Fixture {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source.join("small"), 120, 0, 9000, 1);
    write_random(&source.join("large"), 6 * MIB, 2);
    repo.backup(&source);
    write_random(&source.join("later"), 300 * KIB, 3);
    let point = repo.backup(&source).point();
    Fixture { repo, source, point }
}

/// What an object is, from its name.
fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split('/').collect();
    match (parts[0], parts.last().copied().unwrap_or_default()) {
        ("config", _) => "config",
        ("keys", _) => "keys",
        ("packs", _) => "packs",
        ("index", _) => "index",
        ("log", "open") => "log/open",
        ("log", "done") => "log/done",
        ("log", _) => "log/other",
        _ => "unknown",
    }
}

fn by_kind(repo: &Repo) -> Vec<(&'static str, PathBuf, u64)> {
    let mut all: Vec<_> = repo.objects().into_iter().map(|(path, bytes)| (kind(&path), path, bytes)).collect();
    all.sort();
    assert!(!all.iter().any(|object| object.0 == "unknown"), "an object outside the layout: {all:?}");
    for needed in ["config", "keys", "packs", "index", "log/open", "log/done"] {
        assert!(all.iter().any(|object| object.0 == needed), "no object of kind {needed}");
    }
    all
}

/// Restores into a fresh target; whatever has its final name there must be right, and an exit of 0 must be complete.
fn restore_is_right_or_fails(fixture: &Fixture, what: &str) -> i32 {
    let target = fixture.repo.directory("damaged-target");
    let run = fixture.repo.restore_run(&fixture.point, &target, &[]);
    assert!(!run.panicked(), "{what}: {run}");
    assert!((0..128).contains(&run.code), "{what}: {run}");
    let place = landed(&target, &fixture.source);
    let restored = files_below(&place);
    for (name, _) in &restored {
        let right = fixture.source.join(name);
        if right.exists() {
            let same = std::fs::read(&right).expect("read") == std::fs::read(place.join(name)).expect("read");
            assert!(same, "{what}: {} came back with other bytes", name.display());
        }
    }
    if run.code == exit::DONE {
        assert_eq!(restored, files_below(&fixture.source), "{what}: exit 0, but not everything is there");
    } else {
        // A file that could not be restored is an object with its path and cause; what stops the run goes to stderr.
        let is_told = run.text().contains("\"type\":\"problem\"") || !run.stderr.trim().is_empty();
        assert!(is_told, "{what}: no error message: {run}");
    }
    std::fs::remove_dir_all(&target).expect("remove the target");
    run.code
}

fn samples() -> u64 {
    if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 40 } else { 3 }
}

/// Objects to hurt: of each kind the first, the last and the largest.
fn chosen(repo: &Repo, wanted: &str) -> Vec<(PathBuf, u64)> {
    let all: Vec<_> = by_kind(repo).into_iter().filter(|object| object.0 == wanted).collect();
    let mut some = vec![all.first().cloned(), all.last().cloned(), all.iter().max_by_key(|object| object.2).cloned()];
    some.sort();
    some.dedup();
    some.into_iter().flatten().map(|object| (object.1, object.2)).collect()
}

/// Hurts objects of one kind in every way; `verify` must notice where `must_notice`.
fn hurt_each(wanted: &str, must_notice: impl Fn(Damage) -> bool) {
    let fixture = fixture();
    for (path, bytes) in chosen(&fixture.repo, wanted) {
        for damage in damages(bytes, samples()) {
            let what = format!("{} with {damage:?}", path.display());
            let hurt = Hurt::inflict(&fixture.repo.place().join(&path), damage);
            let restored = restore_is_right_or_fails(&fixture, &what);
            let verified = fixture.repo.run("verify", &["--data", "all"]);
            assert!(!verified.panicked(), "{what}: {verified}");
            if must_notice(damage) {
                assert_ne!(verified.code, exit::DONE, "{what}: verify saw nothing (restore ended with {restored})");
                assert!(
                    !verified.stderr.trim().is_empty() || !verified.stdout.is_empty(),
                    "{what}: verify said nothing"
                );
            }
            drop(hurt);
        }
    }
    // Healed, all is well again: the damage did not spread.
    fixture.repo.verify_all();
    assert_eq!(restore_is_right_or_fails(&fixture, "healed"), exit::DONE);
}

#[test]
fn damage_of_packs_is_noticed_and_never_restored() {
    hurt_each("packs", |_| true);
}

#[test]
fn damage_of_the_config_is_noticed() {
    hurt_each("config", |_| true);
}

#[test]
fn damage_of_recovery_points_is_noticed() {
    hurt_each("log/done", |_| true);
}

#[test]
fn damage_of_registrations_is_noticed() {
    hurt_each("log/open", |damage| damage != Damage::Delete);
}

#[test]
fn damage_of_key_slots_is_an_error() {
    hurt_each("keys", |_| true);
}

#[test]
fn damage_of_index_segments_is_survived_or_noticed() {
    // An index is a cache: what is lost in it may be looked up in the packs, but must never give wrong bytes.
    hurt_each("index", |damage| !matches!(damage, Damage::Delete | Damage::Grow(_)));
}

#[test]
fn damage_of_an_index_is_repaired_from_the_packs() {
    let fixture = fixture();
    let all: Vec<_> = fixture.repo.objects().into_iter().filter(|(path, _)| path.starts_with("index")).collect();
    for (path, _) in &all {
        std::fs::remove_file(fixture.repo.place().join(path)).expect("remove");
    }
    fixture.repo.run("repair", &["index"]).expect(exit::DONE);
    assert_eq!(restore_is_right_or_fails(&fixture, "rebuilt index"), exit::DONE);
    let again = fixture.repo.backup(&fixture.source);
    assert_eq!(again.bytes_new(), 0, "the rebuilt index knows every chunk");
    fixture.repo.verify_all();
}

#[test]
fn damage_of_two_objects_exchanged_is_noticed() {
    let fixture = fixture();
    let packs = chosen(&fixture.repo, "packs");
    let (one, two) = (fixture.repo.place().join(&packs[0].0), fixture.repo.place().join(&packs[packs.len() - 1].0));
    assert_ne!(one, two);
    let (first, second) = (std::fs::read(&one).expect("read"), std::fs::read(&two).expect("read"));
    for path in [&one, &two] {
        std::fs::remove_file(path).expect("remove");
    }
    std::fs::write(&one, &second).expect("write");
    std::fs::write(&two, &first).expect("write");
    assert_ne!(restore_is_right_or_fails(&fixture, "exchanged packs"), exit::DONE);
    assert_ne!(fixture.repo.run("verify", &["--data", "all"]).code, exit::DONE);
}

#[test]
fn damage_of_one_pack_costs_only_the_files_in_it() {
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..6 {
        write_random(&source.join(format!("file-{number}")), 24 * MIB, number);
    }
    let point = repo.backup(&source).point();
    let (largest, bytes) = repo.objects().into_iter().max_by_key(|object| object.1).expect("a pack");
    let hurt = Hurt::inflict(&repo.place().join(&largest), Damage::Flip(bytes / 2));
    let target = repo.directory("target");
    let run = repo.restore_run(&point, &target, &[]);
    assert!(!run.panicked() && run.code != exit::DONE, "{run}");
    let verified = repo.run("verify", &["--json", "--data", "all"]);
    assert_ne!(verified.code, exit::DONE);
    let said = format!("{}{}", verified.text(), verified.stderr);
    assert!(said.contains("file-"), "verify does not name the files that are hurt: {said}");
    drop(hurt);
    repo.verify_all();
}

#[test]
fn damage_of_random_bits_anywhere_is_never_restored() {
    let fixture = fixture();
    let all = fixture.repo.objects();
    let mut random = Random::new(4);
    let rounds = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 400 } else { 25 };
    for round in 0..rounds {
        let (path, bytes) = &all[random.below(all.len() as u64) as usize];
        let offset = random.below((*bytes).max(1));
        let hurt = Hurt::inflict(&fixture.repo.place().join(path), Damage::Flip(offset));
        restore_is_right_or_fails(&fixture, &format!("round {round}: {} at {offset}", path.display()));
        drop(hurt);
    }
}

//! Every kind of repository object is flipped, cut, grown and deleted: a clear error or no effect, never a panic, and
//! never other bytes under a final name.

use std::path::{Path, PathBuf};

use mover_tests::damage::{Damage, Hurt, damages};
use mover_tests::mover::landed;
use mover_tests::random::Random;
use mover_tests::summary::json_lines;
use mover_tests::tree::{KIB, MIB, files_below, small_files, write_random};
use mover_tests::{Repo, exit};

struct Fixture {
    repo: Repo,
    source: PathBuf,
    /// The point of log number 1, before `later` was there.
    first: String,
    /// The point of log number 2.
    point: String,
}

/// Two recovery points with data of all kinds: shared frames, large chunks, a chunk list of several pages.
fn fixture() -> Fixture {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source.join("small"), 120, 0, 9000, 1);
    write_random(&source.join("large"), 6 * MIB, 2);
    let first = repo.backup(&source).point();
    write_random(&source.join("later"), 300 * KIB, 3);
    let point = repo.backup(&source).point();
    Fixture { repo, source, first, point }
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
        ("log", _) if parts.get(2) == Some(&"sealed") => "log/sealed",
        ("log", _) => "log/other",
        _ => "unknown",
    }
}

fn by_kind(repo: &Repo) -> Vec<(&'static str, PathBuf, u64)> {
    let mut all: Vec<_> = repo.objects().into_iter().map(|(path, bytes)| (kind(&path), path, bytes)).collect();
    all.sort();
    assert!(!all.iter().any(|object| object.0 == "unknown"), "an object outside the layout: {all:?}");
    for needed in ["config", "keys", "packs", "index", "log/open", "log/done", "log/sealed"] {
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

/// The log number that a record belongs to.
fn number_of(path: &Path) -> u64 {
    let number = path.components().nth(1).expect("log/<n>/…").as_os_str().to_str().expect("plain");
    u64::from_str_radix(number, 16).expect("a log number")
}

/// Restores the point that the hurt record is not part of: all of it must come back, with this exit code.
fn untouched_point_is_restored(fixture: &Fixture, path: &Path, what: &str, code: i32) {
    let is_first = number_of(path) != 1;
    let point = if is_first { &fixture.first } else { &fixture.point };
    let target = fixture.repo.directory("untouched-target");
    let run = fixture.repo.restore_run(point, &target, &[]);
    assert_eq!(run.code, code, "{what}: {run}");
    if code == exit::EXCEPTIONS {
        assert!(run.text().contains("\"type\":\"problem\""), "{what}: the damaged record is not listed: {run}");
    }
    let wanted: Vec<_> =
        files_below(&fixture.source).into_iter().filter(|(name, _)| !is_first || name != Path::new("later")).collect();
    let place = landed(&target, &fixture.source);
    assert_eq!(files_below(&place), wanted, "{what}");
    for (name, _) in &wanted {
        let same =
            std::fs::read(fixture.source.join(name)).expect("read") == std::fs::read(place.join(name)).expect("read");
        assert!(same, "{what}: {} came back with other bytes", name.display());
    }
    std::fs::remove_dir_all(&target).expect("remove the target");
}

/// Hurts records of one kind in every way. Damage in the log once stopped every restore, also of points that it did
/// not concern: these must come back whole, with `code`, and verify must name the record.
fn hurt_each_record(wanted: &str, code: i32) {
    let fixture = fixture();
    for (path, bytes) in chosen(&fixture.repo, wanted) {
        for damage in damages(bytes, samples()) {
            let what = format!("{} with {damage:?}", path.display());
            let hurt = Hurt::inflict(&fixture.repo.place().join(&path), damage);
            untouched_point_is_restored(&fixture, &path, &what, code);
            let verified = fixture.repo.run("verify", &[] as &[&str]);
            assert!(!verified.panicked(), "{what}: {verified}");
            assert_eq!(verified.code, exit::FAILED, "{what}: {verified}");
            let said = format!("{}{}", verified.text(), verified.stderr);
            assert!(said.contains("log/"), "{what}: verify does not name the record: {verified}");
            for misleading in ["update mover", "newer version", "rotation"] {
                assert!(!said.contains(misleading), "{what}: damage is not told as damage: {verified}");
            }
            drop(hurt);
        }
    }
    fixture.repo.verify_all();
    assert_eq!(restore_is_right_or_fails(&fixture, "healed"), exit::DONE);
}

#[test]
fn damage_of_recovery_points_is_noticed_and_others_are_restored() {
    hurt_each_record("log/done", exit::EXCEPTIONS);
}

#[test]
fn damage_of_registrations_is_noticed_and_all_points_are_restored() {
    hurt_each_record("log/open", exit::EXCEPTIONS);
}

#[test]
fn damage_of_sealed_records_is_noticed_and_costs_no_restore() {
    hurt_each_record("log/sealed", exit::DONE);
}

/// With one record of an old run gone, every command that reads once gave nothing but an error that led in a circle.
/// They go on with what is whole and end with 3; a backup is refused and says which object to put back.
#[test]
fn damage_of_an_old_record_stops_no_reader_and_tells_a_writer_what_to_put_back() {
    let fixture = fixture();
    let record = PathBuf::from("log/0000000000000001/done");
    let hurt = Hurt::inflict(&fixture.repo.place().join(&record), Damage::Flip(20));
    let point = fixture.point.as_str();
    let file = fixture.source.join("later");
    let file = file.to_str().expect("plain");
    for arguments in [&["points"][..], &["ls", "latest"], &["diff", point, point], &["dump", point, file]] {
        let run =
            fixture.repo.run(arguments[0], &arguments[1..]).expect_error(exit::EXCEPTIONS, "log/0000000000000001/done");
        assert!(run.stderr.contains("copy of the repository"), "{run}");
    }
    let listed = json_lines(&fixture.repo.run("points", &["--json"]).expect(exit::EXCEPTIONS).stdout);
    let ids: Vec<_> = listed.iter().filter(|line| line["type"] == "point").map(|line| line["id"].clone()).collect();
    assert_eq!(ids, [point]);
    let dumped = fixture.repo.run("dump", &[point, file]);
    assert_eq!(dumped.stdout, std::fs::read(file).expect("read"));
    let refused = fixture.repo.run("backup", &[fixture.source.as_os_str()]);
    let refused = refused.expect_error(exit::FAILED, "log/0000000000000001/done");
    assert!(refused.stderr.contains("put that object back"), "{refused}");
    drop(hurt);
    fixture.repo.backup(&fixture.source);
    fixture.repo.verify_all();
}

/// A repository put back from an older mirror could not be restored from, and nothing named the file on the client
/// that remembers the newer state. Readers go on; the writer's message names that file, and without it all is well.
#[test]
fn damage_that_is_an_older_copy_in_place_is_read_and_can_be_accepted() {
    let fixture = fixture();
    let mirror = fixture.repo.scratch().join("mirror");
    let copy = |from: &Path, to: &Path| {
        assert!(mover_tests::skip::succeeds("cp", &["-a", from.to_str().expect("plain"), to.to_str().expect("plain")]));
    };
    copy(fixture.repo.place(), &mirror);
    fixture.repo.backup(&fixture.source);
    std::fs::remove_dir_all(fixture.repo.place()).expect("lose the repository");
    copy(&mirror, fixture.repo.place());

    let target = fixture.repo.directory("target");
    let run = fixture.repo.restore_run("latest", &target, &[]).expect(exit::EXCEPTIONS);
    assert_eq!(files_below(&landed(&target, &fixture.source)), files_below(&fixture.source), "{run}");
    let state = fixture.repo.scratch().join("state/mover");
    let memory = std::fs::read_dir(&state).expect("the memory").next().expect("a file").expect("a file").path();
    let refused = fixture.repo.run("backup", &[fixture.source.as_os_str()]);
    let refused = refused.expect_error(exit::FAILED, memory.to_str().expect("plain"));
    assert!(refused.stderr.contains("given up"), "{refused}");
    std::fs::remove_file(&memory).expect("accept the older state");
    fixture.repo.backup(&fixture.source);
    fixture.repo.verify_all();
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

/// A damaged pack is marked: what it costs is told, the next backup of the same content stores it again, and then every
/// point is whole, the old ones too.
#[test]
fn damage_that_is_marked_is_healed_by_the_next_backup() {
    let fixture = fixture();
    let (pack, bytes) = chosen(&fixture.repo, "packs").into_iter().max_by_key(|object| object.1).expect("a pack");
    let file = fixture.repo.place().join(&pack);
    let mut content = std::fs::read(&file).expect("read");
    content[bytes as usize / 2] ^= 1;
    std::fs::write(&file, content).expect("write");
    let marked = fixture.repo.run("repair", &["packs", "--json"]).expect(exit::FAILED);
    let lines = json_lines(&marked.stdout);
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count();
    assert_eq!(lines.iter().find(|line| line["type"] == "marked").expect("a line")["frames"].as_u64(), Some(1));
    assert!(of("hurt_file") > 0, "{marked}");
    let still = fixture.repo.run("verify", &["--json", "--data", "all"]).expect(exit::FAILED);
    assert_eq!(still.summary().value()["frames_marked"].as_u64(), Some(1), "{still}");

    let healing = fixture.repo.backup(&fixture.source);
    assert!(healing.bytes_new() > 0, "the hurt chunk is stored again");
    fixture.repo.verify_all();
    for point in [&fixture.first, &fixture.point] {
        let target = fixture.repo.restore(point, &fixture.source, point);
        let restored = std::fs::read(target.join("large")).expect("read");
        assert_eq!(restored, std::fs::read(fixture.source.join("large")).expect("read"));
    }
    // Marked once, told as new no more.
    let again = fixture.repo.run("repair", &["packs", "--json"]).expect(exit::DONE);
    assert!(json_lines(&again.stdout).iter().any(|line| line["type"] == "marked" && line["frames"] == 0), "{again}");
}

//! Damage costs the files that need what is damaged, and nothing else; nothing wrong gets a final name.

use std::sync::atomic::Ordering;

use mover_repository::manifest::Kind;
use mover_repository::pack::PackClass;

use super::fixture::{Fixture, Part, at, names_below, noise, restore, restore_until, try_restore};
use crate::error::Side;
use crate::restore::target::Overwrite;
use crate::runtime::StopSignal;

/// Three files in frames of their own, and one that shares its chunk with the second.
fn damaged_tree() -> (Fixture, [Vec<u8>; 3]) {
    let mut fixture = Fixture::new();
    let contents = [noise(1, 50_000), noise(2, 50_000), noise(3, 50_000)];
    for (number, content) in contents.iter().enumerate() {
        fixture.small(&format!("f{number}"), content);
        fixture.close_frame(PackClass::Data);
    }
    fixture.file(
        "shares",
        &[Part::Chunk(noise(9, 2_000_000)), Part::Chunk(contents[1].clone()), Part::Chunk(noise(10, 9))],
    );
    (fixture, contents)
}

#[test]
fn a_damaged_frame_costs_only_the_files_that_need_it() {
    let (mut fixture, contents) = damaged_tree();
    let point = fixture.finish();
    fixture.damage(&contents[1], 0);
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(!report.is_clean());
    let hurt: Vec<&[u8]> = report.problems.iter().map(|problem| problem.path.as_slice()).collect();
    let mut hurt: Vec<String> = hurt.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    hurt.sort();
    assert_eq!(hurt, ["src/tree/f1", "src/tree/shares"]);
    assert!(report.problems[0].cause.contains("is lost"), "{}", report.problems[0].cause);
    assert_eq!(names_below(directory.path()), ["src", "src/tree", "src/tree/f0", "src/tree/f2"]);
    assert!(std::fs::read(at(directory.path(), "f2")).unwrap() == contents[2]);
}

#[test]
fn a_damaged_frame_with_a_second_good_place_costs_nothing() {
    let (mut fixture, contents) = damaged_tree();
    fixture.store_again(&contents[1]);
    let point = fixture.finish();
    // Whichever copy the index names first, one of the two runs meets the damage there.
    let mut rescued = 0;
    for copy in [0, 1] {
        let before = fixture.memory.snapshot();
        fixture.damage(&contents[1], copy);
        let directory = tempfile::tempdir().unwrap();
        let report = restore(fixture.job(&point, directory.path()));
        assert!(report.is_clean(), "{report:?}");
        rescued += report.totals.chunks_rescued;
        assert!(std::fs::read(at(directory.path(), "f1")).unwrap() == contents[1]);
        fixture.memory.restore(before);
    }
    assert!(rescued >= 1);
}

#[test]
fn a_missing_pack_and_one_cut_short_cost_only_their_files() {
    let (mut fixture, contents) = damaged_tree();
    fixture.close_packs();
    let other = noise(77, 30_000);
    fixture.small("other", &other);
    fixture.close_packs();
    let third = noise(78, 30_000);
    fixture.small("third", &third);
    let point = fixture.finish();
    let (missing, _) = fixture.frame_of(&contents[0], 0);
    fixture.memory.remove(&missing);
    let (short, range) = fixture.frame_of(&other, 0);
    let body = fixture.memory.snapshot()[&short].slice(..range.start + 10);
    fixture.memory.overwrite(&short, body);
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert_eq!(report.problems_count, 5, "{:?}", report.problems);
    assert_eq!(names_below(directory.path()), ["src", "src/tree", "src/tree/third"]);
    assert!(std::fs::read(at(directory.path(), "third")).unwrap() == third);
}

#[test]
fn links_to_a_lost_file_are_listed_and_not_made_to_an_older_one() {
    let mut fixture = Fixture::new();
    let content = noise(1, 5000);
    fixture.small("first", &content).meta.links = 2;
    fixture.close_frame(PackClass::Data);
    fixture.entry("second", Kind::HardLink { first: b"first".to_vec() }, 0o640).meta.links = 2;
    let point = fixture.finish();
    fixture.damage(&content, 0);
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(at(directory.path(), "")).unwrap();
    std::fs::write(at(directory.path(), "first"), "an older one").unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert_eq!(report.problems_count, 2, "{:?}", report.problems);
    assert_eq!(std::fs::read(at(directory.path(), "first")).unwrap(), b"an older one");
    assert!(!at(directory.path(), "second").exists());
}

#[test]
fn f23_a_repository_that_goes_away_ends_the_restore_and_leaves_no_half_file() {
    let mut fixture = Fixture::new();
    for number in 0..50 {
        fixture.file(
            &format!("f{number}"),
            &[Part::Chunk(noise(number, 200_000)), Part::Chunk(noise(100 + number, 200_000))],
        );
    }
    let large: Vec<Part> = (0..100).map(|at| Part::Chunk(noise(1000 + at, 500_000))).collect();
    fixture.file("large", &large);
    let point = fixture.finish();
    fixture.backend.delay_ms.store(20, Ordering::SeqCst);
    let directory = tempfile::tempdir().unwrap();
    let job = fixture.job(&point, directory.path());
    let backend = fixture.backend.clone();
    let away = std::thread::spawn(move || {
        while backend.requests() < 12 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        backend.is_away.store(true, Ordering::SeqCst);
    });
    let failure = try_restore(job).unwrap_err();
    away.join().unwrap();

    assert_eq!(failure.side, Side::Repository, "{failure}");
    for name in names_below(directory.path()) {
        let Some(number) = name.strip_prefix("src/tree/f") else {
            assert!(name == "src" || name == "src/tree", "{name}");
            continue;
        };
        let number: u64 = number.parse().unwrap();
        let expected = [noise(number, 200_000), noise(100 + number, 200_000)].concat();
        assert!(std::fs::read(directory.path().join(&name)).unwrap() == expected);
    }
    // What was begun is completed by a second run.
    fixture.backend.is_away.store(false, Ordering::SeqCst);
    let mut job = fixture.job(&point, directory.path());
    job.overwrite = Overwrite::IfChanged;
    job.verify = true;
    let report = restore(job);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.totals.files + report.totals.skipped, 51);
}

#[test]
fn a_stop_keeps_what_is_complete_and_says_so() {
    let mut fixture = Fixture::new();
    for number in 0..200 {
        fixture.small(&format!("f{number}"), &noise(number, 250_000));
    }
    let point = fixture.finish();
    fixture.backend.delay_ms.store(30, Ordering::SeqCst);
    let directory = tempfile::tempdir().unwrap();
    let stop = StopSignal::new();
    let (backend, asked) = (fixture.backend.clone(), stop.clone());
    let asker = std::thread::spawn(move || {
        while backend.requests() < 8 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        asked.request();
    });
    let report = restore_until(fixture.job(&point, directory.path()), stop).unwrap();
    asker.join().unwrap();

    assert!(report.stopped && report.problems_count == 0, "{report:?}");
    let files = names_below(directory.path()).len() as u64 - 2;
    assert_eq!(files, report.totals.files);
    assert!(files < 200);
}

#[test]
fn a_damaged_page_of_the_manifest_costs_what_it_names_and_nothing_else() {
    let mut fixture = Fixture::new();
    let content = noise(1, 100);
    for directory in 0..20 {
        fixture.directory(&format!("d{directory:02}"));
        for number in 0..200 {
            fixture.small(
                &format!("d{directory:02}/a rather long name, so that there are many pages {number:03}"),
                &content,
            );
        }
    }
    fixture.close_frame(PackClass::Data);
    fixture.seal_fileset("/src/tree");
    let names: Vec<_> = fixture.names_pages().collect();
    assert!(names.len() > 6, "{} leaves", names.len());
    let point = fixture.finish();
    let (page, entries) = names[3];
    fixture.damage_chunk(&page);
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert_eq!(report.problems_count, 1, "{:?}", report.problems);
    assert!(report.problems[0].cause.contains("a part of the list of files"), "{}", report.problems[0].cause);
    // All it names but the directories, of which there is one in 200.
    let lost = 4000 - report.totals.files;
    let entries = u64::from(entries);
    assert!(lost <= entries && lost + entries / 200 + 1 >= entries, "{lost} of {entries} entries");
    let last = at(directory.path(), "d19").join("a rather long name, so that there are many pages 199");
    assert!(std::fs::read(last).unwrap() == content);
}

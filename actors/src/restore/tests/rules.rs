//! Selection, overwrite rules, room, dry run and comparison.

use mover_repository::manifest::Kind;

use super::cramped::Cramped;
use super::fixture::{Fixture, Part, at, names_below, noise, restore, try_restore};
use crate::restore::target::{Overwrite, Space};

fn tree() -> Fixture {
    let mut fixture = Fixture::new();
    for directory in ["a", "a/b", "c"] {
        fixture.directory(directory);
    }
    for path in ["a/b/x", "a/y", "a-z", "c/w"] {
        fixture.small(path, path.as_bytes());
    }
    fixture
}

#[test]
fn selected_paths_bring_their_directories_and_nothing_else() {
    let mut fixture = tree();
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.paths = vec![b"a/b".to_vec(), b"/src/tree/c/w".to_vec()];
    let report = restore(job);

    assert!(report.is_clean(), "{report:?}");
    let names = ["src", "src/tree", "src/tree/a", "src/tree/a/b", "src/tree/a/b/x", "src/tree/c", "src/tree/c/w"];
    assert_eq!(names_below(directory.path()), names);
    assert_eq!((report.totals.files, report.totals.directories), (2, 1));
    let mode = |path| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(at(directory.path(), path)).unwrap());
    assert_eq!(mode("a") & 0o7777, 0o750, "a directory on the way that was made gets its attributes");
}

#[test]
fn paths_that_name_nothing_are_refused_by_name() {
    let mut fixture = tree();
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.paths = vec![b"a/b".to_vec(), b"a/no".to_vec(), b"/elsewhere".to_vec()];
    let failure = try_restore(job).unwrap_err();

    assert!(failure.to_string().contains("a/no, /elsewhere"), "{failure}");
    assert!(names_below(directory.path()).is_empty());
}

#[test]
fn a_second_run_skips_what_is_complete() {
    let mut fixture = tree();
    fixture.small("first", b"linked").meta.links = 2;
    fixture.entry("second", Kind::HardLink { first: b"first".to_vec() }, 0o640).meta.links = 2;
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    restore(fixture.job(&point, directory.path()));
    std::fs::write(at(directory.path(), "a/y"), "changed").unwrap();
    std::fs::remove_file(at(directory.path(), "c/w")).unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.overwrite = Overwrite::IfChanged;
    let report = restore(job);

    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.totals.files, report.totals.skipped), (2, 4));
    assert_eq!(std::fs::read(at(directory.path(), "a/y")).unwrap(), b"a/y");
    assert_eq!(std::fs::read(at(directory.path(), "c/w")).unwrap(), b"c/w");
}

#[test]
fn never_and_if_newer_keep_what_they_must() {
    let mut fixture = tree();
    let point = fixture.finish();
    for (rule, kept) in [(Overwrite::Never, true), (Overwrite::IfNewer, true), (Overwrite::Always, false)] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(at(directory.path(), "a")).unwrap();
        std::fs::write(at(directory.path(), "a/y"), "mine, and newer").unwrap();
        let mut job = fixture.job(&point, directory.path());
        job.overwrite = rule;
        let report = restore(job);
        assert!(report.is_clean(), "{report:?}");
        let expected: &[u8] = if kept { b"mine, and newer" } else { b"a/y" };
        assert_eq!(std::fs::read(at(directory.path(), "a/y")).unwrap(), expected, "{rule:?}");
        assert_eq!(report.totals.skipped, u64::from(kept));
        assert_eq!(std::fs::read(at(directory.path(), "c/w")).unwrap(), b"c/w");
    }
}

/// `--overwrite if-newer` and `never` deleted a newer file that stood where a directory of the recovery point goes: only
/// files were judged by the rule.
#[test]
fn a_newer_file_where_a_directory_goes_stays_and_is_listed() {
    let mut fixture = tree();
    let point = fixture.finish();
    let rules = [
        (Overwrite::Never, 4_000_000_000, true),
        (Overwrite::IfNewer, 4_000_000_000, true),
        (Overwrite::IfNewer, 1_000_000_000, false),
        (Overwrite::IfChanged, 4_000_000_000, false),
        (Overwrite::Always, 4_000_000_000, false),
    ];
    for (rule, seconds, kept) in rules {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(at(directory.path(), "")).unwrap();
        let file = std::fs::File::create(at(directory.path(), "a")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        let mut job = fixture.job(&point, directory.path());
        job.overwrite = rule;
        job.verify = true;
        let report = restore(job);
        assert_eq!(std::fs::read(at(directory.path(), "c/w")).unwrap(), b"c/w");
        if !kept {
            assert!(report.is_clean(), "{rule:?} {report:?}");
            assert_eq!(std::fs::read(at(directory.path(), "a/b/x")).unwrap(), b"a/b/x");
            continue;
        }
        // The directory, the one in it, and the two files below it.
        assert_eq!(report.problems_count, 4, "{rule:?} {:?}", report.problems);
        assert!(report.problems[0].cause.contains("overwrite rule"), "{}", report.problems[0].cause);
        assert_eq!(report.verified.unwrap().different, 0);
        assert!(at(directory.path(), "a").is_file(), "{rule:?}");
    }
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let mut fixture = tree();
    fixture.file("sparse", &[Part::Hole(1 << 40), Part::Chunk(noise(1, 100))]);
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.dry_run = true;
    let report = restore(job);

    assert!(report.dry_run && report.is_clean());
    assert_eq!((report.totals.files, report.totals.directories), (5, 4));
    assert_eq!(report.totals.bytes, (1 << 40) + 100 + 14);
    assert_eq!(report.totals.bytes_written, 114);
    assert!(names_below(directory.path()).is_empty());
}

#[test]
fn too_little_room_is_refused_with_figures_before_the_first_byte() {
    let mut fixture = tree();
    fixture.file("data", &[Part::Chunk(noise(1, 1 << 20))]);
    fixture.file("sparse", &[Part::Hole(1 << 40)]);
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let run = |free_bytes, inodes, paths: &[&[u8]]| {
        let mut job = fixture.job(&point, directory.path());
        let cramped = Cramped::new(job.target.clone());
        *cramped.space.lock() = Space { device: 0, bytes: free_bytes, inodes };
        job.target = std::sync::Arc::new(cramped);
        job.paths = paths.iter().map(|path| path.to_vec()).collect();
        try_restore(job)
    };
    for (free_bytes, inodes) in [(1 << 20, u64::MAX), (1 << 40, 9)] {
        let failure = run(free_bytes, inodes, &[]).unwrap_err();
        assert!(failure.cause.contains("the restore needs 1.0 MiB and 10 inodes"), "{failure}");
        assert!(names_below(directory.path()).is_empty());
    }
    // What is not selected needs no room, and holes need none.
    assert!(run(16 << 10, 10, &[b"a", b"sparse"]).unwrap().is_clean());
    assert!(run((1 << 20) + (16 << 10), 10, &[]).unwrap().is_clean());
}

/// Restoring twice into a disk that is more than half full was refused: files that are about to be replaced were counted
/// as if they stayed.
#[test]
fn what_is_replaced_counts_as_room_but_not_before_it_is() {
    let mut fixture = Fixture::new();
    for number in 0..8 {
        fixture.small(&format!("f{number}"), &noise(number, 1 << 20));
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    restore(fixture.job(&point, directory.path()));
    let again = |free_bytes| {
        let mut job = fixture.job(&point, directory.path());
        let cramped = Cramped::new(job.target.clone());
        *cramped.space.lock() = Space { device: 0, bytes: free_bytes, inodes: 2 };
        job.target = std::sync::Arc::new(cramped);
        try_restore(job)
    };
    assert!(again(2 << 20).unwrap().is_clean());
    let failure = again(1 << 19).unwrap_err();
    assert!(failure.cause.contains("the restore needs 1.0 MiB and 1 inodes"), "{failure}");
    assert!(failure.guidance.unwrap().contains("--overwrite if-changed"));
}

#[test]
fn f13_a_target_that_fills_up_ends_the_restore_on_its_side() {
    let mut fixture = Fixture::new();
    for number in 0..40 {
        fixture.small(&format!("f{number}"), &noise(number, 250_000));
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    let cramped = Cramped::new(job.target.clone());
    cramped.writes_left.store(1, std::sync::atomic::Ordering::SeqCst);
    job.target = std::sync::Arc::new(cramped);
    let failure = try_restore(job).unwrap_err();
    assert_eq!(failure.side, crate::error::Side::Source, "{failure}");
    assert!(failure.guidance.unwrap().contains("make room"));
}

#[test]
fn a_torn_file_comes_back_as_long_as_it_was_read() {
    let mut fixture = Fixture::new();
    let entry = fixture.small("torn", b"what was read");
    entry.grade = mover_repository::log::Grade::Torn;
    entry.meta.size = 1000;
    fixture.file("unread", &[]).error = true;
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert_eq!(std::fs::read(at(directory.path(), "torn")).unwrap(), b"what was read");
    assert_eq!(report.problems_count, 1);
    assert!(!at(directory.path(), "unread").exists());
}

/// A directory that could not be read when it was backed up came back as an empty one, and the restore said that all was
/// well.
#[test]
fn an_unreadable_directory_is_listed_and_counted() {
    let mut fixture = tree();
    fixture.entry("locked", Kind::Directory, 0o700).error = true;
    fixture.file("unread", &[]).error = true;
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.verify = true;
    let report = restore(job);

    assert_eq!(report.problems_count, 2, "{:?}", report.problems);
    assert_eq!(report.problems[0].path, b"src/tree/locked");
    assert!(report.problems[0].cause.contains("could not be read"), "{}", report.problems[0].cause);
    assert!(at(directory.path(), "locked").is_dir());
    let verified = report.verified.unwrap();
    assert_eq!((verified.files, verified.different, verified.unreadable), (4, 0, 2));
}

#[test]
fn content_that_does_not_fill_its_file_is_refused() {
    let mut fixture = Fixture::new();
    fixture.small("short", b"short").meta.size = 6;
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));
    assert_eq!(report.problems_count, 1, "{report:?}");
    assert!(report.problems[0].cause.contains("5 bytes"), "{}", report.problems[0].cause);
    assert!(!at(directory.path(), "short").exists());
}

#[test]
fn verify_lists_each_file_that_differs_once() {
    let mut fixture = tree();
    let parts: Vec<Part> = (0..5).map(|at| Part::Chunk(noise(at, 100_000))).collect();
    fixture.file("several", &parts);
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    let cramped = Cramped::new(job.target.clone());
    *cramped.altered.lock() = Some(b"src/tree/several".to_vec());
    job.target = std::sync::Arc::new(cramped);
    job.verify = true;
    let report = restore(job);

    let verified = report.verified.unwrap();
    assert_eq!((verified.files, verified.different), (5, 1));
    assert_eq!(report.problems_count, 1, "{:?}", report.problems);
    assert!(report.problems[0].cause.contains("differs"), "{}", report.problems[0].cause);
    assert!(!report.is_clean());
}

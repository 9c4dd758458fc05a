//! Further names of files, where the first name is not this restore's.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use mover_repository::manifest::Kind;

use super::fixture::{Fixture, at, restore};
use crate::restore::report::RestoreReport;
use crate::restore::target::Overwrite;

const NEWER: Duration = Duration::from_secs(4_000_000_000);
const OLDER: Duration = Duration::from_secs(1_000_000_000);

/// One file with the names `a`, `b`, `c` and `d/e`.
fn linked() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.directory("d");
    fixture.small("a", b"of the point").meta.links = 4;
    for name in ["b", "c", "d/e"] {
        let link = fixture.entry(name, Kind::HardLink { first: b"a".to_vec() }, 0o640);
        // One inode has one time.
        link.meta = Fixture::meta("a", 0o640, 0);
        link.meta.links = 4;
    }
    fixture
}

fn put(directory: &Path, name: &str, content: &str, age: Duration) {
    let path = at(directory, name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH + age).unwrap();
}

fn run(fixture: &Fixture, point: &mover_repository::log::RecoveryPoint, to: &Path, rule: Overwrite) -> RestoreReport {
    let mut job = fixture.job(point, to);
    job.overwrite = rule;
    job.verify = true;
    let report = restore(job);
    assert!(report.is_clean(), "{rule:?} {report:?}");
    report
}

fn content(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(at(directory, name)).unwrap()
}

fn inode(directory: &Path, name: &str) -> u64 {
    std::fs::metadata(at(directory, name)).unwrap().ino()
}

/// `restore --overwrite never|if-newer` kept somebody's newer `a`, and then made the other names of the archive's `a`
/// links to it: foreign content under the archive's names, and "0 differ".
#[test]
fn names_are_never_linked_to_content_that_the_rule_kept() {
    let mut fixture = linked();
    let point = fixture.finish();
    for rule in [Overwrite::Never, Overwrite::IfNewer] {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "a", "foreign, newer", NEWER);
        let report = run(&fixture, &point, directory.path(), rule);
        assert_eq!(content(directory.path(), "a"), "foreign, newer");
        for name in ["b", "c", "d/e"] {
            assert_eq!(content(directory.path(), name), "of the point", "{rule:?} {name}");
            assert_eq!(inode(directory.path(), name), inode(directory.path(), "b"), "{rule:?} {name}");
        }
        assert_eq!((report.totals.files, report.totals.hard_links, report.totals.skipped), (1, 2, 1));
        assert_eq!(report.verified.unwrap().files, 3);
        // Once more: what stands in is found again, and nothing is written.
        let again = run(&fixture, &point, directory.path(), rule);
        assert_eq!((again.totals.files, again.totals.hard_links, again.totals.skipped), (0, 0, 4), "{rule:?}");
        // And after a crash that left only the stand-in, the rest is linked to it.
        std::fs::remove_file(at(directory.path(), "c")).unwrap();
        let rest = run(&fixture, &point, directory.path(), rule);
        assert_eq!((rest.totals.files, rest.totals.hard_links), (0, 1), "{rule:?}");
        assert_eq!(inode(directory.path(), "c"), inode(directory.path(), "b"), "{rule:?}");
    }
}

#[test]
fn a_stand_in_that_is_kept_too_passes_its_part_on() {
    let mut fixture = linked();
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a", "foreign", NEWER);
    put(directory.path(), "b", "foreign too", NEWER);
    run(&fixture, &point, directory.path(), Overwrite::IfNewer);
    assert_eq!(content(directory.path(), "b"), "foreign too");
    assert_eq!(content(directory.path(), "c"), "of the point");
    assert_eq!(inode(directory.path(), "c"), inode(directory.path(), "d/e"));
}

/// What is kept because it is equal is this restore's own, whatever the rule: links to it are right.
#[test]
fn names_are_linked_to_what_is_kept_because_it_is_equal() {
    let mut fixture = linked();
    let point = fixture.finish();
    for rule in [Overwrite::Never, Overwrite::IfNewer, Overwrite::IfChanged] {
        let directory = tempfile::tempdir().unwrap();
        restore(fixture.job(&point, directory.path()));
        std::fs::remove_file(at(directory.path(), "b")).unwrap();
        let report = run(&fixture, &point, directory.path(), rule);
        assert_eq!((report.totals.files, report.totals.hard_links, report.totals.skipped), (0, 1, 3), "{rule:?}");
        assert_eq!(inode(directory.path(), "b"), inode(directory.path(), "a"));
    }
}

#[test]
fn an_older_first_name_is_replaced_and_linked_to() {
    let mut fixture = linked();
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a", "foreign, older", OLDER);
    run(&fixture, &point, directory.path(), Overwrite::IfNewer);
    assert_eq!(content(directory.path(), "a"), "of the point");
    assert_eq!(inode(directory.path(), "b"), inode(directory.path(), "a"));
}

/// The first name lies where nothing can be restored: the content is not lost with it.
#[test]
fn a_first_name_below_a_directory_that_cannot_be_made_is_stood_in_for() {
    let mut fixture = Fixture::new();
    fixture.directory("d");
    fixture.small("d/a", b"of the point").meta.links = 2;
    fixture.entry("e", Kind::HardLink { first: b"d/a".to_vec() }, 0o640).meta.links = 2;
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "d", "a newer file", NEWER);
    let mut job = fixture.job(&point, directory.path());
    job.overwrite = Overwrite::IfNewer;
    let report = restore(job);
    assert_eq!(report.problems_count, 2, "{:?}", report.problems);
    assert_eq!(content(directory.path(), "d"), "a newer file");
    assert_eq!(content(directory.path(), "e"), "of the point");
}

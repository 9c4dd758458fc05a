//! Where restore writes, what it overwrites, and what it leaves alone.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mover_tests::mover::landed;
use mover_tests::nasty::set_time;
use mover_tests::tree::{MIB, files_below, names_below, write, write_random};
use mover_tests::{Repo, Run, exit};

fn backed_up() -> (Repo, PathBuf, String) {
    let repo = Repo::new();
    let source = repo.directory("source");
    write(&source.join("a/one"), b"one");
    write(&source.join("a/two"), b"two");
    write(&source.join("b/three"), b"three");
    write_random(&source.join("large"), 3 * MIB, 1);
    let point = repo.backup(&source).point();
    (repo, source, point)
}

fn restore(repo: &Repo, point: &str, target: &Path, more: &[&str]) -> Run {
    let arguments: Vec<&OsStr> = more.iter().map(OsStr::new).collect();
    repo.restore_run(point, target, &arguments)
}

fn names(root: &Path) -> Vec<String> {
    files_below(root).into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn restore_lands_at_the_absolute_source_path_and_nowhere_else() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    restore(&repo, &point, &target, &[]).expect(exit::DONE);
    let below = landed(Path::new(""), &source);
    assert!(names_below(&target).iter().all(|name| name.starts_with(&below) || below.starts_with(name)));
    assert_eq!(names(&landed(&target, &source)), ["a/one", "a/two", "b/three", "large"]);
}

#[test]
fn restore_path_takes_a_file_or_a_subtree_alone() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    let (file, directory) = (source.join("b/three"), source.join("a"));
    let wanted = ["--path", file.to_str().expect("plain"), "--path", directory.to_str().expect("plain")];
    restore(&repo, &point, &target, &wanted).expect(exit::DONE);
    assert_eq!(names(&landed(&target, &source)), ["a/one", "a/two", "b/three"]);
    let run = restore(&repo, &point, &target, &["--path", source.join("none").to_str().expect("plain")]);
    run.expect_error(exit::FAILED, "none");
}

/// A restore that was refused said "nothing was written" and had made its target.
#[test]
fn restore_that_is_refused_makes_no_target() {
    let (repo, source, point) = backed_up();
    let target = repo.scratch().join("not/there");
    let nothing = source.join("none");
    restore(&repo, &point, &target, &["--path", nothing.to_str().expect("plain")]).expect_error(exit::FAILED, "none");
    restore(&repo, &point, &target, &["--dry-run"]).expect(exit::DONE);
    assert!(!repo.scratch().join("not").exists());
    restore(&repo, &point, &target, &[]).expect(exit::DONE);
    assert_eq!(names(&landed(&target, &source)).len(), 4);
    restore(&repo, &point, &landed(&target, &source).join("large"), &[]).expect_error(exit::FAILED, "is a file");
}

#[test]
fn restore_in_place_puts_back_what_was_lost() {
    let (repo, source, point) = backed_up();
    std::fs::remove_dir_all(source.join("a")).expect("remove");
    write(&source.join("b/three"), b"spoilt");
    write(&source.join("new"), b"came later");
    repo.run("restore", &["--json", &point, "--in-place"]).expect(exit::DONE);
    assert_eq!(std::fs::read(source.join("a/one")).expect("read"), b"one");
    assert_eq!(std::fs::read(source.join("b/three")).expect("read"), b"three");
    assert_eq!(std::fs::read(source.join("new")).expect("read"), b"came later", "restore deletes nothing");
}

#[test]
fn restore_needs_exactly_one_place() {
    let (repo, _, point) = backed_up();
    repo.run("restore", &[&point]).expect(exit::USAGE);
    let target = repo.directory("target");
    repo.run("restore", &[&point, "--in-place", "--target", target.to_str().expect("plain")]).expect(exit::USAGE);
}

#[test]
fn restore_overwrite_never_keeps_what_is_there() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    let place = landed(&target, &source);
    write(&place.join("a/one"), b"mine");
    restore(&repo, &point, &target, &["--overwrite", "never"]).expect(exit::DONE);
    assert_eq!(std::fs::read(place.join("a/one")).expect("read"), b"mine");
    assert_eq!(std::fs::read(place.join("a/two")).expect("read"), b"two");
}

#[test]
fn restore_overwrite_always_replaces() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    let place = landed(&target, &source);
    write(&place.join("a/one"), b"mine");
    restore(&repo, &point, &target, &["--overwrite", "always"]).expect(exit::DONE);
    assert_eq!(std::fs::read(place.join("a/one")).expect("read"), b"one");
}

#[test]
fn restore_overwrite_if_changed_leaves_equal_files_alone() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    let place = landed(&target, &source);
    restore(&repo, &point, &target, &[]).expect(exit::DONE);
    let before = std::fs::metadata(place.join("large")).expect("stat").ino();
    write(&place.join("a/one"), b"changed");
    restore(&repo, &point, &target, &["--overwrite", "if-changed"]).expect(exit::DONE);
    assert_eq!(std::fs::metadata(place.join("large")).expect("stat").ino(), before, "an equal file was written again");
    assert_eq!(std::fs::read(place.join("a/one")).expect("read"), b"one");
}

#[test]
fn restore_overwrite_if_newer_keeps_younger_files() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    let place = landed(&target, &source);
    write(&place.join("a/one"), b"younger");
    set_time(&place.join("a/one"), 4_000_000_000, 0);
    write(&place.join("a/two"), b"older");
    set_time(&place.join("a/two"), 1_000_000_000, 0);
    restore(&repo, &point, &target, &["--overwrite", "if-newer"]).expect(exit::DONE);
    assert_eq!(std::fs::read(place.join("a/one")).expect("read"), b"younger");
    assert_eq!(std::fs::read(place.join("a/two")).expect("read"), b"two");
}

/// `never` and `if-newer` deleted a newer file that stood where a directory of the recovery point goes.
#[test]
fn restore_keeps_a_younger_file_where_a_directory_goes() {
    let (repo, source, point) = backed_up();
    for rule in ["never", "if-newer"] {
        let target = repo.directory(rule);
        let place = landed(&target, &source);
        write(&place.join("a"), b"younger");
        set_time(&place.join("a"), 4_000_000_000, 0);
        let run = restore(&repo, &point, &target, &["--overwrite", rule]).expect(exit::EXCEPTIONS);
        assert!(run.text().contains("kept by the overwrite rule"), "{run}");
        assert_eq!(std::fs::read(place.join("a")).expect("read"), b"younger");
        assert_eq!(names(&place), ["a", "b/three", "large"]);
    }
}

#[test]
fn restore_dry_run_writes_nothing() {
    let (repo, _, point) = backed_up();
    let target = repo.directory("target");
    let run = restore(&repo, &point, &target, &["--dry-run"]).expect(exit::DONE);
    assert!(names_below(&target).is_empty());
    assert_eq!(run.summary().files(), 4);
}

#[test]
fn restore_leaves_no_temporary_names() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    restore(&repo, &point, &target, &["--verify"]).expect(exit::DONE);
    let place = landed(&target, &source);
    assert_eq!(names_below(&place), names_below(&source));
}

#[test]
fn restore_never_follows_a_symlink_out_of_its_target() {
    let (repo, source, point) = backed_up();
    let outside = repo.directory("outside");
    let target = repo.directory("target");
    let place = landed(&target, &source);
    std::fs::create_dir_all(&place).expect("create");
    // Where the directory `a` should go lies a link that leads out.
    std::os::unix::fs::symlink(&outside, place.join("a")).expect("symlink");
    let run = restore(&repo, &point, &target, &["--overwrite", "always"]);
    assert!(!run.panicked(), "{run}");
    assert!(names_below(&outside).is_empty(), "restore wrote through a symlink");
}

#[test]
fn restore_never_writes_through_a_symlink_with_the_name_of_a_file() {
    let (repo, source, point) = backed_up();
    let victim = repo.scratch().join("victim");
    write(&victim, b"untouched");
    let target = repo.directory("target");
    let place = landed(&target, &source);
    std::fs::create_dir_all(place.join("a")).expect("create");
    std::os::unix::fs::symlink(&victim, place.join("a/one")).expect("symlink");
    std::fs::hard_link(&victim, place.join("a/two")).expect("link");
    restore(&repo, &point, &target, &["--overwrite", "always"]).expect(exit::DONE);
    assert_eq!(std::fs::read(&victim).expect("read"), b"untouched");
    assert_eq!(std::fs::read(place.join("a/one")).expect("read"), b"one");
    assert!(!std::fs::symlink_metadata(place.join("a/one")).expect("stat").is_symlink());
}

#[test]
fn restore_repeated_brings_back_what_is_missing() {
    let (repo, source, point) = backed_up();
    let target = repo.directory("target");
    let place = landed(&target, &source);
    restore(&repo, &point, &target, &[]).expect(exit::DONE);
    std::fs::remove_file(place.join("large")).expect("remove");
    restore(&repo, &point, &target, &[]).expect(exit::DONE);
    assert_eq!(names(&place), ["a/one", "a/two", "b/three", "large"]);
}

//! What filters leave out, and that it is counted and listed.

use std::path::{Path, PathBuf};

use mover_tests::tree::{MIB, names_below, write, write_random};
use mover_tests::{Repo, needs};

fn tree(repo: &Repo) -> PathBuf {
    let source = repo.directory("source");
    for name in ["keep.txt", "drop.log", "deep/drop.log", "deep/keep.txt", "build/output", "deep/build/output"] {
        write(&source.join(name), name.as_bytes());
    }
    source
}

/// Backs up with these arguments; gives the relative names that a restore has.
fn kept(repo: &Repo, source: &Path, arguments: &[&str]) -> (Vec<String>, mover_tests::Summary) {
    let summary = repo.backup_with(source, arguments);
    let restored = repo.restore(&summary.point(), source, "target");
    let names = names_below(&restored).into_iter().filter(|name| restored.join(name).is_file());
    (names.map(|name| name.to_string_lossy().into_owned()).collect(), summary)
}

#[test]
fn filter_exclude_has_the_meaning_of_gitignore() {
    let repo = Repo::new();
    let source = tree(&repo);
    let (names, summary) = kept(&repo, &source, &["--exclude", "*.log", "--exclude", "/build"]);
    assert_eq!(names, ["deep/build/output", "deep/keep.txt", "keep.txt"]);
    assert!(summary.excluded() >= 3);
}

#[test]
fn filter_later_rule_takes_back_an_earlier_one() {
    let repo = Repo::new();
    let source = tree(&repo);
    let (names, _) = kept(&repo, &source, &["--exclude", "*.log", "--exclude", "!/deep/drop.log"]);
    assert!(names.contains(&"deep/drop.log".to_owned()));
    assert!(!names.contains(&"drop.log".to_owned()));
}

#[test]
fn filter_exclude_file_reads_rules() {
    let repo = Repo::new();
    let source = tree(&repo);
    let rules = repo.scratch().join("rules");
    write(&rules, b"# what is built\nbuild/\n\n*.log\n");
    let (names, _) = kept(&repo, &source, &["--exclude-file", rules.to_str().expect("plain")]);
    assert_eq!(names, ["deep/keep.txt", "keep.txt"]);
}

#[test]
fn filter_exclude_caches_leaves_tagged_directories_out() {
    let repo = Repo::new();
    let source = tree(&repo);
    write(&source.join("deep/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n");
    write(&source.join("build/CACHEDIR.TAG"), b"no signature");
    let (names, summary) = kept(&repo, &source, &["--exclude-caches"]);
    assert!(!names.iter().any(|name| name.starts_with("deep/") && !name.ends_with("CACHEDIR.TAG")), "{names:?}");
    assert!(names.contains(&"build/output".to_owned()));
    assert!(summary.excluded() >= 1);
}

#[test]
fn filter_exclude_if_present_leaves_marked_directories_out() {
    let repo = Repo::new();
    let source = tree(&repo);
    write(&source.join("deep/.nobackup"), b"");
    let (names, _) = kept(&repo, &source, &["--exclude-if-present", ".nobackup"]);
    assert!(!names.iter().any(|name| name.starts_with("deep/build") || name == "deep/keep.txt"), "{names:?}");
    assert!(names.contains(&"keep.txt".to_owned()));
}

#[test]
fn filter_one_file_system_stops_at_a_mount() {
    needs!(root, "mount");
    let repo = Repo::new();
    let source = tree(&repo);
    let mount = match mover_tests::mounts::Mount::tmpfs(MIB) {
        Ok(mount) => mount,
        Err(reason) => mover_tests::skip_test!(reason),
    };
    let point = source.join("mounted");
    std::fs::create_dir(&point).expect("create");
    write(&mount.place().join("inside"), b"on another file system");
    let (from, to) = (mount.place().to_str().expect("plain"), point.to_str().expect("plain"));
    if !mover_tests::skip::succeeds("mount", &["--bind", from, to]) {
        mover_tests::skip_test!("cannot bind a mount");
    }
    let (names, _) = kept(&repo, &source, &["--one-file-system"]);
    let without = repo.backup_with(&source, &["--set", "all"]);
    assert!(mover_tests::skip::succeeds("umount", &[to]));
    assert!(!names.contains(&"mounted/inside".to_owned()), "{names:?}");
    assert_eq!(without.files(), 7);
}

#[test]
fn filter_size_limit_leaves_large_files_out() {
    let repo = Repo::new();
    let source = tree(&repo);
    write_random(&source.join("large"), 2 * MIB, 1);
    let (names, summary) = kept(&repo, &source, &["--max-size", "1MiB"]);
    assert!(!names.contains(&"large".to_owned()));
    assert_eq!(summary.excluded(), 1);
}

#[test]
fn filter_what_was_left_out_is_listed_on_request() {
    let repo = Repo::new();
    let source = tree(&repo);
    let other = repo.directory("other");
    write(&other.join("deep/drop.log"), b"x");
    let mut arguments: Vec<&std::ffi::OsStr> =
        ["--json", "--list-excluded", "--exclude", "*.log"].iter().map(std::ffi::OsStr::new).collect();
    arguments.extend([source.as_os_str(), other.as_os_str()]);
    let run = repo.run("backup", &arguments).expect(0);
    // By absolute paths: `deep/drop.log` alone would be in both.
    let lines = mover_tests::summary::json_lines(&run.stdout);
    let named: Vec<&str> =
        lines.iter().filter(|line| line["type"] == "excluded").filter_map(|line| line["path"].as_str()).collect();
    for root in [&source, &other] {
        let path = root.canonicalize().expect("a real path").join("deep/drop.log");
        assert!(named.contains(&path.to_str().expect("plain")), "{named:?}");
    }
}

#[test]
fn filter_repository_inside_the_path_is_left_out_with_a_note() {
    let repo = Repo::new();
    write(&repo.scratch().join("file"), b"beside the repository");
    let run = repo.run("backup", &["--json".as_ref(), repo.scratch().as_os_str()]).expect(0);
    let said = format!("{}{}", run.text(), run.stderr);
    assert!(said.contains("repository"), "no note: {said}");
    let restored = repo.restore(&run.summary().point(), repo.scratch(), "target");
    assert!(restored.join("file").exists());
    assert!(!restored.join("repository/config").exists(), "the repository backed itself up");
}

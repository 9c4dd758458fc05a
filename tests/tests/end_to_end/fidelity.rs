//! Every byte and attribute comes back, judged by tools that are not ours.

use mover_tests::mover::{landed, wait};
use mover_tests::nasty::{deep_tree, huge_hole, nasty_tree, socket};
use mover_tests::tree::{KIB, MIB, allocated_bytes, small_files, sparse_file, write, write_random};
use mover_tests::{Repo, assert_same_tree, compare, exit, needs};

#[test]
fn fidelity_everything_a_file_system_holds_comes_back() {
    needs!(root, "rsync", "getfattr", "getfacl", "setfacl", "filefrag");
    let repo = Repo::new();
    let source = repo.scratch().join("source");
    nasty_tree(&source);
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_same_tree(&source, &restored);
    repo.verify_all();
}

#[test]
fn fidelity_second_point_restores_as_well() {
    needs!(root, "rsync", "getfattr", "getfacl", "setfacl", "filefrag");
    let repo = Repo::new();
    let source = repo.scratch().join("source");
    nasty_tree(&source);
    repo.backup(&source);
    mover_tests::tree::settle(&source);
    let before_change = repo.backup(&source);
    write(&source.join("names/a0"), b"changed");
    std::fs::remove_file(source.join("sizes/1-bytes")).expect("remove");
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_same_tree(&source, &restored);
    // The older point still shows what was there before.
    let older = repo.restore(&before_change.point(), &source, "older");
    assert_eq!(std::fs::read(older.join("names/a0")).expect("read"), b"a0");
    assert!(older.join("sizes/1-bytes").exists());
}

#[test]
fn fidelity_without_root_owners_are_kept_where_they_are_ours() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 300, 0, 20 * KIB, 1);
    std::os::unix::fs::symlink("nowhere", source.join("dangling")).expect("symlink");
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_same_tree(&source, &restored);
    assert_eq!(summary.files(), 300);
}

#[test]
fn fidelity_paths_deeper_than_path_max() {
    needs!("find");
    let repo = Repo::new();
    let source = repo.scratch().join("deep");
    deep_tree(&source);
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    let found = compare::find(&source, &restored);
    assert!(found.is_empty(), "{} differences, the first: {:?}", found.len(), found[0]);
    let contents = |root: &std::path::Path| {
        let mut command = std::process::Command::new("find");
        command.args([".", "-name", "leaf", "-execdir", "cat", "{}", ";"]).current_dir(root);
        command.output().expect("run find").stdout
    };
    assert_eq!(contents(&source), contents(&restored));
    assert!(!contents(&source).is_empty());
}

#[test]
fn fidelity_hole_of_three_gib_costs_nothing() {
    needs!("filefrag");
    let repo = Repo::new();
    let source = repo.directory("source");
    huge_hole(&source.join("huge"));
    let summary = repo.backup(&source);
    assert_eq!(summary.bytes_read(), 8192, "a hole was read");
    assert!(summary.bytes_stored() < MIB, "a hole was stored");
    let restored = repo.restore(&summary.point(), &source, "target").join("huge");
    assert_eq!(std::fs::metadata(&restored).expect("stat").len(), 3 * 1024 * MIB + 4096);
    assert!(allocated_bytes(&restored) < MIB, "a hole was written");
    assert_eq!(compare::data_ranges(&source.join("huge")), compare::data_ranges(&restored));
    let data = |path: &std::path::Path| {
        let file = std::fs::File::open(path).expect("open");
        let mut bytes = vec![0; 8192];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes[..4096], 0).expect("read");
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes[4096..], 3 * 1024 * MIB).expect("read");
        bytes
    };
    assert_eq!(data(&source.join("huge")), data(&restored));
}

#[test]
fn fidelity_sockets_are_skipped_and_counted() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write(&source.join("file"), b"content");
    socket(&source.join("socket"));
    let summary = repo.backup(&source);
    assert_eq!(summary.sockets_skipped(), 1);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert!(restored.join("file").exists());
    assert!(!restored.join("socket").exists());
}

#[test]
fn fidelity_source_that_is_one_file() {
    let repo = Repo::new();
    let source = repo.scratch().join("alone.bin");
    write_random(&source, 3 * MIB, 2);
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(std::fs::read(&source).expect("read"), std::fs::read(restored).expect("read"));
    assert_eq!(summary.files(), 1);
}

#[test]
fn fidelity_large_file_of_many_extents() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("large"), 200 * MIB + 12_345, 3);
    sparse_file(&source.join("sparse"), 300 * MIB, &[(63 * MIB, 2 * MIB), (250 * MIB + 4096, 77 * KIB)], 4);
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    for name in ["large", "sparse"] {
        let same = mover_tests::skip::succeeds(
            "cmp",
            &[source.join(name).to_str().expect("plain"), restored.join(name).to_str().expect("plain")],
        );
        assert!(same, "{name} differs");
    }
    assert_eq!(summary.bytes(), 500 * MIB + 12_345);
}

#[test]
fn fidelity_relative_path_with_dots_lands_at_its_absolute_place() {
    let repo = Repo::new();
    let source = repo.directory("one/two");
    write(&source.join("file"), b"content");
    let summary = repo.backup_with(std::path::Path::new("one/../one/./two"), &[]);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(std::fs::read(restored.join("file")).expect("read"), b"content");
}

#[test]
fn fidelity_two_filesets_land_apart() {
    let repo = Repo::new();
    let (one, two) = (repo.directory("one"), repo.directory("two"));
    write(&one.join("same"), b"first");
    write(&two.join("same"), b"second");
    let summary = repo.backup_with(&one, &["--tag", "both", two.to_str().expect("plain")]);
    let target = repo.directory("target");
    repo.restore_run(&summary.point(), &target, &[]).expect(exit::DONE);
    assert_eq!(std::fs::read(landed(&target, &one).join("same")).expect("read"), b"first");
    assert_eq!(std::fs::read(landed(&target, &two).join("same")).expect("read"), b"second");
}

#[test]
fn fidelity_file_that_changes_while_it_is_read_is_torn_and_named() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("busy"), 160 * MIB, 5);
    write(&source.join("quiet"), b"quiet");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(source.join("busy")).expect("open");
            let mut number: u64 = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let offset = number * MIB % (160 * MIB);
                std::os::unix::fs::FileExt::write_all_at(&file, &number.to_le_bytes(), offset).expect("write");
                number += 1;
            }
        });
        let mut command = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let run = wait(command.spawn().expect("start"), "backup".to_owned());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        run
    });
    assert!(!run.panicked() && [exit::DONE, exit::EXCEPTIONS].contains(&run.code), "{run}");
    let summary = run.summary();
    assert_eq!(summary.files_torn(), 1);
    assert_eq!(summary.grade(), "torn");
    assert!(run.text().contains("busy"), "the torn file is not named: {run}");
    // No padding, no silence: what was recorded restores to a length the file had.
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(std::fs::metadata(restored.join("busy")).expect("stat").len(), 160 * MIB);
    // A torn file is read again by the next run, though its identity may be equal by then.
    let again = repo.backup(&source);
    assert!(again.bytes_read() >= 160 * MIB);
    assert_eq!(again.grade(), "stable");
}

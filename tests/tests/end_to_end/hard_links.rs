//! Hard links over several runs and in parts.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mover_tests::mounts::Mount;
use mover_tests::mover::landed;
use mover_tests::strace::slowed;
use mover_tests::tree::{KIB, MIB, settle, write_random};
use mover_tests::{Repo, exit, needs, skip_test};

fn linked(repo: &Repo) -> std::path::PathBuf {
    let source = repo.directory("source");
    write_random(&source.join("a/first"), 200 * KIB, 1);
    std::fs::create_dir(source.join("z")).expect("create");
    std::fs::hard_link(source.join("a/first"), source.join("z/second")).expect("link");
    std::fs::hard_link(source.join("a/first"), source.join("z/third")).expect("link");
    settle(&source);
    source
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).ino()
}

#[test]
fn hard_link_content_is_read_and_stored_once() {
    let repo = Repo::new();
    let source = linked(&repo);
    let summary = repo.backup(&source);
    assert_eq!((summary.bytes_read(), summary.bytes_new()), (200 * KIB, 200 * KIB));
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(inode(&restored.join("a/first")), inode(&restored.join("z/second")));
    assert_eq!(inode(&restored.join("a/first")), inode(&restored.join("z/third")));
}

#[test]
fn hard_link_first_deleted_between_runs() {
    let repo = Repo::new();
    let source = linked(&repo);
    repo.backup(&source);
    std::fs::remove_file(source.join("a/first")).expect("remove");
    let second = repo.backup(&source);
    assert_eq!(second.bytes_new(), 0);
    let restored = repo.restore(&second.point(), &source, "target");
    assert!(!restored.join("a/first").exists());
    assert_eq!(inode(&restored.join("z/second")), inode(&restored.join("z/third")));
    assert_eq!(
        std::fs::read(source.join("z/second")).expect("read"),
        std::fs::read(restored.join("z/second")).expect("read")
    );
}

#[test]
fn hard_link_second_restored_alone_has_its_content() {
    let repo = Repo::new();
    let source = linked(&repo);
    let summary = repo.backup(&source);
    let target = repo.directory("target");
    let wanted = source.join("z/second");
    repo.restore_run(&summary.point(), &target, &["--path".as_ref(), wanted.as_os_str()]).expect(exit::DONE);
    let restored = landed(&target, &source);
    assert_eq!(std::fs::read(&wanted).expect("read"), std::fs::read(restored.join("z/second")).expect("read"));
    assert!(!restored.join("a/first").exists() && !restored.join("z/third").exists());
}

/// With `--overwrite never` the first name stays somebody else's: the others must not become links to that.
#[test]
fn hard_link_is_never_made_to_foreign_content() {
    let repo = Repo::new();
    let source = linked(&repo);
    let point = repo.backup(&source).point();
    let target = repo.directory("target");
    let restored = landed(&target, &source);
    mover_tests::tree::write(&restored.join("a/first"), b"foreign");
    let run = repo.restore_run(&point, &target, &["--overwrite".as_ref(), "never".as_ref(), "--verify".as_ref()]);
    run.expect(exit::DONE);
    assert_eq!(std::fs::read(restored.join("a/first")).expect("read"), b"foreign");
    let expected = std::fs::read(source.join("z/second")).expect("read");
    assert!(std::fs::read(restored.join("z/second")).expect("read") == expected);
    assert_eq!(inode(&restored.join("z/second")), inode(&restored.join("z/third")));
}

#[test]
fn hard_link_made_between_runs() {
    let repo = Repo::new();
    let source = linked(&repo);
    repo.backup(&source);
    std::fs::hard_link(source.join("a/first"), source.join("a/0-before-the-first")).expect("link");
    let second = repo.backup(&source);
    assert_eq!(second.bytes_new(), 0);
    let restored = repo.restore(&second.point(), &source, "target");
    assert_eq!(inode(&restored.join("a/0-before-the-first")), inode(&restored.join("z/third")));
}

#[test]
fn hard_link_out_of_the_tree_restores_as_a_file() {
    let repo = Repo::new();
    let source = linked(&repo);
    std::fs::rename(source.join("a/first"), repo.scratch().join("outside")).expect("move");
    let summary = repo.backup(&source);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(inode(&restored.join("z/second")), inode(&restored.join("z/third")));
    assert_eq!(std::fs::metadata(restored.join("z/third")).expect("stat").nlink(), 2);
}

#[test]
fn hard_link_that_is_torn_is_recorded_once_and_restores() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("first"), 96 << 20, 1);
    std::fs::hard_link(source.join("first"), source.join("second")).expect("link");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(source.join("first")).expect("open");
            let mut number: u64 = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::os::unix::fs::FileExt::write_all_at(&file, &number.to_le_bytes(), number % 90 * (1 << 20))
                    .expect("write");
                number += 1;
            }
        });
        let run = repo.run("backup", &["--json".as_ref(), source.as_os_str()]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(!run.panicked() && [exit::DONE, exit::EXCEPTIONS].contains(&run.code), "{run}");
        run.summary()
    });
    assert_eq!(summary.files_torn(), 1);
    let restored = repo.restore(&summary.point(), &source, "target");
    assert_eq!(inode(&restored.join("first")), inode(&restored.join("second")));
}

/// A backup takes its time; two names of a file are listed and read, then removed, and their inode number is given to a
/// new file with two names. These were recorded as further names of the old file and restored with its content,
/// without a word. On a file system of its own: elsewhere a neighbour takes the number, or gives up a lower one.
#[test]
fn hard_link_of_an_inode_number_that_is_used_again_has_its_own_content() {
    needs!(root, "strace", "mount", "mkfs.ext4");
    let mount = match Mount::ext4(64 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let repo = Repo::new();
    let source = mount.place().join("source");
    write_random(&source.join("a/f"), 2 * KIB, 1);
    std::fs::hard_link(source.join("a/f"), source.join("a/g")).expect("link");
    for number in 0..300 {
        write_random(&source.join(format!("a/small{number}")), KIB, number);
        std::fs::create_dir_all(source.join(format!("m{number:03}"))).expect("create");
    }
    std::fs::create_dir(source.join("z")).expect("create");
    settle(&source);
    let command = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
    let (run, ()) = slowed(&command, "small5", repo.scratch(), || use_inode_again(&source));
    let restored = repo.restore(&run.expect(exit::DONE).summary().point(), &source, "target");
    let expected = std::fs::read(source.join("z/other")).expect("read");
    assert_eq!(std::fs::read(restored.join("z/other")).expect("read"), expected);
    assert_ne!(inode(&restored.join("z/other")), inode(&restored.join("a/f")));
}

/// Removes `a/f` and `a/g` and makes `z/other`, with a second name, of their inode number.
fn use_inode_again(source: &Path) {
    let before = inode(&source.join("a/f"));
    std::fs::remove_file(source.join("a/f")).expect("remove");
    std::fs::remove_file(source.join("a/g")).expect("remove");
    // It is free once the backup has closed the file.
    for number in 0..1_000 {
        let name = source.join(format!("z/new{number}"));
        std::fs::write(&name, format!("new {number}")).expect("write");
        if inode(&name) == before {
            return std::fs::hard_link(&name, source.join("z/other")).expect("link");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("inode {before} was not used again");
}

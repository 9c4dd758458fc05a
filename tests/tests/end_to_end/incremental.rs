//! The rules of "Reuse of the parent", one by one: what is taken over unread, and what never is.
//!
//! Counts are bytes read from the source and new bytes, from the summaries.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mover_tests::damage::{Damage, Hurt};
use mover_tests::nasty::{set_time, set_xattr};
use mover_tests::tree::{KIB, MIB, settle, small_files, write, write_random};
use mover_tests::{Repo, exit, needs};

/// A repository with one backup of a settled tree: `file` of 1 MiB, `other` of 300 KiB, 40 small files.
fn backed_up() -> (Repo, PathBuf) {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("file"), MIB, 1);
    write_random(&source.join("other"), 300 * KIB, 2);
    small_files(&source.join("small"), 40, 100, 5000, 3);
    settle(&source);
    repo.backup(&source);
    (repo, source)
}

#[test]
fn incremental_unchanged_tree_reads_and_stores_no_content() {
    let (repo, source) = backed_up();
    let second = repo.backup(&source);
    assert_eq!((second.bytes_read(), second.bytes_new()), (0, 0));
    assert_eq!(second.files(), 42);
    // And from the point made of taken-over files once more.
    let third = repo.backup(&source);
    assert_eq!((third.bytes_read(), third.bytes_new()), (0, 0));
    let restored = repo.restore(&third.point(), &source, "target");
    assert_eq!(std::fs::read(source.join("file")).expect("read"), std::fs::read(restored.join("file")).expect("read"));
}

#[test]
fn incremental_unchanged_metadata_is_stored_once() {
    let (repo, source) = backed_up();
    let before: u64 = repo.objects().iter().map(|object| object.1).sum();
    let second = repo.backup(&source);
    let after: u64 = repo.objects().iter().map(|object| object.1).sum();
    assert!(after - before < 64 * KIB, "an unchanged tree added {} bytes", after - before);
    assert!(second.bytes_stored() < 64 * KIB);
}

/// Backs up, lets `change` happen to the tree, and checks that exactly the bytes of `file` are read again.
fn file_is_read_again_after(change: impl Fn(&Path)) -> mover_tests::Summary {
    let (repo, source) = backed_up();
    change(&source);
    let second = repo.backup(&source);
    assert_eq!(second.bytes_read(), std::fs::metadata(source.join("file")).expect("stat").len());
    second
}

#[test]
fn incremental_other_size_is_read() {
    file_is_read_again_after(|source| write_random(&source.join("file"), MIB + 1, 1));
}

#[test]
fn incremental_other_mtime_is_read_and_stores_nothing() {
    let second = file_is_read_again_after(|source| set_time(&source.join("file"), 1_600_000_000, 1));
    assert_eq!(second.bytes_new(), 0);
}

#[test]
fn incremental_same_size_and_mtime_but_other_ctime_is_read() {
    let second = file_is_read_again_after(|source| {
        let path = source.join("file");
        let before = std::fs::metadata(&path).expect("stat");
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[500_000] ^= 1;
        std::fs::write(&path, bytes).expect("write");
        set_time(&path, before.mtime(), before.mtime_nsec());
    });
    assert!(second.bytes_new() > 0 && second.bytes_new() <= MIB);
}

#[test]
fn incremental_other_inode_is_read() {
    let second = file_is_read_again_after(|source| {
        let path = source.join("file");
        let before = std::fs::metadata(&path).expect("stat");
        std::fs::copy(&path, source.join("copy")).expect("copy");
        std::fs::rename(source.join("copy"), &path).expect("rename");
        set_time(&path, before.mtime(), before.mtime_nsec());
    });
    assert_eq!(second.bytes_new(), 0);
}

#[test]
fn incremental_other_mode_is_read_or_taken_over_but_recorded() {
    let (repo, source) = backed_up();
    std::fs::set_permissions(source.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4711)).expect("chmod");
    let second = repo.backup(&source);
    assert_eq!(second.bytes_new(), 0);
    let restored = repo.restore(&second.point(), &source, "target");
    assert_eq!(std::fs::metadata(restored.join("file")).expect("stat").mode() & 0o7777, 0o4711);
}

#[test]
fn incremental_other_xattr_is_recorded() {
    needs!(root);
    let (repo, source) = backed_up();
    set_xattr(&source.join("file"), "user.colour", b"green");
    let second = repo.backup(&source);
    assert_eq!(second.bytes_new(), 0);
    let restored = repo.restore(&second.point(), &source, "target");
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(restored.join("file"), "user.colour", &mut value[..]).expect("getxattr");
    assert_eq!(&value[..length], b"green");
}

#[test]
fn incremental_file_younger_than_two_seconds_is_read_again() {
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("old"), 200 * KIB, 1);
    settle(&source);
    write_random(&source.join("young"), 300 * KIB, 2);
    repo.backup(&source);
    let second = repo.backup(&source);
    assert_eq!(second.bytes_read(), 300 * KIB, "only the young file is read");
    assert_eq!(second.bytes_new(), 0);
    // By now it is old enough for the run that recorded it.
    settle(&source);
    repo.backup(&source);
    assert_eq!(repo.backup(&source).bytes_read(), 0);
}

#[test]
fn incremental_lost_chunk_makes_the_file_be_read_and_stored_again() {
    let (repo, source) = backed_up();
    let packs: Vec<_> = repo.objects().into_iter().filter(|(path, _)| path.starts_with("packs")).collect();
    let largest = packs.iter().max_by_key(|(_, bytes)| *bytes).expect("a pack").0.clone();
    let hurt = Hurt::inflict(&repo.place().join(&largest), Damage::Delete);
    // The index still names the pack: what is missing has to be found before it can be known.
    repo.run("verify", &[] as &[&str]).expect(exit::FAILED);
    let rebuilt = repo.run("repair", &["index"]);
    assert!(!rebuilt.panicked(), "{rebuilt}");
    let second = repo.backup(&source);
    assert!(second.bytes_read() >= MIB, "the lost chunks are read from the source again");
    assert!(second.bytes_new() >= MIB);
    let restored = repo.restore(&second.point(), &source, "target");
    assert_eq!(std::fs::read(source.join("file")).expect("read"), std::fs::read(restored.join("file")).expect("read"));
    drop(hurt);
}

#[test]
fn incremental_file_with_a_read_error_is_tried_again() {
    needs!(root, "setpriv");
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("fine"), 100 * KIB, 1);
    write_random(&source.join("locked"), 200 * KIB, 2);
    std::fs::set_permissions(source.join("locked"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .expect("chmod");
    open_to_everybody(&repo);
    settle(&source);
    let run = as_nobody(&repo, &source).expect(exit::EXCEPTIONS);
    let first = run.summary();
    assert_eq!(first.files_unreadable(), 1);
    assert!(run.text().contains("locked"), "{run}");
    // The same identity, but the parent has no content for it.
    let second = as_nobody(&repo, &source).expect(exit::EXCEPTIONS).summary();
    assert_eq!(second.files_unreadable(), 1);
    assert_eq!(second.bytes_read(), 0, "the readable file is taken over");
    // Who may read it reads it: the identity is still the same.
    let third = repo.backup_with(&source, &["--set", "locked"]);
    assert_eq!((third.bytes_read(), third.bytes_new()), (200 * KIB, 200 * KIB));
}

fn open_to_everybody(repo: &Repo) {
    let done = mover_tests::skip::succeeds("chown", &["-R", "65534:65534", repo.scratch().to_str().expect("plain")]);
    assert!(done, "chown");
}

fn as_nobody(repo: &Repo, source: &Path) -> mover_tests::Run {
    let set = ["--json".as_ref(), "--set".as_ref(), "locked".as_ref(), source.as_os_str()];
    let inner = repo.command("backup", &set);
    let mut outer = std::process::Command::new("setpriv");
    outer.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    outer.arg(readable_program(repo)).args(inner.get_args()).current_dir(repo.scratch());
    outer
        .env("XDG_STATE_HOME", repo.scratch().join("state-of-nobody"))
        .env("MOVER_PASSWORD_FILE", repo.password_file());
    mover_tests::mover::finish(outer, None)
}

/// The binary may lie where only root may enter.
fn readable_program(repo: &Repo) -> PathBuf {
    let copy = repo.scratch().join("mover");
    if !copy.exists() {
        std::fs::copy(mover_tests::Mover::program(), &copy).expect("copy the binary");
    }
    copy
}

#[test]
fn f24_incremental_reread_share_reads_unchanged_files() {
    let (repo, source) = backed_up();
    let all = repo.backup_with(&source, &["--reread", "1/1"]);
    assert_eq!(all.bytes_read(), all.bytes());
    assert_eq!(all.bytes_new(), 0);
    let some = repo.backup_with(&source, &["--reread", "1/4"]);
    assert!(some.bytes_read() < some.bytes());
}

/// A cache of what was seen last may be lost or wrong: here it is the parent's manifest. Without it everything is read,
/// nothing is stored twice, and the new point is whole.
#[test]
fn f24_parent_that_cannot_be_read_costs_reads_and_nothing_else() {
    let (repo, source) = backed_up();
    // Structure packs hold the pages that a backup reads of its parent: byte 8 of the header tells the kind.
    let packs = repo.objects().into_iter().filter(|(path, _)| path.starts_with("packs"));
    let structure: Vec<_> = packs
        .map(|(path, _)| repo.place().join(path))
        .filter(|path| std::fs::read(path).expect("a pack")[8] == 5)
        .collect();
    assert!(!structure.is_empty());
    for path in &structure {
        std::fs::remove_file(path).expect("lose the pages");
    }
    let again = repo.backup(&source);
    assert_eq!((again.bytes_read(), again.bytes_new()), (again.bytes(), 0));
    // The new point relies on no page that was lost, though the index still names them.
    repo.restore(&again.point(), &source, "target");
}

#[test]
fn incremental_moved_file_costs_a_read_and_no_upload() {
    let (repo, source) = backed_up();
    std::fs::create_dir(source.join("elsewhere")).expect("create");
    std::fs::rename(source.join("file"), source.join("elsewhere/renamed")).expect("rename");
    let second = repo.backup(&source);
    assert_eq!(second.bytes_read(), MIB);
    assert_eq!(second.bytes_new(), 0);
    assert!(second.bytes_stored() < 64 * KIB);
}

#[test]
fn incremental_insertion_costs_a_few_chunks() {
    let repo = Repo::new();
    let source = repo.directory("source");
    let content = mover_tests::random::Random::new(8).bytes(32 * MIB as usize);
    write(&source.join("file"), &content);
    repo.backup(&source);
    let mut longer = content[..MIB as usize].to_vec();
    longer.extend_from_slice(b"inserted");
    longer.extend_from_slice(&content[MIB as usize..]);
    write(&source.join("file"), &longer);
    let second = repo.backup(&source);
    assert!(second.bytes_new() <= 3 * MIB, "{} bytes are new", second.bytes_new());
}

#[test]
fn incremental_path_order_over_two_runs() {
    // `a-b` and `a.b` sort before `a/b` as bytes and after it by components: a merge that mixes the two orders either
    // misses the parent of some file or takes the wrong one.
    let repo = Repo::new();
    let source = repo.directory("source");
    for (number, name) in ["a/b", "a/b-c", "a/b/c", "a-b", "a.b", "a0", "a!", "b/a", "b-", "A"].iter().enumerate() {
        let path = source.join(name);
        if *name != "a/b" {
            write(&path.join("file"), &mover_tests::random::Random::new(number as u64).bytes(70_000));
        }
        write(
            &source.join(format!("{name}.plain")),
            &mover_tests::random::Random::new(100 + number as u64).bytes(5000),
        );
    }
    settle(&source);
    let first = repo.backup(&source);
    let second = repo.backup(&source);
    assert_eq!((second.bytes_read(), second.bytes_new()), (0, 0));
    assert_eq!(second.files(), first.files());
    write(&source.join("a-b/file"), b"changed alone");
    let third = repo.backup(&source);
    assert_eq!(third.bytes_read(), 13);
    let restored = repo.restore(&third.point(), &source, "target");
    assert!(mover_tests::skip::succeeds(
        "diff",
        &["-r", source.to_str().expect("plain"), restored.to_str().expect("plain")]
    ));
}

#[test]
fn incremental_identical_files_are_stored_once() {
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..64 {
        write_random(&source.join(format!("copy-{number}")), MIB, 77);
    }
    let summary = repo.backup(&source);
    assert_eq!(summary.bytes_read(), 64 * MIB);
    assert_eq!(summary.bytes_new(), MIB);
    assert!(summary.bytes_stored() < MIB + 256 * KIB);
}

#[test]
fn incremental_sets_have_parents_of_their_own() {
    let (repo, source) = backed_up();
    let other = repo.backup_with(&source, &["--set", "other"]);
    assert_eq!(other.bytes_read(), other.bytes(), "another set has no parent");
    assert_eq!(other.bytes_new(), 0, "but the chunks are there");
    assert_eq!(repo.backup_with(&source, &["--set", "other"]).bytes_read(), 0);
}

//! The comparison must notice everything that restore could lose: each test here breaks one attribute on purpose.
//!
//! The tree is copied by `cp -a`, never by `mover`, so these tests say something about the comparison alone.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use mover_tests::nasty::{deep_tree, nasty_tree, set_acl, set_time, set_xattr};
use mover_tests::tree::{MIB, sparse_file, write};
use mover_tests::{assert_same_tree, compare, differences, needs};

/// A copy of the nasty tree, made once for all ways to break it.
fn pair(scratch: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (source, copy) = (scratch.join("source"), scratch.join("copy"));
    nasty_tree(&source);
    succeed(Command::new("cp").arg("-a").arg(&source).arg(&copy));
    (source, copy)
}

/// One way to break a tree: its name, the breaking, and the undoing.
type Breaking<'a> = (&'a str, Box<dyn Fn(&Path)>, Box<dyn Fn(&Path)>);

#[test]
fn comparison_notices_each_attribute_broken_on_purpose() {
    needs!(root, "rsync", "getfattr", "getfacl", "setfacl", "filefrag");
    let scratch = mover_tests::mover::scratch();
    let (source, copy) = pair(scratch.path());
    assert_same_tree(&source, &copy);
    let mut missed = Vec::new();
    for (name, break_it, undo) in breakings() {
        break_it(&copy);
        if differences(&source, &copy).is_empty() {
            missed.push(name);
        }
        undo(&copy);
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
    assert_same_tree(&source, &copy);
}

fn breakings() -> Vec<Breaking<'static>> {
    let mut all: Vec<Breaking<'static>> = Vec::new();
    mode_and_owner(&mut all);
    times_and_content(&mut all);
    links_and_nodes(&mut all);
    xattrs_and_acls(&mut all);
    all
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn mode_and_owner(all: &mut Vec<Breaking<'static>>) {
    for (name, file, before, after) in [
        ("set-user-id", "modes/file-4755", 0o4755, 0o755),
        ("set-group-id", "modes/file-2755", 0o2755, 0o755),
        ("sticky", "modes/directory-1755", 0o1755, 0o755),
        ("mode 0000", "modes/file-0000", 0, 0o600),
        ("mode of a directory", "modes/directory-0600", 0o600, 0o700),
    ] {
        all.push((
            name,
            Box::new(move |copy| mode(&copy.join(file), after)),
            Box::new(move |copy| mode(&copy.join(file), before)),
        ));
    }
    let large = "modes/largest owner";
    all.push((
        "owner of 32 bits",
        Box::new(|copy| lchown(copy.join("modes/largest owner"), Some(u32::MAX - 2), None).expect("chown")),
        Box::new(move |copy| lchown(copy.join(large), Some(u32::MAX - 1), None).expect("chown")),
    ));
    all.push((
        "owner of a symlink",
        Box::new(|copy| lchown(copy.join("links/symlink-owned"), Some(1), None).expect("chown")),
        Box::new(|copy| lchown(copy.join("links/symlink-owned"), Some(12345), None).expect("chown")),
    ));
}

fn times_and_content(all: &mut Vec<Breaking<'static>>) {
    for (name, file, before, after) in [
        ("a nanosecond", "times/file-4", (1_700_000_000, 123_456_789), (1_700_000_000, 123_456_788)),
        ("a second before 1970", "times/file-2", (-2_000_000_000, 1), (-1_999_999_999, 1)),
        ("time of a directory", "times/directory-1", (-1, 999_999_999), (-1, 999_999_998)),
        ("time of a symlink", "links/symlink-owned", (-1, 5), (-1, 6)),
    ] {
        all.push((
            name,
            Box::new(move |copy| set_time(&copy.join(file), after.0, after.1)),
            Box::new(move |copy| set_time(&copy.join(file), before.0, before.1)),
        ));
    }
    all.push((
        "a byte under the same size and time",
        Box::new(|copy| rewrite(&copy.join("sizes/65537-bytes"), 40_000)),
        Box::new(|copy| rewrite(&copy.join("sizes/65537-bytes"), 40_000)),
    ));
    all.push((
        "a hole filled with zeros",
        Box::new(|copy| fill_hole(&copy.join("sparse"))),
        Box::new(|copy| punch_hole(&copy.join("sparse"))),
    ));
    all.push((
        "an extra file",
        Box::new(|copy| keeping_time(copy, "names", &|| write(&copy.join("names/extra"), b"x"))),
        Box::new(|copy| {
            keeping_time(copy, "names", &|| std::fs::remove_file(copy.join("names/extra")).expect("remove"))
        }),
    ));
    all.push((
        "a missing empty directory",
        Box::new(|copy| {
            keeping_time(copy, "names", &|| {
                std::fs::rename(copy.join("names/empty directory"), copy.join("../kept")).expect("move")
            })
        }),
        Box::new(|copy| {
            keeping_time(copy, "names", &|| {
                std::fs::rename(copy.join("../kept"), copy.join("names/empty directory")).expect("move")
            })
        }),
    ));
}

fn links_and_nodes(all: &mut Vec<Breaking<'static>>) {
    all.push((
        "a hard link that became a copy",
        Box::new(|copy| {
            keeping_time(copy, "links/z", &|| {
                std::fs::rename(copy.join("links/z/second"), copy.join("../second")).expect("move");
                succeed(Command::new("cp").arg("-a").arg(copy.join("../second")).arg(copy.join("links/z/second")));
            })
        }),
        Box::new(|copy| {
            keeping_time(copy, "links/z", &|| {
                std::fs::rename(copy.join("../second"), copy.join("links/z/second")).expect("move");
            })
        }),
    ));
    all.push((
        "the target of a symlink",
        Box::new(|copy| keeping_time(copy, "links", &|| relink(&copy.join("links/symlink-1"), "../elsewhere"))),
        Box::new(|copy| keeping_time(copy, "links", &|| relink(&copy.join("links/symlink-1"), "../nowhere"))),
    ));
    all.push((
        "the number of a device",
        Box::new(|copy| keeping_time(copy, "nodes", &|| device(&copy.join("nodes/null"), "5"))),
        Box::new(|copy| keeping_time(copy, "nodes", &|| device(&copy.join("nodes/null"), "3"))),
    ));
}

fn xattrs_and_acls(all: &mut Vec<Breaking<'static>>) {
    for (name, key, before) in [
        ("a user xattr", "user.binary", &[0, 255, 10, 0][..]),
        ("a trusted xattr", "trusted.mover", b"only root sees this"),
        ("a security xattr", "security.mover", b"security"),
    ] {
        all.push((
            name,
            Box::new(move |copy| set_xattr(&copy.join("attributes/file"), key, b"other")),
            Box::new(move |copy| set_xattr(&copy.join("attributes/file"), key, before)),
        ));
    }
    all.push((
        "an ACL",
        Box::new(|copy| set_acl(&["-m", "u:1001:r-x"], &copy.join("attributes/acl"))),
        Box::new(|copy| set_acl(&["-m", "u:1001:rwx,m::rx"], &copy.join("attributes/acl"))),
    ));
    all.push((
        "a default ACL",
        Box::new(|copy| set_acl(&["-m", "d:u:1003:r--,d:m::rwx"], &copy.join("attributes/folder"))),
        Box::new(|copy| set_acl(&["-m", "d:u:1003:rw-,d:m::rwx"], &copy.join("attributes/folder"))),
    ));
}

/// Flips the byte at `offset` and keeps the time.
fn rewrite(path: &Path, offset: usize) {
    let before = std::fs::metadata(path).expect("stat").modified().expect("mtime");
    let mut bytes = std::fs::read(path).expect("read");
    bytes[offset] ^= 1;
    std::fs::write(path, bytes).expect("write");
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(before)).expect("set the time");
}

fn fill_hole(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("open");
    let before = file.metadata().and_then(|status| status.modified()).expect("mtime");
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; MIB as usize], 20 * MIB).expect("write");
    file.set_modified(before).expect("set the time");
}

fn punch_hole(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("open");
    let before = file.metadata().and_then(|status| status.modified()).expect("mtime");
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 20 * MIB, MIB).expect("punch");
    file.set_modified(before).expect("set the time");
}

fn keeping_time(copy: &Path, directory: &str, change: &dyn Fn()) {
    let path = copy.join(directory);
    let before = std::fs::metadata(&path).expect("stat");
    change();
    use std::os::unix::fs::MetadataExt;
    set_time(&path, before.mtime(), before.mtime_nsec());
}

fn relink(path: &Path, target: &str) {
    let before = std::fs::symlink_metadata(path).expect("stat");
    std::fs::remove_file(path).expect("remove");
    symlink(target, path).expect("symlink");
    use std::os::unix::fs::MetadataExt;
    set_time(path, before.mtime(), before.mtime_nsec());
}

fn device(path: &Path, minor: &str) {
    let before = std::fs::symlink_metadata(path).expect("stat");
    std::fs::remove_file(path).expect("remove");
    succeed(Command::new("mknod").args(["-m", "666"]).arg(path).args(["c", "1", minor]));
    use std::os::unix::fs::MetadataExt;
    set_time(path, before.mtime(), before.mtime_nsec());
}

fn succeed(command: &mut Command) {
    assert!(command.status().expect("run").success(), "{command:?}");
}

#[test]
fn comparison_of_holes_reads_filefrag() {
    needs!("filefrag");
    let scratch = mover_tests::mover::scratch();
    let path = scratch.path().join("sparse");
    sparse_file(&path, 8 * MIB, &[(MIB, 8192), (4 * MIB, 4096)], 1);
    assert_eq!(compare::data_ranges(&path), vec![(256, 257), (1024, 1024)]);
}

#[test]
fn comparison_by_find_reaches_below_path_max() {
    needs!("find");
    let scratch = mover_tests::mover::scratch();
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    let levels = deep_tree(&one);
    assert!(levels * 201 > 2 * 4096);
    deep_tree(&two);
    succeed(Command::new("chmod").args(["-R", "700"]).arg(&two));
    let found = compare::find(&one, &two);
    assert!(!found.is_empty());
    assert!(found.iter().any(|each| each.line.len() > 2 * 4096), "the deepest path is not listed");
}

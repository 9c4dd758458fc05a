//! Each attribute is broken on purpose, one by one, and must be noticed under its name.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use mover_repository::ids::UnixNanos;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use super::*;

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The same small tree, made anew; directories get their times last.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("directory/inner")).unwrap();
    fs::write(root.join("directory/file"), vec![7u8; 300_000]).unwrap();
    fs::hard_link(root.join("directory/file"), root.join("directory/second")).unwrap();
    fs::write(root.join("single"), b"single").unwrap();
    fs::write(root.join("other"), b"other!").unwrap();
    symlink("directory/file", root.join("link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"data", 4 << 20).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for name in ["directory/file", "single", "other", "link", "sparse", "fifo", "directory/inner", "directory", "."] {
        set_mtime(&root.join(name), 1_000_000_000, 123_456_789);
    }
}

fn compared(original: &Path, copy: &Path) -> CompareReport {
    compare_trees(original, copy, CompareOptions { threads: 2, ..CompareOptions::default() }).unwrap()
}

/// Breaks a fresh copy and expects exactly one kind of difference, at `path`.
fn expect(path: &str, what: &str, break_it: impl Fn(&Path)) {
    let scratch = tempfile::tempdir().unwrap();
    let (original, copy) = (scratch.path().join("original"), scratch.path().join("copy"));
    make_tree(&original);
    make_tree(&copy);
    let before = compared(&original, &copy);
    assert_eq!(before.differences, [], "equal trees");
    assert!(before.entries == 10 && before.files == 5, "{before:?}");
    break_it(&copy);
    // changing a directory's entries changes its mtime, which is not what is tested here
    for name in ["directory/inner", "directory", "."] {
        if name != path {
            set_mtime(&copy.join(name), 1_000_000_000, 123_456_789);
        }
    }
    let report = compared(&original, &copy);
    let found = report.differences.iter().any(|difference| {
        difference.path == path.as_bytes() && difference.what.starts_with(what) && difference.explanation.is_none()
    });
    assert!(found, "{what} of {path} was not noticed: {:?}", report.differences);
}

#[test]
fn content_and_size() {
    expect("directory/file", "content: differs from byte 299999", |copy| {
        let file = File::options().write(true).open(copy.join("directory/file")).unwrap();
        file.write_all_at(b"x", 299_999).unwrap();
        set_mtime(&copy.join("directory/file"), 1_000_000_000, 123_456_789);
    });
    expect("single", "size: 6, in the copy 7", |copy| fs::write(copy.join("single"), b"single!").unwrap());
    expect("sparse", "content: differs from byte 6291456", |copy| {
        File::options().write(true).open(copy.join("sparse")).unwrap().write_all_at(b"x", 6 << 20).unwrap();
    });
}

#[test]
fn holes() {
    expect("sparse", "holes", |copy| fs::write(copy.join("sparse"), fs::read(copy.join("sparse")).unwrap()).unwrap());
}

#[test]
fn mode_with_special_bits() {
    for mode in [0o600, 0o4644, 0o2644, 0o1644] {
        expect("single", "mode", |copy| {
            fs::set_permissions(copy.join("single"), Permissions::from_mode(mode)).unwrap()
        });
    }
    expect("directory", "mode", |copy| {
        fs::set_permissions(copy.join("directory"), Permissions::from_mode(0o1755)).unwrap();
    });
}

#[test]
fn owner_and_group() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    expect("single", "owner", |copy| std::os::unix::fs::chown(copy.join("single"), Some(4_000_000_000), None).unwrap());
    expect("link", "group", |copy| std::os::unix::fs::lchown(copy.join("link"), None, Some(77)).unwrap());
}

#[test]
fn times() {
    expect("single", "mtime", |copy| set_mtime(&copy.join("single"), 1_000_000_000, 123_456_788));
    expect("link", "mtime", |copy| set_mtime(&copy.join("link"), -1, 5));
    expect("directory/inner", "mtime", |copy| set_mtime(&copy.join("directory/inner"), 1_000_000_000, 0));
}

#[test]
fn symlinks_and_types() {
    expect("link", "link target", |copy| {
        fs::remove_file(copy.join("link")).unwrap();
        symlink("directory/filE", copy.join("link")).unwrap();
    });
    expect("single", "type", |copy| {
        fs::remove_file(copy.join("single")).unwrap();
        symlink("other", copy.join("single")).unwrap();
    });
    expect("fifo", "type", |copy| {
        fs::remove_file(copy.join("fifo")).unwrap();
        fs::write(copy.join("fifo"), b"").unwrap();
    });
}

#[test]
fn missing_and_added_names() {
    expect("other", "missing in the copy", |copy| fs::remove_file(copy.join("other")).unwrap());
    expect("more", "only in the copy", |copy| fs::write(copy.join("more"), b"").unwrap());
    expect("directory/inner", "missing in the copy", |copy| fs::remove_dir(copy.join("directory/inner")).unwrap());
}

#[test]
fn hard_links() {
    expect("directory/second", "hard link", |copy| {
        fs::copy(copy.join("directory/second"), copy.join("third")).unwrap();
        fs::rename(copy.join("third"), copy.join("directory/second")).unwrap();
    });
    expect("single", "hard link", |copy| {
        fs::remove_file(copy.join("single")).unwrap();
        fs::hard_link(copy.join("other"), copy.join("single")).unwrap();
    });
}

#[test]
fn extended_attributes() {
    let set = |path: &Path, name: &str, value: &[u8]| rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("probe"), b"").unwrap();
    if set(&scratch.path().join("probe"), "user.probe", b"1").is_err() {
        eprintln!("skipped: no user xattrs in the temporary directory");
        return;
    }
    expect("single", "attribute user.more: only in the copy", |copy| {
        set(&copy.join("single"), "user.more", b"1").unwrap();
    });
    let (original, copy) = (scratch.path().join("original"), scratch.path().join("copy"));
    for (root, value) in [(&original, b"one"), (&copy, b"two")] {
        fs::create_dir(root).unwrap();
        set(root, "user.value", value).unwrap();
        set_mtime(root, 5, 5);
    }
    set(&original, "user.lost", b"").unwrap();
    let report = compared(&original, &copy);
    let texts: Vec<&str> = report.differences.iter().map(|difference| difference.what.as_str()).collect();
    assert_eq!(texts, ["attribute user.lost: missing in the copy", "attribute user.value: another value in the copy"]);
}

#[test]
fn device_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, minor) in [("original", 3), ("copy", 5)] {
        let path = scratch.path().join(name);
        let device = rustix::fs::makedev(1, minor);
        if mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), device).is_err() {
            eprintln!("skipped: no device nodes can be made here");
            return;
        }
        set_mtime(&path, 5, 5);
    }
    let report = compared(&scratch.path().join("original"), &scratch.path().join("copy"));
    assert_eq!(report.differences[0].what, "device: 1:3, in the copy 1:5");
}

#[test]
fn what_changed_or_vanished_meanwhile_is_explained() {
    let scratch = tempfile::tempdir().unwrap();
    let (original, copy) = (scratch.path().join("original"), scratch.path().join("copy"));
    make_tree(&original);
    make_tree(&copy);
    fs::write(original.join("single"), b"changed").unwrap();
    fs::remove_file(original.join("directory/second")).unwrap();
    let options = || CompareOptions { threads: 2, changed_since: Some(UnixNanos(0)), ..CompareOptions::default() };
    let report = compare_trees(&original, &copy, options()).unwrap();
    assert_eq!(report.unexplained, 0, "{:?}", report.differences);
    assert!(report.explained >= 3);
    let later = CompareOptions { changed_since: Some(UnixNanos(i128::MAX)), ..options() };
    assert!(compare_trees(&original, &copy, later).unwrap().unexplained >= 3);
    let mut excused = CompareOptions { threads: 1, ..CompareOptions::default() };
    excused.unread.insert(original.as_os_str().as_bytes().to_vec(), "could not be read".to_owned());
    assert_eq!(compare_trees(&original, &copy, excused).unwrap().unexplained, 0);
    let mut attributes = CompareOptions { threads: 1, ..CompareOptions::default() };
    attributes.attributes.insert(original.join("single").as_os_str().as_bytes().to_vec(), "no owner".to_owned());
    let report = compare_trees(&original, &copy, attributes).unwrap();
    let content = report.differences.iter().find(|difference| difference.what.starts_with("size"));
    assert!(content.is_some_and(|difference| difference.explanation.is_none()), "{:?}", report.differences);
}

#[test]
fn paths_longer_than_path_max_and_many_names() {
    let scratch = tempfile::tempdir().unwrap();
    let component = "d".repeat(200);
    for root in ["original", "copy"] {
        let top = scratch.path().join(root);
        fs::create_dir(&top).unwrap();
        for number in 0..600 {
            fs::write(top.join(format!("{number}")), b"x").unwrap();
            set_mtime(&top.join(format!("{number}")), 5, 5);
        }
        let mut directory = File::open(&top).unwrap();
        for level in 0..30 {
            rustix::fs::mkdirat(&directory, &component, Mode::from_raw_mode(0o700)).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            let inner = File::from(rustix::fs::openat(&directory, &component, flags, Mode::empty()).unwrap());
            let moment = Timespec { tv_sec: if root == "copy" && level == 29 { 6 } else { 5 }, tv_nsec: 0 };
            let times = Timestamps { last_access: moment, last_modification: moment };
            let parent = std::mem::replace(&mut directory, inner);
            if level == 29 {
                utimensat(&parent, &component, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            }
        }
    }
    let report = compared(&scratch.path().join("original"), &scratch.path().join("copy"));
    assert!(report.entries > 630);
    let deepest = report.differences.iter().find(|difference| difference.path.len() == 30 * 201 - 1);
    assert!(deepest.is_some_and(|difference| difference.what.starts_with("mtime")), "{:?}", report.differences.len());
}

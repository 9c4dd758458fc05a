//! Trees with everything a file system can hold, for the fidelity tests. Most of it needs root.
//!
//! [`nasty_tree`] is cheap and takes part in every comparison; [`deep_tree`] and [`huge_hole`] have tests of their own
//! because common tools cannot compare the one and should not read the other.

use std::ffi::{CString, OsStr};
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use crate::random::Random;
use crate::tree::{KIB, MIB, sparse_file, write, write_random};

/// Fills `root` with everything that restore has to put back, sockets and the two special trees aside.
pub fn nasty_tree(root: &Path) {
    std::fs::create_dir_all(root).expect("create the root");
    names(&root.join("names"));
    sizes(&root.join("sizes"));
    modes_and_owners(&root.join("modes"));
    links(&root.join("links"));
    nodes(&root.join("nodes"));
    sparse_file(&root.join("sparse"), 64 * MIB, &[(0, 4 * KIB), (10 * MIB, 300 * KIB), (40 * MIB, 64 * KIB)], 3);
    sparse_file(&root.join("all-hole"), 5 * MIB, &[], 4);
    sparse_file(&root.join("hole-at-start"), 5 * MIB, &[(4 * MIB, MIB)], 5);
    attributes(&root.join("attributes"));
    times(&root.join("times"));
}

/// Names of any bytes, up to 255; and those whose order by bytes differs from the order by components.
fn names(directory: &Path) {
    for name in ["a-b", "a.b", "a/b", "a0", "ab/c", " lead", "trail ", "new\nline", "tab\t", "-dash", "*", "ü", "'q'"]
    {
        write(&directory.join(name), name.as_bytes());
    }
    write(&directory.join(OsStr::from_bytes(b"\xff\xfe not utf-8 \x01\x7f")), b"raw");
    write(&directory.join(OsStr::from_bytes(&[0xe9; 255])), b"255 bytes of name");
    write(&directory.join("x".repeat(255)).join("y".repeat(255)).join("leaf"), b"long on every level");
    std::fs::create_dir_all(directory.join("empty directory")).expect("create");
}

/// Lengths around the borders of chunks, frames and extents.
fn sizes(directory: &Path) {
    let mut lengths = vec![0, 1, 2, 4095, 4096, 4097];
    for border in [64 * KIB, 256 * KIB, MIB, 4 * MIB, 64 * MIB] {
        lengths.extend([border - 1, border, border + 1]);
    }
    for length in lengths {
        if length < 64 * MIB - 1 {
            write_random(&directory.join(format!("{length}-bytes")), length, length);
        } else {
            // Three files of 64 MiB would only repeat each other: text is quicker to make and compresses.
            let mut content = Random::new(7).text(4 * MIB as usize).repeat(17);
            content.truncate(length as usize);
            write(&directory.join(format!("{length}-bytes")), &content);
        }
    }
    write(&directory.join("zeros without a hole"), &vec![0; 2 * MIB as usize]);
}

fn modes_and_owners(directory: &Path) {
    let modes = [0o4755, 0o2755, 0o1755, 0o7777, 0o6711, 0o644, 0o600, 0o444, 0o200, 0o111, 0o000];
    for (number, mode) in modes.into_iter().enumerate() {
        let file = directory.join(format!("file-{mode:04o}"));
        write(&file, format!("{mode:o}").as_bytes());
        let inner = directory.join(format!("directory-{mode:04o}"));
        write(&inner.join("inside"), b"inside");
        for path in [&inner, &file] {
            // The owner first: chown clears the set-id bits.
            let number = number as u32;
            std::os::unix::fs::lchown(path, Some(1000 + number), Some(4_294_967_000 + number)).expect("chown");
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        }
    }
    let large = directory.join("largest owner");
    write(&large, b"32 bits");
    std::os::unix::fs::lchown(&large, Some(u32::MAX - 1), Some(u32::MAX - 1)).expect("chown");
}

fn links(directory: &Path) {
    std::fs::create_dir_all(directory.join("z")).expect("create");
    write_random(&directory.join("first"), 100 * KIB, 1);
    for other in ["z/second", "a third"] {
        std::fs::hard_link(directory.join("first"), directory.join(other)).expect("link");
    }
    write(&directory.join("empty-1"), b"");
    std::fs::hard_link(directory.join("empty-1"), directory.join("empty-2")).expect("link");
    let targets: [&[u8]; 7] = [b"first", b"../nowhere", b"/", b"/etc/passwd", b"z/", b"\xff\xfe\x01 \n", b"."];
    for (number, target) in targets.into_iter().enumerate() {
        symlink(OsStr::from_bytes(target), directory.join(format!("symlink-{number}"))).expect("symlink");
    }
    let long = "t/".repeat(2047) + "t";
    assert_eq!(long.len(), 4095);
    symlink(&long, directory.join("symlink-4095")).expect("symlink");
    let owned = directory.join("symlink-owned");
    symlink("first", &owned).expect("symlink");
    std::os::unix::fs::lchown(&owned, Some(12345), Some(54321)).expect("chown a symlink");
    set_time(&owned, -1, 5);
    // A hard link to a symlink is legal on Linux.
    rustix::fs::linkat(CWD, &owned, CWD, directory.join("symlink-linked"), AtFlags::empty()).expect("link a symlink");
}

fn nodes(directory: &Path) {
    std::fs::create_dir_all(directory).expect("create");
    node(&directory.join("fifo"), FileType::Fifo, 0o640, 0, 0);
    node(&directory.join("null"), FileType::CharacterDevice, 0o666, 1, 3);
    node(&directory.join("large numbers"), FileType::CharacterDevice, 0o600, 500, 70_000);
    node(&directory.join("block"), FileType::BlockDevice, 0o660, 254, 9);
    std::fs::hard_link(directory.join("fifo"), directory.join("fifo linked")).expect("link a fifo");
}

fn node(path: &Path, kind: FileType, mode: u32, major: u32, minor: u32) {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device).expect("mknod");
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn attributes(directory: &Path) {
    for name in ["file", "acl", "both"] {
        write(&directory.join(name), name.as_bytes());
    }
    std::fs::create_dir_all(directory.join("folder/inner")).expect("create");
    for name in ["file", "both", "folder"] {
        let path = directory.join(name);
        set_xattr(&path, "user.empty", b"");
        set_xattr(&path, "user.binary", &[0, 255, 10, 0]);
        set_xattr(&path, "user.large", &Random::new(9).bytes(2000));
        set_xattr(&path, "trusted.mover", b"only root sees this");
        set_xattr(&path, "security.mover", b"security");
    }
    // A capability is cleared by chown and by writing, so restore must set it last.
    set_xattr(
        &directory.join("file"),
        "security.capability",
        &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    symlink("file", directory.join("link")).expect("symlink");
    set_xattr_of_link(&directory.join("link"), "trusted.link", b"on the link itself");
    set_acl(&["-m", "u:1001:rwx,g:1002:r--,m::rx"], &directory.join("acl"));
    set_acl(&["-m", "u:2000000:r--"], &directory.join("both"));
    set_acl(&["-m", "u:1001:rwx,d:u:1003:rw-,d:g:1004:r-x,d:m::rwx"], &directory.join("folder"));
}

/// Sets an extended attribute.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|error| panic!("set {name} on {}: {error}", path.display()));
}

fn set_xattr_of_link(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("set an xattr of a link");
}

/// Runs `setfacl` with these arguments.
pub fn set_acl(arguments: &[&str], path: &Path) {
    let status = Command::new("setfacl").args(arguments).arg(path).status().expect("run setfacl");
    assert!(status.success(), "setfacl {arguments:?} {}", path.display());
}

fn times(directory: &Path) {
    let moments =
        [(0, 0), (-1, 999_999_999), (-2_000_000_000, 1), (1, 1), (1_700_000_000, 123_456_789), (4_294_967_296, 7)];
    for (number, (seconds, nanoseconds)) in moments.into_iter().enumerate() {
        let file = directory.join(format!("file-{number}"));
        let inner = directory.join(format!("directory-{number}"));
        write(&file, b"time");
        write(&inner.join("child"), b"child");
        set_time(&file, seconds, nanoseconds);
        set_time(&inner, seconds, nanoseconds);
    }
    set_time(directory, -5, 500);
}

/// Sets the mtime (and atime) of a path itself, not of what a link points to.
pub fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let moment = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let both = Timestamps { last_access: moment, last_modification: moment };
    rustix::fs::utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW).expect("set times");
}

/// A file of 3 GiB of which 8 KiB are data: the rest must cost nothing.
pub fn huge_hole(path: &Path) {
    sparse_file(path, 3 * 1024 * MIB + 4096, &[(0, 4096), (3 * 1024 * MIB, 4096)], 11);
}

/// Directories of 200-byte names, nested until the path is longer than two times PATH_MAX; a file on every tenth level
/// and at the end. Gives the number of levels.
pub fn deep_tree(root: &Path) -> usize {
    std::fs::create_dir_all(root).expect("create the root");
    let levels = 45;
    let name = CString::new("n".repeat(200)).expect("no zero byte");
    let mut directory = rustix::fs::open(root, rustix::fs::OFlags::DIRECTORY, Mode::empty()).expect("open the root");
    for level in 0..levels {
        rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o755)).expect("mkdir");
        let inner = rustix::fs::openat(&directory, &name, rustix::fs::OFlags::DIRECTORY, Mode::empty()).expect("open");
        if level % 10 == 0 || level + 1 == levels {
            write_at(&inner, "leaf", format!("level {level}").as_bytes());
        }
        directory = inner;
    }
    levels
}

fn write_at(directory: &rustix::fd::OwnedFd, name: &str, content: &[u8]) {
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)).expect("create");
    rustix::io::write(&file, content).expect("write");
}

/// A socket in the file system.
pub fn socket(path: &Path) -> PathBuf {
    drop(std::os::unix::net::UnixListener::bind(path).expect("bind a socket"));
    path.to_owned()
}

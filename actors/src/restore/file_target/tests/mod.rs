//! The file target on a real file system. What needs root says so when it is left out.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use futures_lite::future::block_on;
use mover_repository::ids::UnixNanos;
use rustix::fs::XattrFlags;

use super::*;

mod names;

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}

fn target(path: &Path) -> FileTarget {
    FileTarget::new(FileTargetOptions::new(path.to_path_buf())).unwrap()
}

fn meta(mode: u32) -> TargetMeta {
    TargetMeta {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: UnixNanos(-1_876_543_211),
        xattrs: Vec::new(),
    }
}

fn small(path: &[u8], bytes: &'static [u8], meta: TargetMeta) -> SmallFile {
    let parts = if bytes.is_empty() { Vec::new() } else { vec![(0, Bytes::from_static(bytes))] };
    SmallFile { path: path.to_vec(), meta, size: bytes.len() as u64, parts }
}

fn write(target: &FileTarget, file: SmallFile) -> Result<Vec<AttributeProblem>, TargetError> {
    block_on(target.write_files(vec![file])).unwrap().remove(0)
}

fn make(target: &FileTarget, path: &[u8]) -> Result<bool, TargetError> {
    block_on(target.make_directories(vec![path.to_vec()], true)).unwrap().remove(0)
}

fn finish(target: &FileTarget, path: &[u8], meta: TargetMeta) -> Result<Vec<AttributeProblem>, TargetError> {
    block_on(target.finish_directories(vec![(path.to_vec(), meta)])).unwrap().remove(0)
}

fn left_over(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| name.starts_with(".mover-")).collect()
}

#[test]
fn small_files_get_content_mode_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    assert!(make(&target, b"d").unwrap());
    for mode in [0o644, 0o7751, 0o000, 0o400, 0o1777] {
        let path = format!("d/f{mode:o}");
        assert_eq!(write(&target, small(path.as_bytes(), b"content", meta(mode))).unwrap(), []);
        let found = fs::metadata(dir.path().join(&path)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{mode:o}");
        assert_eq!((found.mtime(), found.mtime_nsec(), found.len()), (-2, 123_456_789, 7));
    }
    assert_eq!(write(&target, small(b"d/empty", b"", meta(0o600))).unwrap(), []);
    assert_eq!(finish(&target, b"d", meta(0o2755)).unwrap(), []);
    let found = fs::metadata(dir.path().join("d")).unwrap();
    assert_eq!((found.permissions().mode() & 0o7777, found.mtime()), (0o2755, -2));
    assert!(left_over(&dir.path().join("d")).is_empty());
    let back = block_on(target.read_back(vec![(b"d/f644".to_vec(), 2..100), (b"d".to_vec(), 0..1)])).unwrap();
    assert_eq!(back[0].as_ref().unwrap(), "ntent");
    assert!(back[1].is_err());
    block_on(target.sync()).unwrap();
}

#[test]
fn owners_of_32_bits_keep_their_set_id_bits() {
    if !is_root("giving files away") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let owned = TargetMeta { uid: 4_000_000_001, gid: 4_000_000_002, ..meta(0o6755) };
    assert_eq!(write(&target, small(b"f", b"x", owned.clone())).unwrap(), []);
    assert_eq!(block_on(target.symlink(b"l", b"anywhere", owned.clone())).unwrap(), []);
    assert_eq!(block_on(target.make_node(b"p", NodeKind::Fifo, owned.clone())).unwrap(), []);
    let device = NodeKind::CharDevice { major: 1, minor: 3 };
    let problems = block_on(target.make_node(b"null", device, owned.clone())).unwrap();
    make(&target, b"d").unwrap();
    assert_eq!(finish(&target, b"d", owned).unwrap(), []);
    for name in ["f", "l", "p", "d"] {
        let found = fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (4_000_000_001, 4_000_000_002), "{name}");
        assert_eq!((found.mtime(), found.mtime_nsec()), (-2, 123_456_789), "{name}");
        assert!(name == "l" || found.mode() & 0o7777 == 0o6755, "{name}: {:o}", found.mode());
    }
    assert!(fs::symlink_metadata(dir.path().join("p")).unwrap().file_type().is_fifo());
    match fs::symlink_metadata(dir.path().join("null")) {
        Ok(found) => assert_eq!((found.rdev(), problems.len()), (rustix::fs::makedev(1, 3), 0)),
        Err(_) => assert_eq!(problems[0].attribute, AttributeKind::Device),
    }
}

#[test]
fn xattrs_and_acls_are_set_and_inherited_ones_removed() {
    let dir = tempfile::tempdir().unwrap();
    if rustix::fs::setxattr(dir.path(), "user.probe", b"1", XattrFlags::empty()).is_err() {
        eprintln!("skipped: the temporary directory has no extended attributes");
        return;
    }
    let target = target(dir.path());
    // u::rwx, user 1234 r--, g::r-x, mask rwx, other --- ; as the kernel stores it.
    let acl: Vec<u8> = [
        &2u32.to_le_bytes()[..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 0xd2, 4, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 7, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    make(&target, b"d").unwrap();
    let mut directory = meta(0o2770);
    directory.xattrs.push((b"system.posix_acl_default".to_vec(), acl.clone()));
    let problems = finish(&target, b"d", directory).unwrap();
    let has_acls = problems.is_empty();
    if !has_acls {
        eprintln!("skipped: the temporary directory has no ACLs: {problems:?}");
    }
    // Read-only for its owner: the attributes must come before the mode.
    let mut wanted = meta(0o470);
    wanted.xattrs.push((b"user.note".to_vec(), vec![b'v'; 2000]));
    if has_acls {
        wanted.xattrs.insert(0, (b"system.posix_acl_access".to_vec(), acl));
    }
    if is_root("trusted and security attributes") {
        // cap_net_raw+ep, version 2.
        let capability = [0x01, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        wanted.xattrs.push((b"security.capability".to_vec(), capability.to_vec()));
        wanted.xattrs.push((b"trusted.t".to_vec(), b"1".to_vec()));
        wanted.uid = 12_345;
    }
    wanted.xattrs.sort();
    // The ACL of the owner says rwx, the mode r--: the ACL's own entry is what the mode shows.
    wanted.mode = if has_acls { 0o770 } else { 0o470 };
    assert_eq!(write(&target, small(b"d/f", b"x", wanted.clone())).unwrap(), []);
    let file = fs::File::open(dir.path().join("d/f")).unwrap();
    assert_eq!(crate::source::xattr::of_open(file.as_fd()).unwrap().unwrap(), wanted.xattrs);
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, wanted.mode);
    // A plain file in a directory with a default ACL has none of it.
    assert_eq!(write(&target, small(b"d/plain", b"x", meta(0o640))).unwrap(), []);
    let plain = fs::File::open(dir.path().join("d/plain")).unwrap();
    assert_eq!(crate::source::xattr::of_open(plain.as_fd()).unwrap().unwrap(), []);
    assert_eq!(plain.metadata().unwrap().mode() & 0o7777, 0o640);
}

/// Where an ACL could not be set, the file got the group bits of its mode, which were the mask of the ACL: its owning
/// group could then do what only a named user was allowed to.
#[test]
fn permissions_do_not_widen_where_an_acl_cannot_be_set() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let entry = |tag: u8, bits: u8| [tag, 0, bits, 0, 255, 255, 255, 255];
    // No kernel takes these: a named user needs a mask beside it, and there is no version 9.
    let named_user = [&2u32.to_le_bytes()[..], &entry(1, 6), &entry(2, 6), &entry(4, 4), &entry(32, 0)].concat();
    let unknown = [&9u32.to_le_bytes()[..], &entry(1, 6), &entry(4, 4), &entry(32, 0)].concat();
    for (name, acl, expected) in [("named", named_user, 0o640), ("unknown", unknown, 0o600)] {
        let mut wanted = meta(0o660);
        wanted.xattrs.push((b"system.posix_acl_access".to_vec(), acl));
        let problems = write(&target, small(name.as_bytes(), b"x", wanted.clone())).unwrap();
        let attributes: Vec<&AttributeKind> = problems.iter().map(|problem| &problem.attribute).collect();
        assert_eq!(attributes, [&AttributeKind::Xattr(b"system.posix_acl_access".to_vec()), &AttributeKind::Mode]);
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(name), expected, "{name}");
        let directory = format!("d-{name}");
        make(&target, directory.as_bytes()).unwrap();
        assert_eq!(finish(&target, directory.as_bytes(), wanted).unwrap().len(), 2);
        assert_eq!(mode(&directory), expected, "{directory}");
    }
}

#[test]
fn nothing_is_written_outside_whatever_the_names_and_links() {
    let outer = tempfile::tempdir().unwrap();
    let inside = outer.path().join("target");
    fs::create_dir(&inside).unwrap();
    let target = target(&inside);
    fs::create_dir(outer.path().join("victim")).unwrap();
    symlink(outer.path().join("victim"), inside.join("planted")).unwrap();
    let hostile =
        [&b"../victim/f"[..], b"/etc/f", b"a/../../f", b".", b"..", b"a//f", b"planted/f", b"", b"x\0y", &[b'n'; 256]];
    for path in hostile {
        let refused = write(&target, small(path, b"evil", meta(0o644))).unwrap_err();
        assert!(!refused.fatal(), "{refused}");
        assert!(block_on(target.create_file(path, 4)).is_err(), "{path:?}");
        assert!(block_on(target.symlink(path, b"x", meta(0))).is_err(), "{path:?}");
        assert!(block_on(target.make_node(path, NodeKind::Fifo, meta(0))).is_err(), "{path:?}");
        if !path.is_empty() {
            assert!(make(&target, path).is_err(), "{path:?}");
            assert!(block_on(target.make_parents(path)).is_err(), "{path:?}");
            assert!(finish(&target, path, meta(0o755)).is_err(), "{path:?}");
        }
    }
    let planted = write(&target, small(b"planted/f", b"evil", meta(0o644))).unwrap_err();
    assert_eq!(planted.kind, TargetErrorKind::Escape);
    let link = HardLink { first: b"planted/f".to_vec(), path: b"g".to_vec() };
    assert!(block_on(target.hard_links(vec![link])).unwrap()[0].is_err());
    assert_eq!(fs::read_dir(outer.path().join("victim")).unwrap().count(), 0);
    // A file may take the place of a link; the link's target stays as it is.
    write(&target, small(b"planted", b"good", meta(0o644))).unwrap();
    assert_eq!(fs::read(inside.join("planted")).unwrap(), b"good");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
}

#[test]
fn a_file_that_fails_leaves_nothing_and_its_neighbours_live() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    make(&target, b"d").unwrap();
    make(&target, b"d/in the way").unwrap();
    let mut broken = small(b"d/broken", b"12345", meta(0o644));
    broken.size = 3;
    let files = vec![
        small(b"d/one", b"1", meta(0o644)),
        small(b"d/in the way", b"2", meta(0o644)),
        small(b"missing/two", b"2", meta(0o644)),
        broken,
        small(b"d/three", b"3", meta(0o644)),
    ];
    let results = block_on(target.write_files(files)).unwrap();
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().map(|_| ()).map_err(|error| error.kind)).collect();
    use TargetErrorKind::*;
    assert_eq!(kinds, [Ok(()), Err(Exists), Err(NotFound), Err(Other), Ok(())]);
    assert!(left_over(&dir.path().join("d")).is_empty());
    assert!(!dir.path().join("d/broken").exists());
}

#[test]
fn large_files_are_written_out_of_order_with_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let size = 3u64 << 30;
    let file = block_on(target.create_file(b"big", size)).unwrap();
    block_on(file.write_at(vec![(size - 4, Bytes::from_static(b"tail"))])).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a file shows before it is complete");
    block_on(file.write_at(vec![(0, Bytes::from_static(b"head")), (1 << 20, Bytes::from_static(b"middle"))])).unwrap();
    assert!(block_on(file.write_at(vec![(size - 1, Bytes::from_static(b"over"))])).is_err());
    assert_eq!(block_on(file.finish(meta(0o4640))).unwrap(), []);
    drop(file);
    let found = fs::metadata(dir.path().join("big")).unwrap();
    assert_eq!((found.len(), found.mode() & 0o7777, found.mtime()), (size, 0o4640, -2));
    assert!(found.blocks() * 512 < 1 << 20, "the holes were filled");
    let back = block_on(target.read_back(vec![(b"big".to_vec(), size - 4..size), (b"big".to_vec(), 0..4)])).unwrap();
    assert_eq!((back[0].as_ref().unwrap().as_ref(), back[1].as_ref().unwrap().as_ref()), (&b"tail"[..], &b"head"[..]));
    drop(block_on(target.create_file(b"abandoned", 10)).unwrap());
    assert!(left_over(dir.path()).is_empty(), "an unfinished file stayed");
    let mut sparse = small(b"sparse", b"", meta(0o600));
    sparse.size = 1 << 30;
    sparse.parts = vec![(1 << 20, Bytes::from_static(b"island"))];
    write(&target, sparse).unwrap();
    let found = fs::metadata(dir.path().join("sparse")).unwrap();
    assert!(found.len() == 1 << 30 && found.blocks() * 512 < 1 << 20);
}

#[test]
fn never_means_never_for_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileTargetOptions { overwrite: Overwrite::Never, ..FileTargetOptions::new(dir.path().to_path_buf()) };
    let target = FileTarget::new(options).unwrap();
    fs::write(dir.path().join("f"), b"mine").unwrap();
    let exists = |error: TargetError| assert_eq!(error.kind, TargetErrorKind::Exists, "{error}");
    exists(write(&target, small(b"f", b"theirs", meta(0o644))).unwrap_err());
    exists(block_on(target.symlink(b"f", b"x", meta(0))).unwrap_err());
    exists(block_on(target.make_node(b"f", NodeKind::Fifo, meta(0o600))).unwrap_err());
    exists(make(&target, b"f").unwrap_err());
    let large = block_on(target.create_file(b"f", 1)).unwrap();
    exists(block_on(large.finish(meta(0o644))).unwrap_err());
    drop(large);
    write(&target, small(b"g", b"new", meta(0o644))).unwrap();
    let link = HardLink { first: b"g".to_vec(), path: b"f".to_vec() };
    exists(block_on(target.hard_links(vec![link])).unwrap().remove(0).unwrap_err());
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"mine");
    assert!(left_over(dir.path()).is_empty());
}

#[test]
fn links_and_directories_replace_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    fs::write(dir.path().join("was a file"), b"x").unwrap();
    assert!(make(&target, b"was a file").unwrap());
    assert!(!make(&target, b"was a file").unwrap());
    let long = vec![b't'; 4095];
    for path in [&b"l"[..], b"l"] {
        assert_eq!(block_on(target.symlink(path, &long, meta(0o777))).unwrap(), []);
    }
    assert_eq!(fs::read_link(dir.path().join("l")).unwrap().as_os_str().as_bytes(), long);
    assert!(block_on(target.symlink(b"m", &[b't'; 4096], meta(0))).is_err());
    write(&target, small(b"first", b"same", meta(0o644))).unwrap();
    fs::write(dir.path().join("third"), b"other").unwrap();
    let link = |first: &[u8], path: &[u8]| HardLink { first: first.to_vec(), path: path.to_vec() };
    let links = vec![
        link(b"first", b"second"),
        link(b"first", b"third"),
        link(b"first", b"third"),
        link(b"l", b"was a file/l2"),
        link(b"none", b"fourth"),
    ];
    let results = block_on(target.hard_links(links)).unwrap();
    assert!(results[..4].iter().all(Result::is_ok) && results[4].is_err(), "{results:?}");
    let first = fs::metadata(dir.path().join("first")).unwrap();
    assert_eq!((first.nlink(), fs::metadata(dir.path().join("third")).unwrap().ino()), (3, first.ino()));
    assert_eq!(fs::symlink_metadata(dir.path().join("l")).unwrap().nlink(), 2);
    assert!(left_over(dir.path()).is_empty());
    let existing = block_on(target.existing(vec![b"first".to_vec(), b"no/where".to_vec(), b"l".to_vec()])).unwrap();
    assert_eq!(existing[0].as_ref().unwrap().unwrap().size, 4);
    assert_eq!(existing[1], Ok(None));
    assert_eq!(existing[2].as_ref().unwrap().unwrap().kind, crate::source::FileKind::Symlink);
}

/// Somebody who is not root restored a tree with a directory of mode 000 for the second time: the directory could not be
/// opened to be made writable, so nothing in it was restored.
#[test]
fn a_closed_directory_is_entered_again_and_closed_again_if_it_is_kept() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root enters a closed directory anyway");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
    for name in ["finished", "kept"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
        assert!(!make(&target, name.as_bytes()).unwrap());
        assert_eq!(write(&target, small(format!("{name}/f").as_bytes(), b"x", meta(0o600))).unwrap(), []);
    }
    assert_eq!(finish(&target, b"finished", meta(0o500)).unwrap(), []);
    block_on(target.sync()).unwrap();
    assert_eq!((mode("finished"), mode("kept")), (0o500, 0));
    for name in ["finished", "kept"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn paths_deeper_than_path_max_and_names_of_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let mut path = Vec::new();
    for level in 0..30u8 {
        path.extend_from_slice(if level == 0 { b"" } else { b"/" });
        path.extend_from_slice(&[200 + level % 50; 254]);
        assert!(make(&target, &path).unwrap());
    }
    path.extend_from_slice(b"/\x01\xff\n");
    write(&target, small(&path, b"deep", meta(0o644))).unwrap();
    let back = block_on(target.read_back(vec![(path.clone(), 0..10)])).unwrap();
    assert_eq!(back[0].as_ref().unwrap(), "deep");
    let mut way = path.clone();
    way.truncate(way.len() - 4);
    way.extend_from_slice(b"/more/way");
    block_on(target.make_parents(&way)).unwrap();
    assert_eq!(finish(&target, &way, meta(0o700)).unwrap(), []);
}

#[test]
fn a_full_target_is_fatal_and_leaves_nothing_half_written() {
    if !is_root("mounting a small file system") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "mover-test"])
        .arg(dir.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this root may not mount");
        return;
    }
    let target = target(dir.path());
    let space = block_on(target.free_space(vec![b"not/there".to_vec()])).unwrap()[0];
    let content = Bytes::from(vec![1; 2 << 20]);
    let file = SmallFile { path: b"f".to_vec(), meta: meta(0o644), size: 2 << 20, parts: vec![(0, content)] };
    let error = write(&target, file).unwrap_err();
    let left = fs::read_dir(dir.path()).unwrap().count();
    let remount = |option: &str| {
        let status = std::process::Command::new("mount").args(["-o", option]).arg(dir.path()).status();
        status.is_ok_and(|status| status.success())
    };
    let read_only = remount("remount,ro").then(|| make(&target, b"d").unwrap_err());
    drop(target);
    let _ = std::process::Command::new("umount").arg(dir.path()).status();
    assert!(space.bytes <= 1 << 20 && space.bytes > 0);
    assert!(error.fatal() && error.kind == TargetErrorKind::Full, "{error}");
    assert_eq!(left, 0);
    assert!(read_only.is_none_or(|error| error.fatal() && error.kind == TargetErrorKind::ReadOnly));
}

//! Names: what stands in the way, how a file gets its own, what a killed run leaves, and the target's own directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;

/// A restore cleared a file that stood where a directory goes before it made the directory; when that failed, the file
/// was gone and nothing was in its place.
#[test]
fn what_stands_where_a_directory_goes_stays_until_the_directory_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let place = |name: &str| dir.path().join(name);
    fs::write(place("file"), b"kept").unwrap();
    symlink("nowhere", place("link")).unwrap();
    for name in ["file", "link"] {
        let kept = block_on(target.make_directories(vec![name.into()], false)).unwrap().remove(0).unwrap_err();
        assert_eq!(kept.kind, TargetErrorKind::Exists, "{kept}");
    }
    assert_eq!(fs::read(place("file")).unwrap(), b"kept");
    if !rustix::process::geteuid().is_root() {
        // Nothing can be made in here, so nothing may go either.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        assert!(make(&target, b"file").is_err());
        assert_eq!(fs::read(place("file")).unwrap(), b"kept");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["file", "link"] {
        assert!(make(&target, name.as_bytes()).unwrap());
        assert!(fs::symlink_metadata(place(name)).unwrap().is_dir(), "{name}");
    }
    assert!(left_over(dir.path()).is_empty());
}

/// A restore that was refused said "nothing was written" and had made its target directory.
#[test]
fn a_missing_target_is_made_with_the_first_thing_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("not/there");
    let target = target(&place);
    assert!(block_on(target.free_space(vec![b"a/b".to_vec()])).unwrap()[0].bytes > 0);
    assert_eq!(block_on(target.existing(vec![Vec::new(), b"a".to_vec()])).unwrap(), [Ok(None), Ok(None)]);
    block_on(target.sync()).unwrap();
    assert!(!dir.path().join("not").exists());
    assert!(make(&target, b"a").unwrap());
    assert!(place.join("a").is_dir());
    block_on(target.sync()).unwrap();
}

#[test]
fn a_target_that_cannot_be_one_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    symlink("nowhere", dir.path().join("link")).unwrap();
    let refused = |path: &str| {
        let options = FileTargetOptions::new(dir.path().join(path));
        FileTarget::new(options).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused("file").ends_with("it is a file, not a directory"), "{}", refused("file"));
    assert!(refused("file/below").contains("a file stands where"), "{}", refused("file/below"));
    assert!(refused("link").contains("symbolic link"), "{}", refused("link"));
}

/// Files get their names in one step, whether the file system can do without a name before that or not, and whether
/// there is something to be replaced or not.
#[test]
fn every_way_to_a_name_gives_the_same_files() {
    for naming in [Naming::Descriptor, Naming::Proc, Naming::Impossible] {
        let dir = tempfile::tempdir().unwrap();
        let probed = Naming::probe(fs::File::open(dir.path()).unwrap().as_fd());
        if probed == Naming::Impossible || (naming == Naming::Descriptor && probed == Naming::Proc) {
            eprintln!("skipped: {naming:?} does not work here");
            continue;
        }
        let target = target(dir.path());
        target.inner.naming.set(naming).unwrap();
        for content in [&b"first"[..], b"second"] {
            let files = [b"a", b"b", b"c"].map(|path| small(path, content, meta(0o640)));
            assert!(block_on(target.write_files(files.to_vec())).unwrap().iter().all(|done| *done == Ok(Vec::new())));
            let large = block_on(target.create_file(b"large", 6)).unwrap();
            block_on(large.write_at(vec![(0, Bytes::from_static(content))])).unwrap();
            block_on(large.finish(meta(0o604))).unwrap();
            for name in ["a", "b", "c", "large"] {
                let found = fs::read(dir.path().join(name)).unwrap();
                assert_eq!(&found[..content.len()], content, "{naming:?} {name}");
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "{naming:?}");
    }
}

/// A killed restore left its temporary names for good, except private files: small files have their final mode from the
/// start, and links, nodes and further names were never looked at.
#[test]
fn temporaries_of_a_dead_run_are_swept_whatever_they_are_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d");
    fs::create_dir(&directory).unwrap();
    let place = |name: &str| directory.join(name);
    // The largest process id is 2^22, so 7fffffff never lives.
    let dead = |number: u32| place(&format!(".mover-7fffffff{number:08x}"));
    for (number, mode) in [(1, 0o600), (2, 0o644), (3, 0o000)] {
        fs::write(dead(number), b"half").unwrap();
        fs::set_permissions(dead(number), fs::Permissions::from_mode(mode)).unwrap();
    }
    // With the time of its file in the recovery point, which may lie anywhere.
    fs::File::options()
        .write(true)
        .open(dead(1))
        .unwrap()
        .set_modified(UNIX_EPOCH + Duration::from_secs(1 << 32))
        .unwrap();
    symlink("nowhere", dead(4)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dead(5), FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::write(place("file"), b"whole").unwrap();
    fs::hard_link(place("file"), dead(6)).unwrap();
    fs::create_dir(dead(7)).unwrap();
    let alive = format!(".mover-{:08x}00000001", std::process::id());
    let others = [".mover-7fffffff0000000", ".mover-7fffffff000000010", ".mover-notes", alive.as_str()];
    others.iter().for_each(|name| fs::write(place(name), b"").unwrap());
    fs::create_dir_all(dead(8).join("with something in it")).unwrap();
    // The clock that files get their times from ticks a few milliseconds late, never early.
    std::thread::sleep(Duration::from_millis(20));
    let target = target(dir.path());
    std::thread::sleep(Duration::from_millis(20));
    fs::write(dead(9), b"came after the run began").unwrap();
    assert!(!make(&target, b"d").unwrap());
    let mut left = left_over(&directory);
    left.sort();
    let kept = [dead(8), dead(9)].map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let mut expected: Vec<String> = others.iter().map(|name| (*name).to_owned()).chain(kept).collect();
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(fs::read(place("file")).unwrap(), b"whole");
    // The way to a fileset that is a single file is swept too.
    drop(target);
    std::thread::sleep(Duration::from_millis(20));
    block_on(self::target(dir.path()).make_parents(b"d")).unwrap();
    assert!(!dead(9).exists());
}

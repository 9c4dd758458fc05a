//! The file source on a real file system. What needs root says so when it is left out.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use futures_lite::future::block_on;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};

use super::file::{ExcludedInode, FileSource, FileSourceOptions, OpenSourceError, absolute_path};
use super::filter::{FilterOptions, FilterRule};
use super::*;

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}

fn source(path: &Path) -> FileSource {
    FileSource::new(FileSourceOptions::new(vec![path.to_path_buf()])).unwrap()
}

fn filtered(path: &Path, filter: FilterOptions) -> FileSource {
    FileSource::new(FileSourceOptions { filter, ..FileSourceOptions::new(vec![path.to_path_buf()]) }).unwrap()
}

fn names(listing: &Listing) -> Vec<&[u8]> {
    listing.entries.iter().map(|entry| entry.name.as_slice()).collect()
}

fn read(source: &FileSource, path: &[u8]) -> Result<(FileRead, Vec<u8>), SourceError> {
    let stat = block_on(Source::stat(source, 0, path)).unwrap();
    read_as(source, path, stat)
}

fn read_as(source: &FileSource, path: &[u8], stat: Stat) -> Result<(FileRead, Vec<u8>), SourceError> {
    let request = FileRequest { path: path.to_vec(), stat };
    let room = Vec::with_capacity(stat.size as usize);
    let mut all = block_on(source.read_files(0, vec![request], room)).unwrap();
    let file = all.files.remove(0)?;
    let bytes = all.buffer[file.range.clone()].to_vec();
    Ok((file, bytes))
}

#[test]
fn a_directory_is_listed_sorted_with_any_bytes_and_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let long = [b'n'; 255];
    let odd: &[u8] = b"\x01\n\xff\xfe";
    for name in [&b"a"[..], b"a-b", b"a.b", &long, odd] {
        fs::write(dir.path().join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    fs::create_dir(dir.path().join("d")).unwrap();
    symlink("nowhere", dir.path().join("l")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("p"), Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let source = source(dir.path());
    let listing = block_on(source.list(0, b"")).unwrap();
    assert_eq!(names(&listing), [odd, b"a", b"a-b", b"a.b", b"d", b"l", &long, b"p", b"s"]);
    let kinds: Vec<FileKind> = listing.entries[4..].iter().map(|entry| entry.stat.kind).collect();
    use FileKind::*;
    assert_eq!(kinds, [Directory, Symlink, File, Fifo, Socket]);
    assert!(listing.errors.is_empty() && listing.more.is_none());
    assert_eq!(block_on(source.root(0)).unwrap().stat.inode, fs::metadata(dir.path()).unwrap().ino());
}

#[test]
fn stats_carry_set_id_bits_and_nanoseconds_before_1970() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o7751)).unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: -2, tv_nsec: 123_456_789 },
    };
    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty()).unwrap();
    let stat = block_on(Source::stat(&source(dir.path()), 0, b"old")).unwrap();
    assert_eq!((stat.mode, stat.mtime), (0o7751, UnixNanos(-1_876_543_211)));
}

#[test]
fn files_are_read_whole_into_one_recycled_buffer() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("x/y")).unwrap();
    fs::write(dir.path().join("x/one"), b"first").unwrap();
    fs::write(dir.path().join("x/y/two"), b"").unwrap();
    fs::write(dir.path().join("three"), vec![3; 70_000]).unwrap();
    let source = source(dir.path());
    let paths = [&b"x/one"[..], b"x/y/two", b"three"];
    let request =
        |path: &&[u8]| FileRequest { path: path.to_vec(), stat: block_on(Source::stat(&source, 0, path)).unwrap() };
    let buffer = vec![9; 100_000];
    let (place, capacity) = (buffer.as_ptr(), buffer.capacity());
    let all = block_on(source.read_files(0, paths.iter().map(request).collect(), buffer)).unwrap();
    let ranges: Vec<_> = all.files.iter().map(|file| file.as_ref().unwrap().range.clone()).collect();
    assert_eq!(ranges, [0..5, 5..5, 5..70_005]);
    assert_eq!(&all.buffer[..5], b"first");
    assert!(all.files.iter().flatten().all(|file| file.before.unchanged(&file.after) && file.spans.is_empty()));
    assert_eq!((all.buffer.as_ptr(), all.buffer.capacity()), (place, capacity), "the buffer was replaced");
}

#[test]
fn vanished_replaced_and_grown_files_fail_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    for name in ["gone", "replaced", "link", "grown", "good"] {
        fs::write(dir.path().join(name), b"1234").unwrap();
    }
    let listing = block_on(source.list(0, b"")).unwrap();
    let requests: Vec<FileRequest> =
        listing.entries.iter().map(|entry| FileRequest { path: entry.name.clone(), stat: entry.stat }).collect();
    fs::remove_file(dir.path().join("gone")).unwrap();
    fs::write(dir.path().join("new"), b"5678").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("replaced")).unwrap();
    fs::remove_file(dir.path().join("link")).unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    fs::write(dir.path().join("grown"), vec![b'g'; 1000]).unwrap();
    let all = block_on(source.read_files(0, requests, Vec::with_capacity(20))).unwrap();
    let kinds: Vec<_> = all.files.iter().map(|file| file.as_ref().map_err(|error| error.kind).map(|_| ())).collect();
    use SourceErrorKind::*;
    // By name: gone, good, grown, link, replaced.
    assert_eq!(kinds, [Err(Vanished), Ok(()), Err(Changed), Err(Changed), Err(Changed)]);
    assert_eq!(all.buffer, b"1234", "a file that fails leaves no bytes");
}

#[test]
fn a_file_that_shrinks_is_not_padded_and_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, vec![1; 10_000]).unwrap();
    let source = source(dir.path());
    let listed = block_on(Source::stat(&source, 0, b"f")).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(3000).unwrap();
    let (file, bytes) = read_as(&source, b"f", listed).unwrap();
    assert_eq!(bytes, vec![1; 3000]);
    assert!(!listed.unchanged(&file.before), "the caller sees that it is not what was listed");
    let large = block_on(source.open_file(0, b"f", &listed)).unwrap();
    assert_eq!(block_on(large.read_at(1000, 5000, Vec::new())).unwrap().len(), 2000);
    fs::write(&path, vec![2; 50]).unwrap();
    assert!(!listed.unchanged(&block_on(large.stat()).unwrap()));
    assert_eq!(block_on(large.read_at(1000, 5000, Vec::new())).unwrap().len(), 0);
}

#[test]
fn reading_leaves_atime_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, b"bytes").unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 2000, tv_nsec: 0 },
    };
    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty()).unwrap();
    read(&source(dir.path()), b"f").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().atime(), 1000);
}

#[test]
fn a_hole_of_three_gib_costs_no_reads() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("sparse")).unwrap();
    file.set_len(3 << 30).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(b"tail", (3 << 30) - 4).unwrap();
    let source = source(dir.path());
    let stat = block_on(Source::stat(&source, 0, b"sparse")).unwrap();
    assert!(stat.may_have_holes());
    let open = block_on(source.open_file(0, b"sparse", &stat)).unwrap();
    let spans = block_on(open.spans(0..u64::MAX)).unwrap();
    let data: u64 = spans.iter().map(|span| if let Span::Data { bytes, .. } = span { *bytes } else { 0 }).sum();
    let all: u64 = spans
        .iter()
        .map(|span| match span {
            Span::Data { bytes, .. } | Span::Hole { bytes, .. } => *bytes,
        })
        .sum();
    assert_eq!((data, all), (8192, 3 << 30));
    let Some(Span::Data { offset, .. }) = spans.last().copied() else { panic!("{spans:?}") };
    let tail = block_on(open.read_at(offset, 1 << 20, Vec::new())).unwrap();
    assert_eq!((tail.len(), &tail[tail.len() - 4..]), (4096, &b"tail"[..]));
    // The same file through the batch call: the holes are no bytes of the buffer.
    let request = FileRequest { path: b"sparse".to_vec(), stat };
    let all = block_on(source.read_files(0, vec![request], Vec::with_capacity(8192))).unwrap();
    let read = all.files[0].as_ref().unwrap();
    assert_eq!((all.buffer.len(), read.spans.len()), (8192, 3));
}

#[test]
fn xattrs_and_acls_come_with_every_kind_of_entry() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    fs::write(&file, b"x").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    symlink(OsStr::from_bytes(b"/a/target \xff"), dir.path().join("l")).unwrap();
    let big = vec![7u8; 3000];
    if rustix::fs::setxattr(&file, "user.big", &big, XattrFlags::empty()).is_err() {
        eprintln!("skipped: the temporary directory has no extended attributes");
        return;
    }
    rustix::fs::setxattr(dir.path().join("d"), "user.empty", b"", XattrFlags::empty()).unwrap();
    let mut expected = vec![(b"user.big".to_vec(), big)];
    if is_root("trusted and security attributes") {
        rustix::fs::setxattr(&file, "trusted.t", b"1", XattrFlags::empty()).unwrap();
        rustix::fs::lsetxattr(dir.path().join("l"), "trusted.link", b"2", XattrFlags::empty()).unwrap();
        expected.insert(0, (b"trusted.t".to_vec(), b"1".to_vec()));
    }
    let source = source(dir.path());
    assert_eq!(read(&source, b"f").unwrap().0.xattrs, expected);
    assert_eq!(block_on(source.attributes(0, b"f", FileKind::File)).unwrap().xattrs, expected);
    let empty = vec![(b"user.empty".to_vec(), Vec::new())];
    assert_eq!(block_on(source.attributes(0, b"d", FileKind::Directory)).unwrap().xattrs, empty);
    assert_eq!(block_on(source.list(0, b"d")).unwrap().attributes.unwrap().xattrs, empty);
    let link = block_on(source.attributes(0, b"l", FileKind::Symlink)).unwrap();
    assert_eq!(link.link_target.unwrap(), b"/a/target \xff");
    assert_eq!(link.xattrs.len(), usize::from(rustix::process::geteuid().is_root()));
    let wrong = block_on(source.attributes(0, b"d", FileKind::File)).unwrap_err();
    assert_eq!(wrong.kind, SourceErrorKind::Changed);
}

#[test]
fn symlinks_of_4095_bytes_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let target = [b't'; 4095];
    symlink(OsStr::from_bytes(&target), dir.path().join("l")).unwrap();
    let found = block_on(source(dir.path()).attributes(0, b"l", FileKind::Symlink)).unwrap();
    assert_eq!(found.link_target.unwrap(), target);
}

#[test]
fn paths_deeper_than_path_max_are_listed_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let name = [b'd'; 250];
    let mut at: OwnedFd = File::open(dir.path()).unwrap().into();
    let mut path = Vec::new();
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, &name[..], Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name[..], OFlags::RDONLY, Mode::empty()).unwrap();
        path.extend_from_slice(&name);
        path.push(b'/');
    }
    let file = rustix::fs::openat(&at, "deep", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
    rustix::io::write(file, b"down here").unwrap();
    let source = source(dir.path());
    let listing = block_on(source.list(0, &path[..path.len() - 1])).unwrap();
    assert_eq!(names(&listing), [b"deep"]);
    path.extend_from_slice(b"deep");
    assert_eq!(read(&source, &path).unwrap().1, b"down here");
    assert!(block_on(source.attributes(0, &path, FileKind::File)).is_ok());
}

#[test]
fn a_link_in_place_of_a_directory_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc", dir.path().join("d")).unwrap();
    let source = source(dir.path());
    assert_eq!(block_on(source.list(0, b"d")).unwrap_err().kind, SourceErrorKind::Changed);
    assert!(block_on(Source::stat(&source, 0, b"d/passwd")).is_err());
    assert!(block_on(source.list(0, b"../")).is_err());
}

#[test]
fn the_path_argument_may_be_a_link_or_a_file_and_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    fs::write(dir.path().join("real/f"), b"alone").unwrap();
    symlink("real", dir.path().join("alias")).unwrap();
    let by_link = source(&dir.path().join("alias"));
    assert_eq!(names(&block_on(by_link.list(0, b"")).unwrap()), [b"f"]);
    assert_eq!(by_link.fileset(0).root_path, dir.path().join("alias").as_os_str().as_bytes());
    let single = source(&dir.path().join("alias/f"));
    assert_eq!(block_on(single.root(0)).unwrap().stat.kind, FileKind::File);
    assert_eq!(read(&single, b"").unwrap().1, b"alone");
    let missing = FileSource::new(FileSourceOptions::new(vec![dir.path().join("none")])).unwrap_err();
    assert!(matches!(&missing, OpenSourceError::Path(error) if error.kind == SourceErrorKind::Vanished), "{missing}");
    assert_eq!(absolute_path(Path::new("/a/./b//../c")).unwrap(), Path::new("/a/c"));
}

#[test]
fn filters_leave_out_and_count() {
    let dir = tempfile::tempdir().unwrap();
    for directory in ["cache", "fake", "marked", "keep"] {
        fs::create_dir(dir.path().join(directory)).unwrap();
        fs::write(dir.path().join(directory).join("data.o"), b"12345").unwrap();
    }
    fs::write(dir.path().join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
    fs::write(dir.path().join("fake/CACHEDIR.TAG"), b"Signature: none").unwrap();
    fs::write(dir.path().join("marked/.nobackup"), b"").unwrap();
    fs::write(dir.path().join("keep/large"), vec![0; 2000]).unwrap();
    let filter = FilterOptions {
        rules: vec![FilterRule::Exclude("keep/*.o".into())],
        exclude_caches: true,
        exclude_if_present: vec![b".nobackup".to_vec()],
        bytes_max: Some(1000),
        name_excluded: true,
        ..FilterOptions::default()
    };
    let source = filtered(dir.path(), filter);
    let cache = block_on(source.list(0, b"cache")).unwrap();
    assert_eq!((names(&cache), cache.excluded.entries), (vec![&b"CACHEDIR.TAG"[..]], 1));
    assert_eq!(names(&block_on(source.list(0, b"fake")).unwrap()), [&b"CACHEDIR.TAG"[..], b"data.o"]);
    assert_eq!(names(&block_on(source.list(0, b"marked")).unwrap()), [b".nobackup"]);
    let keep = block_on(source.list(0, b"keep")).unwrap();
    assert!(keep.entries.is_empty());
    assert_eq!((keep.excluded.entries, keep.excluded.bytes), (2, 2005));
    let mut paths = keep.excluded.paths;
    paths.sort();
    assert_eq!(paths, [b"keep/data.o".to_vec(), b"keep/large".to_vec()]);
}

#[test]
fn the_repository_inside_the_tree_is_left_out_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("repo")).unwrap();
    let meta = fs::metadata(dir.path().join("repo")).unwrap();
    let excluded =
        ExcludedInode { device: meta.dev(), inode: meta.ino(), note: "the repository itself, left out".into() };
    let mut options = FileSourceOptions::new(vec![dir.path().to_path_buf()]);
    options.excluded_inodes.push(excluded);
    let listing = block_on(FileSource::new(options).unwrap().list(0, b"")).unwrap();
    assert!(listing.entries.is_empty() && listing.excluded.entries == 1);
    assert!(listing.notes[0].ends_with("repo: the repository itself, left out"), "{:?}", listing.notes);
}

#[test]
fn other_file_systems_are_not_entered_on_request() {
    let filter = FilterOptions { one_file_system: true, ..FilterOptions::default() };
    let source = filtered(Path::new("/"), filter);
    let root = block_on(source.root(0)).unwrap();
    let listing = block_on(source.list(0, b"")).unwrap();
    let proc = listing.entries.iter().find(|entry| entry.name == b"proc").expect("/proc is there");
    assert_ne!(proc.stat.device, root.stat.device);
    let inside = block_on(source.list(0, b"proc")).unwrap();
    assert!(inside.entries.is_empty() && inside.excluded.entries == 1);
}

#[test]
fn a_huge_directory_comes_in_sorted_parts() {
    let dir = tempfile::tempdir().unwrap();
    let at = File::open(dir.path()).unwrap();
    let count = LISTING_ENTRIES_MAX * 2 + 100;
    for number in 0..count {
        let name = format!("{:08x}", (number as u32).wrapping_mul(2_654_435_761));
        rustix::fs::mknodat(&at, name, rustix::fs::FileType::RegularFile, Mode::RUSR, 0).unwrap();
    }
    let mut options = FileSourceOptions::new(vec![dir.path().to_path_buf()]);
    options.scratch = std::sync::Arc::new(crate::scratch::MemoryScratch::default());
    let source = FileSource::new(options).unwrap();
    let mut listing = block_on(source.list(0, b"")).unwrap();
    let (mut all, mut parts) = (Vec::new(), 0);
    loop {
        parts += 1;
        assert!(listing.entries.len() <= LISTING_ENTRIES_MAX && listing.errors.is_empty());
        all.extend(listing.entries.iter().map(|entry| entry.name.clone()));
        let Some(more) = listing.more.take() else { break };
        listing = block_on(more.next()).unwrap();
    }
    assert_eq!((parts, all.len()), (3, count));
    assert!(all.is_sorted_by(|a, b| a < b));
}

#[test]
fn an_unreadable_file_is_an_error_of_that_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), b"x").unwrap();
    fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let found = read(&source(dir.path()), b"secret");
    match rustix::process::geteuid().is_root() {
        true => assert_eq!(found.unwrap().1, b"x", "root reads everything"),
        false => assert_eq!(found.unwrap_err().kind, SourceErrorKind::PermissionDenied),
    }
}

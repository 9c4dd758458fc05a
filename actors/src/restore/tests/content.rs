//! What was backed up comes back: bytes, holes, links, attributes, several filesets.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use mover_repository::manifest::Kind;

use super::fixture::{Fixture, Part, at, names_below, noise, restore};

#[test]
fn files_of_all_sizes_come_back() {
    let mut fixture = Fixture::new();
    fixture.directory("a");
    fixture.directory("a/b");
    fixture.small("a/one", b"one");
    fixture.small("a-one", b"a-one");
    fixture.small("a/b/long name with \n newline", &noise(1, 70_000));
    fixture.file("empty", &[]);
    let large: Vec<Part> = (0..40).map(|at| Part::Chunk(noise(100 + at, 300_000))).collect();
    fixture.file("large", &large);
    fixture.entry("link", Kind::Symlink { target: b"../no/where".to_vec() }, 0o777);
    fixture.entry("pipe", Kind::Fifo, 0o600);
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    let read = |path| std::fs::read(at(directory.path(), path)).unwrap();
    assert_eq!(read("a/one"), b"one");
    assert_eq!(read("a-one"), b"a-one");
    assert_eq!(read("a/b/long name with \n newline"), noise(1, 70_000));
    assert_eq!(read("empty"), b"");
    let expected: Vec<u8> = (0..40).flat_map(|at| noise(100 + at, 300_000)).collect();
    assert!(read("large") == expected);
    assert_eq!(std::fs::read_link(at(directory.path(), "link")).unwrap().to_str(), Some("../no/where"));
    let totals = report.totals;
    assert_eq!((totals.files, totals.directories, totals.symlinks, totals.nodes), (5, 3, 1, 1));
    assert_eq!(totals.bytes, 3 + 5 + 70_000 + 40 * 300_000);
    assert_eq!(totals.bytes_written, totals.bytes);
}

#[test]
fn directories_get_their_own_times_and_modes_after_their_files() {
    let mut fixture = Fixture::new();
    fixture.entry("closed", Kind::Directory, 0o000);
    fixture.entry("closed/inner", Kind::Directory, 0o500);
    fixture.small("closed/inner/f", b"content");
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    let closed = std::fs::metadata(at(directory.path(), "closed")).unwrap();
    assert_eq!(closed.permissions().mode() & 0o7777, 0);
    let expected = Fixture::meta("closed", 0, 0).mtime.0;
    assert_eq!(i128::from(closed.mtime()) * 1_000_000_000 + i128::from(closed.mtime_nsec()), expected);
    std::fs::set_permissions(at(directory.path(), "closed"), PermissionsExt::from_mode(0o700)).unwrap();
    let inner = std::fs::metadata(at(directory.path(), "closed/inner")).unwrap();
    assert_eq!(inner.permissions().mode() & 0o7777, 0o500);
    let file = std::fs::metadata(at(directory.path(), "closed/inner/f")).unwrap();
    assert_eq!(file.mtime_nsec() as i128, Fixture::meta("closed/inner/f", 0, 0).mtime.0 % 1_000_000_000);
    // The way from the target to the fileset has ordinary modes.
    let above = std::fs::metadata(directory.path().join("src")).unwrap();
    assert_eq!(above.permissions().mode() & 0o777, 0o755 & !umask());
}

fn umask() -> u32 {
    0
}

#[test]
fn holes_stay_holes_and_cost_nothing() {
    let mut fixture = Fixture::new();
    fixture.file("all-hole", &[Part::Hole(3 << 30)]);
    fixture.file("mixed", &[Part::Hole(1 << 30), Part::Chunk(noise(1, 8192)), Part::Hole(1 << 20)]);
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.totals.bytes_written, 8192);
    let all = std::fs::metadata(at(directory.path(), "all-hole")).unwrap();
    assert_eq!((all.len(), all.blocks()), (3 << 30, 0));
    let mixed = std::fs::metadata(at(directory.path(), "mixed")).unwrap();
    assert_eq!(mixed.len(), (1 << 30) + 8192 + (1 << 20));
    assert!(mixed.blocks() * 512 < 1 << 20, "{} blocks", mixed.blocks());
    let mut read = vec![0; 8192];
    let file = std::fs::File::open(at(directory.path(), "mixed")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 1 << 30).unwrap();
    assert_eq!(read, noise(1, 8192));
}

#[test]
fn a_chunk_in_many_files_is_read_once_and_written_everywhere() {
    let mut fixture = Fixture::new();
    let shared = noise(5, 200_000);
    for number in 0..300 {
        fixture.small(&format!("copy{number:03}"), &shared);
    }
    // The same chunk several times in one file, beside others.
    let parts = [Part::Chunk(shared.clone()), Part::Chunk(noise(6, 1000)), Part::Chunk(shared.clone())];
    fixture.file("twice", &parts);
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.totals.requests, 1);
    for number in 0..300 {
        assert!(std::fs::read(at(directory.path(), &format!("copy{number:03}"))).unwrap() == shared);
    }
    let twice = [shared.as_slice(), &noise(6, 1000), &shared].concat();
    assert!(std::fs::read(at(directory.path(), "twice")).unwrap() == twice);
}

#[test]
fn hard_links_are_links_again() {
    let mut fixture = Fixture::new();
    fixture.directory("d");
    fixture.directory("z");
    fixture.small("d/first", b"linked").meta.links = 3;
    for path in ["d/second", "z/third"] {
        let entry = fixture.entry(path, Kind::HardLink { first: b"d/first".to_vec() }, 0o640);
        entry.meta.links = 3;
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.totals.hard_links, 2);
    let inode = |path| std::fs::metadata(at(directory.path(), path)).unwrap().ino();
    assert_eq!(inode("d/first"), inode("d/second"));
    assert_eq!(inode("d/first"), inode("z/third"));
    // Links are made before the directory that holds them gets its time.
    let expected = Fixture::meta("z", 0, 0).mtime.0;
    let directory = std::fs::metadata(at(directory.path(), "z")).unwrap();
    assert_eq!(i128::from(directory.mtime()) * 1_000_000_000 + i128::from(directory.mtime_nsec()), expected);
}

#[test]
fn links_whose_first_name_is_not_selected_get_the_content_once() {
    let mut fixture = Fixture::new();
    fixture.directory("d");
    fixture.directory("z");
    fixture.small("d/first", b"linked").meta.links = 3;
    for path in ["z/second", "z/third"] {
        fixture.entry(path, Kind::HardLink { first: b"d/first".to_vec() }, 0o640).meta.links = 3;
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.paths = vec![b"z".to_vec()];
    let report = restore(job);

    assert!(report.is_clean(), "{report:?}");
    assert_eq!(
        names_below(directory.path()),
        ["src", "src/tree", "src/tree/z", "src/tree/z/second", "src/tree/z/third"]
    );
    assert_eq!(std::fs::read(at(directory.path(), "z/third")).unwrap(), b"linked");
    let inode = |path| std::fs::metadata(at(directory.path(), path)).unwrap().ino();
    assert_eq!(inode("z/second"), inode("z/third"));
}

#[test]
fn filesets_land_beside_each_other_and_a_stream_at_its_name() {
    let mut fixture = Fixture::new();
    fixture.small("f", b"tree");
    fixture.seal_fileset("/src/tree");
    fixture.small("", b"a single file");
    fixture.seal_fileset("/etc/single.conf");
    fixture.small("", b"stream");
    fixture.seal_fileset("dump.sql");
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    let names = ["dump.sql", "etc", "etc/single.conf", "src", "src/tree", "src/tree/f"];
    assert_eq!(names_below(directory.path()), names);
    assert_eq!(std::fs::read(directory.path().join("dump.sql")).unwrap(), b"stream");
    assert_eq!(std::fs::read(directory.path().join("etc/single.conf")).unwrap(), b"a single file");
}

#[test]
fn a_file_longer_than_many_windows_comes_back() {
    let mut fixture = Fixture::new();
    let parts: Vec<Part> = (0..9000).map(|at| Part::Chunk(noise(at, 5000))).collect();
    fixture.file("long", &parts);
    for number in 0..3000 {
        fixture.small(&format!("small{number:04}"), &noise(1_000_000 + number, 40));
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    // An eighth of this is the plan: 1 MiB, far less than the file's list of chunks.
    job.memory_bytes = 8 << 20;
    job.verify = true;
    let report = restore(job);

    assert!(report.is_clean(), "{report:?}");
    let expected: Vec<u8> = (0..9000).flat_map(|at| noise(at, 5000)).collect();
    assert!(std::fs::read(at(directory.path(), "long")).unwrap() == expected);
    assert_eq!(std::fs::read(at(directory.path(), "small2999")).unwrap(), noise(1_002_999, 40));
    let verified = report.verified.unwrap();
    assert_eq!((verified.files, verified.bytes), (3001, 9000 * 5000 + 3000 * 40));
}

//! How a restore works, counted: requests, what is in flight, what a damaged pipe would do to memory.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::index::Index;

use mover_repository::ids::UnixNanos;
use mover_repository::io::Pool;

use super::fixture::{Fixture, Part, at, noise, restore};
use crate::progress::Progress;
use crate::restore::closing::{Closing, ClosingList};
use crate::restore::dump::dump_file;
use crate::restore::report::Tally;
use crate::restore::site::Site;
use crate::restore::target::{Overwrite, TargetMeta};
use crate::restore::window::RANGE_BYTES_MAX;
use crate::runtime::KillSwitch;
use crate::scratch::default_scratch;

#[test]
fn neighbouring_files_are_read_in_large_ranges() {
    let mut fixture = Fixture::new();
    for number in 0..400 {
        fixture.small(&format!("f{number:03}"), &noise(number, 200_000));
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let mut job = fixture.job(&point, directory.path());
    job.memory_bytes = 1 << 30;
    let report = restore(job);

    assert!(report.is_clean(), "{report:?}");
    let bytes = 400 * 200_000;
    let fewest = bytes / RANGE_BYTES_MAX as u64 + 1;
    let packs = fixture.packs.len() as u64;
    // The first windows are small on purpose, and a range ends with its pack and its window.
    assert!(report.totals.requests <= fewest + packs + 8, "{} requests, {fewest} is the least", report.totals.requests);
    assert!(report.totals.bytes_read < bytes + bytes / 20, "{} bytes read", report.totals.bytes_read);
}

#[test]
fn f29_many_ranges_of_one_large_file_are_in_flight() {
    let mut fixture = Fixture::new();
    let parts: Vec<Part> = (0..160).map(|at| Part::Chunk(noise(at, 1 << 20))).collect();
    fixture.file("large", &parts);
    let point = fixture.finish();
    fixture.backend.delay_ms.store(40, Ordering::SeqCst);
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    assert_eq!(std::fs::metadata(at(directory.path(), "large")).unwrap().len(), 160 << 20);
    assert!(fixture.backend.in_flight_max() >= 8, "{} in flight", fixture.backend.in_flight_max());
}

#[test]
fn f29_dump_reads_ahead_and_writes_in_order() {
    let mut fixture = Fixture::new();
    let mut parts: Vec<Part> = (0..100).map(|at| Part::Chunk(noise(at, 300_000))).collect();
    parts.insert(50, Part::Hole(200_000));
    fixture.file("large", &parts);
    let point = fixture.finish();
    let history = block_on(fixture.repository.history()).unwrap();
    let index = block_on(Index::load(&fixture.repository, &history, 32 << 20)).unwrap();
    let chunks = Arc::new(ChunkReader::new(&fixture.repository, index, 8 << 20));
    fixture.backend.reset();
    fixture.backend.delay_ms.store(20, Ordering::SeqCst);
    let mut out: Vec<u8> = Vec::new();
    let write = async |bytes: Bytes| {
        out.extend_from_slice(&bytes);
        Ok(())
    };
    let bytes = block_on(dump_file(&chunks, &point.filesets[0].root, b"large", 16 << 20, write)).unwrap();

    assert_eq!(bytes, 100 * 300_000 + 200_000);
    let before: Vec<u8> = (0..50).flat_map(|at| noise(at, 300_000)).collect();
    let after: Vec<u8> = (50..100).flat_map(|at| noise(at, 300_000)).collect();
    assert!(out == [before, vec![0; 200_000], after].concat());
    assert!(fixture.backend.in_flight_max() >= 8, "{} in flight", fixture.backend.in_flight_max());

    let gone = block_on(dump_file(&chunks, &point.filesets[0].root, b"none", 1 << 20, async |_| Ok(())));
    assert!(gone.unwrap_err().to_string().contains("no such path"));
}

#[test]
fn the_smallest_budget_moves_a_huge_file_and_many_small_ones() {
    let mut fixture = Fixture::new();
    // Compressible: what a range turns into is far more than what is read.
    let parts: Vec<Part> = (0..200u32)
        .map(|at| Part::Chunk((0..1 << 18).flat_map(|word: u32| (at ^ (word >> 6)).to_le_bytes()).collect()))
        .collect();
    fixture.file("a-huge", &parts);
    for number in 0..4000u32 {
        fixture.small(&format!("small{number:04}"), &number.to_le_bytes().repeat(20));
    }
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let report = restore(fixture.job(&point, directory.path()));

    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.totals.files, 4001);
    assert_eq!(std::fs::metadata(at(directory.path(), "a-huge")).unwrap().len(), 200 << 20);
}

#[test]
fn what_waits_for_the_end_is_bounded_in_memory_and_keeps_its_order() {
    let mut fixture = Fixture::new();
    let point = fixture.finish();
    let directory = tempfile::tempdir().unwrap();
    let target = fixture.job(&point, directory.path()).target;
    let site = Site {
        target: target.clone(),
        backend: fixture.repository.backend().clone(),
        tally: Arc::new(Tally::default()),
        progress: Progress::new(),
        kill: KillSwitch::new(),
    };
    let path = |number: usize| format!("d{:02}/e{number:04}", number / 100).into_bytes();
    let mut list = ClosingList::new(default_scratch(), Pool::new("plan", 1), 8 << 10);
    for number in 0..3000 {
        let mode = 0o100 + number as u32 % 0o700;
        let xattrs = vec![(b"user.number".to_vec(), number.to_string().into_bytes())];
        let meta = TargetMeta { mode, mtime: UnixNanos(-5_000_000_000), xattrs, ..meta_of_this_user() };
        if number % 100 == 0 {
            block_on(target.make_directories(vec![path(number)[..3].to_vec()], true)).unwrap();
            let above =
                Closing::Directory { path: path(number)[..3].to_vec(), meta: TargetMeta { mode: 0, ..meta.clone() } };
            block_on(list.push(above)).unwrap();
        }
        block_on(target.make_directories(vec![path(number)], true)).unwrap();
        block_on(list.push(Closing::Directory { path: path(number), meta })).unwrap();
    }
    assert!(list.spilled_bytes() > 100 << 10, "{} bytes spilled", list.spilled_bytes());
    block_on(list.close(&site, Overwrite::Always)).unwrap();

    assert_eq!(site.tally.report().problems_count, 0);
    for above in std::fs::read_dir(directory.path()).unwrap() {
        let above = above.unwrap().path();
        assert_eq!(std::fs::metadata(&above).unwrap().mode() & 0o7777, 0);
        std::fs::set_permissions(&above, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    for number in 0..3000 {
        let shown = String::from_utf8(path(number)).unwrap();
        let found = std::fs::metadata(directory.path().join(&shown)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o100 + number as u32 % 0o700, -5), "{shown}");
    }
}

fn meta_of_this_user() -> TargetMeta {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    TargetMeta { uid, gid, ..TargetMeta::default() }
}

//! The local store under test: atomic names, durability counted in syncs, poisoned writers.

use super::*;
use futures_lite::future::block_on;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

struct Place {
    _guard: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> (Place, LocalBackend) {
    let guard = tempfile::tempdir().unwrap();
    let path = guard.path().join("repository");
    let backend = LocalBackend::open(&path, true).unwrap();
    (Place { _guard: guard, path }, backend)
}

fn create(backend: &LocalBackend, name: &str, body: &'static [u8]) -> Created {
    block_on(backend.create(name, Bytes::from_static(body))).unwrap()
}

fn open_error(path: impl AsRef<Path>, create: bool) -> StorageErrorKind {
    LocalBackend::open(path, create).err().expect("it cannot be opened").kind
}

#[test]
fn a_place_that_is_missing_or_a_file_is_told_apart() {
    let guard = tempfile::tempdir().unwrap();
    let file = guard.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert_eq!(open_error(guard.path().join("absent"), false), StorageErrorKind::NotFound);
    assert_eq!(open_error(&file, false), StorageErrorKind::NotADirectory);
    assert_eq!(open_error(&file, true), StorageErrorKind::NotADirectory);
    assert_eq!(open_error(file.join("below"), true), StorageErrorKind::NotADirectory);
}

#[test]
fn files_and_directories_are_private() {
    let (place, backend) = place();
    create(&backend, "log/1/open", b"x");
    let mode = |rest: &str| std::fs::metadata(place.path.join(rest)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("log"), mode("log/1")), (0o700, 0o700, 0o700));
    assert_eq!(mode("log/1/open"), 0o600);
}

#[test]
fn one_name_has_one_winner_among_threads_and_processes_alike() {
    let (place, _) = place();
    // Separate backends share nothing but the directory, as processes do.
    for round in 0..20 {
        let name = format!("log/{round}/done");
        let wins: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|_| {
                    let backend = LocalBackend::open(&place.path, false).unwrap();
                    let name = &name;
                    scope.spawn(move || usize::from(create(&backend, name, b"mine") == Created::New))
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(wins, 1, "round {round}");
    }
}

#[test]
fn syncs_are_counted_files_directories_and_a_constant() {
    let (_place, backend) = place();
    let before = backend.counters();
    for pack in 0..10 {
        let mut writer = backend.stream(&format!("packs/7/{pack}"));
        block_on(writer.append(vec![Bytes::from_static(b"pack")])).unwrap();
        block_on(writer.finish()).unwrap();
    }
    let finished = backend.counters();
    assert_eq!(finished.fsync_files - before.fsync_files, 10);
    assert_eq!(finished.fsync_directories, before.fsync_directories, "names wait for the barrier");
    block_on(backend.barrier()).unwrap();
    let synced = backend.counters();
    // packs/7 for the names of the packs, packs for 7, the root for packs.
    assert_eq!(synced.fsync_directories - finished.fsync_directories, 3);
    block_on(backend.barrier()).unwrap();
    assert_eq!(backend.counters(), synced, "a clean barrier costs nothing");

    create(&backend, "log/1/open", b"x");
    let created = backend.counters();
    assert_eq!(created.fsync_files - synced.fsync_files, 1);
    assert_eq!(created.fsync_directories - synced.fsync_directories, 3);
    create(&backend, "log/1/done", b"x");
    assert_eq!(backend.counters().fsync_directories - created.fsync_directories, 1);
}

#[test]
fn appends_keep_their_order_with_many_in_flight_and_many_parts() {
    let (_place, backend) = place();
    let mut writer = backend.stream("packs/1/ordered");
    let mut expected = Vec::new();
    let mut appends = Vec::new();
    for append in 0..50u32 {
        // More parts than one system call takes.
        let parts: Vec<Bytes> = (0..700u32).map(|part| Bytes::from(format!("{append}:{part};"))).collect();
        parts.iter().for_each(|part| expected.extend_from_slice(part));
        appends.push(writer.append(parts));
    }
    let finish = writer.finish();
    appends.into_iter().for_each(|append| block_on(append).unwrap());
    block_on(finish).unwrap();
    assert_eq!(block_on(backend.get("packs/1/ordered", 1 << 20)).unwrap(), expected);
}

#[test]
fn f13_a_full_disk_is_reported_as_full() {
    let (_place, backend) = place();
    let full = rustix::fs::open("/dev/full", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty()).unwrap();
    let error = backend.directory.write_all(&full, "packs/1/a", 0, &[b"x"]).unwrap_err();
    assert_eq!((error.kind, error.object.as_str()), (StorageErrorKind::Full, "packs/1/a"));
    assert!(!error.kind.retryable() && error.guidance().is_some());
}

#[test]
fn a_taken_name_fails_the_finish_and_stays_untouched() {
    let (place, backend) = place();
    create(&backend, "packs/1/taken", b"first");
    let mut writer = backend.stream("packs/1/taken");
    block_on(writer.append(vec![Bytes::from_static(b"second")])).unwrap();
    assert_eq!(block_on(writer.finish()).unwrap_err().kind, StorageErrorKind::AlreadyExists);
    assert_eq!(block_on(backend.get("packs/1/taken", 10)).unwrap(), b"first"[..]);
    assert_eq!(std::fs::read_dir(place.path.join("packs/1")).unwrap().count(), 1, "no temporary is left");
}

#[test]
fn the_first_error_of_a_writer_stays() {
    let (place, backend) = place();
    std::fs::write(place.path.join("packs"), b"a file where a directory is needed").unwrap();
    let mut writer = backend.stream("packs/1/a");
    let append = block_on(writer.append(vec![Bytes::from_static(b"x")])).unwrap_err();
    assert_eq!(append.kind, StorageErrorKind::NotADirectory);
    std::fs::remove_file(place.path.join("packs")).unwrap();
    assert_eq!(block_on(writer.append(vec![])).unwrap_err().kind, StorageErrorKind::NotADirectory);
    assert_eq!(block_on(writer.finish()).unwrap_err().kind, StorageErrorKind::NotADirectory);
}

#[test]
fn stale_temporaries_are_hidden_and_dropped_writers_leave_none() {
    let (place, backend) = place();
    create(&backend, "packs/1/a", b"x");
    std::fs::write(place.path.join("packs/1/.tmp-stale"), b"left by a crash").unwrap();
    let mut writer = backend.stream("packs/1/b");
    block_on(writer.append(vec![Bytes::from_static(b"x")])).unwrap();
    drop(writer);
    let listed = block_on(backend.list("packs")).unwrap();
    assert_eq!(listed, [ObjectMeta { name: "packs/1/a".to_owned(), bytes: 1 }]);
    drop(backend);
    let mut left: Vec<_> =
        std::fs::read_dir(place.path.join("packs/1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".tmp-stale", "a"]);
}

#[test]
fn a_failed_barrier_fails_all_later_ones() {
    let (place, backend) = place();
    let mut writer = backend.stream("packs/9/a");
    block_on(writer.append(vec![Bytes::from_static(b"x")])).unwrap();
    block_on(writer.finish()).unwrap();
    std::fs::remove_dir_all(place.path.join("packs")).unwrap();
    let first = block_on(backend.barrier()).unwrap_err();
    std::fs::create_dir_all(place.path.join("packs/9")).unwrap();
    let second = block_on(backend.barrier()).unwrap_err();
    assert_eq!(first.to_string(), second.to_string());
}

#[test]
fn dropping_a_future_does_not_undo_its_work() {
    let (_place, backend) = place();
    let mut writer = backend.stream("packs/1/a");
    drop(writer.append(vec![Bytes::from_static(b"first ")]));
    drop(writer.append(vec![Bytes::from_static(b"second")]));
    block_on(writer.finish()).unwrap();
    assert_eq!(block_on(backend.get("packs/1/a", 100)).unwrap(), b"first second"[..]);
}

#[test]
fn f21_ranges_beyond_four_gib_are_read() {
    let (place, backend) = place();
    let offset = (4u64 << 30) + 5;
    let file = std::fs::File::create(place.path.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"beyond", offset).unwrap();
    assert_eq!(block_on(backend.get_range("sparse", offset..offset + 6)).unwrap(), b"beyond"[..]);
    assert_eq!(block_on(backend.size("sparse")).unwrap(), offset + 6);
    assert_eq!(block_on(backend.get("sparse", 1 << 20)).unwrap_err().kind, StorageErrorKind::TooLarge);
}

#[test]
fn a_read_only_directory_is_reported_as_denied() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root is never denied");
        return;
    }
    let (place, backend) = place();
    std::fs::set_permissions(&place.path, std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = block_on(backend.create("a", Bytes::new())).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::PermissionDenied);
    std::fs::set_permissions(&place.path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

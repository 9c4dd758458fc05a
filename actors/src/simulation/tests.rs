//! The simulated devices under test: they must not promise more than real ones do.

use std::sync::Arc;

use bytes::Bytes;
use mover_repository::backend::{Backend, Created, StorageErrorKind};

use super::*;
use crate::error::Failure;
use crate::restore::target::{SmallFile, Target, TargetMeta};
use crate::runtime::Runtime;
use crate::runtime::simulation::{Ended, Simulation};
use crate::source::{FileRequest, LISTING_ENTRIES_MAX, Source, SourceErrorKind};

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn what_create_has_answered_is_durable_and_a_stream_only_after_a_barrier() {
    let simulation = Simulation::new(1, 1);
    let store = SimStore::new(simulation.handle(), StoreFaults::default());
    let kept = store.clone();
    let check = move |_| async move {
        assert_eq!(store.create("config", bytes("c")).await?, Created::New);
        assert_eq!(store.create("config", bytes("d")).await?, Created::AlreadyExisted);
        let mut writer = store.stream("packs/1/a");
        let first = writer.append(vec![bytes("he"), bytes("l")]);
        let second = writer.append(vec![bytes("lo")]);
        second.await?;
        first.await?;
        assert!(store.list("packs").await?.is_empty(), "not visible before its finish");
        writer.finish().await?;
        assert_eq!(store.get("packs/1/a", 5).await?, bytes("hello"));
        assert_eq!(store.get("packs/1/a", 4).await.unwrap_err().kind, StorageErrorKind::TooLarge);
        assert_eq!(store.get_range("packs/1/a", 1..3).await?, bytes("el"));
        assert_eq!(store.get_range("packs/1/a", 4..6).await.unwrap_err().kind, StorageErrorKind::Short);
        assert_eq!(store.durable().into_keys().collect::<Vec<_>>(), vec!["config"]);
        store.barrier().await?;
        assert_eq!(store.durable().into_keys().collect::<Vec<_>>(), vec!["config", "packs/1/a"]);
        Ok::<(), Failure>(())
    };
    simulation.run(check).unwrap();
    let counts = kept.counts();
    assert_eq!((counts.creates, counts.finishes, counts.barriers, counts.bytes_written), (2, 1, 1, 7));
}

#[test]
fn a_crash_keeps_what_was_promised_and_some_of_the_rest() {
    let (mut lost, mut kept_more) = (0, 0);
    for seed in 0..200 {
        let simulation = Simulation::new(seed, 2).crash_after(1 + seed % 60);
        let store = SimStore::new(simulation.handle(), StoreFaults::default());
        let promised = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (writer_store, writer_promised) = (store.clone(), promised.clone());
        let outcome = simulation.run(move |_| async move {
            for number in 0..20 {
                let name = format!("packs/1/{number}");
                let mut writer = writer_store.stream(&name);
                writer.append(vec![bytes("frame")]).await?;
                writer.finish().await?;
                if number % 2 == 1 {
                    writer_store.barrier().await?;
                    writer_promised.lock().extend([format!("packs/1/{}", number - 1), name]);
                }
            }
            Ok::<(), Failure>(())
        });
        if !matches!(outcome.result, Err(Ended::Crashed)) {
            continue;
        }
        let (live, left) = (store.live(), store.survivors(seed));
        assert!(promised.lock().iter().all(|name| left.contains_key(name)), "seed {seed}");
        lost += usize::from(left.len() < live.len());
        kept_more += usize::from(left.len() > promised.lock().len());
    }
    assert!(lost > 10 && kept_more > 10, "lost {lost}, kept more {kept_more}");
}

#[test]
fn f13_a_full_store_says_so_and_poisons_its_writer() {
    let simulation = Simulation::new(1, 1);
    let faults = StoreFaults { full_after_bytes: Some(8), ..StoreFaults::default() };
    let store = SimStore::new(simulation.handle(), faults);
    let result = simulation.run(move |_| async move {
        let mut writer = store.stream("packs/1/a");
        writer.append(vec![bytes("12345")]).await?;
        assert_eq!(writer.append(vec![bytes("6789")]).await.unwrap_err().kind, StorageErrorKind::Full);
        assert_eq!(writer.append(vec![bytes("0")]).await.unwrap_err().kind, StorageErrorKind::Full);
        assert_eq!(writer.finish().await.unwrap_err().kind, StorageErrorKind::Full);
        assert!(store.live().is_empty());
        Ok::<(), Failure>(store.create("config", bytes("1234")).await.map(|_| ())?)
    });
    assert_eq!(result.unwrap_failure().side, crate::Side::Repository);
}

#[test]
fn a_store_that_stalls_is_a_deadlock_of_those_who_wait_for_it() {
    let simulation = Simulation::new(1, 1);
    let faults = StoreFaults { stall_after_bytes: Some(4), ..StoreFaults::default() };
    let store = SimStore::new(simulation.handle(), faults);
    let outcome = simulation.run(move |_| async move {
        store.create("a", bytes("12")).await?;
        store.create("b", bytes("34")).await?;
        Ok::<(), Failure>(())
    });
    assert!(matches!(outcome.result, Err(Ended::Deadlock { .. })));
}

#[test]
fn transient_faults_are_retryable_and_a_lost_answer_leaves_its_effect() {
    let simulation = Simulation::new(2, 1);
    let faults = StoreFaults { lost_answer_per_mille: 1000, ..StoreFaults::default() };
    let store = SimStore::new(simulation.handle(), faults);
    let check = move |_| async move {
        let error = store.create("log/1/done", bytes("x")).await.unwrap_err();
        assert!(error.kind.retryable());
        assert_eq!(store.get("log/1/done", 9).await?, bytes("x"));
        Ok::<(), Failure>(())
    };
    simulation.run(check).unwrap();
    let simulation = Simulation::new(2, 1);
    let faults = StoreFaults { transient_per_mille: 1000, ..StoreFaults::default() };
    let store = SimStore::new(simulation.handle(), faults);
    let check = move |_| async move {
        assert!(store.get("log/1/done", 9).await.unwrap_err().kind.retryable());
        assert!(store.live().is_empty());
        Ok::<(), Failure>(())
    };
    simulation.run(check).unwrap();
}

fn odd(seed: u64, behaviour: SimBehaviour) -> SimFile {
    SimFile { seed, bytes: 10_000, behaviour }
}

#[test]
fn files_behave_as_told_and_every_read_is_noted() {
    let simulation = Simulation::new(3, 1);
    let tree = SimTree::new("/data")
        .file("a/steady", 1, 70_000)
        .file_that("a/changes", odd(2, SimBehaviour::ChangesDuringReads(1)))
        .file_that("gone", odd(3, SimBehaviour::Vanishes))
        .file_that("secret", odd(4, SimBehaviour::Unreadable))
        .file_that("shrinks", odd(5, SimBehaviour::ShrinksDuringRead))
        .symlink("link", "a/steady");
    let source = SimSource::new(simulation.handle(), Latency::micros(1, 50), vec![tree]);
    let kept = source.clone();
    let check = move |_| async move {
        let listing = source.list(0, b"").await.unwrap();
        let names: Vec<_> = listing.entries.iter().map(|listed| listed.name.as_slice()).collect();
        assert_eq!(names, vec![b"a".as_slice(), b"gone", b"link", b"secret", b"shrinks"]);
        let mut requests = Vec::new();
        for path in [b"a/changes".as_slice(), b"gone", b"secret", b"shrinks"] {
            requests.push(FileRequest { path: path.to_vec(), stat: source.stat(0, path).await.unwrap() });
        }
        let read = source.read_files(0, requests.clone(), Vec::with_capacity(40_000)).await.unwrap();
        let changed = read.files[0].as_ref().unwrap();
        assert!(!changed.before.unchanged(&changed.after));
        assert_eq!(read.files[1].as_ref().unwrap_err().kind, SourceErrorKind::Vanished);
        assert_eq!(read.files[2].as_ref().unwrap_err().kind, SourceErrorKind::PermissionDenied);
        assert_eq!(read.files[3].as_ref().unwrap().after.size, 5_000);
        requests[0].stat = source.stat(0, b"a/changes").await.unwrap();
        let again = source.read_files(0, requests[..1].to_vec(), read.buffer).await.unwrap();
        let settled = again.files[0].as_ref().unwrap();
        assert!(settled.before.unchanged(&settled.after));
        assert_eq!(again.buffer[settled.range.clone()], source.trees()[0].contents()[b"a/changes".as_slice()]);
        let stat = source.stat(0, b"a/steady").await.unwrap();
        let file = source.open_file(0, b"a/steady", &stat).await.unwrap();
        let mut whole = file.read_at(0, 65_536, Vec::new()).await.unwrap();
        whole = file.read_at(65_536, 65_536, whole).await.unwrap();
        assert_eq!(whole, source.trees()[0].contents()[b"a/steady".as_slice()]);
        let link = source.attributes(0, b"link", crate::source::FileKind::Symlink).await.unwrap();
        assert_eq!(link.link_target.as_deref(), Some(b"a/steady".as_slice()));
        Ok::<(), Failure>(())
    };
    simulation.run(check).unwrap();
    let last = kept.reads().pop().unwrap();
    assert_eq!(
        (last.fileset, last.path.as_slice(), last.offset, last.bytes),
        (0, b"a/steady".as_slice(), 65_536, 4_464)
    );
    assert!(kept.reads().is_sorted_by_key(|read| read.time));
}

#[test]
fn a_directory_of_many_files_comes_in_parts() {
    let count = LISTING_ENTRIES_MAX * 2 + 5;
    let mut tree = SimTree::new("/many");
    for number in 0..count {
        tree = tree.file(&format!("{number:06}"), number as u64, 100);
    }
    let simulation = Simulation::new(3, 1);
    let source = SimSource::new(simulation.handle(), Latency::micros(1, 5), vec![tree]);
    let check = move |_| async move {
        let mut listing = source.list(0, b"").await.unwrap();
        let mut names: Vec<Vec<u8>> = Vec::new();
        loop {
            assert!(listing.entries.len() <= LISTING_ENTRIES_MAX);
            names.extend(listing.entries.iter().map(|listed| listed.name.clone()));
            let Some(rest) = listing.more else { break };
            listing = rest.next().await.unwrap();
        }
        assert!(names.is_sorted());
        Ok::<usize, Failure>(names.len())
    };
    assert_eq!(simulation.run(check).unwrap(), count);
}

#[test]
fn a_target_shows_files_only_when_they_are_finished() {
    let simulation = Simulation::new(3, 1);
    let faults = TargetFaults { room_bytes: 100, ..TargetFaults::default() };
    let target = SimTarget::new(simulation.handle(), faults);
    let check = move |rt: crate::runtime::simulation::SimRuntime| async move {
        target.make_parents(b"data/set").await?;
        let file = target.create_file(b"data/set/large", 10).await?;
        file.write_at(vec![(5, bytes("later"))]).await?;
        file.write_at(vec![(0, bytes("first"))]).await?;
        assert!(target.contents("/data/set").is_empty());
        file.finish(TargetMeta::default()).await?;
        let small = |path: &str, part| SmallFile {
            path: path.into(),
            meta: TargetMeta::default(),
            size: 4,
            parts: vec![(1, bytes(part))],
        };
        let written = target.write_files(vec![
            small("data/set/small", "xyz"),
            small("data/../etc", "no"),
            small("nowhere/x", "no"),
        ]);
        let results: Vec<bool> = written.await?.iter().map(Result::is_ok).collect();
        assert_eq!(results, vec![true, false, false]);
        let contents = target.contents("/data/set");
        assert_eq!(contents[b"large".as_slice()], b"firstlater");
        assert_eq!(contents[b"small".as_slice()], b"\0xyz");
        let large = SmallFile { parts: vec![(0, Bytes::from(vec![0; 90]))], ..small("data/set/b", "") };
        assert!(target.write_files(vec![large]).await?[0].as_ref().unwrap_err().fatal());
        assert!(rt.now() > std::time::Duration::ZERO);
        Ok::<(), Failure>(())
    };
    simulation.run(check).unwrap();
}

#[test]
fn the_simulated_store_passes_the_suite_that_every_backend_passes() {
    for seed in 0..20 {
        let simulation = Simulation::new(seed, 1);
        let store = SimStore::new(simulation.handle(), StoreFaults::default());
        let checks = simulation.run(move |_| async move {
            let checks = mover_repository::backend::conformance::conformance(&store).await;
            Ok::<_, Failure>(checks)
        });
        let checks = checks.unwrap().unwrap();
        assert!(!checks.is_empty());
        for check in checks {
            assert!(check.passed, "seed {seed}: {}: {}", check.name, check.detail);
        }
    }
}

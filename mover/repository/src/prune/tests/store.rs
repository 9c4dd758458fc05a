//! What a prune asks of the store, and what it leaves there: a proof before it condemns, checkpoints, no empty directories.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::*;
use crate::backend::{Created, IoFuture, LocalBackend, ObjectMeta, ObjectWriter, StorageError, StorageErrorKind};
use crate::error::RepositoryError;

/// What a store does that is none for a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Who creates a name that is taken replaces what is there.
    Overwrites,
    /// Everybody is told that he created it.
    TellsAllThatTheyWon,
    /// Who asked for a name too early does not see it for a while.
    RemembersWhatWasMissing,
    /// There is no way to create a name only if it is free, as on a file system without links.
    CannotCreate,
}

struct Liar {
    store: MemoryBackend,
    lie: Lie,
    missed: AtomicU32,
}

impl Backend for Liar {
    fn describe(&self) -> String {
        "liar".to_owned()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        let is_there = block_on(self.store.size(name)).is_ok();
        if self.lie == Lie::RemembersWhatWasMissing && name.starts_with("scratch/") {
            let missed = self.missed.fetch_add(u32::from(!is_there), Ordering::SeqCst);
            if missed > 0 && self.missed.fetch_add(1, Ordering::SeqCst) < 4 {
                return self.store.get("scratch/missing", limit_bytes);
            }
        }
        self.store.get(name, limit_bytes)
    }

    fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> IoFuture<Bytes> {
        self.store.get_range(name, range)
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        self.store.size(name)
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        let created = match self.lie {
            Lie::CannotCreate => {
                let cause = "this file system has neither hard links nor renames that refuse to replace";
                let error = StorageError::of_kind("create", name, StorageErrorKind::NotSupported, cause);
                return crate::backend::ready(Err(error));
            }
            Lie::Overwrites => {
                self.store.remove(name);
                self.store.create(name, body)
            }
            _ => self.store.create(name, body),
        };
        match self.lie {
            Lie::TellsAllThatTheyWon => Box::pin(async move { created.await.map(|_| Created::New) }),
            _ => created,
        }
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        self.store.stream(name)
    }

    fn barrier(&self) -> IoFuture<()> {
        self.store.barrier()
    }

    fn delete(&self, name: &str) -> IoFuture<()> {
        self.store.delete(name)
    }
}

#[test]
fn f08_a_store_that_does_not_keep_its_word_is_refused_and_nothing_is_touched() {
    for lie in [Lie::Overwrites, Lie::TellsAllThatTheyWon, Lie::RemembersWhatWasMissing, Lie::CannotCreate] {
        let bench = Bench::new();
        let gone = backup(&bench, &files(0..4));
        forget(&bench, &gone);
        let before = bench.store.snapshot();
        let liar = Liar { store: (*bench.store).clone(), lie, missed: AtomicU32::new(0) };
        let refused = prune(&bench.repository.moved_to(Arc::new(liar)), &who(), &options()).unwrap_err();
        assert!(matches!(refused, RepositoryError::UntrustedStore { .. }), "{lie:?}: {refused}");
        assert!(refused.guidance().unwrap().contains("nothing was condemned or deleted"));
        assert_eq!(bench.store.snapshot(), before, "{lie:?}");
        assert!(pruned(&bench).deleted.packs > 0, "on a store that keeps it");
    }
}

#[test]
fn a_store_that_does_not_answer_is_not_called_a_liar() {
    let bench = Bench::new();
    let faulty = FaultyBackend::new(bench.store.clone());
    faulty.plan(Fault::at(Operation::Create, 1, Effect::Full).under("scratch/"));
    let error = prune(&bench.repository.moved_to(Arc::new(faulty)), &who(), &options()).unwrap_err();
    assert!(error.is_full(), "{error}");
}

#[test]
fn prune_sums_up_a_log_that_has_grown_and_leaves_two_checkpoints() {
    let bench = Bench::new();
    let (old, new) = (files(0..4), files(10..14));
    let gone = backup(&bench, &old);
    backup(&bench, &new);
    forget(&bench, &gone);
    bench.fill_log(300);
    assert_eq!(pruned(&bench).summed_up, 0, "not worth it yet");
    let parts =
        || -> BTreeSet<String> { bench.names("log").into_iter().filter(|name| name.contains("/sum/")).collect() };
    let mut written = Vec::new();
    for round in 0..3 {
        bench.fill_log(401);
        let report = pruned(&bench);
        assert!(report.summed_up > 400 * (round + 1), "{report:?}");
        written.push(parts());
        assert_eq!(pruned(&bench).summed_up, 0);
        let history = block_on(bench.repository.history()).unwrap();
        assert!(history.entries().len() < 50, "{}", history.entries().len());
        assert_eq!(history.recovery_points().len(), 1);
        assert_eq!(crate::retention::forgotten(&history), []);
        assert_whole(&bench, &[&new]);
    }
    assert!(written[0].is_subset(&written[1]), "one that a reader may have begun with stays");
    assert!(written[0].is_disjoint(&written[2]) && !written[1].is_disjoint(&written[2]));
}

/// A log that nobody ever deletes from; the checkpoint is written all the same.
#[test]
fn a_checkpoint_needs_no_delete() {
    let bench = Bench::new();
    backup(&bench, &files(0..2));
    for _ in 0..3 {
        bench.fill_log(401);
        let faulty = FaultyBackend::new(bench.store.clone());
        faulty.plan(Fault::at(Operation::Delete, 1, Effect::Full).forever());
        let report = prune(&bench.repository.moved_to(Arc::new(faulty)), &who(), &options()).unwrap();
        assert!(report.summed_up > 400);
    }
}

#[test]
fn prune_merges_index_segments_by_levels() {
    let bench = Bench::new();
    for seed in 0..9 {
        backup(&bench, &files(seed..seed + 1));
    }
    let before = bench.names("index").len();
    pruned(&bench);
    pruned(&bench);
    let after = bench.names("index").len();
    assert!(after < before / 2, "{before} segments became {after}");
    assert_whole(&bench, &[&files(0..9)]);
}

#[test]
fn empty_directories_go_and_those_of_running_writers_stay() {
    let place = tempfile::tempdir().unwrap();
    let backend = Arc::new(LocalBackend::open(place.path(), true).unwrap());
    let credential = Credential::key_file(vec![7; 32]).unwrap();
    let repository = block_on(Repository::init(backend.clone(), &credential, InitOptions::default())).unwrap();
    let register = || block_on(repository.register(Bench::open_record(Role::Reader))).unwrap();
    let (ended, running, kept) = (register(), register(), register());
    let directory = |number: LogNumber| place.path().join(format!("packs/{number}"));
    for number in [ended.number(), running.number(), kept.number(), LogNumber(99)] {
        std::fs::create_dir_all(directory(number)).unwrap();
    }
    std::fs::create_dir_all(place.path().join("packs/of-somebody-else")).unwrap();
    std::fs::write(directory(kept.number()).join(".tmp-unfinished"), b"x").unwrap();
    let numbers = [ended.number(), kept.number(), running.number()];
    for registration in [ended, kept] {
        block_on(registration.commit(Outcome::Ended { reason: "done".into() })).unwrap();
    }
    prune(&repository, &who(), &options()).unwrap();
    assert_eq!(numbers.map(|number| directory(number).exists()), [false, true, true]);
    assert!(directory(LogNumber(99)).exists() && place.path().join("packs/of-somebody-else").exists());
    // One that is taken away all the same is made again by who needs it.
    block_on(backend.remove_empty_directory(&format!("packs/{}", numbers[2]))).unwrap();
    assert!(!directory(numbers[2]).exists());
    block_on(backend.create(&format!("packs/{}/object", numbers[2]), Bytes::from_static(b"x"))).unwrap();
    block_on(backend.remove_empty_directory(&format!("packs/{}", numbers[2]))).unwrap();
    assert!(directory(numbers[2]).join("object").exists(), "what holds something stays");
}

/// The directory of a fenced run goes with its last pack. It cannot be synced any more, and the run told its user that
/// alone, as if the repository were damaged.
#[test]
fn a_fenced_run_whose_directory_is_gone_says_that_it_was_fenced() {
    for end in [Outcome::Ended { reason: "a failure".into() }, Outcome::RecoveryPoint(crate::testing::point("set"))] {
        let place = tempfile::tempdir().unwrap();
        let backend = Arc::new(LocalBackend::open(place.path(), true).unwrap());
        let credential = Credential::key_file(vec![7; 32]).unwrap();
        let repository = block_on(Repository::init(backend.clone(), &credential, InitOptions::default())).unwrap();
        let pruner = repository.moved_to(Arc::new(LocalBackend::open(place.path(), false).unwrap()));
        let run = block_on(repository.register(Bench::open_record(Role::Writer))).unwrap();
        let (number, pack) = (run.number(), format!("packs/{}/object", run.number()));
        let mut stream = backend.stream(&pack);
        block_on(stream.append(vec![Bytes::from_static(b"x")])).unwrap();
        block_on(stream.finish()).unwrap();
        let admin = block_on(pruner.register(Bench::open_record(Role::Admin))).unwrap();
        assert_eq!(block_on(admin.fence(number, "silent")).unwrap(), Fencing::Fenced);
        block_on(pruner.backend().delete(&pack)).unwrap();
        assert!(!place.path().join(format!("packs/{number}")).exists());
        let late = block_on(run.commit(end));
        assert!(matches!(late, Err(RepositoryError::Fenced { number: late }) if late == number), "{late:?}");
    }
}

/// A delete in a bucket with object lock only hides: prune asks first, and no lock is an error.
#[test]
fn prune_keeps_what_is_locked_and_deletes_it_afterwards() {
    let bench = Bench::new();
    let (old, new) = (files(0..4), files(4..8));
    let gone = backup(&bench, &old);
    backup(&bench, &new);
    forget(&bench, &gone);
    let soon = UnixNanos(UnixNanos::now().0 + 3_600_000_000_000);
    let before = bench.names("packs");
    before.iter().for_each(|name| _ = block_on(bench.store.retain_until(name, soon)).unwrap());
    let report = pruned(&bench);
    assert!(report.retained.packs > 0 && report.deleted.packs == 0, "{report:?}");
    assert_eq!(report.retained_until, Some(soon));
    assert_whole(&bench, &[&new]);
    // The same bytes without a lock: its time is over.
    bench.store.restore(bench.store.snapshot());
    let later = pruned(&bench);
    assert_eq!((later.deleted, later.retained.packs), (report.retained, 0));
    assert_whole(&bench, &[&new]);
}

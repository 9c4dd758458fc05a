//! Tests of the log as a whole, on the memory store.

mod checkpoint;
mod damage;
mod durable;

use super::*;
use crate::backend::faulty::{Effect, Fault, Operation};
use crate::backend::{FaultyBackend, MemoryBackend};
use crate::ids::{ObjectId, PackId, UnixNanos};
use crate::keys::{Credential, Stretching};
use crate::testing::{fileset, point};
use crate::{InitOptions, KeyRights, OpenOptions, Repository, RepositoryError};
use bytes::Bytes;
use futures_lite::future::block_on;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn credential() -> Credential {
    Credential::key_file(vec![1; 32]).unwrap()
}

fn init(backend: &MemoryBackend) -> Repository {
    block_on(Repository::init(Arc::new(backend.clone()), &credential(), InitOptions::default())).unwrap()
}

fn reopen(backend: &MemoryBackend, memory: Option<&Path>) -> Repository {
    let options = OpenOptions { memory_directory: memory.map(Path::to_owned) };
    block_on(Repository::open_with(Arc::new(backend.clone()), &credential(), options)).unwrap()
}

pub(super) fn open_record(role: Role) -> OpenRecord {
    OpenRecord {
        role,
        host: "host".to_owned(),
        process_id: 42,
        machine: ObjectId([8; 32]),
        set: "set".to_owned(),
        job: ObjectId([9; 32]),
        adopts: None,
        depends_on: None,
        started: UnixNanos(-1),
    }
}

fn register(repository: &Repository) -> Registration {
    block_on(repository.register(open_record(Role::Writer))).unwrap()
}

fn commit_point(repository: &Repository, set: &str) -> (LogNumber, RecoveryPoint) {
    let registration = register(repository);
    let (number, point) = (registration.number(), point(set));
    block_on(registration.commit(Outcome::RecoveryPoint(point.clone()))).unwrap();
    (number, point)
}

/// The file in which a client notes which repository is in a place.
fn place_note(memory: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(memory).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "place"))
}

fn history(repository: &Repository) -> crate::Result<History> {
    block_on(repository.history())
}

#[test]
fn a_committed_point_is_in_the_history_as_it_was_written() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    assert_eq!(history(&repository).unwrap().highest(), LogNumber(0));
    let registration = register(&repository);
    assert_eq!(registration.number(), FIRST);
    assert_eq!(registration.history().entries().len(), 1);
    block_on(registration.seal_fileset(0, &fileset())).unwrap();
    block_on(registration.seal_fileset(1, &fileset())).unwrap();
    let (mut sign, entry) = (registration.sign_of_life(), registration.history().entries()[0].clone());
    assert_eq!(block_on(repository.last_heard_of(&entry)).unwrap(), Some(UnixNanos(-1)));
    for time in [7, 8] {
        block_on(sign.leave(UnixNanos(time))).unwrap();
        assert_eq!(block_on(repository.last_heard_of(&entry)).unwrap(), Some(UnixNanos(time)));
    }
    assert!(!block_on(registration.is_decided()).unwrap());
    let written = point("set");
    block_on(registration.commit(Outcome::RecoveryPoint(written.clone()))).unwrap();

    let history = history(&reopen(&backend, None)).unwrap();
    assert_eq!(history.recovery_points(), [(FIRST, written.clone())]);
    assert_eq!(history.find_point("latest", None).unwrap().1, written);
    assert_eq!(history.find_point(&written.id.to_string()[..8], None).unwrap().1, written);
    assert!(matches!(history.find_point("zz", None), Err(RepositoryError::NoSuchPoint { .. })));
    assert!(matches!(history.find_point("", None), Err(RepositoryError::NoSuchPoint { .. })));
    let entry = history.entry(FIRST).unwrap();
    assert_eq!(entry.open, Some(open_record(Role::Writer)));
    assert_eq!(block_on(repository.sealed_filesets(entry)).unwrap(), [fileset(), fileset()]);
}

#[test]
fn registrations_at_once_get_distinct_and_dense_numbers() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let registration = register(&repository);
                    let number = registration.number().0;
                    block_on(registration.commit(Outcome::RecoveryPoint(point("set")))).unwrap();
                    number
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    assert_eq!(history(&repository).unwrap().recovery_points().len(), 8);
}

#[test]
fn f01_a_fenced_writer_cannot_commit() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let sleeper = register(&repository);
    let number = sleeper.number();
    let admin = block_on(repository.register(open_record(Role::Admin))).unwrap();
    assert_eq!(block_on(admin.fence(number, "silent for 24 h")).unwrap(), Fencing::Fenced);
    assert!(block_on(sleeper.is_decided()).unwrap());
    let late = block_on(sleeper.commit(Outcome::RecoveryPoint(point("set"))));
    assert!(matches!(late, Err(RepositoryError::Fenced { number: fenced }) if fenced == number));
    block_on(admin.commit(Outcome::Ended { reason: "done".to_owned() })).unwrap();
    let history = history(&repository).unwrap();
    assert!(history.recovery_points().is_empty());
    assert_eq!(history.open_writers().count(), 0);
}

#[test]
fn a_fence_that_comes_too_late_changes_nothing() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let writer = register(&repository);
    let number = writer.number();
    let admin = block_on(repository.register(open_record(Role::Admin))).unwrap();
    block_on(writer.commit(Outcome::RecoveryPoint(point("set")))).unwrap();
    assert_eq!(block_on(admin.fence(number, "late")).unwrap(), Fencing::HadOutcome);
    assert_eq!(history(&repository).unwrap().recovery_points().len(), 1);
}

#[test]
fn a_lost_answer_is_recognised_as_ones_own_record() {
    for prefix in ["log/0000000000000001/open", "log/0000000000000001/done"] {
        let backend = MemoryBackend::new();
        init(&backend);
        let faulty = FaultyBackend::new(Arc::new(backend.clone()));
        faulty.plan(Fault::at(Operation::Create, 1, Effect::LostAnswer).under(prefix));
        let repository = block_on(Repository::open(Arc::new(faulty), &credential())).unwrap();
        let (number, _) = commit_point(&repository, "set");
        assert_eq!(number, FIRST, "{prefix}");
        assert_eq!(history(&repository).unwrap().recovery_points().len(), 1);
    }
}

#[test]
fn f13_a_full_store_is_said_to_be_full_and_nothing_is_committed() {
    let backend = MemoryBackend::new();
    init(&backend);
    let faulty = FaultyBackend::new(Arc::new(backend.clone()));
    let repository = block_on(Repository::open(Arc::new(faulty.clone()), &credential())).unwrap();
    let registration = register(&repository);
    faulty.plan(Fault::at(Operation::Create, 1, Effect::Full));
    let error = block_on(registration.commit(Outcome::RecoveryPoint(point("set")))).unwrap_err();
    assert!(error.is_full() && !error.retryable() && error.guidance().is_some());
    faulty.heal();
    assert_eq!(history(&repository).unwrap().open_writers().count(), 1);
}

#[test]
fn f04_a_deleted_record_is_a_gap_even_if_the_listing_is_short() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    for _ in 0..5 {
        commit_point(&repository, "set");
    }
    let before = backend.snapshot();
    backend.remove(&open_name(LogNumber(3)));
    assert!(matches!(history(&repository), Err(RepositoryError::HistoryGap { number: LogNumber(3) })));
    let (rest, damage) = block_on(repository.history_with_damage()).unwrap();
    assert_eq!((rest.recovery_points().len(), damage.len()), (5, 1), "its outcome still names its point");
    backend.remove(&done_name(LogNumber(3)));
    let (rest, damage) = block_on(repository.history_with_damage()).unwrap();
    assert_eq!((rest.recovery_points().len(), damage.len()), (4, 1));

    backend.restore(before);
    backend.remove(&done_name(LogNumber(3)));
    assert!(matches!(history(&repository), Err(RepositoryError::HistoryAltered { .. })));
}

#[test]
fn a_listing_is_only_a_hint() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    for _ in 0..3 {
        commit_point(&repository, "set");
    }
    // A store whose listing is stale: it shows nothing of the log.
    struct Stale(MemoryBackend);
    impl crate::backend::Backend for Stale {
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn get(&self, name: &str, limit_bytes: u64) -> crate::backend::IoFuture<Bytes> {
            self.0.get(name, limit_bytes)
        }
        fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> crate::backend::IoFuture<Bytes> {
            self.0.get_range(name, range)
        }
        fn size(&self, name: &str) -> crate::backend::IoFuture<u64> {
            self.0.size(name)
        }
        fn list(&self, prefix: &str) -> crate::backend::IoFuture<Vec<crate::backend::ObjectMeta>> {
            if prefix == LOG_PREFIX { crate::backend::ready(Ok(Vec::new())) } else { self.0.list(prefix) }
        }
        fn create(&self, name: &str, body: Bytes) -> crate::backend::IoFuture<crate::backend::Created> {
            self.0.create(name, body)
        }
        fn stream(&self, name: &str) -> Box<dyn crate::backend::ObjectWriter> {
            self.0.stream(name)
        }
        fn barrier(&self) -> crate::backend::IoFuture<()> {
            self.0.barrier()
        }
        fn delete(&self, name: &str) -> crate::backend::IoFuture<()> {
            self.0.delete(name)
        }
    }
    let stale = block_on(Repository::open(Arc::new(Stale(backend)), &credential())).unwrap();
    assert_eq!(history(&stale).unwrap().recovery_points().len(), 3);
    assert_eq!(register(&stale).number(), LogNumber(4));
}

#[test]
fn a_forged_high_number_is_a_gap_and_costs_little() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    commit_point(&repository, "set");
    backend.overwrite("log/ffffffffffffff00/open", &b"forged"[..]);
    assert!(matches!(history(&repository), Err(RepositoryError::HistoryGap { number: LogNumber(2) })));
    let (rest, damage) = block_on(repository.history_with_damage()).unwrap();
    assert_eq!(rest.recovery_points().len(), 1);
    assert!(damage.len() < 2000);
}

#[test]
fn f14_f27_each_flip_and_cut_of_a_record_is_an_error() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    commit_point(&repository, "set");
    let good = backend.snapshot();
    for name in [open_name(FIRST), done_name(FIRST)] {
        let object = good[&name].clone();
        for at in 0..object.len() {
            let mut changed = object.to_vec();
            changed[at] ^= 0x10;
            backend.overwrite(&name, changed);
            assert!(history(&repository).is_err(), "{name}: byte {at} flipped");
            backend.overwrite(&name, object.slice(..at));
            assert!(history(&repository).is_err(), "{name}: cut at {at}");
        }
        backend.restore(good.clone());
    }
    assert_eq!(history(&repository).unwrap().recovery_points().len(), 1);
}

#[test]
fn what_an_outcome_saw_is_checked_in_any_order_of_commits() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let (first, second, third) = (register(&repository), register(&repository), register(&repository));
    for registration in [third, first, second] {
        block_on(registration.commit(Outcome::RecoveryPoint(point("set")))).unwrap();
    }
    commit_point(&repository, "set");
    assert_eq!(history(&repository).unwrap().recovery_points().len(), 4);
}

/// A reader of three recovery points, and the backend in which its faults are planned.
fn three_points_behind_faults() -> (FaultyBackend, Repository) {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    for _ in 0..3 {
        commit_point(&repository, "set");
    }
    let faulty = FaultyBackend::new(Arc::new(backend));
    let reader = block_on(Repository::open(Arc::new(faulty.clone()), &credential())).unwrap();
    (faulty, reader)
}

#[test]
fn a_commit_while_the_history_is_read_is_no_alarm() {
    let (faulty, reader) = three_points_behind_faults();
    // Number 1 is read before its outcome exists, number 3 after it knows of that outcome.
    faulty.plan(Fault::at(Operation::Get, 1, Effect::NotFound).under(&done_name(FIRST)));
    assert_eq!(history(&reader).unwrap().recovery_points().len(), 3);
}

#[test]
fn several_runs_of_one_client_share_its_memory() {
    let backend = MemoryBackend::new();
    init(&backend);
    let cache = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let repository = reopen(&backend, Some(cache.path()));
                (0..10).for_each(|_| _ = commit_point(&repository, "set"));
            });
        }
    });
    assert_eq!(history(&reopen(&backend, Some(cache.path()))).unwrap().recovery_points().len(), 40);
}

#[test]
fn destructive_records_count_only_from_an_admin_key() {
    let backend = MemoryBackend::new();
    let admin = init(&backend);
    let client_key = Credential::key_file(vec![2; 32]).unwrap();
    block_on(admin.add_key(&client_key, KeyRights::PutOnly, Stretching::CHEAPEST)).unwrap();
    let client = block_on(Repository::open(Arc::new(backend.clone()), &client_key)).unwrap();
    assert!(!client.secrets().can_read() && admin.secrets().can_read());

    let (_, kept) = commit_point(&client, "set");
    let forget = |reason: &str| Outcome::Forget { points: vec![kept.id], reason: reason.to_owned() };
    block_on(register(&client).commit(forget("by a stolen agent"))).unwrap();
    let seen = history(&admin).unwrap();
    assert_eq!(seen.recovery_points().len(), 1);
    assert_eq!(seen.refused().count(), 1);

    let victim = register(&admin);
    let attacker = register(&client);
    let refused = block_on(attacker.fence(victim.number(), "attack"));
    assert!(matches!(refused, Err(RepositoryError::NotSupported { .. })));
    block_on(victim.commit(Outcome::RecoveryPoint(point("other")))).unwrap();

    block_on(register(&admin).commit(forget("retention"))).unwrap();
    let points = history(&client).unwrap().recovery_points();
    assert_eq!(points.iter().map(|(_, point)| point.set.as_str()).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn condemned_packs_come_back_only_by_whoever_saw_the_condemnation() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let pack = PackId([5; 32]);
    let unaware = register(&repository);
    let condemner = block_on(repository.register(open_record(Role::Admin))).unwrap();
    let packs = vec![CondemnedPack { pack, writer: FIRST, bytes: 1, bytes_live: 0 }];
    block_on(condemner.commit(Outcome::Condemned { packs, reason: "unused".to_owned() })).unwrap();
    assert_eq!(register(&repository).history().condemned(), HashSet::from([pack]));
    let rescue = || Outcome::Swept { deleted: vec![], rescued: vec![pack] };
    block_on(unaware.commit(rescue())).unwrap();
    assert_eq!(history(&repository).unwrap().condemned(), HashSet::from([pack]));
    block_on(register(&repository).commit(rescue())).unwrap();
    assert!(history(&repository).unwrap().condemned().is_empty());
}

#[test]
fn a_point_that_is_committed_again_is_forgotten_no_more() {
    let repository = init(&MemoryBackend::new());
    let (number, forgotten) = commit_point(&repository, "set");
    let forget = |point: &RecoveryPoint| Outcome::Forget { points: vec![point.id], reason: "retention".into() };
    let late = register(&repository);
    block_on(register(&repository).commit(forget(&forgotten))).unwrap();
    assert!(history(&repository).unwrap().recovery_points().is_empty());
    let again = register(&repository);
    let number_again = again.number();
    block_on(again.commit(Outcome::RecoveryPoint(forgotten.clone()))).unwrap();
    let points = history(&repository).unwrap().recovery_points();
    assert_eq!(points, [(number_again, forgotten.clone())]);
    assert_eq!(history(&repository).unwrap().before(number_again).recovery_points(), []);
    assert_eq!(history(&repository).unwrap().before(LogNumber(number.0 + 1)).recovery_points().len(), 1);
    // A record that had not seen the return does not undo it; one that had does.
    block_on(late.commit(forget(&forgotten))).unwrap();
    assert_eq!(history(&repository).unwrap().recovery_points().len(), 1);
    block_on(register(&repository).commit(forget(&forgotten))).unwrap();
    assert!(history(&repository).unwrap().recovery_points().is_empty());
}

#[test]
fn hurt_locations_are_collected() {
    let repository = init(&MemoryBackend::new());
    let frames =
        vec![HurtFrame { pack: PackId([1; 32]), frame: Some(3) }, HurtFrame { pack: PackId([2; 32]), frame: None }];
    block_on(register(&repository).commit(Outcome::Damage { frames })).unwrap();
    let hurt = history(&repository).unwrap().hurt_locations();
    assert!(hurt.contains(&PackId([1; 32]), 3) && !hurt.contains(&PackId([1; 32]), 4));
    assert!(hurt.contains(&PackId([2; 32]), 0) && !hurt.is_empty());
}

#[test]
fn latest_among_several_sets_is_ambiguous() {
    let repository = init(&MemoryBackend::new());
    let (_, a) = commit_point(&repository, "a");
    let (number, b) = commit_point(&repository, "b");
    let history = history(&repository).unwrap();
    assert!(matches!(history.find_point("latest", None), Err(RepositoryError::AmbiguousPoint { .. })));
    assert_eq!(history.find_point("latest", Some("a")).unwrap().1, a);
    assert_eq!(history.latest_point("b").map(|(number, point)| (number, point.id)), Some((number, b.id)));
    assert!(history.latest_point("c").is_none());
}

#[test]
fn records_over_their_limits_are_refused_before_they_are_written() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let mut too_large = point("set");
    too_large.paths = vec![vec![b'a'; crate::limits::LOG_RECORD_BYTES_MAX]];
    let refused = block_on(register(&repository).commit(Outcome::RecoveryPoint(too_large)));
    assert!(matches!(refused, Err(RepositoryError::LimitExceeded { .. })));
    let mut long_host = open_record(Role::Writer);
    long_host.host = "h".repeat(257);
    assert!(matches!(block_on(repository.register(long_host)), Err(RepositoryError::LimitExceeded { .. })));
}

#[test]
fn reading_the_history_costs_two_gets_a_number() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    for _ in 0..20 {
        commit_point(&repository, "set");
    }
    let faulty = FaultyBackend::new(Arc::new(backend));
    let counted = block_on(Repository::open(Arc::new(faulty.clone()), &credential())).unwrap();
    faulty.forget_calls();
    history(&counted).unwrap();
    // One more number is probed.
    assert_eq!(faulty.count(Operation::Get, "log/"), 42);
    assert_eq!(faulty.count(Operation::List, ""), 1);
    // How far the log goes is asked for by name.
    let asked = faulty.count(Operation::Size, "log/");
    assert!(asked < 100, "{asked}");
    assert_eq!(faulty.calls().len(), 43 + asked);
}

/// Each question to a far store is a round trip: where its log ends is asked while the key slots are read, from the last
/// number on that this client saw there, and who registers next does not ask again.
#[test]
fn the_end_of_a_far_log_is_looked_for_while_its_key_is() {
    let (backend, memory) = (MemoryBackend::new(), tempfile::tempdir().unwrap());
    let repository = init(&backend);
    for _ in 0..20 {
        commit_point(&repository, "set");
    }
    let open = || {
        let far = FaultyBackend::far(Arc::new(backend.clone()));
        let options = OpenOptions { memory_directory: Some(memory.path().to_owned()) };
        let opened = block_on(Repository::open_with(Arc::new(far.clone()), &credential(), options)).unwrap();
        let asked = far.count(Operation::Size, "log/");
        far.forget_calls();
        (opened, far, asked)
    };
    let (first, far, asked) = open();
    assert!(asked > 3, "{asked}");
    let registration = register(&first);
    assert_eq!(registration.number(), LogNumber(21));
    // All that is asked is whether somebody came after: two names.
    assert_eq!(far.count(Operation::Size, "log/"), 2);
    block_on(registration.commit(Outcome::Ended { reason: "test".into() })).unwrap();

    let (second, _, asked) = open();
    assert_eq!(asked, 3, "the last number that was seen, and two after it");
    // Others take numbers meanwhile; what was found is where the search begins, and no more.
    commit_point(&repository, "set");
    commit_point(&repository, "set");
    let registration = register(&second);
    assert_eq!((registration.number(), registration.history().points().count()), (LogNumber(24), 22));
    // What it names need not be there: another repository may have taken the place.
    let place = place_note(memory.path()).unwrap();
    for content in ["", "no id", &format!("{}\n", ObjectId([9; 32]))] {
        std::fs::write(&place, content).unwrap();
        assert_eq!(history(&open().0).unwrap().points().count(), 22, "{content}");
    }
}

/// The note of which repository is in a place was lost, so the search for the end of the log knew nothing of what this
/// client had seen, and ended where two records are missing. Who registered took the number of one of them, as if the log
/// ended there.
#[test]
fn a_search_that_does_not_know_what_this_client_saw_is_not_believed_over_it() {
    let (backend, memory) = (MemoryBackend::new(), tempfile::tempdir().unwrap());
    init(&backend);
    let client = reopen(&backend, Some(memory.path()));
    for _ in 0..10 {
        commit_point(&client, "set");
    }
    assert_eq!(place_note(memory.path()), None);
    for number in [1, 2] {
        backend.remove(&open_name(LogNumber(number)));
    }
    let far = FaultyBackend::far(Arc::new(backend.clone()));
    let options = OpenOptions { memory_directory: Some(memory.path().to_owned()) };
    let opened = block_on(Repository::open_with(Arc::new(far), &credential(), options)).unwrap();
    let reader = block_on(opened.register(open_record(Role::Reader))).unwrap();
    assert_eq!(reader.number(), LogNumber(11));
    let missing = [open_name(LogNumber(1)), open_name(LogNumber(2))];
    assert!(missing.iter().all(|name| !backend.snapshot().contains_key(name)), "a gap was filled");
}

#[test]
fn f07_times_decide_nothing() {
    let repository = init(&MemoryBackend::new());
    let ten_years = 10 * 365 * 86_400 * 1_000_000_000i128;
    let mut last = None;
    for started in [ten_years, 0, -ten_years] {
        let mut early = point("set");
        early.started = UnixNanos(started);
        last = Some(early.id);
        block_on(register(&repository).commit(Outcome::RecoveryPoint(early))).unwrap();
    }
    assert_eq!(history(&repository).unwrap().latest_point("set").map(|(_, point)| point.id), last);
}

/// A differential backup ran for hours; its full was forgotten meanwhile, and the differential was committed on nothing.
#[test]
fn a_forgotten_point_counts_while_a_run_depends_on_it_that_registered_before() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let (_, base) = commit_point(&repository, "set");
    let is_there = |id: &ObjectId| history(&repository).unwrap().points().any(|(_, point)| point.id == *id);
    let dependent = || OpenRecord { depends_on: Some(base.id), ..open_record(Role::Writer) };
    let forget = |points: Vec<ObjectId>| {
        let admin = block_on(repository.register(open_record(Role::Admin))).unwrap();
        block_on(admin.commit(Outcome::Forget { points, reason: "test".into() })).unwrap();
    };
    let running = block_on(repository.register(dependent())).unwrap();
    forget(vec![base.id]);
    assert!(is_there(&base.id), "a running backup depends on it");
    let late = block_on(repository.register(dependent())).unwrap();
    let differential = RecoveryPoint { depends_on: Some(base.id), ..point("set") };
    let differential = RecoveryPoint { id: ObjectId([77; 32]), ..differential };
    block_on(running.commit(Outcome::RecoveryPoint(differential.clone()))).unwrap();
    assert!(is_there(&base.id) && is_there(&differential.id));
    forget(vec![differential.id]);
    assert!(!is_there(&differential.id));
    assert!(!is_there(&base.id), "who registers after a point was forgotten does not bring it back");
    block_on(late.commit(Outcome::RecoveryPoint(RecoveryPoint { id: ObjectId([78; 32]), ..differential }))).unwrap();
    assert!(!is_there(&base.id));
}

#[test]
fn a_run_that_ends_without_a_point_lets_its_base_be_forgotten() {
    let backend = MemoryBackend::new();
    let repository = init(&backend);
    let (_, base) = commit_point(&repository, "set");
    let open = OpenRecord { depends_on: Some(base.id), ..open_record(Role::Writer) };
    let running = block_on(repository.register(open)).unwrap();
    let admin = block_on(repository.register(open_record(Role::Admin))).unwrap();
    block_on(admin.commit(Outcome::Forget { points: vec![base.id], reason: "test".into() })).unwrap();
    assert_eq!(history(&repository).unwrap().points().count(), 1);
    block_on(running.commit(Outcome::Ended { reason: "interrupted".into() })).unwrap();
    assert_eq!(history(&repository).unwrap().points().count(), 0);
}

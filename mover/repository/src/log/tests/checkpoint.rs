//! Checkpoints: they say what reading every record says, in a bounded number of requests, and only an admin's word counts.

use super::super::checkpoint::{OUTCOMES_A_CHECKPOINT, write_parts};
use super::*;
use crate::retention::forgotten;
use crate::testing::Bench;

fn end(registration: Registration, outcome: Outcome) -> LogNumber {
    let number = registration.number();
    block_on(registration.commit(outcome)).unwrap();
    number
}

fn admin(repository: &Repository) -> Registration {
    block_on(repository.register(open_record(Role::Admin))).unwrap()
}

fn sum_up(repository: &Repository, forgotten_before: LogNumber) -> LogNumber {
    let registration = admin(repository);
    let outcome = block_on(write_checkpoint(&registration, forgotten_before)).unwrap().unwrap();
    end(registration, outcome)
}

/// A log with every kind of outcome, and what a client that may only add was refused. Its last number is open.
fn mixed(backend: &MemoryBackend) -> Repository {
    let repository = init(backend);
    let key = Credential::key_file(vec![2; 32]).unwrap();
    block_on(repository.add_key(&key, KeyRights::PutOnly, Stretching::CHEAPEST)).unwrap();
    let thief = block_on(Repository::open(Arc::new(backend.clone()), &key)).unwrap();
    let forget = |points: &[&RecoveryPoint]| Outcome::Forget {
        points: points.iter().map(|point| point.id).collect(),
        reason: "retention".into(),
    };
    let pack = |seed| PackId([seed; 32]);
    let condemn = |seeds: [u8; 2]| Outcome::Condemned {
        packs: seeds.map(|seed| CondemnedPack { pack: pack(seed), writer: FIRST, bytes: 1, bytes_live: 0 }).into(),
        reason: "unused".into(),
    };
    let (_, first) = commit_point(&repository, "set");
    let (_, second) = commit_point(&repository, "set");
    commit_point(&thief, "other");
    end(admin(&repository), forget(&[&first, &second]));
    end(register(&repository), Outcome::RecoveryPoint(first));
    end(register(&thief), Outcome::Forget { points: vec![second.id], reason: "forged".into() });
    end(admin(&repository), condemn([1, 2]));
    end(admin(&repository), Outcome::Swept { deleted: vec![pack(1)], rescued: vec![pack(2)] });
    end(admin(&repository), condemn([2, 3]));
    end(register(&repository), Outcome::Damage { frames: vec![HurtFrame { pack: pack(4), frame: Some(7) }] });
    end(admin(&repository), Outcome::KeyAdded { slot: ObjectId([5; 32]), is_put_only: true, label: "x".into() });
    end(admin(&repository), Outcome::KeyRemoved { slot: ObjectId([5; 32]) });
    let sleeper = register(&repository);
    let fencer = admin(&repository);
    block_on(fencer.fence(sleeper.number(), "silent")).unwrap();
    end(fencer, Outcome::Ended { reason: "fenced".into() });
    end(block_on(repository.register(open_record(Role::Reader))).unwrap(), Outcome::Ended { reason: "read".into() });
    repository
}

/// All that is asked of a history.
fn told(history: &History) -> impl PartialEq + std::fmt::Debug {
    let mut condemned: Vec<_> = history.condemnations().into_iter().collect();
    condemned.sort_unstable();
    let keys =
        |entry: &&LogEntry| matches!(entry.outcome(), Some(Outcome::KeyAdded { .. } | Outcome::KeyRemoved { .. }));
    let keys: Vec<_> = history.entries().iter().filter(keys).map(|entry| (entry.number, entry.done.clone())).collect();
    let points: Vec<_> = history.points().map(|(number, point)| (number, point.clone())).collect();
    let open: Vec<_> = history.open_writers().map(|entry| entry.number).collect();
    let refused: Vec<_> = history.refused().collect();
    let seen = history.seen(LogNumber(history.highest().0 + 1));
    ((points, condemned, history.deleted(), history.hurt_locations()), (keys, open, refused, seen))
}

#[test]
fn a_checkpoint_says_what_reading_every_record_says() {
    let backend = MemoryBackend::new();
    let repository = mixed(&backend);
    let open = register(&repository);
    let below = open.number();
    let number = sum_up(&repository, LogNumber::default());
    commit_point(&repository, "after");
    let with = history(&repository).unwrap();
    assert_eq!(with.summed_below(), below, "not beyond a run that has no outcome");
    // A part that is missing, cut or changed costs requests and nothing else.
    let (part, good) = (sum_name(number, 0), backend.snapshot());
    let object = good[&part].clone();
    let changed = |at: usize| [&object[..at], &[object[at] ^ 1], &object[at + 1..]].concat();
    for damaged in [None, Some(object[..50].to_vec()), Some(changed(3)), Some(changed(object.len() - 1))] {
        match damaged {
            Some(bytes) => backend.overwrite(&part, bytes),
            None => backend.remove(&part),
        }
        let without = history(&repository).unwrap();
        assert_eq!(without.summed_below(), FIRST);
        assert!(with.entries().len() < without.entries().len());
        assert_eq!((told(&with), forgotten(&with)), (told(&without), forgotten(&without)));
    }
    backend.restore(good);
    // The next one is read from this one, and says the same.
    end(open, Outcome::Ended { reason: "done".into() });
    let before = history(&repository).unwrap();
    let second = sum_up(&repository, LogNumber::default());
    let after = history(&repository).unwrap().before(second);
    assert_eq!(after.summed_below(), second);
    let without_digest = |history: &History| format!("{:?}", (history.recovery_points(), history.hurt_locations()));
    assert_eq!(without_digest(&after), without_digest(&before));
    assert_eq!(told(&after), told(&before));
}

#[test]
fn what_is_on_its_way_out_is_not_carried_on_and_what_came_back_is() {
    let backend = MemoryBackend::new();
    let repository = mixed(&backend);
    let before = history(&repository).unwrap();
    assert_eq!(forgotten(&before).len(), 1);
    // Forgotten, but not when the prune began that writes the checkpoint.
    sum_up(&repository, LogNumber(4));
    assert_eq!(forgotten(&history(&repository).unwrap()), forgotten(&before));
    sum_up(&repository, LogNumber(5));
    let after = history(&repository).unwrap();
    assert_eq!(forgotten(&after), []);
    assert_eq!(after.recovery_points(), before.recovery_points(), "in their order: one was brought back");
}

#[test]
fn a_checkpoint_counts_only_from_an_admin_key() {
    let backend = MemoryBackend::new();
    let repository = mixed(&backend);
    let key = Credential::key_file(vec![2; 32]).unwrap();
    let thief = block_on(Repository::open(Arc::new(backend.clone()), &key)).unwrap();
    let whole = history(&repository).unwrap();
    let registration = block_on(thief.register(open_record(Role::Admin))).unwrap();
    // It has all hashes right, and not one recovery point.
    let hashes = (1..registration.number().0).map(|number| whole.outcome_hash(LogNumber(number))).collect();
    let nothing = History::new(Vec::new(), hashes, None);
    let forged = block_on(write_parts(&thief, registration.number(), &nothing, FIRST)).unwrap().unwrap();
    end(registration, forged);
    let read = history(&repository).unwrap();
    assert_eq!((read.recovery_points(), read.summed_below()), (whole.recovery_points(), FIRST));
    assert_eq!(read.refused().count(), whole.refused().count() + 1);
}

#[test]
fn a_client_notices_across_a_checkpoint_what_was_hidden_or_rolled_back() {
    let backend = MemoryBackend::new();
    init(&backend);
    let cache = tempfile::tempdir().unwrap();
    let client = reopen(&backend, Some(cache.path()));
    (0..5).for_each(|_| _ = commit_point(&client, "set"));
    let five = backend.snapshot();
    // The last outcome is hidden; an admin who never saw it ends that run, and a checkpoint sums it up so.
    let stranger = reopen(&backend, None);
    backend.remove(&done_name(LogNumber(5)));
    let fencer = admin(&stranger);
    assert_eq!(block_on(fencer.fence(LogNumber(5), "gone")).unwrap(), Fencing::Fenced);
    end(fencer, Outcome::Ended { reason: "fenced".into() });
    sum_up(&stranger, LogNumber::default());
    assert_eq!(history(&stranger).unwrap().summed_below(), LogNumber(7));
    assert!(matches!(history(&client), Err(RepositoryError::HistoryAltered { .. })));
    // An honest one is no alarm; a rollback to before it is.
    backend.restore(five.clone());
    sum_up(&stranger, LogNumber::default());
    assert_eq!(history(&client).unwrap().recovery_points().len(), 5);
    backend.restore(five);
    assert!(matches!(history(&client), Err(RepositoryError::HistoryAltered { .. })));
}

/// A log of 100,000 outcomes, 10,000 points among them, of which as many came after the last checkpoint as ever do before
/// a prune writes the next.
#[test]
fn a_repository_with_100_000_outcomes_opens_in_a_bounded_number_of_requests() {
    const OUTCOMES: u64 = 100_000;
    let bench = Bench::new();
    let checkpoint = OUTCOMES - OUTCOMES_A_CHECKPOINT;
    let signer = bench.repository.secrets().signing().verifying_key();
    let entry = |number| LogEntry {
        number: LogNumber(number),
        open: Some(open_record(Role::Writer)),
        signer,
        done: Some(DoneRecord { signer, seen: Seen::nothing(), outcome: Outcome::RecoveryPoint(point("set")) }),
        standing: Standing::Counts,
    };
    let hash = |number: u64| Some(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let entries: Vec<LogEntry> = (1..checkpoint).filter(|number| number % 9 == 0).take(10_000).map(entry).collect();
    let log = History::new(entries, (1..checkpoint).map(hash).collect(), None);
    // Nobody reads what is summed up; it is there.
    (1..checkpoint).for_each(|number| bench.store.overwrite(&open_name(LogNumber(number)), &b"summed up"[..]));
    let outcome = block_on(write_parts(&bench.repository, LogNumber(checkpoint), &log, FIRST)).unwrap().unwrap();
    bench.write_run(LogNumber(checkpoint), Role::Admin, log.seen(LogNumber(checkpoint)), outcome);
    let ended = || Outcome::Ended { reason: "done".into() };
    (checkpoint + 1..=OUTCOMES).for_each(|at| bench.write_run(LogNumber(at), Role::Writer, Seen::nothing(), ended()));

    let faulty = FaultyBackend::new(bench.store.clone());
    let counted = bench.repository.moved_to(Arc::new(faulty.clone()));
    let read = history(&counted).unwrap();
    assert_eq!((read.highest(), read.points().count()), (LogNumber(OUTCOMES), 10_000));
    let requests = faulty.calls().len();
    println!("{requests} requests, {} of them for the checkpoint", faulty.count(Operation::Get, "log/") - 2 * 401);
    assert!(requests < 1_200, "{requests}");
    assert_eq!(faulty.count(Operation::List, ""), 0, "a listing of such a log is long");
    assert_eq!(register(&counted).number(), LogNumber(OUTCOMES + 1));
}

#[test]
fn verify_tells_of_a_checkpoint_that_is_damaged_or_gone() {
    use crate::backend::Backend;
    use crate::verify::{VerifyOptions, verify};
    let bench = Bench::new();
    bench.backup(&[("a", vec![7; 1000])]);
    let name = sum_name(sum_up(&bench.repository, LogNumber::default()), 0);
    let check = || verify(&bench.repository, &VerifyOptions::default(), &|_| {}).unwrap();
    assert!(check().is_clean());
    let whole = bench.store.snapshot()[&name].clone();
    let mut changed = whole.to_vec();
    changed[100] ^= 1;
    bench.store.overwrite(&name, changed);
    let damaged = check();
    assert_eq!((damaged.errors_total, damaged.points), (1, 1), "{:?}", damaged.errors);
    assert_eq!(damaged.errors[0].object, name);
    block_on(bench.store.delete(&name)).unwrap();
    let gone = check();
    assert_eq!((gone.errors_total, gone.points), (1, 1), "{:?}", gone.errors);
    assert_eq!(gone.errors[0].object, name);
}

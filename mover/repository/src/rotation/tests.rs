//! Rotations: who is given the new keys, who is not, and that no crash and no thief changes that.

use std::sync::Arc;

use super::*;
use crate::backend::faulty::{Effect, Fault, Operation};
use crate::backend::{Backend, FaultyBackend, MemoryBackend};
use crate::key_admin::{add_key, list_keys, remove_key};
use crate::key_text::PrivateKey;
use crate::keys::{Credential, Stretching, slot_name};
use crate::log::{DoneRecord, Role, Seen, done_name, open_name, seal_record};
use crate::repository::InitOptions;
use crate::testing::{Bench, block_on, noise, point};
use crate::verify::{Data, VerifyOptions, verify};

fn key_file(seed: u8) -> Credential {
    Credential::key_file(vec![seed; 32]).unwrap()
}

fn open(store: &Arc<MemoryBackend>, credential: &Credential) -> Result<Repository> {
    block_on(Repository::open(store.clone(), credential))
}

/// The bench as its key opens it now.
fn reopened(bench: &Bench) -> Bench {
    Bench { store: bench.store.clone(), repository: open(&bench.store, &key_file(7)).unwrap() }
}

fn add(repository: &Repository, credential: &Credential, rights: KeyRights) -> ObjectId {
    let who = Bench::open_record(Role::Admin);
    block_on(add_key(repository, &who, credential, rights, "label", Stretching::CHEAPEST)).unwrap()
}

fn rotate(repository: &Repository) -> Result<Rotated> {
    block_on(rotate_keys(repository, &Bench::open_record(Role::Admin), Duration::ZERO))
}

fn generation(repository: &Repository) -> u32 {
    repository.secrets().structure_generation()
}

fn assert_clean(repository: &Repository, points: u64) {
    let report = verify(repository, &VerifyOptions { data: Data::All, ..VerifyOptions::default() }, &|_| {}).unwrap();
    assert!(report.is_clean(), "{:?} {:?}", report.errors, report.hurt_files);
    assert_eq!(report.points, points);
}

#[test]
fn every_key_that_is_there_is_given_the_new_generation() {
    let bench = Bench::new();
    bench.backup(&[("a", noise(1, 1000))]);
    let private = PrivateKey::generate();
    let password = Credential::password("battery staple").unwrap();
    add(&bench.repository, &password, KeyRights::Full);
    add(&bench.repository, &Credential::PublicKey(private.public()), KeyRights::Full);
    add(&bench.repository, &key_file(2), KeyRights::PutOnly);
    for round in 2..5 {
        let rotated = rotate(&reopened(&bench).repository).unwrap();
        assert_eq!((rotated.generation, rotated.carried.len(), rotated.left_out.len()), (round, 4, 0));
        let now = reopened(&bench);
        now.backup(&[("b", noise(u64::from(round), 1000))]);
        for credential in [&password, &Credential::PrivateKey(private.clone())] {
            let opened = open(&bench.store, credential).unwrap();
            assert!(opened.secrets().can_read() && opened.secrets().is_admin());
            assert_eq!(generation(&opened), round);
            assert_clean(&opened, u64::from(round));
        }
        // Who may only add learns the new public key, and what it writes others read.
        let client = open(&bench.store, &key_file(2)).unwrap();
        assert!(generation(&client) == round && !client.secrets().can_read());
    }
    // A key that was added after rotations knows all of them.
    add(&reopened(&bench).repository, &key_file(3), KeyRights::Full);
    assert_clean(&open(&bench.store, &key_file(3)).unwrap(), 4);
    let client = Bench { store: bench.store.clone(), repository: open(&bench.store, &key_file(2)).unwrap() };
    client.backup(&[("c", noise(9, 1000))]);
    assert_clean(&reopened(&bench).repository, 5);
}

#[test]
fn a_key_that_was_removed_is_not_given_the_new_generation() {
    let bench = Bench::new();
    let slot = add(&bench.repository, &key_file(2), KeyRights::Full);
    let copy = bench.bytes(&slot_name(&slot));
    let thief = open(&bench.store, &key_file(2)).unwrap();
    block_on(remove_key(&bench.repository, &Bench::open_record(Role::Admin), slot, Duration::ZERO)).unwrap();
    assert_eq!(rotate(&bench.repository).unwrap().carried.len(), 1);
    // He puts his slot back, but it opens nothing that came since; and he is told why.
    bench.store.overwrite(&slot_name(&slot), copy);
    let refused = open(&bench.store, &key_file(2)).map(drop);
    assert!(matches!(refused, Err(RepositoryError::UnknownGeneration { generation: 2, .. })), "{refused:?}");
    // With the secrets that he kept he is told apart too.
    let refused = block_on(thief.register(Bench::open_record(Role::Writer))).map(drop);
    assert!(matches!(refused, Err(RepositoryError::UnknownGeneration { generation: 2, .. })), "{refused:?}");
}

/// He holds the admin key and the structure secret of before, and seals whatever he likes.
#[test]
fn a_record_under_keys_that_were_rotated_away_counts_for_nothing() {
    let bench = Bench::new();
    let kept = bench.backup(&[("a", noise(1, 1000))]);
    let slot = add(&bench.repository, &key_file(2), KeyRights::Full);
    let thief = open(&bench.store, &key_file(2)).unwrap();
    block_on(remove_key(&bench.repository, &Bench::open_record(Role::Admin), slot, Duration::ZERO)).unwrap();
    rotate(&bench.repository).unwrap();
    let now = reopened(&bench);
    let forge = |outcome: Outcome| {
        let number = LogNumber(block_on(now.repository.history()).unwrap().highest().0 + 1);
        let (secrets, signer) = (thief.secrets(), thief.secrets().signing().verifying_key());
        let (open_name, done_name) = (open_name(number), done_name(number));
        let open_body = Bench::open_record(Role::Admin).encode(&signer);
        let done = DoneRecord { signer, seen: Seen::nothing(), outcome };
        bench.store.overwrite(&open_name, seal_record(secrets, &open_name, &open_body).unwrap());
        bench.store.overwrite(&done_name, seal_record(secrets, &done_name, &done.encode()).unwrap());
        number
    };
    let forged = [
        forge(Outcome::Forget { points: vec![kept.id], reason: "forged".into() }),
        forge(Outcome::KeyAdded { slot, is_put_only: false, label: "forged".into() }),
        forge(Outcome::KeysRotated { generation: 3, rotation: slot }),
        forge(Outcome::RecoveryPoint(point("forged"))),
    ];
    let history = block_on(now.repository.history()).unwrap();
    assert_eq!(history.refused().map(|(number, _)| number).collect::<Vec<_>>(), forged);
    assert_eq!(history.recovery_points().len(), 1);
    assert_eq!(generation(&reopened(&bench).repository), 2);
    assert_eq!(rotate(&reopened(&bench).repository).unwrap().generation, 3);
}

#[test]
fn of_two_admins_who_rotate_at_once_one_wins() {
    let bench = Bench::new();
    let other = open(&bench.store, &key_file(7)).unwrap();
    let slow = block_on(begin(&bench.repository, &Bench::open_record(Role::Admin))).unwrap();
    let waits = rotate(&other);
    assert!(matches!(waits, Err(RepositoryError::NotSupported { .. })), "{waits:?}");
    let (rotation, rotated) = block_on(prepare(&bench.repository, slow.number(), Duration::ZERO)).unwrap();
    block_on(slow.commit(Outcome::KeysRotated { generation: rotated.generation, rotation })).unwrap();
    let late = rotate(&other);
    assert!(matches!(late, Err(RepositoryError::UnknownGeneration { generation: 2, .. })), "{late:?}");
    assert_eq!(generation(&reopened(&bench).repository), 2);

    // One that was fenced has written its object, and that is used by nobody.
    let stuck = block_on(begin(&reopened(&bench).repository, &Bench::open_record(Role::Admin))).unwrap();
    let (rotation, _) = block_on(prepare(&reopened(&bench).repository, stuck.number(), Duration::ZERO)).unwrap();
    let pruner = block_on(begin(&reopened(&bench).repository, &Bench::open_record(Role::Admin))).unwrap();
    block_on(pruner.fence(stuck.number(), "stuck")).unwrap();
    block_on(pruner.commit(Outcome::Ended { reason: "test".into() })).unwrap();
    assert!(block_on(stuck.commit(Outcome::KeysRotated { generation: 3, rotation })).is_err());
    assert_eq!(generation(&reopened(&bench).repository), 2);
    assert_eq!(rotate(&reopened(&bench).repository).unwrap().generation, 3);
    assert_eq!(generation(&reopened(&bench).repository), 3);
}

#[test]
fn a_crash_at_any_write_of_a_rotation_leaves_a_repository_that_opens() {
    for nth in 1..=3 {
        for effect in [Effect::Io, Effect::LostAnswer] {
            let bench = Bench::new();
            bench.backup(&[("a", noise(1, 1000))]);
            let faulty = FaultyBackend::new(bench.store.clone());
            let opened = block_on(Repository::open(Arc::new(faulty.clone()), &key_file(7))).unwrap();
            faulty.plan(Fault { forever: true, ..Fault::at(Operation::Create, nth, effect) });
            let _ = rotate(&opened);
            let after = reopened(&bench);
            assert!(matches!(generation(&after.repository), 1 | 2), "{nth} {effect:?}");
            assert_clean(&after.repository, 1);
            // What the crash left open is ended as prune does it; then all goes on.
            let history = block_on(after.repository.history()).unwrap();
            let left: Vec<LogNumber> =
                history.entries().iter().filter(|entry| entry.done.is_none()).map(|entry| entry.number).collect();
            let pruner = block_on(begin(&after.repository, &Bench::open_record(Role::Admin))).unwrap();
            left.iter().for_each(|number| _ = block_on(pruner.fence(*number, "dead")).unwrap());
            block_on(pruner.commit(Outcome::Ended { reason: "test".into() })).unwrap();
            let before = generation(&after.repository);
            assert_eq!(rotate(&after.repository).unwrap().generation, before + 1, "{nth} {effect:?}");
            reopened(&bench).backup(&[("b", noise(2, 1000))]);
            assert_clean(&reopened(&bench).repository, 2);
        }
    }
}

#[test]
fn a_backup_that_began_before_a_rotation_ends_and_stays_readable() {
    let bench = Bench::new();
    let files = [("a", noise(1, 1000))];
    let running = block_on(bench.repository.register(Bench::open_record(Role::Writer))).unwrap();
    rotate(&open(&bench.store, &key_file(7)).unwrap()).unwrap();
    let pack = bench.pack(running.number().0, crate::pack::PackClass::Data, &[vec![files[0].1.clone()]]);
    bench.segment(&[pack]);
    bench.commit(running, &files);
    assert_clean(&reopened(&bench).repository, 1);
}

#[test]
fn a_forged_rotation_is_ignored_and_told() {
    let bench = Bench::new();
    add(&bench.repository, &key_file(2), KeyRights::PutOnly);
    let thief = open(&bench.store, &key_file(2)).unwrap();
    assert!(matches!(rotate(&thief), Err(RepositoryError::NotSupported { .. })));
    // He writes what an admin would: an object with keys of his own, and the record of it.
    let registration = block_on(thief.register(Bench::open_record(Role::Admin))).unwrap();
    let slots = block_on(list_slots(&thief, registration.history())).unwrap();
    let slots: Vec<KeySlot> = slots.into_iter().filter_map(|(_, slot)| slot).collect();
    let new = thief.secrets().draw_generation().unwrap();
    let (rotation, object) = seal(thief.secrets(), registration.number(), &new, &slots).unwrap();
    block_on(bench.store.create(&rotation_name(&rotation), object)).unwrap();
    let number = registration.number();
    block_on(registration.commit(Outcome::KeysRotated { generation: 2, rotation })).unwrap();
    // A slot of his own is not carried over.
    block_on(thief.add_key(&key_file(9), KeyRights::Full, Stretching::CHEAPEST)).unwrap();
    let now = reopened(&bench);
    assert_eq!(generation(&now.repository), 1);
    let history = block_on(now.repository.history()).unwrap();
    assert_eq!(history.refused().map(|(number, _)| number).collect::<Vec<_>>(), [number]);
    let rotated = rotate(&now.repository).unwrap();
    assert_eq!((rotated.generation, rotated.carried.len(), rotated.left_out.len()), (2, 2, 1));
    let rights: Vec<_> = block_on(list_keys(&reopened(&bench).repository)).unwrap();
    assert_eq!(rights.iter().filter(|key| key.rights.is_none()).count(), 1);
    // And no other key learns anything from the envelopes of one.
    assert!(open(&bench.store, &key_file(9)).is_err());
}

#[test]
fn f27_every_flipped_byte_and_every_truncation_of_a_rotation_is_an_error() {
    let bench = Bench::new();
    rotate(&bench.repository).unwrap();
    let name = bench.names("keys/rotation").pop().unwrap();
    let object = bench.bytes(&name);
    for at in 0..object.len() {
        let mut changed = object.to_vec();
        changed[at] ^= 0x41;
        assert!(Rotation::decode(&name, &changed).is_err(), "byte {at}");
        assert!(Rotation::decode(&name, &object[..at]).is_err(), "cut at {at}");
    }
    // Where it is lost, nobody goes on under the older keys without a word.
    bench.store.remove(&name);
    let old = reopened(&bench);
    let refused = block_on(old.repository.register(Bench::open_record(Role::Writer))).map(drop);
    assert!(matches!(refused, Err(RepositoryError::UnknownGeneration { generation: 2, .. })), "{refused:?}");
}

#[test]
fn a_repository_is_made_with_a_private_key_as_well() {
    let store = Arc::new(MemoryBackend::new());
    let private = Credential::PrivateKey(PrivateKey::generate());
    block_on(Repository::init(store.clone(), &private, InitOptions::default())).unwrap();
    assert!(open(&store, &private).unwrap().secrets().is_admin());
    let other = Credential::PrivateKey(PrivateKey::generate());
    assert!(matches!(open(&store, &other), Err(RepositoryError::WrongKey)));
}

//! What a client can do that may only add, and was stolen: nothing of his destroys, and what he forges is found.

use super::*;
use crate::crypto::random_array;
use crate::ids::LogNumber;
use crate::index::SegmentBuilder;
use crate::pack::PackSealer;

fn forge(thief: &Bench, outcome: Outcome) -> LogNumber {
    let registration = block_on(thief.repository.register(Bench::open_record(Role::Admin))).unwrap();
    let number = registration.number();
    block_on(registration.commit(outcome)).unwrap();
    number
}

/// A pack whose table says that it holds `claimed`, and that holds other bytes; with an index segment that names it.
fn garbage_for(thief: &Bench, claimed: &[Vec<u8>]) {
    let registration = block_on(thief.repository.register(Bench::open_record(Role::Writer))).unwrap();
    let mut sealer = PackSealer::open(&thief.repository, registration.number(), PackClass::Data);
    let mut parts = vec![sealer.header()];
    for chunk in claimed {
        let id = thief.repository.secrets().chunk_id(chunk);
        parts.push(sealer.seal_raw(&vec![0x66; chunk.len()], &[(id, chunk.len() as u32)]));
    }
    let name = sealer.object_name();
    let (tail, contents) = sealer.finish();
    parts.push(tail);
    block_on(thief.store.create(&name, bytes::Bytes::from(parts.concat()))).unwrap();
    let mut builder = SegmentBuilder::new(&thief.repository);
    builder.add(&contents);
    block_on(builder.write()).unwrap();
    block_on(registration.commit(Outcome::Ended { reason: "looks innocent".into() })).unwrap();
}

#[test]
fn thief_cannot_make_a_destructive_record_count() {
    let bench = Bench::new();
    let kept = files(0..4);
    let point = backup(&bench, &kept);
    let packs = bench.names("packs");
    let thief = bench.put_only_client();
    let condemned = packs.iter().filter_map(|name| parse_pack_name(name)).map(|(writer, pack)| CondemnedPack {
        pack,
        writer,
        bytes: 1,
        bytes_live: 0,
    });
    let slot = bench.repository.slot().unwrap();
    let forged = [
        forge(&thief, Outcome::Forget { points: vec![point.id], reason: "forged".into() }),
        forge(&thief, Outcome::Condemned { packs: condemned.collect(), reason: "forged".into() }),
        forge(&thief, Outcome::Swept { deleted: vec![PackId(random_array())], rescued: Vec::new() }),
        forge(&thief, Outcome::KeyRemoved { slot }),
        forge(&thief, Outcome::KeyAdded { slot, is_put_only: true, label: "forged".into() }),
        forge(&thief, Outcome::KeysRotated { generation: 2, rotation: slot }),
    ];
    let history = block_on(bench.repository.history()).unwrap();
    assert_eq!(history.refused().map(|(number, _)| number).collect::<Vec<_>>(), forged, "each is told");
    assert_eq!(history.recovery_points().len(), 1);
    assert!(history.condemned().is_empty() && history.deleted().is_empty());
    assert_eq!(pruned(&bench).deleted, Packs::default());
    assert_whole(&bench, &[&kept]);
}

#[test]
fn thief_that_registers_as_an_admin_keeps_no_admin_from_changing_keys() {
    let bench = Bench::new();
    let thief = bench.put_only_client();
    let endless = block_on(thief.repository.register(Bench::open_record(Role::Admin))).unwrap();
    let rotated = block_on(crate::rotation::rotate_keys(&bench.repository, &who(), Duration::ZERO)).unwrap();
    assert_eq!((rotated.generation, rotated.carried.len()), (2, 2));
    drop(endless);
}

/// A backup that comes after cannot know that the bytes are others: it has no reason to read them. So its file is hurt
/// until a verify has read the pack; then the next backup stores the content again.
#[test]
fn thief_garbage_behind_an_id_is_found_by_verify_and_healed_by_the_next_backup() {
    let bench = Bench::new();
    let earlier = files(0..4);
    backup(&bench, &earlier);
    let thief = bench.put_only_client();
    let known = files(2..8);
    garbage_for(&thief, &known.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>());
    // What was stored before is read from where it was: all places of a chunk are tried.
    assert_reads_back(&bench, &earlier);
    let victim = files(4..8);
    backup(&bench, &victim);
    let all = VerifyOptions { data: Data::All, ..VerifyOptions::default() };
    let report = verify(&bench.repository, &all, &|_| {}).unwrap();
    assert!(!report.is_clean() && !report.hurt_frames.is_empty(), "{:?}", report.errors);
    let hurt: std::collections::BTreeSet<String> =
        report.hurt_files.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    let expected: std::collections::BTreeSet<String> = victim.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(hurt, expected, "the files that it costs are named, and no others");
    let registration = block_on(bench.repository.register(who())).unwrap();
    block_on(registration.commit(Outcome::Damage { frames: report.hurt_frames })).unwrap();
    backup(&bench, &victim);
    assert_reads_back(&bench, &victim);
    assert_reads_back(&bench, &earlier);
    let healed = verify(&bench.repository, &all, &|_| {}).unwrap();
    assert!(healed.hurt_files.is_empty(), "{:?}", healed.hurt_files);
    // A prune keeps what is whole, whatever the forged table says.
    pruned(&bench);
    assert_reads_back(&bench, &victim);
    assert_reads_back(&bench, &earlier);
}

/// The garbage claims what is stored already: no copy that is whole goes because there is "another one".
#[test]
fn thief_garbage_never_makes_a_prune_give_up_the_copy_that_is_whole() {
    let bench = Bench::new();
    let (kept, gone) = (files(0..4), files(3..8));
    backup(&bench, &kept);
    let forgotten = backup(&bench, &gone);
    for _ in 0..8 {
        garbage_for(&bench.put_only_client(), &kept.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>());
    }
    forget(&bench, &forgotten);
    for _ in 0..3 {
        prune(&bench.repository, &who(), &options()).unwrap();
        assert_reads_back(&bench, &kept);
    }
}

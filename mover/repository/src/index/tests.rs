//! The index against a plain map, in both modes and under damage.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::backend::Backend;
use crate::crypto::{KEY_BLOCK_BYTES, KeyBlock};
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId};
use crate::index::segment::{ENTRY_BYTES, SegmentEntry, segment_name};
use crate::index::{Absent, Index, Location, SegmentBuilder, compact};
use crate::pack::{FrameInfo, PackClass, PackContents};
use crate::testing::{Bench, block_on, chunk_id, noise};

/// Contents of a pack that need not exist.
fn contents(seed: u64, frames: &[Vec<ChunkId>]) -> PackContents {
    let infos = frames.iter().enumerate().map(|(number, chunks)| FrameInfo {
        number: number as u32,
        offset: 1000 * number as u64,
        sealed_bytes: 999,
        blake3: [0; 32],
        chunks: chunks.iter().map(|id| (*id, 7)).collect(),
    });
    PackContents {
        id: PackId(chunk_id(seed).0),
        writer: LogNumber(seed),
        class: PackClass::Data,
        generation: 1,
        key_block: KeyBlock([seed as u8; KEY_BLOCK_BYTES]),
        bytes: 1 << 20,
        frames: infos.collect(),
    }
}

type Model = BTreeMap<ChunkId, Vec<(PackId, u32, u32)>>;

fn add_to_model(model: &mut Model, pack: &PackContents) {
    for frame in &pack.frames {
        for (at, (id, _)) in frame.chunks.iter().enumerate() {
            model.entry(*id).or_default().push((pack.id, frame.number, at as u32 * 7));
        }
    }
}

fn check(index: &Index, model: &Model, strangers: std::ops::Range<u64>) {
    let plain = |location: &Location| (index.pack(location.pack).id, location.frame, location.chunk_offset);
    for (id, expected) in model {
        let mut found: Vec<_> = block_on(index.locations(id)).unwrap().iter().map(plain).collect();
        let mut expected = expected.clone();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{id}");
        assert_ne!(index.contains_now(id), Some(false));
        assert!(block_on(index.lookup(id)).unwrap().is_some());
        // The block is cached now.
        assert_eq!(index.contains_now(id), Some(true));
    }
    for id in strangers.map(chunk_id) {
        assert_eq!(block_on(index.lookup(&id)).unwrap(), None);
        assert_eq!(block_on(index.locations(&id)).unwrap(), []);
        assert_ne!(index.contains_now(&id), Some(true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn f10_the_index_agrees_with_a_plain_map(
        packs in prop::collection::vec(prop::collection::vec(prop::collection::vec(0u64..3_000, 0..40), 0..8), 1..12),
        in_overlay in 0usize..4,
        budget in prop_oneof![Just(0usize), Just(64 << 20)],
    ) {
        let bench = Bench::new();
        let mut model = Model::new();
        let mut later = Vec::new();
        for (at, frames) in packs.iter().enumerate() {
            let ids: Vec<Vec<ChunkId>> = frames.iter().map(|frame| frame.iter().map(|n| chunk_id(*n)).collect()).collect();
            let pack = contents(100_000 + at as u64, &ids);
            add_to_model(&mut model, &pack);
            if at < in_overlay {
                later.push(pack);
            } else {
                bench.segment(&[pack]);
            }
        }
        let index = bench.index(budget);
        later.iter().for_each(|pack| index.insert(pack));
        check(&index, &model, 200_000..200_200);
        block_on(compact(&bench.repository, usize::MAX)).unwrap();
        let merged = bench.index(budget);
        later.iter().for_each(|pack| merged.insert(pack));
        check(&merged, &model, 200_000..200_050);
    }
}

/// Many copies of one chunk straddle the borders of blocks.
#[test]
fn f03_every_copy_of_a_chunk_is_found() {
    let bench = Bench::new();
    let mut model = Model::new();
    let ids: Vec<Vec<ChunkId>> = (0..40).map(|_| vec![chunk_id(1); 100]).collect();
    let others: Vec<Vec<ChunkId>> = (0..30).map(|n| (0..100).map(|m| chunk_id(n * 100 + m + 5)).collect()).collect();
    for pack in [contents(1, &ids), contents(2, &others)] {
        add_to_model(&mut model, &pack);
        bench.segment(&[pack]);
    }
    check(&bench.index(0), &model, 100_000..100_100);
    check(&bench.index(64 << 20), &model, 100_000..100_100);
}

#[test]
fn f27_every_flip_and_cut_of_a_segment_is_noticed_and_skipped() {
    let bench = Bench::new();
    let id = bench.segment(&[contents(1, &[vec![chunk_id(1), chunk_id(2)]])]);
    let name = segment_name(&id);
    let good = bench.bytes(&name);
    let expected = block_on(bench.index(1 << 20).lookup(&chunk_id(1))).unwrap();
    // Header and id, one block of two locations, a table of one pack.
    let filter_from = 64 + (2 * ENTRY_BYTES + 16) + (4 + 137 + 16);
    let filter = filter_from..filter_from + 8 + 16;
    let check = |what: &str, at: usize| {
        for budget in [0, 1 << 20] {
            let index = bench.index(budget);
            // In block mode a damaged block shows when it is read; the filter is read there alone.
            let found = block_on(index.lookup(&chunk_id(1)));
            if matches!(found, Ok(Some(_))) {
                assert!(budget > 0 && filter.contains(&at), "{what} at {at}");
                assert_eq!(found.unwrap(), expected, "{what} at {at}");
                continue;
            }
            assert!(!index.unreadable().is_empty() || found.is_err(), "{what} at {at}");
            assert_ne!(index.contains_now(&chunk_id(1)), Some(true));
        }
    };
    for at in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1 << (at % 8);
        bench.store.overwrite(&name, flipped);
        check("flip", at);
        bench.store.overwrite(&name, good.slice(..at));
        check("cut", at);
    }
    bench.store.overwrite(&name, [&good[..], b"x"].concat());
    check("grown", good.len());
}

#[test]
fn a_segment_that_replaces_others_counts_only_while_it_is_readable() {
    let bench = Bench::new();
    let mut model = Model::new();
    for seed in 0..8 {
        let pack = contents(seed, &[vec![chunk_id(seed), chunk_id(seed + 100)]]);
        add_to_model(&mut model, &pack);
        bench.segment(&[pack]);
    }
    let before = bench.names("index");
    assert_eq!(block_on(compact(&bench.repository, usize::MAX)).unwrap(), 1);
    assert_eq!(block_on(compact(&bench.repository, usize::MAX)).unwrap(), 0);
    let merged: Vec<String> = bench.names("index").into_iter().filter(|name| !before.contains(name)).collect();
    for name in &before {
        bench.store.overwrite(name, vec![]);
    }
    check(&bench.index(1 << 20), &model, 1000..1100);
    assert_eq!(bench.index(1 << 20).chunks(), 16);
    // The other way round: the merged one is damaged in a block, the old ones are used.
    let bench = Bench::new();
    for seed in 0..8 {
        bench.segment(&[contents(seed, &[vec![chunk_id(seed), chunk_id(seed + 100)]])]);
    }
    let before = bench.names("index");
    block_on(compact(&bench.repository, usize::MAX)).unwrap();
    let name = bench.names("index").into_iter().find(|name| !before.contains(name)).unwrap();
    let mut damaged = bench.bytes(&name).to_vec();
    damaged[64 + 5] ^= 1;
    bench.store.overwrite(&name, damaged);
    let index = bench.index(1 << 20);
    assert_eq!(index.unreadable().len(), 1);
    check(&index, &model, 1000..1100);
    assert_eq!(merged.len(), 1);
}

#[test]
fn f12_condemned_packs_and_hurt_frames_are_absent() {
    let bench = Bench::new();
    let packs: Vec<PackContents> =
        (0..3).map(|seed| contents(seed, &[vec![chunk_id(seed)], vec![chunk_id(seed + 10)]])).collect();
    bench.segment(&packs);
    let absent =
        Absent { packs: [packs[0].id].into_iter().collect(), frames: [(packs[1].id, 1)].into_iter().collect() };
    for budget in [0, 1 << 20] {
        let index = block_on(Index::load_without(&bench.repository, absent.clone(), budget)).unwrap();
        let is_there = |seed: u64| block_on(index.lookup(&chunk_id(seed))).unwrap().is_some();
        assert_eq!([0, 10, 1, 11, 2, 12].map(is_there), [false, false, true, false, true, true], "budget {budget}");
        index.insert(&packs[0]);
        assert!(!is_there(0) || index.find_pack(&packs[0].id).is_none());
    }
}

#[test]
fn the_overlay_gives_way_to_a_written_segment() {
    let bench = Bench::new();
    let index = bench.index(0);
    let mut model = Model::new();
    for seed in 0..4 {
        let pack = contents(seed, &[(0..500).map(|n| chunk_id(seed * 1000 + n)).collect()]);
        add_to_model(&mut model, &pack);
        index.insert(&pack);
        let id = bench.segment(&[pack]);
        block_on(index.segment_written(&id)).unwrap();
    }
    check(&index, &model, 100_000..100_100);
    assert!(index.is_block_mode());
    assert_eq!(index.overlay.memory_bytes(), 0);
}

#[test]
fn packs_without_a_segment_are_found_by_their_tables() {
    let bench = Bench::new();
    let known = bench.pack(1, PackClass::Data, &[vec![b"one".to_vec()]]);
    bench.pack(1, PackClass::Data, &[vec![b"two".to_vec()], vec![b"three".to_vec()]]);
    bench.segment(&[known]);
    let history = block_on(bench.repository.history()).unwrap();
    let id = |bytes: &[u8]| bench.repository.secrets().chunk_id(bytes);
    let plain = block_on(Index::load(&bench.repository, &history, 1 << 20)).unwrap();
    assert_eq!(plain.contains_now(&id(b"two")), Some(false));
    let rebuilt = block_on(Index::load_or_rebuild(&bench.repository, &history, 1 << 20)).unwrap();
    assert_eq!([&b"one"[..], b"two", b"three"].map(|bytes| rebuilt.contains_now(&id(bytes))), [Some(true); 3]);
    assert_eq!(rebuilt.chunks(), 3);
}

#[test]
fn f21_offsets_are_64_bits_wide_on_disk() {
    let mut record = [0u8; ENTRY_BYTES];
    assert!(SegmentEntry::decode(&record, 1).is_ok());
    record[40..48].copy_from_slice(&(1u64 << 32).to_le_bytes());
    assert!(SegmentEntry::decode(&record, 1).is_err(), "not cut to 32 bits and taken for 0");
    record[40..48].copy_from_slice(&(u64::from(u32::MAX)).to_le_bytes());
    assert!(SegmentEntry::decode(&record, 1).is_err());
    assert!(SegmentEntry::decode(&[0; ENTRY_BYTES], 0).is_err());
}

#[test]
fn a_lookup_in_block_mode_touches_one_block() {
    let bench = Bench::new();
    bench.segment(&[contents(1, &[(0..10_000).map(chunk_id).collect()])]);
    let index = bench.index(100_000);
    assert_eq!(index.contains_now(&chunk_id(5)), None);
    assert!(block_on(index.lookup(&chunk_id(5))).unwrap().is_some());
    assert_eq!(index.contains_now(&chunk_id(5)), Some(true));
    let unknown = (1_000_000..1_001_000).filter(|n| index.contains_now(&chunk_id(*n)).is_none()).count();
    assert!(unknown < 30, "the filter answers for strangers: {unknown}");
}

#[test]
fn a_lost_answer_to_the_creation_of_a_segment_is_read_back() {
    let bench = Bench::new();
    let id = bench.segment(&[contents(1, &[vec![chunk_id(1)]])]);
    let name = segment_name(&id);
    let body = bench.bytes(&name);
    let created = block_on(bench.store.create(&name, Bytes::from(noise(1, 10)))).unwrap();
    assert_eq!(created, crate::backend::Created::AlreadyExisted);
    assert_eq!(bench.bytes(&name), body);
    assert_eq!(block_on(SegmentBuilder::new(&bench.repository).write()).unwrap(), None::<ObjectId>);
}

/// A million unchanged files took 82 seconds: each looked its chunk up in another block, which was read and opened
/// again every time.
#[test]
fn chunks_that_were_stored_together_are_found_together_in_block_mode() {
    let bench = Bench::new();
    let packs: Vec<_> = (0..10u64)
        .map(|pack| {
            let chunks: Vec<Vec<u8>> = (0..1_300).map(|n| noise(pack * 10_000 + n, 40)).collect();
            bench.pack(1, PackClass::Data, &chunks.chunks(500).map(<[_]>::to_vec).collect::<Vec<_>>())
        })
        .collect();
    bench.segment(&packs);
    let index = bench.index(700_000);
    assert!(index.is_block_mode());
    let known_now = |pack: &PackContents| {
        let chunks = pack.frames.iter().flat_map(|frame| &frame.chunks);
        chunks.filter(|(id, _)| index.contains_now(id) == Some(true)).count()
    };
    for pack in &packs {
        assert!(known_now(pack) < 1_300);
        for (id, _) in pack.frames[2].chunks.iter().take(4) {
            block_on(index.lookup(id)).unwrap().unwrap();
        }
        assert_eq!(known_now(pack), 1_300, "four lookups bring the whole pack");
        for (id, _) in pack.frames.iter().flat_map(|frame| &frame.chunks) {
            let place = block_on(index.lookup(id)).unwrap().unwrap();
            assert_eq!(vec![place], block_on(index.locations(id)).unwrap());
        }
        assert!(index.nearby.memory_bytes() <= 700_000 / 4 + 2048, "{}", index.nearby.memory_bytes());
    }
    assert!(known_now(&packs[0]) < 1_300, "what was met long ago is dropped");
}

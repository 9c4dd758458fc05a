//! Damage of each kind, and whether verify names the files that it costs.

use hashbrown::HashSet;

use crate::ids::LogNumber;
use crate::index::Index;
use crate::limits::CHUNK_BYTES_MAX;
use crate::log::{Outcome, SealedFileset, done_name, sealed_name};
use crate::pack::{PackClass, parse_pack_name, read_contents};
use crate::repair::repair_index;
use crate::testing::{Bench, block_on, noise};
use crate::verify::{Data, VerifyOptions, VerifyReport, verify};

fn run(bench: &Bench, data: Data) -> VerifyReport {
    let options = VerifyOptions { data, threads: 2, ..VerifyOptions::default() };
    verify(&bench.repository, &options, &|_| {}).unwrap()
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.backup(&[("a", noise(1, 1000)), ("b", noise(2, 1000)), ("c", noise(3, 50))]);
    bench.backup(&[("a", noise(1, 1000)), ("b", noise(4, 1000)), ("d", noise(5, 50))]);
    bench
}

fn names(report: &VerifyReport) -> HashSet<String> {
    report.hurt_files.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect()
}

#[test]
fn a_whole_repository_is_clean() {
    let bench = bench();
    for data in [Data::None, Data::Percent(50), Data::All] {
        let report = run(&bench, data);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.points, report.entries, report.packs), (2, 6, 6));
    }
    assert_eq!(run(&bench, Data::All).packs_read, 6);
    assert_eq!(run(&bench, Data::Percent(0)).packs_read, 0);
    assert_eq!(run(&bench, Data::Percent(100)).packs_read, 6);
}

#[test]
fn damage_at_any_byte_of_any_object_is_found_and_never_panics() {
    let bench = bench();
    let whole = bench.store.snapshot();
    for (name, good) in &whole {
        if name == "config" || name.starts_with("keys/") {
            continue;
        }
        let step = good.len() / 40 + 1;
        for at in (0..good.len()).step_by(step) {
            let mut flipped = good.to_vec();
            flipped[at] ^= 0x10;
            bench.store.overwrite(name, flipped);
            match verify(&bench.repository, &VerifyOptions { data: Data::All, ..VerifyOptions::default() }, &|_| {}) {
                Ok(report) => {
                    // The filter of a segment is not read while the index is resident.
                    assert!(!report.is_clean() || name.starts_with("index/"), "{name}: flip at {at}");
                }
                Err(error) => panic!("{name}: flip at {at}: {error}"),
            }
        }
        bench.store.overwrite(name, good.slice(..good.len() / 2));
        assert!(!run(&bench, Data::All).is_clean(), "{name}: cut");
        // The last outcome is seen by no later one: only who saw it before can tell that it is gone.
        if *name != done_name(LogNumber(2)) {
            bench.store.remove(name);
            // One of two equal copies of the segment's job may be left: a pack or a segment missing shows.
            assert!(!run(&bench, Data::None).is_clean(), "{name}: removed");
        }
        bench.store.restore(whole.clone());
    }
}

#[test]
fn the_files_that_a_damaged_frame_costs_are_named() {
    let bench = bench();
    let lost = bench.repository.secrets().chunk_id(&noise(2, 1000));
    for name in bench.names("packs") {
        let contents = block_on(read_contents(&bench.repository, &name)).unwrap();
        let Some(frame) = contents.frames.iter().find(|frame| frame.chunks.iter().any(|(id, _)| *id == lost)) else {
            continue;
        };
        let mut object = bench.bytes(&name).to_vec();
        object[frame.offset as usize + 7] ^= 1;
        bench.store.overwrite(&name, object);
        assert!(run(&bench, Data::None).is_clean());
        let report = run(&bench, Data::All);
        assert_eq!((report.errors_total, report.hurt_files_total), (1, 1), "{report:?}");
        assert_eq!(names(&report), HashSet::from(["b".to_string()]));
        assert_eq!((report.hurt_frames[0].pack, report.hurt_frames[0].frame), (contents.id, Some(frame.number)));
        assert_eq!((report.hurt_files[0].set.as_str(), &report.hurt_files[0].root_path[..]), ("set", &b"/source"[..]));
    }
}

/// The record of a sealed fileset could be flipped, cut, grown or deleted, and verify called all well: it never
/// read it.
#[test]
fn a_sealed_record_that_is_hurt_missing_or_another_is_named() {
    let bench = bench();
    let (first, second) = (sealed_name(LogNumber(1), 0), sealed_name(LogNumber(2), 0));
    let good = bench.store.snapshot();
    let named = |bench: &Bench| {
        let report = run(bench, Data::None);
        assert_eq!((report.errors_total, report.hurt_files_total), (1, 0), "{report:?}");
        report.errors[0].object.clone()
    };
    bench.store.remove(&second);
    assert_eq!(named(&bench), second);
    bench.store.overwrite(&second, [&good[&second][..], b"x"].concat());
    assert_eq!(named(&bench), second);
    // Whole, and of another point: the name is part of what is signed, so only its own writer can do that.
    bench.store.restore(good);
    bench.store.remove(&first);
    let history = block_on(bench.repository.history()).unwrap();
    let point = history.recovery_points().remove(1).1;
    let other = SealedFileset { root_path: b"/other".to_vec(), ..point.filesets[0].clone() };
    let mut encoder = crate::codec::Encoder::new();
    other.encode(&mut encoder);
    let record = crate::log::seal_record(bench.repository.secrets(), &first, &encoder.finish()).unwrap();
    bench.store.overwrite(&first, record);
    assert_eq!(named(&bench), first);
}

#[test]
fn a_second_copy_of_a_chunk_saves_the_file() {
    let bench = bench();
    let copy = bench.pack(1, PackClass::Data, &[vec![noise(2, 1000)]]);
    bench.segment(&[copy]);
    let lost = bench.repository.secrets().chunk_id(&noise(2, 1000));
    let victim = bench.names("packs").into_iter().find(|name| {
        let contents = block_on(read_contents(&bench.repository, name)).unwrap();
        contents.frames.len() > 1 && contents.frames.iter().any(|frame| frame.chunks.iter().any(|(id, _)| *id == lost))
    });
    bench.store.remove(&victim.unwrap());
    let report = run(&bench, Data::All);
    assert!(!report.is_clean());
    assert_eq!(names(&report), HashSet::from(["c".to_string()]), "of a and b there are other copies");
}

#[test]
fn f11_repair_rebuilds_the_index_and_removes_nothing() {
    let bench = bench();
    let whole = bench.store.snapshot();
    for name in bench.names("index") {
        bench.store.remove(&name);
    }
    assert!(!run(&bench, Data::None).is_clean());
    let dry = repair_index(&bench.repository, true, &|_, _| {}).unwrap();
    assert!(dry.written.is_empty() && bench.names("index").is_empty());
    let report = repair_index(&bench.repository, false, &|_, _| {}).unwrap();
    assert_eq!((report.packs, dry.packs), (6, 6));
    assert!(run(&bench, Data::None).is_clean());

    bench.store.restore(whole.clone());
    let old = bench.names("index");
    let report = repair_index(&bench.repository, false, &|_, _| {}).unwrap();
    assert_eq!(report.replaced.len(), old.len());
    assert!(whole.keys().all(|name| bench.bytes(name) == whole[name]), "nothing is removed or changed");
    assert!(run(&bench, Data::None).is_clean());
    let history = block_on(bench.repository.history()).unwrap();
    let index = block_on(Index::load(&bench.repository, &history, 1 << 20)).unwrap();
    assert_eq!(index.chunks(), report.chunks);
    // A pack whose table is lost keeps its place in the old segments.
    let name = bench.names("packs").swap_remove(0);
    let object = bench.bytes(&name);
    bench.store.overwrite(&name, object.slice(..object.len() - 1));
    let report = repair_index(&bench.repository, false, &|_, _| {}).unwrap();
    assert_eq!((report.unreadable.len(), report.replaced.len()), (1, 0));
    let index = block_on(Index::load(&bench.repository, &history, 1 << 20)).unwrap();
    assert!(index.find_pack(&parse_pack_name(&name).unwrap().1).is_some());
}

#[test]
fn f20_another_content_under_a_known_id_is_noticed() {
    let bench = bench();
    let history = block_on(bench.repository.history()).unwrap();
    let point = history.recovery_points().remove(0).1;
    assert!(matches!(Outcome::RecoveryPoint(point), Outcome::RecoveryPoint(_)));
    // A pack that claims an id for other bytes: sealed by a client with a faulty hash.
    let mut sealer = crate::pack::PackSealer::open(&bench.repository, crate::ids::LogNumber(1), PackClass::Data);
    let id = bench.repository.secrets().chunk_id(&noise(1, 1000));
    let name = sealer.object_name();
    let parts = [sealer.header(), sealer.seal_raw(&noise(9, 1000), &[(id, 1000)])];
    let (tail, contents) = sealer.finish();
    bench.store.overwrite(&name, [&parts.concat()[..], &tail].concat());
    bench.segment(&[contents]);
    let report = run(&bench, Data::All);
    assert_eq!((report.errors_total, report.hurt_files_total), (1, 0), "{report:?}");
    let bytes = block_on(bench.reader().read(&id)).unwrap();
    assert_eq!(bytes, noise(1, 1000), "the reader takes the copy that hashes to its id");
    assert!(bytes.len() < CHUNK_BYTES_MAX as usize);
}

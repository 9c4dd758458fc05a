//! Copies that are killed, that meet damage, or beside which somebody else is at work.

use super::*;
use crate::backend::FaultyBackend;
use crate::backend::faulty::{Effect, Fault, Operation};
use crate::log::{CondemnedPack, Seen};
use crate::prune::Marker;

/// Bytes that were handed over for packs by the first `writes` calls that change the store.
fn appended(backend: &FaultyBackend, writes: u64) -> u64 {
    let calls = backend.calls().into_iter().filter(|call| call.operation.is_write()).take(writes as usize);
    calls.filter(|call| call.operation == Operation::Append).map(|call| call.bytes).sum()
}

fn pack_bytes(bench: &Bench) -> u64 {
    block_on(crate::backend::Backend::list(bench.store.as_ref(), "packs")).unwrap().iter().map(|pack| pack.bytes).sum()
}

#[test]
fn copy_that_ends_anywhere_goes_on_with_what_is_durable() {
    let from = Bench::new();
    let content: Vec<(String, Vec<u8>)> = (0..50).map(|at| (format!("f{at:03}"), noise(at, 400_000))).collect();
    let point = make(&from, "set", &content, None);
    let one = || CopyOptions { threads: 1, ..options() };
    for shares_ids in [true, false] {
        let make_to = || if shares_ids { like(&from) } else { Bench::new() };
        let through = |to: &Bench| {
            let faulty = FaultyBackend::new(to.store.clone());
            let repository = to.repository.moved_to(Arc::new(faulty.clone()));
            (faulty, Bench { store: to.store.clone(), repository })
        };
        let (faulty, whole) = through(&make_to());
        run(&from, &whole, &[point.id], &one()).unwrap();
        let writes = faulty.calls().iter().filter(|call| call.operation.is_write()).count() as u64;
        let needed = appended(&faulty, writes);
        for part in 1..=8 {
            let to = make_to();
            let (faulty, client) = through(&to);
            let nth = (writes * part / 8).max(1);
            faulty.plan(Fault { operation: None, prefix: String::new(), nth, forever: true, effect: Effect::Io });
            run(&from, &client, &[point.id], &one()).unwrap_err();
            assert_eq!(block_on(to.repository.history()).unwrap().points().count(), 0, "write {nth} of {writes}");
            let (handed_over, kept) = (appended(&faulty, nth - 1), pack_bytes(&to));
            let lost = handed_over - kept;
            assert!(lost * 10 <= needed, "write {nth} of {writes}: {lost} of {needed} bytes were lost");
            faulty.heal();
            faulty.forget_calls();
            let report = run(&from, &client, &[point.id], &one()).unwrap();
            assert_eq!(outcomes(&report), ["copied"]);
            let stored = appended(&faulty, u64::MAX);
            // Each pack more has a header and a table of its own.
            assert!(kept + stored < needed + needed / 100, "{kept} bytes were there, {stored} of {needed} were stored");
            assert_eq!(read_all(&to, &arrived(&to, &point)), read_all(&from, &point));
        }
    }
}

#[test]
fn copy_of_a_point_that_is_damaged_is_not_published_and_others_go_on() {
    for shares_ids in [true, false] {
        let from = Bench::new();
        let to = if shares_ids { like(&from) } else { Bench::new() };
        let bad = make(&from, "bad", &[("good".into(), noise(1, 50_000)), ("hurt".into(), noise(2, 600_000))], None);
        let log = make(&from, "bad", &[("log".into(), noise(7, 20_000))], Some(bad.id));
        let sound =
            make(&from, "sound", &[("good".into(), noise(1, 50_000)), ("other".into(), noise(3, 50_000))], None);
        // In the second frame of the file: the first one begins with the file before it, the last one ends with a page.
        let location = locate(&from, &noise(2, 600_000)[300_000..310_000]);
        flip(&from, &location);
        let report = run(&from, &to, &[bad.id, log.id, sound.id], &options()).unwrap();
        assert_eq!(outcomes(&report), ["damaged", "without base", "copied"]);
        let PointOutcome::Damaged { files } = &report.points[0].1 else { panic!("it is damaged") };
        let paths: Vec<&[u8]> = files.iter().map(|file| file.path.as_slice()).collect();
        assert_eq!(paths, [b"hurt"]);
        let history = block_on(to.repository.history()).unwrap();
        assert_eq!(history.points().map(|(_, point)| point.id).collect::<Vec<_>>(), [sound.id]);
        assert_eq!(read_all(&to, &arrived(&to, &sound)), read_all(&from, &sound));

        // Another place has what was in the frame: now it is whole.
        let chunks: Vec<Vec<u8>> = noise(2, 600_000).chunks(10_000).map(<[u8]>::to_vec).collect();
        let copy = from.pack(900, PackClass::Data, &[chunks]);
        from.segment(&[copy]);
        let report = run(&from, &to, &[bad.id, log.id], &options()).unwrap();
        assert_eq!(outcomes(&report), ["copied"; 2]);
        assert_eq!(read_all(&to, &arrived(&to, &bad)).len(), 10);
    }
}

/// Where a chunk is.
fn locate(bench: &Bench, chunk: &[u8]) -> (String, u64) {
    let index = bench.index(8 << 20);
    let id = bench.repository.secrets().chunk_id(chunk);
    let location = block_on(index.lookup(&id)).unwrap().expect("it is there");
    (index.pack(location.pack).object_name(), u64::from(location.frame_offset))
}

fn flip(bench: &Bench, (name, offset): &(String, u64)) {
    let mut bytes = bench.bytes(name).to_vec();
    bytes[*offset as usize + 100] ^= 1;
    bench.store.overwrite(name, bytes);
}

#[test]
fn copy_of_a_page_that_is_lost_names_its_files() {
    for shares_ids in [true, false] {
        let from = Bench::new();
        let to = if shares_ids { like(&from) } else { Bench::new() };
        let point = make(&from, "set", &files(10, 0), None);
        let structure = from.names("packs").into_iter().find(|name| {
            block_on(crate::pack::read_contents(&from.repository, name)).unwrap().class == PackClass::Structure
        });
        from.store.remove(&structure.unwrap());
        let report = run(&from, &to, &[point.id], &options()).unwrap();
        let [(_, PointOutcome::Damaged { files })] = &report.points[..] else { panic!("{:?}", report.points) };
        assert!(files[0].reason.contains("a manifest page is lost"), "{files:?}");
        assert_eq!(block_on(to.repository.history()).unwrap().points().count(), 0);
    }
}

/// A pack of TO is condemned after the index was read for one point and before the next one registers.
#[test]
fn copy_relies_on_nothing_that_was_condemned_since_it_looked() {
    let from = Bench::new();
    let to = like(&from);
    let content = vec![("f".to_owned(), noise(1, 200_000))];
    let points = [make(&from, "a", &content, None), make(&from, "b", &content, None)];
    let history = block_on(from.repository.history()).unwrap();
    let (options, who) = (options(), Bench::open_record(Role::Writer));
    let mut copier = Copier::new(&from.repository, &history, &to.repository, &options).unwrap();
    copier.point(&who, &History::default(), &points[0]).unwrap();
    let before = to.names("packs");
    let index = to.index(8 << 20);
    let condemned = index.packs().into_iter().map(|pack| CondemnedPack {
        pack: pack.id,
        writer: pack.writer,
        bytes: pack.bytes,
        bytes_live: 0,
    });
    let outcome = Outcome::Condemned { packs: condemned.collect(), reason: "test".into() };
    let number = block_on(to.repository.history()).unwrap().highest().0 + 1;
    to.write_run(LogNumber(number), Role::Admin, Seen::nothing(), outcome);
    copier.point(&who, &History::default(), &points[1]).unwrap();
    assert_eq!(to.names("packs").len(), 2 * before.len(), "all was stored once more");
    before.iter().for_each(|pack| to.store.remove(pack));
    assert_eq!(read_all(&to, &arrived(&to, &points[1])), read_all(&from, &points[1]));
}

/// Who may only add to TO brings a point there whose chunks are others: nothing may be taken over from it.
#[test]
fn copy_takes_no_ids_from_a_point_that_anybody_could_have_brought() {
    let (from, to) = (Bench::new(), Bench::new());
    let thief = to.put_only_client();
    let honest = vec![("f".to_owned(), noise(1, 50_000))];
    let older = make(&from, "set", &honest, None);
    let forged = make(&thief, "set", &[("f".to_owned(), noise(2, 50_000))], None);
    let registration = block_on(thief.repository.register(Bench::open_record(Role::Writer))).unwrap();
    let forged = RecoveryPoint { filesets: forged.filesets, ..older.clone() };
    block_on(registration.commit(Outcome::RecoveryPoint(forged))).unwrap();
    let newer = make(&from, "set", &honest, None);
    run(&from, &to, &[newer.id], &options()).unwrap();
    assert_eq!(read_all(&to, &arrived(&to, &newer)), read_all(&from, &newer));
    // And a point that says something else under the same id is told.
    let other = RecoveryPoint { host: "elsewhere".into(), ..newer };
    let registration = block_on(thief.repository.register(Bench::open_record(Role::Writer))).unwrap();
    let other = RecoveryPoint { id: make(&from, "set", &honest, None).id, ..other };
    block_on(registration.commit(Outcome::RecoveryPoint(other.clone()))).unwrap();
    let refused = run(&from, &to, &[other.id], &options()).unwrap_err();
    assert!(matches!(refused, RepositoryError::OtherPoint { .. }), "{refused}");
}

#[test]
fn copy_that_is_asked_to_stop_keeps_what_it_has() {
    let from = Bench::new();
    let to = like(&from);
    let points = [make(&from, "a", &files(5, 0), None), make(&from, "a", &files(5, 1), None)];
    let ids = points.map(|point| point.id);
    let stopped = options();
    stopped.stop.store(true, Ordering::Relaxed);
    let report = run(&from, &to, &ids, &stopped).unwrap();
    assert!(report.is_interrupted && report.points.is_empty());
    let report = run(&from, &to, &ids, &options()).unwrap();
    assert!(!report.is_interrupted);
    assert_eq!(outcomes(&report), ["copied"; 2]);
}

/// Every chunk and page of each point of TO has a place, whatever memory and threads there were.
#[test]
fn copy_never_publishes_a_point_that_misses_a_chunk() {
    for (seed, memory_bytes) in [(1, 64 << 10), (2, 1 << 20), (3, 16 << 20)] {
        for shares_ids in [true, false] {
            let from = Bench::new();
            let to = if shares_ids { like(&from) } else { Bench::new() };
            let points: Vec<ObjectId> =
                (0..4).map(|round| make(&from, "set", &files(30 + 7 * seed, round), None).id).collect();
            run(&from, &to, &points[..2], &CopyOptions { memory_bytes, threads: 2, ..options() }).unwrap();
            run(&from, &to, &points, &CopyOptions { memory_bytes, threads: 1, ..options() }).unwrap();
            let (index, chunks) = (to.index(16 << 20), to.reader());
            let mut marker = Marker::new(&chunks, |id| {
                assert!(block_on(index.lookup(&id)).unwrap().is_some(), "chunk {id} is nowhere");
                Ok(())
            });
            let history = block_on(to.repository.history()).unwrap();
            assert_eq!(history.points().count(), 4);
            history.points().for_each(|(_, point)| marker.point(point).unwrap());
        }
    }
}

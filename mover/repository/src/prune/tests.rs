//! Deleting beside writers, readers and other pruners: what is needed stays, whoever is slow or dies.

mod rekey;
mod replay;
mod store;
mod thief;

use std::collections::BTreeMap;

use super::*;
use crate::backend::faulty::{Effect, Fault, Operation};
use crate::backend::{Backend, FaultyBackend, MemoryBackend};
use crate::ids::ObjectId;
use crate::keys::Credential;
use crate::log::{HurtFrame, RecoveryPoint};
use crate::pack::PackClass;
use crate::repository::InitOptions;
use crate::testing::{Bench, noise};
use crate::verify::{Data, VerifyOptions, verify};

/// A pruner that is never somebody's process on this machine.
fn who() -> OpenRecord {
    let machine = ObjectId([7; 32]);
    OpenRecord { process_id: std::process::id(), host: "pruner".into(), machine, ..Bench::open_record(Role::Admin) }
}

fn options() -> PruneOptions {
    PruneOptions {
        dry_run: false,
        unused_percent_max: 0,
        move_bytes_max: u64::MAX,
        fence_after: Duration::from_secs(86_400),
        wait: Duration::ZERO,
        memory_bytes: 16 << 20,
        threads: 2,
        scratch: std::env::temp_dir(),
    }
}

fn pruned(bench: &Bench) -> PruneReport {
    prune(&bench.repository, &who(), &options()).unwrap()
}

/// A writer as the data path is one: registers, reads the index, stores what is not there.
struct Writer {
    registration: Registration,
    index: Arc<Index>,
}

type Files<'a> = Vec<(&'a str, Vec<u8>)>;

impl Writer {
    fn begin(bench: &Bench) -> Writer {
        let registration = block_on(bench.repository.register(Bench::open_record(Role::Writer))).unwrap();
        let index = block_on(Index::load_for_backup(&bench.repository, registration.history(), 1 << 20)).unwrap();
        Writer { registration, index }
    }

    /// Stores what is new of `files`, `a_frame` chunks in each frame. Gives how many chunks that were.
    fn store(&self, bench: &Bench, files: &Files<'_>, a_frame: usize) -> usize {
        let is_new =
            |bytes: &&Vec<u8>| self.index.contains_now(&bench.repository.secrets().chunk_id(bytes)) == Some(false);
        let new: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes).filter(is_new).cloned().collect();
        if !new.is_empty() {
            let frames: Vec<Vec<Vec<u8>>> = new.chunks(a_frame).map(<[_]>::to_vec).collect();
            let pack = bench.pack(self.registration.number().0, PackClass::Data, &frames);
            bench.segment(&[pack]);
        }
        new.len()
    }

    fn commit(self, bench: &Bench, files: &Files<'_>) -> RecoveryPoint {
        bench.commit(self.registration, files)
    }
}

/// Backs up with two chunks in each frame.
fn backup(bench: &Bench, files: &Files<'_>) -> RecoveryPoint {
    let writer = Writer::begin(bench);
    writer.store(bench, files, 2);
    writer.commit(bench, files)
}

fn forget(bench: &Bench, point: &RecoveryPoint) {
    let registration = block_on(bench.repository.register(who())).unwrap();
    block_on(registration.commit(Outcome::Forget { points: vec![point.id], reason: "test".into() })).unwrap();
}

/// Files of seeds, named by them.
fn files(seeds: std::ops::Range<u64>) -> Files<'static> {
    const NAMES: [&str; 16] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    seeds.map(|seed| (NAMES[seed as usize % 16], noise(seed, 5000))).collect()
}

/// Every chunk of `expected` reads back, and nothing at all is wrong.
fn assert_whole(bench: &Bench, expected: &[&Files<'_>]) {
    let report =
        verify(&bench.repository, &VerifyOptions { data: Data::All, ..VerifyOptions::default() }, &|_| {}).unwrap();
    assert!(report.is_clean(), "{:?} {:?}", report.errors, report.hurt_files);
    let history = block_on(bench.repository.history()).unwrap();
    assert_eq!(report.points as usize, history.recovery_points().len());
    expected.iter().for_each(|files| assert_reads_back(bench, files));
}

/// Every chunk of `files` reads back, whatever else may be wrong.
fn assert_reads_back(bench: &Bench, files: &Files<'_>) {
    let history = block_on(bench.repository.history()).unwrap();
    let index = block_on(Index::load_or_rebuild(&bench.repository, &history, 1 << 20)).unwrap();
    let reader = ChunkReader::new(&bench.repository, index, 1 << 20);
    for (path, bytes) in files {
        let id = bench.repository.secrets().chunk_id(bytes);
        assert_eq!(block_on(reader.read(&id)).unwrap(), bytes.as_slice(), "{path}");
    }
}

/// Two writers at once store the same and commit; one that began before they did stays open.
fn stored_twice(bench: &Bench, files: &Files<'_>) -> Writer {
    let (first, second) = (Writer::begin(bench), Writer::begin(bench));
    for writer in [&first, &second] {
        assert_eq!(writer.store(bench, files, 2), files.len());
    }
    let blocker = Writer::begin(bench);
    first.commit(bench, files);
    second.commit(bench, files);
    blocker
}

/// The packs that hold data and are not condemned.
fn good_data_packs(bench: &Bench) -> Vec<String> {
    let condemned = block_on(bench.repository.history()).unwrap().condemned();
    let is_good = |name: &String| !condemned.contains(&crate::pack::parse_pack_name(name).unwrap().1);
    bench.names("packs").into_iter().filter(|name| bench.bytes(name).len() > 15_000).filter(is_good).collect()
}

#[test]
fn what_no_point_needs_is_deleted_and_the_rest_reads_back() {
    let bench = Bench::new();
    let (old, new) = (files(0..4), files(10..14));
    let gone = backup(&bench, &old);
    backup(&bench, &new);
    let before = bench.names("packs").len();
    assert_eq!(pruned(&bench).condemned, Packs::default(), "all is needed");
    forget(&bench, &gone);
    let dry = prune(&bench.repository, &who(), &PruneOptions { dry_run: true, ..options() }).unwrap();
    assert_eq!((dry.condemned.packs, bench.names("packs").len()), (3, before), "a dry run only tells");
    let report = pruned(&bench);
    assert_eq!((report.deleted.packs, report.condemned, report.moved.packs), (3, dry.condemned, 0));
    assert_eq!(bench.names("packs").len(), before - 3);
    assert_whole(&bench, &[&new]);
    let again = pruned(&bench);
    assert_eq!((again.deleted, again.condemned), (Packs::default(), Packs::default()));
}

#[test]
fn half_dead_packs_are_copied_and_whole_frames_keep_their_bytes() {
    let bench = Bench::new();
    let all = files(0..8);
    // Frames of two: 0 1, 2 3, 4 5, 6 7. The second point needs 0, 1 and 4.
    let (gone, needed) = (backup(&bench, &all), vec![all[0].clone(), all[1].clone(), all[4].clone()]);
    let writer = Writer::begin(&bench);
    assert_eq!(writer.store(&bench, &needed, 2), 0, "all of it is there");
    writer.commit(&bench, &needed);
    forget(&bench, &gone);
    let report = pruned(&bench);
    assert_eq!((report.moved.packs, report.written.packs), (1, 1));
    assert!(report.live_bytes >= 15_000 && report.plain_bytes >= 40_000, "{report:?}");
    assert_whole(&bench, &[&needed]);
    let after = prune(&bench.repository, &who(), &PruneOptions { dry_run: true, ..options() }).unwrap();
    assert_eq!(after.plain_bytes, after.live_bytes, "nothing is unused");
    // Chunks kept their order, whole frames their chunks.
    let history = block_on(bench.repository.history()).unwrap();
    let index = block_on(Index::load(&bench.repository, &history, 1 << 20)).unwrap();
    let place = |at: usize| block_on(index.lookup(&bench.repository.secrets().chunk_id(&all[at].1))).unwrap().unwrap();
    assert_eq!((place(0).frame, place(0).chunk_offset), (place(1).frame, 0));
    assert!(place(4).frame > place(1).frame);
}

#[test]
fn the_budget_bounds_what_is_copied_and_little_waste_is_left_alone() {
    let bench = Bench::new();
    let all = files(0..8);
    let gone = backup(&bench, &all);
    let needed = all[..3].to_vec();
    backup(&bench, &needed);
    forget(&bench, &gone);
    let of = |move_bytes_max, unused_percent_max| PruneOptions { move_bytes_max, unused_percent_max, ..options() };
    let small = prune(&bench.repository, &who(), &of(14_999, 0)).unwrap();
    assert_eq!((small.moved.packs, small.is_partial), (0, true));
    let lenient = prune(&bench.repository, &who(), &of(u64::MAX, 90)).unwrap();
    assert_eq!((lenient.moved.packs, lenient.is_partial), (0, false));
    let enough = prune(&bench.repository, &who(), &of(15_000, 0)).unwrap();
    assert_eq!(enough.moved.packs, 1);
    assert_whole(&bench, &[&needed]);
}

/// A writer registered before a pack was condemned and relies on it; it commits after.
#[test]
fn f09_a_pack_that_an_earlier_writer_came_to_need_is_rescued() {
    let bench = Bench::new();
    let shared = files(0..4);
    let gone = backup(&bench, &shared);
    let slow = Writer::begin(&bench);
    assert_eq!(slow.store(&bench, &shared, 2), 0);
    forget(&bench, &gone);
    let report = pruned(&bench);
    assert_eq!((report.deleted.packs, report.condemned.packs), (0, 3));
    let waits: Vec<LogNumber> = report.waits_for.iter().map(|run| run.number).collect();
    assert_eq!(waits, [slow.registration.number()]);
    slow.commit(&bench, &shared);
    let report = pruned(&bench);
    assert_eq!(report.rescued, 1, "{report:?}");
    assert_whole(&bench, &[&shared]);
    // Rescued is rescued: a later writer relies on it, and a later prune leaves it.
    let later = Writer::begin(&bench);
    assert_eq!(later.store(&bench, &shared, 2), 0);
    later.commit(&bench, &shared);
    pruned(&bench);
    let data_packs = bench.names("packs/0000000000000001").len();
    assert_eq!(data_packs, 1, "of the first writer only the pack with the data is left");
    assert_whole(&bench, &[&shared]);
}

#[test]
fn f12_a_writer_that_registers_after_the_condemnation_stores_anew() {
    let bench = Bench::new();
    let shared = files(0..4);
    let gone = backup(&bench, &shared);
    let blocker = Writer::begin(&bench);
    forget(&bench, &gone);
    assert_eq!(pruned(&bench).pending.packs, 3);
    let writer = Writer::begin(&bench);
    assert_eq!(writer.store(&bench, &shared, 2), 4);
    writer.commit(&bench, &shared);
    drop(blocker);
    let fenced = PruneOptions { fence_after: Duration::ZERO, ..options() };
    let report = prune(&bench.repository, &OpenRecord { started: crate::ids::UnixNanos(1), ..who() }, &fenced).unwrap();
    assert_eq!((report.fenced.len(), report.deleted.packs), (1, 3));
    assert_whole(&bench, &[&shared]);
}

/// Until it is deleted, a condemned pack may hold the only copy of what a point needs.
#[test]
fn a_reader_finds_what_only_a_condemned_pack_holds() {
    let bench = Bench::new();
    let shared = files(0..4);
    let gone = backup(&bench, &shared);
    let (slow, blocker) = (Writer::begin(&bench), Writer::begin(&bench));
    slow.store(&bench, &shared, 2);
    forget(&bench, &gone);
    pruned(&bench);
    slow.commit(&bench, &shared);
    assert_eq!(pruned(&bench).rescued, 0, "the blocker has no outcome yet");
    assert_whole(&bench, &[&shared]);
    drop(blocker);
}

#[test]
fn packs_of_a_number_without_outcome_are_not_judged_and_those_of_a_fenced_one_are() {
    let bench = Bench::new();
    backup(&bench, &files(0..2));
    let crashed = Writer::begin(&bench);
    crashed.store(&bench, &files(10..14), 2);
    assert_eq!(pruned(&bench).condemned.packs, 0);
    // A process of the pruner's own host that is not running any more.
    let machine = who().machine;
    let dead = OpenRecord { host: "pruner".into(), process_id: u32::MAX, machine, ..Bench::open_record(Role::Writer) };
    let registration = block_on(bench.repository.register(dead)).unwrap();
    bench.pack(registration.number().0, PackClass::Data, &[vec![noise(50, 100)]]);
    drop(registration);
    let report = pruned(&bench);
    assert_eq!(report.fenced.len(), 1);
    assert!(report.fenced[0].1.contains("is gone"), "{:?}", report.fenced);
    assert_eq!(report.condemned.packs, 1, "in no index segment, and judged by its own table");
    assert_eq!(report.deleted.packs, 0, "the silent one may still commit");
    let patient = OpenRecord { started: crate::ids::UnixNanos(3 * 86_400_000_000_000), ..who() };
    let report = prune(&bench.repository, &patient, &options()).unwrap();
    assert_eq!((report.fenced.len(), report.deleted.packs), (1, 2), "{report:?}");
    let refused = block_on(crashed.registration.commit(Outcome::Ended { reason: "late".into() }));
    assert!(matches!(refused, Err(RepositoryError::Fenced { .. })));
    assert_whole(&bench, &[&files(0..2)]);
}

#[test]
fn a_pack_with_a_damaged_frame_stays_and_the_damage_is_told() {
    let bench = Bench::new();
    let all = files(0..8);
    let gone = backup(&bench, &all);
    let needed = all[..3].to_vec();
    backup(&bench, &needed);
    forget(&bench, &gone);
    let name = bench.names("packs/0000000000000001").into_iter().max_by_key(|name| bench.bytes(name).len()).unwrap();
    let mut bytes = bench.bytes(&name).to_vec();
    bytes[6000] ^= 1;
    bench.store.overwrite(&name, bytes);
    let report = pruned(&bench);
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert_eq!((report.damaged[0].0.as_str(), report.moved.packs), (name.as_str(), 0));
    assert!(bench.names("packs").contains(&name));
}

/// A thief's table of contents maps an id to garbage: the true copy must not go for it.
#[test]
fn a_copy_is_given_up_only_for_one_that_was_read() {
    let bench = Bench::new();
    let all = files(0..6);
    let gone = backup(&bench, &all);
    let needed = all[..2].to_vec();
    backup(&bench, &needed);
    forget(&bench, &gone);
    let ids: Vec<(ChunkId, u32)> =
        needed.iter().map(|(_, bytes)| (bench.repository.secrets().chunk_id(bytes), bytes.len() as u32)).collect();
    for _ in 0..4 {
        // Several, so that one of them is chosen before the true copy.
        let thief = Writer::begin(&bench);
        let mut sealer = crate::pack::PackSealer::open(&bench.repository, thief.registration.number(), PackClass::Data);
        let (name, mut parts) = (sealer.object_name(), vec![sealer.header()]);
        parts.push(sealer.seal_raw(&vec![0; 10_000], &ids));
        let (tail, contents) = sealer.finish();
        parts.push(tail);
        block_on(bench.repository.backend().create(&name, parts.concat().into())).unwrap();
        bench.segment(&[contents]);
        block_on(thief.registration.commit(Outcome::Ended { reason: "harmless".into() })).unwrap();
    }
    for _ in 0..3 {
        pruned(&bench);
    }
    assert_reads_back(&bench, &needed);
}

#[test]
fn f03_of_two_copies_one_goes_and_the_other_is_read_first() {
    let bench = Bench::new();
    let shared = files(0..4);
    // Two writers at once store the same.
    let (first, second) = (Writer::begin(&bench), Writer::begin(&bench));
    for writer in [&first, &second] {
        assert_eq!(writer.store(&bench, &shared, 2), 4);
    }
    first.commit(&bench, &shared);
    second.commit(&bench, &shared);
    let before = bench.names("packs").len();
    let report = pruned(&bench);
    assert!(report.deleted.packs >= 1 && report.written.packs == 0, "{report:?}");
    assert!(bench.names("packs").len() < before);
    assert_whole(&bench, &[&shared]);
}

/// The listing shows a pack that is gone, and the other copy is condemned: it must not be deleted for that.
#[test]
fn f04_a_pack_that_is_only_listed_is_not_relied_on() {
    let bench = Bench::new();
    let shared = files(0..4);
    let blocker = stored_twice(&bench, &shared);
    assert!(pruned(&bench).pending.packs >= 1, "one of the copies is condemned");
    let kept = good_data_packs(&bench);
    let data_packs = bench.names("packs").into_iter().filter(|name| bench.bytes(name).len() > 15_000).count();
    assert_eq!((data_packs, kept.len()), (2, 1));
    let stale = Stale { inner: bench.store.clone(), listed: block_on(bench.store.list("packs")).unwrap() };
    bench.store.remove(&kept[0]);
    block_on(blocker.registration.commit(Outcome::Ended { reason: "done".into() })).unwrap();
    let repository = bench.repository.moved_to(Arc::new(stale));
    let report = prune(&repository, &who(), &options()).unwrap();
    assert!(report.rescued >= 1, "{report:?}");
    assert_reads_back(&bench, &shared);
}

/// A store whose listing of packs is that of an earlier moment.
struct Stale {
    inner: Arc<MemoryBackend>,
    listed: Vec<crate::backend::ObjectMeta>,
}

impl Backend for Stale {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn get(&self, name: &str, limit_bytes: u64) -> crate::backend::IoFuture<bytes::Bytes> {
        self.inner.get(name, limit_bytes)
    }
    fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> crate::backend::IoFuture<bytes::Bytes> {
        self.inner.get_range(name, range)
    }
    fn size(&self, name: &str) -> crate::backend::IoFuture<u64> {
        self.inner.size(name)
    }
    fn list(&self, prefix: &str) -> crate::backend::IoFuture<Vec<crate::backend::ObjectMeta>> {
        match prefix {
            "packs" => crate::backend::ready(Ok(self.listed.clone())),
            _ => self.inner.list(prefix),
        }
    }
    fn create(&self, name: &str, body: bytes::Bytes) -> crate::backend::IoFuture<crate::backend::Created> {
        self.inner.create(name, body)
    }
    fn stream(&self, name: &str) -> Box<dyn crate::backend::ObjectWriter> {
        self.inner.stream(name)
    }
    fn barrier(&self) -> crate::backend::IoFuture<()> {
        self.inner.barrier()
    }
    fn delete(&self, name: &str) -> crate::backend::IoFuture<()> {
        self.inner.delete(name)
    }
}

/// A pruner that was stopped before its deletes, and fenced, wakes up after others went on.
#[test]
fn f05_deletes_that_arrive_late_harm_nothing() {
    let bench = Bench::new();
    let shared = files(0..4);
    let gone = backup(&bench, &shared);
    backup(&bench, &files(10..12));
    forget(&bench, &gone);
    let faulty = Arc::new(FaultyBackend::new(bench.store.clone()));
    let repository = bench.repository.moved_to(faulty.clone());
    faulty.plan(Fault::at(Operation::Delete, 1, Effect::Io).under("packs/").forever());
    assert!(prune(&repository, &who(), &options()).is_err());
    let late: Vec<String> = bench.names("packs");
    let condemned = block_on(bench.repository.history()).unwrap().condemned();
    let late: Vec<String> =
        late.into_iter().filter(|name| condemned.contains(&crate::pack::parse_pack_name(name).unwrap().1)).collect();
    assert_eq!(late.len(), 3);
    // Meanwhile the same content comes back, and another prune runs.
    backup(&bench, &shared);
    pruned(&bench);
    late.iter().for_each(|name| bench.store.remove(name));
    assert_whole(&bench, &[&shared, &files(10..12)]);
}

/// FAILURES F07: minutes of clock skew deleted data. Here the clock of the pruner is ten years off, beside a writer that
/// relies on what is condemned: at worst that writer has to begin again.
#[test]
fn f07_a_clock_that_is_ten_years_off_loses_nothing() {
    const TEN_YEARS_NS: i128 = 10 * 365 * 86_400 * 1_000_000_000;
    for (off_ns, is_fenced) in [(-TEN_YEARS_NS, false), (TEN_YEARS_NS, true)] {
        let bench = Bench::new();
        let (shared, kept) = (files(0..4), files(10..14));
        let gone = backup(&bench, &shared);
        backup(&bench, &kept);
        let slow = Writer::begin(&bench);
        assert_eq!(slow.store(&bench, &shared, 2), 0);
        forget(&bench, &gone);
        let who = OpenRecord { started: crate::ids::UnixNanos(off_ns), ..who() };
        let report = prune(&bench.repository, &who, &options()).unwrap();
        assert_eq!((report.fenced.len(), report.deleted.packs), if is_fenced { (1, 3) } else { (0, 0) });
        assert_whole(&bench, &[&kept]);
        if is_fenced {
            let refused = block_on(slow.registration.commit(Outcome::Ended { reason: "late".into() }));
            assert!(matches!(refused, Err(RepositoryError::Fenced { .. })));
            continue;
        }
        slow.commit(&bench, &shared);
        prune(&bench.repository, &who, &options()).unwrap();
        assert_whole(&bench, &[&kept, &shared]);
    }
}

#[test]
fn f06_a_forgotten_point_comes_back_until_it_is_condemned() {
    let bench = Bench::new();
    let (first, second) = (files(0..4), files(10..12));
    let gone = backup(&bench, &first);
    backup(&bench, &second);
    forget(&bench, &gone);
    let back = |id: ObjectId| bring_back(&bench.repository, &who(), id, 8 << 20);
    back(gone.id).unwrap();
    assert_eq!(pruned(&bench).condemned.packs, 0);
    assert_whole(&bench, &[&first, &second]);
    assert!(matches!(back(gone.id), Err(RepositoryError::NoSuchPoint { .. })), "it is there");
    forget(&bench, &gone);
    pruned(&bench);
    assert!(matches!(back(gone.id), Err(RepositoryError::MissingObject { .. })));
    assert_whole(&bench, &[&second]);
}

#[test]
fn a_key_that_may_only_add_prunes_nothing_and_its_records_count_for_nothing() {
    let bench = Bench::new();
    let thief = bench.put_only_client().repository;
    let kept = files(0..4);
    let point = backup(&bench, &kept);
    assert!(matches!(prune(&thief, &who(), &options()), Err(RepositoryError::NotSupported { .. })));
    let packs: Vec<PackId> =
        bench.names("packs").iter().map(|name| crate::pack::parse_pack_name(name).unwrap().1).collect();
    let condemned = |pack: &PackId| CondemnedPack { pack: *pack, writer: LogNumber(1), bytes: 1, bytes_live: 0 };
    for forged in [
        Outcome::Forget { points: vec![point.id], reason: "forged".into() },
        Outcome::Condemned { packs: packs.iter().map(condemned).collect(), reason: "forged".into() },
        Outcome::Swept { deleted: packs.clone(), rescued: vec![] },
        Outcome::Checkpoint { below: LogNumber(2), parts: vec![] },
    ] {
        let registration = block_on(thief.register(Bench::open_record(Role::Admin))).unwrap();
        block_on(registration.commit(forged)).unwrap();
    }
    let history = block_on(bench.repository.history()).unwrap();
    assert_eq!((history.refused().count(), history.recovery_points().len()), (4, 1));
    assert_eq!(pruned(&bench).deleted.packs, 0);
    assert_whole(&bench, &[&kept]);
}

#[test]
fn hurt_copies_are_not_relied_on_and_the_last_one_is_never_condemned() {
    let bench = Bench::new();
    let all = files(0..4);
    let gone = backup(&bench, &all);
    let needed = all[..2].to_vec();
    backup(&bench, &needed);
    forget(&bench, &gone);
    let history = block_on(bench.repository.history()).unwrap();
    let index = block_on(Index::load(&bench.repository, &history, 1 << 20)).unwrap();
    let place = block_on(index.lookup(&bench.repository.secrets().chunk_id(&all[0].1))).unwrap().unwrap();
    let hurt = HurtFrame { pack: index.pack(place.pack).id, frame: Some(place.frame) };
    let registration = block_on(bench.repository.register(who())).unwrap();
    block_on(registration.commit(Outcome::Damage { frames: vec![hurt] })).unwrap();
    let report = pruned(&bench);
    assert_eq!(report.missing_chunks, 2, "no place of them is known to be good");
    assert!(bench.names("packs").contains(&index.pack(place.pack).object_name()), "somebody may repair it");
    // The next backup stores anew what is hurt; then the hurt copies may go.
    let writer = Writer::begin(&bench);
    assert_eq!(writer.store(&bench, &needed, 2), 2);
    writer.commit(&bench, &needed);
    let report = pruned(&bench);
    assert_eq!(report.missing_chunks, 0);
    assert!(!bench.names("packs").contains(&index.pack(place.pack).object_name()));
    assert_whole(&bench, &[&needed]);
}

/// Every storage call of a prune fails once, is answered and lost, or is the last one before a crash: what points
/// need stays, and the next prune ends what was begun.
#[test]
fn whatever_fails_in_a_prune_the_next_one_completes_it() {
    let old = files(0..8);
    let needed: Files<'_> = vec![old[0].clone(), old[1].clone(), old[4].clone()];
    let prepare = || {
        let bench = Bench::new();
        let gone = backup(&bench, &old);
        backup(&bench, &needed);
        forget(&bench, &gone);
        bench
    };
    let run = |bench: &Bench, fault: Option<Fault>| {
        let faulty = Arc::new(FaultyBackend::new(bench.store.clone()));
        fault.into_iter().for_each(|fault| faulty.plan(fault));
        let _ = prune(&bench.repository.moved_to(faulty.clone()), &who(), &options());
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        faulty.calls().iter().for_each(|call| *counts.entry(format!("{:?}", call.operation)).or_default() += 1);
        counts
    };
    let calls = run(&prepare(), None);
    let kinds = [
        Operation::Get,
        Operation::GetRange,
        Operation::Size,
        Operation::List,
        Operation::Create,
        Operation::Append,
        Operation::Finish,
        Operation::Barrier,
        Operation::Delete,
    ];
    let mut struck = 0;
    for operation in kinds {
        // Each reading of the log asks for some dozens of names, one like the other.
        let step = if operation == Operation::Size { 7 } else { 1 };
        for nth in (1..=calls.get(&format!("{operation:?}")).copied().unwrap_or(0)).step_by(step) {
            let effects: &[(Effect, bool)] = match operation.is_write() {
                true => &[(Effect::Io, false), (Effect::Io, true), (Effect::LostAnswer, false), (Effect::Full, true)],
                false => &[(Effect::Io, false), (Effect::Io, true)],
            };
            for (effect, forever) in effects {
                struck += 1;
                let bench = prepare();
                let fault = Fault::at(operation, nth, *effect);
                run(&bench, Some(if *forever { fault.forever() } else { fault }));
                assert_whole(&bench, &[&needed]);
                // A crash: what no barrier made durable is gone too.
                bench.store.crash();
                assert_whole(&bench, &[&needed]);
                let later = OpenRecord { started: crate::ids::UnixNanos(3 * 86_400_000_000_000), ..who() };
                let report = prune(&bench.repository, &later, &options()).unwrap();
                assert!(report.waits_for.is_empty(), "{operation:?} {nth} {effect:?}: {report:?}");
                let end = prune(&bench.repository, &later, &PruneOptions { dry_run: true, ..options() }).unwrap();
                assert_eq!(end.plain_bytes, end.live_bytes, "{operation:?} {nth} {effect:?}: {report:?} {end:?}");
                assert_whole(&bench, &[&needed]);
                let next = Writer::begin(&bench);
                next.store(&bench, &files(10..12), 2);
                next.commit(&bench, &files(10..12));
                assert_whole(&bench, &[&needed, &files(10..12)]);
            }
        }
    }
    assert!(struck > 200, "{struck} faults");
}

/// Three prunes that overlap. A pack was condemned, rescued, and condemned again by a third one; who relied on it after
/// the rescue had not seen that, and the second prune took the first condemnation for the new one.
#[test]
fn a_condemnation_that_was_rescued_vouches_for_no_later_one() {
    let bench = Bench::new();
    let shared = files(0..4);
    let gone = backup(&bench, &shared);
    let history = block_on(bench.repository.history()).unwrap();
    let index = block_on(Index::load(&bench.repository, &history, 1 << 20)).unwrap();
    let place = block_on(index.lookup(&bench.repository.secrets().chunk_id(&shared[0].1))).unwrap().unwrap();
    let info = index.pack(place.pack);
    let condemn = |registration: Registration| {
        let packs = vec![CondemnedPack { pack: info.id, writer: info.writer, bytes: info.bytes, bytes_live: 0 }];
        block_on(registration.commit(Outcome::Condemned { packs, reason: "test".into() })).unwrap();
    };
    let admin = || block_on(bench.repository.register(who())).unwrap();
    condemn(admin());
    let options = PruneOptions { wait: Duration::from_secs(20), ..options() };
    let mut second = Pruner { repository: &bench.repository, options: &options, report: PruneReport::default() };
    let (_, known) = second.condemn(&who()).unwrap();
    assert!(known.iter().any(|(pack, _)| *pack == info.id));
    block_on(admin().commit(Outcome::Swept { deleted: vec![], rescued: vec![info.id] })).unwrap();
    forget(&bench, &gone);
    let third = admin();
    let sweeps = LogNumber(third.number().0 + 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while block_on(bench.repository.history()).unwrap().entry(sweeps).is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let writer = Writer::begin(&bench);
            assert_eq!(writer.store(&bench, &shared, 2), 0, "the pack was rescued");
            condemn(third);
            writer.commit(&bench, &shared);
        });
        second.sweep(&who(), &known).unwrap();
    });
    assert_eq!(second.report.deleted.packs, 0, "{:?}", second.report);
    assert_whole(&bench, &[&shared]);
}

/// The copy that stays has rotted since: the condemned one must not go for it.
#[test]
fn before_a_copy_goes_the_one_that_stays_is_read() {
    let bench = Bench::new();
    let shared = files(0..4);
    let blocker = stored_twice(&bench, &shared);
    pruned(&bench);
    let kept = good_data_packs(&bench).remove(0);
    let mut rotten = bench.bytes(&kept).to_vec();
    rotten[6000] ^= 1;
    bench.store.overwrite(&kept, rotten);
    block_on(blocker.registration.commit(Outcome::Ended { reason: "done".into() })).unwrap();
    let report = pruned(&bench);
    assert!(report.rescued >= 1 && report.damaged.len() == 1, "{report:?}");
    assert_reads_back(&bench, &shared);
}

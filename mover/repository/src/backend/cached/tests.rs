//! The cache against the store alone: same answers whatever becomes of its files, and fewer calls.

use super::*;
use crate::backend::conformance::conformance;
use crate::backend::faulty::Operation;
use crate::backend::{FaultyBackend, MemoryBackend};
use crate::error::RepositoryError;
use crate::ids::{ChunkId, LogNumber, PackId};
use crate::index::{Absent, Index};
use crate::keys::Credential;
use crate::log::History;
use crate::pack::{FrameInfo, PackClass, PackContents, read_contents};
use crate::repository::Repository;
use crate::testing::{Bench, block_on, chunk_id, noise};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const GIB: u64 = 1 << 30;

/// A repository behind a cache, and a count of the calls that reach its store.
struct Far {
    store: FaultyBackend,
    cache: Arc<CachedBackend>,
    repository: Repository,
}

impl Far {
    /// Opens the repository of `bench` as a new process would.
    fn open(bench: &Bench, directory: &Path) -> Far {
        let store = FaultyBackend::new(bench.store.clone());
        let cache = Arc::new(cache_of(Arc::new(store.clone()), directory, GIB));
        let credential = Credential::key_file(vec![7; 32]).unwrap();
        let repository = block_on(Repository::open(cache.clone(), &credential)).unwrap();
        store.forget_calls();
        Far { store, cache, repository }
    }

    fn load(&self, budget_bytes: usize) -> Index {
        block_on(Index::load_without(&self.repository, Absent::default(), budget_bytes)).unwrap()
    }

    fn reads(&self, prefix: &str) -> usize {
        self.store.count(Operation::GetRange, prefix) + self.store.count(Operation::Get, prefix)
    }
}

/// A cache that must have nothing to complain of.
fn cache_of(inner: Arc<dyn Backend>, directory: &Path, bytes_max: u64) -> CachedBackend {
    CachedBackend::new(inner, directory.to_owned(), bytes_max, |text| panic!("{text}"))
}

/// A table that names chunks `from..until`, of a pack that need not exist.
fn table(seed: u64, chunks: Range<u64>) -> PackContents {
    let ids: Vec<(ChunkId, u32)> = chunks.map(|n| (chunk_id(n), 7)).collect();
    let frame = |(number, chunks): (usize, &[_])| FrameInfo {
        number: number as u32,
        offset: 1000 * number as u64,
        sealed_bytes: 999,
        blake3: [0; 32],
        chunks: chunks.to_vec(),
    };
    PackContents {
        id: PackId(chunk_id(1_000_000 + seed).0),
        writer: LogNumber(seed),
        class: PackClass::Data,
        generation: 1,
        key_block: crate::crypto::KeyBlock([1; crate::crypto::KEY_BLOCK_BYTES]),
        bytes: 1 << 20,
        frames: ids.chunks(100).enumerate().map(frame).collect(),
    }
}

/// Every entry below the directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.retain(|path| !path.ends_with("CACHEDIR.TAG"));
    found.sort();
    found
}

/// Length of the header of an entry, hash included.
fn head_bytes(entry: &[u8]) -> usize {
    8 + 1 + 2 + usize::from(u16::from_le_bytes(entry[9..11].try_into().unwrap())) + 24 + 32
}

/// Gives an entry other content and the hash that belongs to it.
fn forge(path: &Path) {
    let mut entry = std::fs::read(path).unwrap();
    let from = head_bytes(&entry);
    entry[from..].iter_mut().for_each(|byte| *byte ^= 0x55);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&entry[..from - 32]).update(&entry[from..]);
    entry[from - 32..from].copy_from_slice(hasher.finalize().as_bytes());
    std::fs::write(path, entry).unwrap();
}

/// Some of each block.
fn finds(index: &Index, chunks: Range<u64>) {
    for id in chunks.step_by(23).map(chunk_id) {
        assert!(block_on(index.lookup(&id)).unwrap().is_some(), "{id}");
    }
}

#[test]
fn cache_before_a_store_keeps_every_promise_of_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache_of(Arc::new(MemoryBackend::new()), directory.path(), GIB);
    let failed: Vec<_> = block_on(conformance(&cache)).unwrap().into_iter().filter(|check| !check.passed).collect();
    assert_eq!(failed, []);
}

#[test]
fn cache_spares_the_second_run_every_read_of_the_index() {
    let (bench, directory) = (Bench::new(), tempfile::tempdir().unwrap());
    // One segment of a single piece, one of several.
    bench.segment(&[table(1, 0..50)]);
    bench.segment(&[table(2, 100..12_000)]);
    for budget_bytes in [64 << 20, 0] {
        let first = Far::open(&bench, directory.path());
        finds(&first.load(budget_bytes), 100..12_000);
        let second = Far::open(&bench, directory.path());
        finds(&second.load(budget_bytes), 100..12_000);
        assert_eq!(second.reads("index/"), 0);
        assert_eq!(second.store.count(Operation::List, "index"), 1);
        let counters = second.cache.counters();
        assert_eq!((counters.misses, counters.wrong_entries, counters.stored), (0, 0, 0));
        assert!(counters.hits > 4);
    }
    let without = Far::open(&bench, tempfile::tempdir().unwrap().path());
    without.load(64 << 20);
    assert!(without.reads("index/") > 3, "without entries the store is asked");
}

#[test]
fn cache_has_the_segments_that_this_host_wrote() {
    let (bench, directory) = (Bench::new(), tempfile::tempdir().unwrap());
    let writer = Far::open(&bench, directory.path());
    let mut builder = crate::index::SegmentBuilder::new(&writer.repository);
    builder.add(&table(1, 0..12_000));
    block_on(builder.write()).unwrap();
    let reader = Far::open(&bench, directory.path());
    finds(&reader.load(64 << 20), 0..12_000);
    assert_eq!((writer.reads("index/"), reader.reads("index/")), (0, 0));
}

#[test]
fn cache_has_tables_of_packs_and_nothing_else_of_them() {
    let (bench, directory) = (Bench::new(), tempfile::tempdir().unwrap());
    let contents = bench.pack(5, PackClass::Data, &[vec![noise(1, 3000)], vec![noise(2, 100_000)]]);
    let name = contents.info().object_name();
    let first = Far::open(&bench, directory.path());
    assert_eq!(block_on(read_contents(&first.repository, &name)).unwrap(), contents);
    assert_eq!(first.cache.counters().stored, 2, "header and end");
    let second = Far::open(&bench, directory.path());
    assert_eq!(block_on(read_contents(&second.repository, &name)).unwrap(), contents);
    assert_eq!((second.reads("packs/"), second.store.count(Operation::Size, "packs/")), (0, 1));
    // What a restore reads, be it the very range of the header.
    for range in [0..148, 148..3000, 0..contents.bytes] {
        block_on(second.cache.get_range(&name, range)).unwrap();
    }
    let counters = second.cache.counters();
    assert_eq!((second.reads("packs/"), counters.hits, counters.stored), (3, 2, 0));
}

#[test]
fn cache_says_nothing_of_what_is_there() {
    let (bench, directory) = (Bench::new(), tempfile::tempdir().unwrap());
    let contents = bench.pack(5, PackClass::Data, &[vec![noise(1, 3000)]]);
    let (name, segment) = (contents.info().object_name(), bench.segment(std::slice::from_ref(&contents)));
    let first = Far::open(&bench, directory.path());
    block_on(read_contents(&first.repository, &name)).unwrap();
    first.load(1 << 20);

    bench.store.remove(&name);
    let second = Far::open(&bench, directory.path());
    let gone = block_on(read_contents(&second.repository, &name));
    assert!(matches!(gone, Err(RepositoryError::MissingObject { .. })), "{gone:?}");
    let index = block_on(Index::load_for_backup(&second.repository, &History::default(), 1 << 20)).unwrap();
    assert_eq!((index.lost_packs(), index.chunks()), (1, 0));

    bench.store.remove(&format!("index/{segment}"));
    assert_eq!(Far::open(&bench, directory.path()).load(1 << 20).chunks(), 0);
}

/// Wrong content under a right hash is caught when it is opened, and costs one more read.
#[test]
fn cache_with_forged_entries_costs_reads_and_nothing_else() {
    let (bench, directory) = (Bench::new(), tempfile::tempdir().unwrap());
    bench.segment(&[table(1, 0..50)]);
    bench.segment(&[table(2, 100..12_000)]);
    let pack = bench.pack(5, PackClass::Data, &[vec![noise(1, 3000)]]);
    let name = pack.info().object_name();
    for budget_bytes in [64 << 20, 0] {
        let read = |far: &Far| {
            let index = far.load(budget_bytes);
            assert!(index.unreadable().is_empty(), "{:?}", index.unreadable());
            finds(&index, 0..50);
            finds(&index, 100..12_000);
            assert_eq!(block_on(read_contents(&far.repository, &name)).unwrap(), pack);
        };
        read(&Far::open(&bench, directory.path()));
        let entries = files(directory.path());
        assert!(entries.len() >= 6, "{entries:?}");
        // One at a time, so that each part of a segment is once the wrong one; then all.
        for forged in entries.iter().map(std::slice::from_ref).chain([&entries[..]]) {
            forged.iter().for_each(|path| forge(path));
            let far = Far::open(&bench, directory.path());
            read(&far);
            assert_eq!(far.cache.counters().wrong_entries, 0, "the hash is right");
            assert!(far.reads("index/") + far.reads("packs/") > 0);
            // What was read in their place is kept.
            let next = Far::open(&bench, directory.path());
            read(&next);
            assert_eq!((next.reads("index/"), next.reads("packs/")), (0, 0), "{forged:?}");
        }
    }
}

#[test]
fn cache_entries_that_are_wrong_are_removed_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryBackend::new());
    let (body, other) = (Bytes::from(noise(1, 5000)), Bytes::from(noise(2, 5000)));
    store.overwrite("index/a", body.clone());
    store.overwrite("index/b", other);
    let read = |cache: &CachedBackend, name| block_on(cache.get_cacheable(name, 10..4000, 5000)).unwrap();
    let open = || cache_of(store.clone(), directory.path(), GIB);
    read(&open(), "index/a");
    let path = files(directory.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    read(&open(), "index/b");
    let of_other = std::fs::read(files(directory.path()).into_iter().find(|found| *found != path).unwrap()).unwrap();
    let changed = |at: usize| {
        let mut entry = good.clone();
        entry[at] ^= 1;
        entry
    };
    let longer = [&good[..], b"x"].concat();
    let mut wrong = vec![Vec::new(), good[..20].to_vec(), good[..good.len() - 1].to_vec(), longer, of_other];
    // Magic, version, length of the name, name, range, length of the object, hash, content.
    wrong.extend([0, 8, 9, 12, 19, 27, 35, 50, good.len() - 1].map(changed));
    for entry in wrong {
        std::fs::write(&path, &entry).unwrap();
        let cache = open();
        assert_eq!(read(&cache, "index/a"), body.slice(10..4000));
        assert_eq!(
            (cache.counters().wrong_entries, cache.counters().hits),
            (1, 0),
            "{:?}",
            &entry[..entry.len().min(40)]
        );
        assert_eq!(std::fs::read(&path).unwrap(), good, "a right one took its place");
    }
    // Neither followed nor waited for.
    for make in [
        |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        |path: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        },
    ] {
        std::fs::remove_file(&path).unwrap();
        make(&path);
        let cache = open();
        assert_eq!(read(&cache, "index/a"), body.slice(10..4000));
        assert_eq!(cache.counters().wrong_entries, 1);
    }
}

#[test]
fn cache_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/mover");
    let cache = cache_of(Arc::new(MemoryBackend::new()), &root, GIB);
    block_on(cache.create("index/a", Bytes::from_static(b"abc"))).unwrap();
    let file = files(&root).remove(0);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    let tag = std::fs::read(file.ancestors().nth(2).unwrap().join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55"), "backups may leave it out");
    assert!(!root.join("CACHEDIR.TAG").exists(), "the directory may be somebody's home");
    file.ancestors().skip(1).take(4).for_each(|path| assert_eq!(mode(path), 0o700, "{}", path.display()));
}

fn disk_bytes(directory: &Path) -> u64 {
    files(directory).iter().map(|path| path.metadata().unwrap().len().next_multiple_of(4096)).sum()
}

#[test]
fn cache_stays_within_its_bound_while_it_runs_and_keeps_what_was_used() {
    const BOUND_BYTES: u64 = 256 << 10;
    let directory = tempfile::tempdir().unwrap();
    // Of somebody else: neither counted nor removed.
    std::fs::write(directory.path().join("mine"), vec![0; 1 << 20]).unwrap();
    let store = MemoryBackend::new();
    for number in 0..200 {
        store.overwrite(&format!("index/{number}"), noise(number, 20_000));
    }
    // Two repositories share the bound.
    let other = cache_of(Arc::new(MemoryBackend::new()), directory.path(), BOUND_BYTES);
    let cache = cache_of(Arc::new(store), directory.path(), BOUND_BYTES);
    let read = |number: u64| block_on(cache.get_cacheable(&format!("index/{number}"), 0..20_000, 20_000)).unwrap();
    read(0);
    for number in 1..200 {
        read(number);
        assert_eq!(read(0), noise(0, 20_000), "read all the time");
        block_on(other.create(&format!("index/{number}"), Bytes::from(noise(number, 5000)))).unwrap();
        // The other one may not have seen yet what this one wrote last.
        let held = disk_bytes(directory.path()) - (1 << 20);
        assert!(held <= BOUND_BYTES + BOUND_BYTES / 16 + 24_576, "{held} bytes");
    }
    let counters = cache.counters();
    assert_eq!((counters.hits, counters.misses), (199, 200), "only the one in use was never removed");
    assert!(counters.evicted > 100);
    // Larger than the whole bound: not kept.
    let large = Bytes::from(noise(1, 600_000));
    block_on(cache.create("packs/1/a", large.clone())).unwrap();
    assert_eq!(block_on(cache.get_cacheable("packs/1/a", 0..600_000, 600_000)).unwrap(), large);
    assert_eq!(cache.counters().stored, counters.stored);
}

#[test]
fn cache_removes_temporaries_of_killed_processes() {
    let directory = tempfile::tempdir().unwrap();
    let cache = || cache_of(Arc::new(MemoryBackend::new()), directory.path(), GIB);
    block_on(cache().create("index/a", Bytes::from_static(b"abc"))).unwrap();
    let beside = files(directory.path()).remove(0);
    let [old, young] = ["tmp-old", "tmp-young"].map(|name| beside.with_file_name(name));
    [&old, &young].into_iter().for_each(|path| std::fs::write(path, b"half").unwrap());
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    std::fs::File::open(&old).unwrap().set_modified(long_ago).unwrap();
    block_on(cache().create("index/b", Bytes::from_static(b"abc"))).unwrap();
    assert_eq!((old.exists(), young.exists(), beside.exists()), (false, true, true));
}

#[test]
fn cache_may_be_deleted_in_mid_run() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("cache");
    let store = MemoryBackend::new();
    store.overwrite("index/a", noise(1, 600_000));
    let cache = cache_of(Arc::new(store), &root, GIB);
    for round in 0..3 {
        assert_eq!(block_on(cache.get_cacheable("index/a", 5..600_000, 600_000)).unwrap(), noise(1, 600_000)[5..]);
        assert_eq!(cache.counters().stored, 3 * (round + 1));
        std::fs::remove_dir_all(&root).unwrap();
    }
    // While it is read and written.
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..200 {
                let read = block_on(cache.get_cacheable("index/a", 5..600_000, 600_000)).unwrap();
                assert_eq!(read, noise(1, 600_000)[5..]);
            }
        });
        while !reader.is_finished() {
            let _ = std::fs::remove_dir_all(&root);
        }
    });
    assert_eq!(cache.counters().wrong_entries, 0);
}

#[test]
fn cache_that_cannot_be_written_is_off_with_one_note() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, b"").unwrap();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&notes);
    let store = MemoryBackend::new();
    store.overwrite("index/a", noise(1, 600_000));
    let cache = CachedBackend::new(Arc::new(store), blocked, GIB, move |text: &str| told.lock().push(text.to_owned()));
    for _ in 0..3 {
        assert_eq!(block_on(cache.get_cacheable("index/a", 5..600_000, 600_000)).unwrap(), noise(1, 600_000)[5..]);
        block_on(cache.create("index/b", Bytes::from_static(b"abc"))).unwrap();
    }
    assert_eq!((cache.counters().hits, cache.counters().stored), (0, 0));
    let notes = notes.lock();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("going on without it"), "{notes:?}");
}

#[test]
fn cache_may_be_shared_by_processes() {
    const BOUND_BYTES: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryBackend::new());
    for number in 0..40 {
        store.overwrite(&format!("index/{number}"), noise(number, 50_000));
    }
    std::thread::scope(|scope| {
        for process in 0..4 {
            let cache = cache_of(store.clone(), directory.path(), BOUND_BYTES);
            scope.spawn(move || {
                for step in 0..200 {
                    let number = (step * 7 + process * 3) % 40;
                    let read = block_on(cache.get_cacheable(&format!("index/{number}"), 9..50_000, 50_000)).unwrap();
                    assert_eq!(read, noise(number, 50_000)[9..]);
                }
                assert_eq!(cache.counters().wrong_entries, 0);
            });
        }
    });
    assert!(disk_bytes(directory.path()) <= BOUND_BYTES + 4 * (BOUND_BYTES / 16 + 53_248));
}

/// One step of a random history; objects are named by numbers and lie half in `index`, half in `packs`.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, u32),
    Read(u8, u32, u32),
    ReadPlain(u8, u32, u32),
    Delete(u8),
    DeleteElsewhere(u8),
    RemoveEntry(usize),
    DamageEntry(usize, usize),
    CutEntry(usize, usize),
    SwapEntries(usize, usize),
    Distrust(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (name, at) = (0u8..6, 0u32..700_000);
    prop_oneof![
        3 => (name.clone(), at.clone()).prop_map(|(name, bytes)| Step::Create(name, bytes)),
        8 => (name.clone(), at.clone(), at.clone()).prop_map(|(name, a, b)| Step::Read(name, a, b)),
        1 => (name.clone(), at.clone(), at).prop_map(|(name, a, b)| Step::ReadPlain(name, a, b)),
        1 => name.clone().prop_map(Step::Delete),
        1 => name.clone().prop_map(Step::DeleteElsewhere),
        1 => any::<usize>().prop_map(Step::RemoveEntry),
        1 => any::<(usize, usize)>().prop_map(|(entry, at)| Step::DamageEntry(entry, at)),
        1 => any::<(usize, usize)>().prop_map(|(entry, at)| Step::CutEntry(entry, at)),
        1 => any::<(usize, usize)>().prop_map(|(entry, other)| Step::SwapEntries(entry, other)),
        1 => name.prop_map(Step::Distrust),
        1 => Just(Step::Reopen),
    ]
}

/// An object's name never comes back with other bytes: names carry how often the number was used.
#[derive(Default)]
struct World {
    uses: BTreeMap<u8, u32>,
    /// Everything that was ever there.
    ever: BTreeMap<String, Bytes>,
}

impl World {
    fn name(&self, number: u8) -> String {
        let prefix = if number.is_multiple_of(2) { "index" } else { "packs/1" };
        format!("{prefix}/{number}-{}", self.uses.get(&number).copied().unwrap_or(0))
    }
}

fn change_entry(directory: &Path, number: usize, change: impl FnOnce(&mut Vec<u8>)) {
    let entries = files(directory);
    if !entries.is_empty() {
        let path = &entries[number % entries.len()];
        let mut entry = std::fs::read(path).unwrap();
        if !entry.is_empty() {
            change(&mut entry);
        }
        std::fs::write(path, entry).unwrap();
    }
}

fn check_read(cache: &CachedBackend, store: &MemoryBackend, world: &World, name: &str, range: Range<u64>, plain: bool) {
    let expected = block_on(store.get_range(name, range.clone())).map_err(|error| error.kind);
    // Whoever asks knows the length from an earlier answer of the store.
    let length = world.ever.get(name).map_or(range.end, |body| body.len() as u64);
    let answer = match plain {
        true => block_on(cache.get_range(name, range.clone())),
        false => block_on(cache.get_cacheable(name, range.clone(), length)),
    };
    match answer.map_err(|error| error.kind) {
        // Deleted behind its back.
        Ok(bytes) if expected == Err(StorageErrorKind::NotFound) && !plain => {
            assert_eq!(bytes, world.ever[name].slice(range.start as usize..range.end as usize));
        }
        answer => assert_eq!(answer, expected, "{name} {range:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn cache_answers_as_the_store_whatever_becomes_of_its_files(
        steps in prop::collection::vec(step(), 1..60),
        bytes_max in prop_oneof![Just(GIB), Just(1u64 << 20)],
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryBackend::new());
        let open = || cache_of(store.clone(), directory.path(), bytes_max);
        let (mut cache, mut world) = (open(), World::default());
        for step in steps {
            match step {
                Step::Create(number, bytes) => {
                    let (name, body) = (world.name(number), Bytes::from(noise(u64::from(bytes), bytes as usize)));
                    if block_on(cache.create(&name, body.clone())).unwrap() == Created::New {
                        world.ever.insert(name, body);
                    }
                }
                Step::Read(number, a, b) | Step::ReadPlain(number, a, b) => {
                    let range = u64::from(a.min(b))..u64::from(a.max(b));
                    let is_plain = matches!(step, Step::ReadPlain(..));
                    check_read(&cache, &store, &world, &world.name(number), range, is_plain);
                }
                Step::Delete(number) => {
                    let name = world.name(number);
                    let _ = block_on(cache.delete(&name));
                    let read = block_on(cache.get_cacheable(&name, 0..1, 1)).map_err(|error| error.kind);
                    prop_assert_eq!(read, Err(StorageErrorKind::NotFound), "gone for who deleted it");
                    *world.uses.entry(number).or_default() += 1;
                }
                Step::DeleteElsewhere(number) => {
                    store.remove(&world.name(number));
                    check_read(&cache, &store, &world, &world.name(number), 0..1, false);
                    *world.uses.entry(number).or_default() += 1;
                }
                Step::RemoveEntry(number) => {
                    let entries = files(directory.path());
                    if !entries.is_empty() {
                        std::fs::remove_file(&entries[number % entries.len()]).unwrap();
                    }
                }
                Step::DamageEntry(number, at) => change_entry(directory.path(), number, |entry| {
                    let at = at % entry.len();
                    entry[at] ^= 0x10;
                }),
                Step::CutEntry(number, at) => change_entry(directory.path(), number, |entry| {
                    entry.truncate(at % entry.len());
                }),
                Step::SwapEntries(number, other) => {
                    let entries = files(directory.path());
                    if !entries.is_empty() {
                        std::fs::copy(&entries[other % entries.len()], &entries[number % entries.len()]).unwrap();
                    }
                }
                Step::Distrust(number) => prop_assert!(cache.distrust_cached(&world.name(number))),
                Step::Reopen => cache = open(),
            }
            let listed = block_on(cache.list("")).unwrap();
            prop_assert_eq!(listed, block_on(store.list("")).unwrap());
        }
    }
}

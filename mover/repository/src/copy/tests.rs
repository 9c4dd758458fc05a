//! Copies between repositories in memory: what arrives, what is read and stored for it, and what harm costs.

mod harm;

use std::sync::Arc;

use super::*;
use crate::backend::MemoryBackend;
use crate::ids::UnixNanos;
use crate::keys::Credential;
use crate::log::{Grade, Totals};
use crate::manifest::{Content, ContentBuilder, Entry, Kind, ManifestBuilder, ManifestReader, Piece};
use crate::pack::PackClass;
use crate::repository::InitOptions;
use crate::testing::{Bench, file, noise};

/// A repository with ids and boundaries of another one.
pub(super) fn like(other: &Bench) -> Bench {
    let store = Arc::new(MemoryBackend::new());
    let credential = Credential::key_file(vec![8; 32]).unwrap();
    let made = Repository::init_like(store.clone(), &credential, InitOptions::default(), &other.repository);
    Bench { repository: block_on(made).unwrap(), store }
}

pub(super) fn options() -> CopyOptions {
    CopyOptions { dry_run: false, memory_bytes: 8 << 20, threads: 2, stop: Arc::default(), counters: Arc::default() }
}

/// Text that shrinks, the same for the same seed.
pub(super) fn text(seed: u64, length: usize) -> Vec<u8> {
    let word = format!("{} all work and no play makes a dull backup; ", blake3::hash(&seed.to_le_bytes()).to_hex());
    word.into_bytes().into_iter().cycle().take(length).collect()
}

/// Copies the points, registered as a reader in FROM.
pub(super) fn run(from: &Bench, to: &Bench, points: &[ObjectId], options: &CopyOptions) -> Result<CopyReport> {
    let reader = block_on(from.repository.register(Bench::open_record(Role::Reader)))?;
    let who = Bench::open_record(Role::Writer);
    let report = copy(&from.repository, reader.history(), &to.repository, points, &who, options);
    block_on(reader.commit(Outcome::Ended { reason: "copied".into() }))?;
    report
}

pub(super) fn outcomes(report: &CopyReport) -> Vec<&'static str> {
    let name = |outcome: &PointOutcome| match outcome {
        PointOutcome::Copied => "copied",
        PointOutcome::AlreadyThere => "there",
        PointOutcome::Damaged { .. } => "damaged",
        PointOutcome::WithoutBase { .. } => "without base",
    };
    report.points.iter().map(|(_, outcome)| name(outcome)).collect()
}

pub(super) fn new_point(set: &str, filesets: Vec<SealedFileset>, depends_on: Option<ObjectId>) -> RecoveryPoint {
    RecoveryPoint {
        id: ObjectId(crate::crypto::random_array()),
        filesets,
        depends_on,
        grade: Grade::Torn,
        errors: 3,
        started: UnixNanos(17),
        finished: UnixNanos(18),
        tags: vec!["tag".into()],
        ..crate::testing::point(set)
    }
}

/// Stores a point whose files have these contents, each cut into chunks of 10 000 bytes; frames are gathered and compressed
/// as a backup does. Beside the files there is one of each other kind.
pub(super) fn make(
    bench: &Bench,
    set: &str,
    files: &[(String, Vec<u8>)],
    depends_on: Option<ObjectId>,
) -> RecoveryPoint {
    let who = OpenRecord { depends_on, ..Bench::open_record(Role::Writer) };
    let registration = block_on(bench.repository.register(who)).unwrap();
    let index = bench.index(8 << 20);
    let mut packer = Packer::new(&bench.repository, registration.number(), 0).unwrap();
    let mut stored = HashSet::new();
    let mut entries: Vec<Entry> = others();
    let mut pages = Vec::new();
    for (path, bytes) in files {
        let mut content = ContentBuilder::new(&bench.repository);
        for extent in bytes.chunks(400_000) {
            let mut pieces = Vec::new();
            for chunk in extent.chunks(10_000) {
                let id = bench.repository.secrets().chunk_id(chunk);
                if stored.insert(id) && block_on(index.lookup(&id)).unwrap().is_none() {
                    packer.gather(PackClass::Data, id, chunk).unwrap();
                }
                pieces.push(Piece::Chunk { id, bytes: chunk.len() as u32 });
            }
            pieces.push(Piece::Hole { bytes: 65536 });
            content.push_extent(pieces, &mut pages);
        }
        let content = content.finish(&mut pages);
        entries.push(Entry { content, ..file(path, bytes.len() as u64) });
    }
    entries.sort_by(|a, b| crate::manifest::path_cmp(&a.path, &b.path));
    let mut builder = ManifestBuilder::new(&bench.repository);
    entries.into_iter().for_each(|entry| builder.push(entry, &mut pages).unwrap());
    let root = builder.finish(&mut pages).unwrap();
    for page in pages {
        if stored.insert(page.id) && block_on(index.lookup(&page.id)).unwrap().is_none() {
            packer.gather(page.class, page.id, &page.bytes).unwrap();
        }
    }
    packer.finish().unwrap();
    let times = (UnixNanos(5), UnixNanos(6));
    let totals = Totals { files: files.len() as u64, ..Totals::default() };
    let fileset =
        SealedFileset { root_path: b"/source".to_vec(), root, scan_started: times.0, scan_finished: times.1, totals };
    let point = new_point(set, vec![fileset], depends_on);
    block_on(registration.commit(Outcome::RecoveryPoint(point.clone()))).unwrap();
    point
}

/// One entry of each kind, with all that an entry can have.
fn others() -> Vec<Entry> {
    let mut unreadable = Entry { error: true, grade: Grade::Torn, ..file("d/unreadable", 77) };
    unreadable.meta.mode = 0o6755;
    unreadable.meta.xattrs = vec![(b"user.a".to_vec(), vec![0, 255]), (b"user.b".to_vec(), noise(3, 5000))];
    let kind = |path: &str, kind: Kind| Entry { kind, grade: Grade::Snapshot, ..file(path, 0) };
    vec![
        kind("", Kind::Directory),
        kind("d", Kind::Directory),
        kind("d/fifo", Kind::Fifo),
        kind("d/null", Kind::CharDevice { major: 1, minor: 3 }),
        kind("d/sda", Kind::BlockDevice { major: 8, minor: 0 }),
        kind("d/zlink", Kind::Symlink { target: b"../\xff".to_vec() }),
        Entry { kind: Kind::HardLink { first: b"d/unreadable".to_vec() }, ..file("e-hard", 77) },
        unreadable,
    ]
}

/// Files of text and noise, some of which are large enough for lists of pages.
pub(super) fn files(count: u64, round: u64) -> Vec<(String, Vec<u8>)> {
    let content = |at: u64| match at % 4 {
        0 => noise(at, 9_000),
        1 => text(at, 60_000),
        2 => text(at + 1000 * round, 3_000),
        _ => Vec::new(),
    };
    let mut files: Vec<(String, Vec<u8>)> = (0..count).map(|at| (format!("f{at:05}"), content(at))).collect();
    files.push(("large".into(), noise(99, 1_500_000)));
    files
}

/// All entries of a point, with the bytes of their files, and list pages left out.
fn read_all(bench: &Bench, point: &RecoveryPoint) -> Vec<(Entry, Vec<Piece>, Vec<u8>)> {
    let chunks = bench.reader();
    let mut all = Vec::new();
    for fileset in &point.filesets {
        let mut reader = ManifestReader::new(chunks.clone(), fileset.root);
        while let Some(mut entry) = block_on(reader.next()).unwrap() {
            let mut pieces = crate::manifest::ContentReader::new(chunks.clone(), &entry.content);
            let (mut shape, mut bytes) = (Vec::new(), Vec::new());
            while let Some(piece) = block_on(pieces.next()).unwrap() {
                match piece {
                    Piece::Chunk { id, bytes: length } => {
                        bytes.extend_from_slice(&block_on(chunks.read(&id)).unwrap());
                        shape.push(Piece::Chunk { id: ChunkId([0; 32]), bytes: length });
                    }
                    hole => shape.push(hole),
                }
            }
            entry.content = match entry.content {
                Content::Inline(_) => Content::EMPTY,
                Content::Tree { levels, pieces, .. } => Content::Tree { root: ChunkId([0; 32]), levels, pieces },
            };
            all.push((entry, shape, bytes));
        }
    }
    all
}

/// The point as a repository has it, which must say the same as `original` but for its roots.
fn arrived(bench: &Bench, original: &RecoveryPoint) -> RecoveryPoint {
    let history = block_on(bench.repository.history()).unwrap();
    let (_, point) = history.points().find(|(_, point)| point.id == original.id).expect("it is there");
    let mut same = point.clone();
    same.filesets.iter_mut().zip(&original.filesets).for_each(|(there, here)| there.root = here.root);
    assert_eq!(&same, original);
    point.clone()
}

/// Plain bytes and frames in the packs of a repository.
fn frames(bench: &Bench) -> (u64, u64) {
    let contents = bench
        .names("packs")
        .into_iter()
        .map(|name| block_on(crate::pack::read_contents(&bench.repository, &name)).unwrap());
    contents.fold((0, 0), |(bytes, count), pack| {
        let plain: u64 = pack.frames.iter().flat_map(|frame| &frame.chunks).map(|(_, bytes)| u64::from(*bytes)).sum();
        (bytes + plain, count + pack.frames.len() as u64)
    })
}

#[test]
fn copy_with_the_same_ids_keeps_pages_and_frames_and_knows_what_is_there() {
    let from = Bench::new();
    let to = like(&from);
    let point = make(&from, "set", &files(40, 0), None);
    let report = run(&from, &to, &[point.id], &options()).unwrap();
    assert_eq!(outcomes(&report), ["copied"]);
    let there = arrived(&to, &point);
    assert_eq!(there, point, "not even the roots differ");
    assert_eq!(read_all(&to, &there), read_all(&from, &point));
    let (bytes, count) = frames(&from);
    assert_eq!((report.totals.bytes, report.totals.frames_reused), (bytes, count));
    assert_eq!(frames(&to), (bytes, count));
    assert!(report.totals.bytes_read < bytes, "text was read as it is compressed");

    let packs = to.names("packs");
    let again = run(&from, &to, &[point.id], &options()).unwrap();
    assert_eq!((outcomes(&again), again.totals.bytes_read), (vec!["there"], 0));
    assert_eq!(to.names("packs"), packs);
}

#[test]
fn copy_to_other_secrets_and_back_gives_equal_manifests() {
    for threads in [1, 2] {
        let (from, to) = (Bench::new(), Bench::new());
        let back = like(&from);
        let points = [make(&from, "a", &files(300, 0), None), make(&from, "a", &files(310, 1), None)];
        let ids = points.clone().map(|point| point.id);
        let options = || CopyOptions { threads, memory_bytes: 1 << 20, ..options() };
        assert_eq!(outcomes(&run(&from, &to, &ids, &options()).unwrap()), ["copied"; 2]);
        let there = points.clone().map(|point| arrived(&to, &point));
        for (there, here) in there.iter().zip(&points) {
            assert_ne!(there.filesets[0].root.structure, here.filesets[0].root.structure);
            assert_eq!(read_all(&to, there), read_all(&from, here));
        }
        assert_eq!(outcomes(&run(&to, &back, &ids, &options()).unwrap()), ["copied"; 2]);
        points.iter().for_each(|point| assert_eq!(&arrived(&back, point), point, "not even the roots differ"));
        points.iter().for_each(|point| assert_eq!(read_all(&back, point), read_all(&from, point)));
        assert_eq!(frames(&back).0, frames(&from).0, "each chunk and page is stored once");
    }
}

#[test]
fn copy_reads_only_what_is_lacking() {
    let from = Bench::new();
    let to = like(&from);
    let mut content = files(20, 0);
    make(&to, "set", &content, None);
    content.push(("new".into(), noise(1234, 100_000)));
    let point = make(&from, "set", &content, None);
    let report = run(&from, &to, &[point.id], &options()).unwrap();
    assert_eq!(outcomes(&report), ["copied"]);
    // The file, and the pages that name it.
    assert!((100_000..150_000).contains(&report.totals.bytes), "{:?}", report.totals);
    assert!(report.totals.bytes_read < 800_000, "{:?}", report.totals);
    assert_eq!(read_all(&to, &arrived(&to, &point)), read_all(&from, &point));
}

#[test]
fn copy_of_a_later_point_to_other_secrets_reads_what_changed() {
    let (from, to) = (Bench::new(), Bench::new());
    let mut content = files(100, 0);
    let first = make(&from, "set", &content, None);
    run(&from, &to, &[first.id], &options()).unwrap();
    content.last_mut().unwrap().1[1_000_000] ^= 1;
    content.push(("new".into(), noise(1234, 100_000)));
    content.remove(10);
    let second = make(&from, "set", &content, None);
    let who_may_only_add = to.put_only_client();
    for to in [to, who_may_only_add] {
        let report = run(&from, &to, &[second.id], &CopyOptions { dry_run: true, ..options() }).unwrap();
        assert!((100_000..130_000).contains(&report.totals.bytes), "{:?}", report.totals);
    }
}

#[test]
fn copy_by_a_key_that_may_only_add_is_whole_for_who_can_read() {
    let (from, to) = (Bench::new(), Bench::new());
    let client = to.put_only_client();
    let point = make(&from, "set", &files(30, 0), None);
    assert_eq!(outcomes(&run(&from, &client, &[point.id], &options()).unwrap()), ["copied"]);
    assert_eq!(read_all(&to, &arrived(&to, &point)), read_all(&from, &point));
    let blind = from.put_only_client();
    let refused = run(&blind, &to, &[point.id], &options()).unwrap_err();
    assert!(matches!(refused, RepositoryError::NotSupported { .. }), "{refused}");
}

#[test]
fn copy_into_the_same_repository_is_refused() {
    let from = Bench::new();
    let point = make(&from, "set", &files(3, 0), None);
    let refused = run(&from, &from, &[point.id], &options()).unwrap_err();
    assert!(matches!(refused, RepositoryError::SameRepository { .. }), "{refused}");
}

#[test]
fn copy_dry_run_counts_what_would_be_sent_and_changes_nothing() {
    for from_like in [true, false] {
        let from = Bench::new();
        let to = if from_like { like(&from) } else { Bench::new() };
        let points = [make(&from, "set", &files(20, 0), None), make(&from, "set", &files(20, 1), None)];
        let ids = points.map(|point| point.id);
        let before = to.names("");
        let dry = run(&from, &to, &ids, &CopyOptions { dry_run: true, ..options() }).unwrap();
        assert_eq!(to.names(""), before);
        let done = run(&from, &to, &ids, &options()).unwrap();
        assert_eq!(outcomes(&dry), outcomes(&done));
        if from_like {
            assert_eq!((dry.totals.chunks, dry.totals.bytes), (done.totals.chunks, done.totals.bytes));
        } else {
            // Pages are not known before they are built.
            assert!(dry.totals.chunks > 100 && dry.totals.chunks < done.totals.chunks);
        }
    }
}

#[test]
fn copy_takes_the_points_that_others_depend_on_along_and_before_them() {
    let (from, to) = (Bench::new(), Bench::new());
    let base = make(&from, "set", &files(5, 0), None);
    make(&from, "set", &files(5, 1), None);
    let log = make(&from, "set", &files(5, 2), Some(base.id));
    let report = run(&from, &to, &[log.id], &options()).unwrap();
    let order: Vec<ObjectId> = report.points.iter().map(|(point, _)| point.id).collect();
    assert_eq!(order, [base.id, log.id]);
    assert_eq!(block_on(to.repository.history()).unwrap().points().count(), 2);
}

//! What the tests of this crate share: a repository in memory, and packs written in one call.

use std::sync::Arc;

use bytes::Bytes;
pub(crate) use futures_lite::future::block_on;

pub(crate) use crate::log::fuzzing::fileset;

use crate::backend::{Backend, MemoryBackend};
use crate::chunk_reader::ChunkReader;
use crate::ids::{ChunkId, LogNumber, ObjectId, UnixNanos};
use crate::index::{Absent, Index, SegmentBuilder};
use crate::keys::{Credential, Stretching};
use crate::log::{
    DoneRecord, Grade, OpenRecord, Outcome, RecoveryPoint, Registration, Role, SealedFileset, Seen, Totals, done_name,
    open_name, seal_record,
};
use crate::manifest::{Content, Entry, Kind, ManifestBuilder, ManifestRoot, Metadata, Page, Piece};
use crate::pack::{PackClass, PackContents, PackSealer};
use crate::repository::{InitOptions, KeyRights, Repository};

pub(crate) struct Bench {
    pub store: Arc<MemoryBackend>,
    pub repository: Repository,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let store = Arc::new(MemoryBackend::new());
        let credential = Credential::key_file(vec![7; 32]).unwrap();
        let repository = block_on(Repository::init(store.clone(), &credential, InitOptions::default())).unwrap();
        Bench { store, repository }
    }

    /// The same store, opened by a new key that may only add: an honest client's, or stolen.
    pub(crate) fn put_only_client(&self) -> Bench {
        let credential = Credential::key_file(crate::crypto::random_array::<32>().to_vec()).unwrap();
        block_on(self.repository.add_key(&credential, KeyRights::PutOnly, Stretching::CHEAPEST)).unwrap();
        let repository = block_on(Repository::open(self.store.clone(), &credential)).unwrap();
        Bench { store: self.store.clone(), repository }
    }

    /// Writes one pack with a frame for each slice of chunks.
    pub(crate) fn pack(&self, writer: u64, class: PackClass, frames: &[Vec<Vec<u8>>]) -> PackContents {
        let mut sealer = PackSealer::open(&self.repository, LogNumber(writer), class);
        let name = sealer.object_name();
        let mut parts = vec![sealer.header()];
        for chunks in frames {
            let secrets = self.repository.secrets();
            let ids: Vec<_> = chunks.iter().map(|chunk| (secrets.chunk_id(chunk), chunk.len() as u32)).collect();
            parts.push(sealer.seal_raw(&chunks.concat(), &ids));
        }
        let (tail, contents) = sealer.finish();
        parts.push(tail);
        let object = Bytes::from(parts.concat());
        assert_eq!(object.len() as u64, contents.bytes);
        block_on(self.repository.backend().create(&name, object)).unwrap();
        contents
    }

    /// Stores pages: those of each class in one pack.
    pub(crate) fn store_pages(&self, writer: u64, pages: &[Page]) -> Vec<PackContents> {
        let of = |class| -> Vec<Vec<Vec<u8>>> {
            pages.iter().filter(|page| page.class == class).map(|page| vec![page.bytes.clone()]).collect()
        };
        [PackClass::Data, PackClass::Structure].map(|class| self.pack(writer, class, &of(class))).into()
    }

    pub(crate) fn segment(&self, packs: &[PackContents]) -> ObjectId {
        let mut builder = SegmentBuilder::new(&self.repository);
        packs.iter().for_each(|pack| builder.add(pack));
        block_on(builder.write()).unwrap().unwrap()
    }

    pub(crate) fn index(&self, budget_bytes: usize) -> Arc<Index> {
        Arc::new(block_on(Index::load_without(&self.repository, Absent::default(), budget_bytes)).unwrap())
    }

    /// A reader through a resident index of everything in a segment.
    pub(crate) fn reader(&self) -> Arc<ChunkReader> {
        Arc::new(ChunkReader::new(&self.repository, self.index(64 << 20), 1 << 20))
    }

    /// Builds and stores a manifest, with an index segment.
    pub(crate) fn manifest(&self, writer: u64, entries: &[Entry]) -> (ManifestRoot, Vec<Page>) {
        let mut pages = Vec::new();
        let mut builder = ManifestBuilder::new(&self.repository);
        entries.iter().for_each(|entry| builder.push(entry.clone(), &mut pages).unwrap());
        let root = builder.finish(&mut pages).unwrap();
        let packs = self.store_pages(writer, &pages);
        self.segment(&packs);
        (root, pages)
    }

    /// What a registration says of itself.
    pub(crate) fn open_record(role: Role) -> OpenRecord {
        OpenRecord {
            role,
            host: "host".into(),
            process_id: 1,
            machine: ObjectId([1; 32]),
            set: "set".into(),
            job: ObjectId([1; 32]),
            adopts: None,
            depends_on: None,
            started: UnixNanos(0),
        }
    }

    /// Backs up `files` as one recovery point: packs, segment, log record.
    pub(crate) fn backup(&self, files: &[(&str, Vec<u8>)]) -> RecoveryPoint {
        let registration = block_on(self.repository.register(Self::open_record(Role::Writer))).unwrap();
        let chunks: Vec<Vec<Vec<u8>>> = files.iter().map(|(_, bytes)| vec![bytes.clone()]).collect();
        let data = self.pack(registration.number().0, PackClass::Data, &chunks);
        self.segment(&[data]);
        self.commit(registration, files)
    }

    /// Commits a point of files whose chunks are stored, each a chunk of its own.
    pub(crate) fn commit(&self, registration: Registration, files: &[(&str, Vec<u8>)]) -> RecoveryPoint {
        let entries: Vec<Entry> = files
            .iter()
            .map(|(path, bytes)| {
                let id = self.repository.secrets().chunk_id(bytes);
                Entry {
                    content: Content::Inline(vec![Piece::Chunk { id, bytes: bytes.len() as u32 }]),
                    ..file(path, bytes.len() as u64)
                }
            })
            .collect();
        let (root, _) = self.manifest(registration.number().0, &entries);
        let fileset = SealedFileset {
            root_path: b"/source".to_vec(),
            root,
            scan_started: UnixNanos(0),
            scan_finished: UnixNanos(1),
            totals: Totals::default(),
        };
        block_on(registration.seal_fileset(0, &fileset)).unwrap();
        let point = RecoveryPoint {
            id: ObjectId(crate::crypto::random_array()),
            set: "set".into(),
            host: "host".into(),
            paths: vec![b"/source".to_vec()],
            tags: Vec::new(),
            started: UnixNanos(0),
            finished: UnixNanos(1),
            parent: None,
            depends_on: None,
            filesets: vec![fileset],
            totals: Totals::default(),
            grade: Grade::Stable,
            errors: 0,
        };
        block_on(registration.commit(Outcome::RecoveryPoint(point.clone()))).unwrap();
        point
    }

    /// Appends so many runs that came to nothing, written by this key.
    pub(crate) fn fill_log(&self, count: u64) {
        let from = block_on(self.repository.history()).unwrap().highest().0 + 1;
        let ended = || Outcome::Ended { reason: "done".into() };
        (from..from + count)
            .for_each(|number| self.write_run(LogNumber(number), Role::Writer, Seen::nothing(), ended()));
    }

    /// Writes both records of a run as they are given.
    pub(crate) fn write_run(&self, number: LogNumber, role: Role, seen: Seen, outcome: Outcome) {
        let secrets = self.repository.secrets();
        let signer = secrets.signing().verifying_key();
        let bodies = [
            (open_name(number), Self::open_record(role).encode(&signer)),
            (done_name(number), DoneRecord { signer, seen, outcome }.encode()),
        ];
        bodies.into_iter().for_each(|(name, body)| {
            self.store.overwrite(&name, seal_record(secrets, &name, &body).unwrap());
        });
    }

    /// Name of the only object below a prefix that `is_wanted`.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        block_on(self.store.list(prefix)).unwrap().into_iter().map(|object| object.name).collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> Bytes {
        block_on(self.store.get(name, u64::MAX)).unwrap()
    }
}

/// A point of a record that nobody restores from.
pub(crate) fn point(set: &str) -> RecoveryPoint {
    RecoveryPoint {
        id: ObjectId(crate::crypto::random_array()),
        set: set.to_owned(),
        host: "host".to_owned(),
        paths: vec![b"/data/\xff".to_vec()],
        tags: vec!["tag".to_owned()],
        started: UnixNanos(1),
        finished: UnixNanos(2),
        parent: Some(ObjectId([3; 32])),
        depends_on: Some(ObjectId([4; 32])),
        filesets: vec![fileset(), fileset()],
        totals: Totals::default(),
        grade: Grade::Stable,
        errors: 4,
    }
}

/// A file without content whose other attributes follow from its path.
pub(crate) fn file(path: &str, size: u64) -> Entry {
    let seed = u64::from_le_bytes(blake3::hash(path.as_bytes()).as_bytes()[..8].try_into().unwrap());
    Entry {
        path: path.as_bytes().to_vec(),
        kind: Kind::File,
        meta: Metadata {
            mode: 0o644,
            uid: 1000,
            gid: 100,
            mtime: UnixNanos(i128::from(seed)),
            ctime: UnixNanos(i128::from(seed) + 1),
            inode: seed,
            links: 1,
            size,
            xattrs: Vec::new(),
        },
        content: Content::EMPTY,
        grade: Grade::Stable,
        error: false,
    }
}

/// Bytes that no compressor shortens, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A chunk id that looks like any other.
pub(crate) fn chunk_id(seed: u64) -> ChunkId {
    ChunkId(*blake3::hash(&seed.to_le_bytes()).as_bytes())
}

//! Repositories built by hand for the tests: every chunk, frame and pack is where the test wants it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures_lite::future::block_on;
use mover_repository::backend::MemoryBackend;
use mover_repository::ids::{ChunkId, LogNumber, ObjectId, UnixNanos};
use mover_repository::index::SegmentBuilder;
use mover_repository::keys::{Credential, Stretching};
use mover_repository::log::{Grade, OpenRecord, RecoveryPoint, Role, SealedFileset, Totals};
use mover_repository::manifest::{
    Content, ContentBuilder, Entry, Kind, ManifestBuilder, Metadata, Page, Piece, path_cmp,
};
use mover_repository::pack::{CompressedFrame, PackClass, PackContents, PackSealer};
use mover_repository::repository::{InitOptions, Repository};

use super::watched::Watched;
use crate::error::Failure;
use crate::progress::Progress;
use crate::restore::file_target::{FileTarget, FileTargetOptions};
use crate::restore::pipeline::{RestoreJob, run_restore};
use crate::restore::report::RestoreReport;
use crate::runtime::{ShardOptions, Shards, StopSignal};

/// Where every fileset of the tests came from.
pub const ROOT: &str = "/src/tree";
/// Plain bytes at which the fixture closes a frame of small chunks.
const FRAME_BYTES: usize = 256 << 10;
/// Sealed bytes at which the fixture closes a pack.
const PACK_BYTES: u64 = 32 << 20;

/// A part of a file.
pub enum Part {
    /// One chunk.
    Chunk(Vec<u8>),
    /// A hole.
    Hole(u64),
}

/// Bytes that do not compress, different for each seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Writes frames of one class into packs, as an uploader would.
struct PackFiller {
    class: PackClass,
    open: Option<(PackSealer, Vec<u8>)>,
    frame: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

impl PackFiller {
    fn new(class: PackClass) -> Self {
        PackFiller { class, open: None, frame: Vec::new(), chunks: Vec::new() }
    }
}

/// A recovery point under construction.
pub struct Fixture {
    /// Where everything lies.
    pub memory: MemoryBackend,
    /// Counts, delays and fails reads of packs.
    pub backend: Arc<Watched>,
    /// The repository.
    pub repository: Repository,
    number: LogNumber,
    stored: HashMap<ChunkId, ()>,
    names_pages: Vec<(ChunkId, u32)>,
    data: PackFiller,
    structure: PackFiller,
    /// Tables of contents of the finished packs.
    pub packs: Vec<PackContents>,
    entries: Vec<Entry>,
    filesets: Vec<SealedFileset>,
}

impl Fixture {
    /// An empty repository and an empty tree with its root directory.
    pub fn new() -> Fixture {
        let memory = MemoryBackend::new();
        let backend = Arc::new(Watched::new(memory.clone()));
        let options = InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() };
        let credential = Credential::password("test").unwrap();
        let repository = block_on(Repository::init(backend.clone(), &credential, options)).unwrap();
        let open = OpenRecord {
            role: Role::Writer,
            host: "host".into(),
            process_id: 1,
            machine: ObjectId([0; 32]),
            set: "set".into(),
            job: ObjectId([7; 32]),
            adopts: None,
            depends_on: None,
            started: UnixNanos(0),
        };
        let number = block_on(repository.register(open)).unwrap().number();
        let mut fixture = Fixture {
            memory,
            backend,
            repository,
            number,
            stored: HashMap::new(),
            names_pages: Vec::new(),
            data: PackFiller::new(PackClass::Data),
            structure: PackFiller::new(PackClass::Structure),
            packs: Vec::new(),
            entries: Vec::new(),
            filesets: Vec::new(),
        };
        fixture.directory("");
        fixture
    }

    /// Attributes of every entry: owned by whoever runs the test, with a time of its own.
    pub fn meta(path: &str, mode: u32, size: u64) -> Metadata {
        let mtime = 1_600_000_000_123_456_789 + path.len() as i128 * 1_000_000_007;
        Metadata {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: UnixNanos(mtime),
            ctime: UnixNanos(mtime),
            inode: 1,
            links: 1,
            size,
            xattrs: Vec::new(),
        }
    }

    /// Adds an entry as it is.
    pub fn entry(&mut self, path: &str, kind: Kind, mode: u32) -> &mut Entry {
        let meta = Self::meta(path, mode, 0);
        let path = path.as_bytes().to_vec();
        self.entries.push(Entry { path, kind, meta, content: Content::EMPTY, grade: Grade::Stable, error: false });
        self.entries.last_mut().unwrap()
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, Kind::Directory, 0o750);
    }

    /// Adds a file of these parts.
    pub fn file(&mut self, path: &str, parts: &[Part]) -> &mut Entry {
        let mut pieces = Vec::new();
        for part in parts {
            match part {
                Part::Chunk(plain) => pieces.push(Piece::Chunk { id: self.store(plain), bytes: plain.len() as u32 }),
                Part::Hole(bytes) => pieces.push(Piece::Hole { bytes: *bytes }),
            }
        }
        let mut builder = ContentBuilder::new(&self.repository);
        let mut pages = Vec::new();
        let size = pieces.iter().map(Piece::bytes).sum();
        for extent in pieces.chunks(200) {
            builder.push_extent(extent.to_vec(), &mut pages);
        }
        let content = builder.finish(&mut pages);
        self.store_pages(pages);
        let entry = self.entry(path, Kind::File, 0o640);
        entry.content = content;
        entry.meta.size = size;
        entry
    }

    /// Adds a file of one chunk.
    pub fn small(&mut self, path: &str, plain: &[u8]) -> &mut Entry {
        self.file(path, &[Part::Chunk(plain.to_vec())])
    }

    /// Stores a chunk once.
    pub fn store(&mut self, plain: &[u8]) -> ChunkId {
        let id = self.repository.secrets().chunk_id(plain);
        if self.stored.insert(id, ()).is_none() {
            self.put(PackClass::Data, id, plain);
        }
        id
    }

    /// Stores a chunk once more, in another pack.
    pub fn store_again(&mut self, plain: &[u8]) {
        let id = self.repository.secrets().chunk_id(plain);
        self.close_packs();
        self.put(PackClass::Data, id, plain);
        self.close_packs();
    }

    fn put(&mut self, class: PackClass, id: ChunkId, plain: &[u8]) {
        let filler = if class == PackClass::Data { &self.data } else { &self.structure };
        if filler.frame.len() + plain.len() > FRAME_BYTES {
            self.close_frame(class);
        }
        let filler = if class == PackClass::Data { &mut self.data } else { &mut self.structure };
        filler.frame.extend_from_slice(plain);
        filler.chunks.push((id, plain.len() as u32));
    }

    /// Closes the open frame, so that what follows lies in another one.
    pub fn close_frame(&mut self, class: PackClass) {
        let filler = if class == PackClass::Data { &mut self.data } else { &mut self.structure };
        if filler.chunks.is_empty() {
            return;
        }
        let (sealer, body) = filler.open.get_or_insert_with(|| {
            let sealer = PackSealer::open(&self.repository, self.number, filler.class);
            let body = sealer.header().to_vec();
            (sealer, body)
        });
        let sealed = match CompressedFrame::of(&mut zstd::bulk::Compressor::new(1).unwrap(), &filler.frame) {
            Some(frame) => sealer.seal(frame, &filler.chunks),
            None => sealer.seal_raw(&filler.frame, &filler.chunks),
        };
        body.extend_from_slice(&sealed);
        filler.frame.clear();
        filler.chunks.clear();
        if sealer.bytes() >= PACK_BYTES {
            self.close_pack(class);
        }
    }

    fn close_pack(&mut self, class: PackClass) {
        let filler = if class == PackClass::Data { &mut self.data } else { &mut self.structure };
        let Some((sealer, mut body)) = filler.open.take() else { return };
        let name = sealer.object_name();
        let (tail, contents) = sealer.finish();
        body.extend_from_slice(&tail);
        self.memory.overwrite(&name, body);
        self.packs.push(contents);
    }

    /// Closes all open packs.
    pub fn close_packs(&mut self) {
        for class in [PackClass::Data, PackClass::Structure] {
            self.close_frame(class);
            self.close_pack(class);
        }
    }

    fn store_pages(&mut self, pages: Vec<Page>) {
        for page in pages {
            if self.stored.insert(page.id, ()).is_none() {
                self.put(page.class, page.id, &page.bytes);
                if page.class == PackClass::Data {
                    self.close_frame(PackClass::Data);
                    let count = page.bytes[4..8].try_into().expect("a page has a header");
                    self.names_pages.push((page.id, u32::from_le_bytes(count)));
                }
            }
        }
    }

    /// Ends the tree as a fileset from `root_path`; a next one may follow.
    pub fn seal_fileset(&mut self, root_path: &str) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by(|a, b| path_cmp(&a.path, &b.path));
        let mut builder = ManifestBuilder::new(&self.repository);
        let mut pages = Vec::new();
        for entry in entries {
            builder.push(entry, &mut pages).unwrap();
        }
        let root = builder.finish(&mut pages).unwrap();
        self.store_pages(pages);
        self.filesets.push(SealedFileset {
            root_path: root_path.as_bytes().to_vec(),
            root,
            scan_started: UnixNanos(0),
            scan_finished: UnixNanos(0),
            totals: Totals { files: root.files, bytes: root.bytes, ..Totals::default() },
        });
    }

    /// Ends the repository: packs, index, and the recovery point.
    pub fn finish(&mut self) -> RecoveryPoint {
        if !self.entries.is_empty() {
            self.seal_fileset(ROOT);
        }
        self.close_packs();
        let mut segment = SegmentBuilder::new(&self.repository);
        self.packs.iter().for_each(|pack| segment.add(pack));
        block_on(segment.write()).unwrap();
        self.backend.reset();
        RecoveryPoint {
            id: ObjectId([1; 32]),
            set: "set".into(),
            host: "host".into(),
            paths: Vec::new(),
            tags: Vec::new(),
            started: UnixNanos(0),
            finished: UnixNanos(0),
            parent: None,
            depends_on: None,
            filesets: self.filesets.clone(),
            totals: Totals::default(),
            grade: Grade::Stable,
            errors: 0,
        }
    }

    /// The leaves' pages of names, each in a frame of its own, with the number of entries that they name.
    pub fn names_pages(&self) -> impl Iterator<Item = (ChunkId, u32)> + use<> {
        self.names_pages.clone().into_iter()
    }

    /// The pack object and the byte range of the `copy`-th frame that holds a chunk.
    pub fn frame_of(&self, plain: &[u8], copy: usize) -> (String, Range<usize>) {
        self.frame_of_chunk(&self.repository.secrets().chunk_id(plain), copy)
    }

    fn frame_of_chunk(&self, id: &ChunkId, copy: usize) -> (String, Range<usize>) {
        let frames = self.packs.iter().flat_map(|pack| pack.frames.iter().map(move |frame| (pack, frame)));
        let mut holding = frames.filter(|(_, frame)| frame.chunks.iter().any(|(chunk, _)| chunk == id));
        let (pack, frame) = holding.nth(copy).expect("the chunk is stored");
        let start = frame.offset as usize;
        (pack.info().object_name(), start..start + frame.sealed_bytes as usize)
    }

    /// Flips a bit in the middle of a frame that holds a chunk.
    pub fn damage(&self, plain: &[u8], copy: usize) {
        self.flip(self.frame_of(plain, copy));
    }

    /// As [`Fixture::damage`], by id.
    pub fn damage_chunk(&self, id: &ChunkId) {
        self.flip(self.frame_of_chunk(id, 0));
    }

    fn flip(&self, (name, range): (String, Range<usize>)) {
        let mut body = self.memory.snapshot()[&name].to_vec();
        body[range.start + range.len() / 2] ^= 1;
        self.memory.overwrite(&name, body);
    }

    /// A restore of `point` into `directory`.
    pub fn job(&self, point: &RecoveryPoint, directory: &std::path::Path) -> RestoreJob {
        let target = FileTarget::new(FileTargetOptions::new(directory.to_path_buf())).unwrap();
        let mut job = RestoreJob::new(self.repository.clone(), point.clone(), Arc::new(target));
        job.memory_bytes = 128 << 20;
        job
    }
}

/// Two shards for all tests of this process.
pub fn shards() -> &'static Shards {
    static SHARDS: OnceLock<Shards> = OnceLock::new();
    SHARDS.get_or_init(|| Shards::start(ShardOptions { shards: 2 }).unwrap())
}

/// Runs a restore that may fail.
pub fn try_restore(job: RestoreJob) -> Result<RestoreReport, Failure> {
    restore_until(job, StopSignal::new())
}

/// Runs a restore that may be stopped.
pub fn restore_until(job: RestoreJob, stop: StopSignal) -> Result<RestoreReport, Failure> {
    let progress = Progress::new();
    shards().run(move |rt| run_restore(rt, job, progress, stop))
}

/// Runs a restore that is to succeed.
pub fn restore(job: RestoreJob) -> RestoreReport {
    try_restore(job).unwrap()
}

/// Where an entry of [`ROOT`] lands.
pub fn at(directory: &std::path::Path, path: &str) -> PathBuf {
    directory.join(&ROOT[1..]).join(path)
}

/// All names below a directory, to find what should not be there.
pub fn names_below(directory: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for child in std::fs::read_dir(&next).unwrap() {
            let child = child.unwrap();
            names.push(child.path().strip_prefix(directory).unwrap().to_string_lossy().into_owned());
            if child.file_type().unwrap().is_dir() {
                open.push(child.path());
            }
        }
    }
    names.sort();
    names
}

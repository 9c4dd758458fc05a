//! A real runtime with a repository in memory, for the tests of whole jobs.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use mover_actors::backup::{BackupJob, BackupOptions, BackupReport, run_backup};
use mover_actors::progress::Progress;
use mover_actors::runtime::{ShardOptions, Shards, StopSignal};
use mover_actors::scratch::default_scratch;
use mover_actors::source::Source;
use mover_actors::source::file::{FileSource, FileSourceOptions};
use mover_repository::backend::MemoryBackend;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::ObjectId;
use mover_repository::index::Index;
use mover_repository::keys::{Credential, Stretching};
use mover_repository::manifest::{ContentReader, Kind, ManifestReader, Piece};
use mover_repository::repository::{InitOptions, Repository};

static JOBS: AtomicU8 = AtomicU8::new(1);

/// Two shards and a repository in memory.
pub struct Lab {
    shards: Shards,
    repository: Repository,
}

impl Lab {
    /// A lab with a new repository.
    pub fn new() -> Self {
        let options = InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() };
        let credential = Credential::password("secret").expect("a password");
        let backend = Arc::new(MemoryBackend::default());
        let repository =
            futures_lite::future::block_on(Repository::init(backend, &credential, options)).expect("a repository");
        Self { shards: Shards::start(ShardOptions { shards: 2 }).expect("shards"), repository }
    }

    /// Backs `path` up as it is done by default.
    pub fn backup(&self, path: &Path) -> BackupReport {
        self.backup_with(path, BackupOptions::default())
    }

    /// Backs `path` up.
    pub fn backup_with(&self, path: &Path, options: BackupOptions) -> BackupReport {
        let source: Arc<dyn Source> =
            Arc::new(FileSource::new(FileSourceOptions::new(vec![path.to_path_buf()])).expect("a source"));
        let job = BackupJob {
            repository: self.repository.clone(),
            source,
            is_stream: false,
            set: "set".into(),
            host: "host".into(),
            tags: vec![],
            // Each a job of its own: the same one again would be done already.
            job: ObjectId([JOBS.fetch_add(1, Ordering::Relaxed); 32]),
            process_id: 1,
            options,
            scratch: default_scratch(),
        };
        self.shards.run(move |rt| run_backup(rt, job, Progress::new(), StopSignal::new())).expect("a backup")
    }

    /// Every file of the newest recovery point with its content; holes as zeros.
    pub fn files(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        futures_lite::future::block_on(async {
            let history = self.repository.history().await.expect("history");
            let (_, point) = history.recovery_points().pop().expect("a recovery point");
            let index = Index::load_or_rebuild(&self.repository, &history, 64 << 20).await.expect("index");
            let chunks = Arc::new(ChunkReader::new(&self.repository, index, 16 << 20));
            let mut files = BTreeMap::new();
            for fileset in &point.filesets {
                let mut manifest = ManifestReader::new(chunks.clone(), fileset.root);
                while let Some(entry) = manifest.next().await.expect("entry") {
                    if entry.kind != Kind::File {
                        continue;
                    }
                    let mut bytes = vec![];
                    let mut content = ContentReader::new(chunks.clone(), &entry.content);
                    while let Some(piece) = content.next().await.expect("piece") {
                        match piece {
                            Piece::Hole { bytes: hole } => bytes.resize(bytes.len() + hole as usize, 0),
                            Piece::Chunk { id, .. } => bytes.extend_from_slice(&chunks.read(&id).await.expect("chunk")),
                        }
                    }
                    assert_eq!(bytes.len() as u64, entry.meta.size);
                    files.insert(entry.path, bytes);
                }
            }
            files
        })
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

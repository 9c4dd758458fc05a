//! Each actor alone at full speed, on one core: `cargo bench -p mover-bench`.
//!
//! Two sets: many small files, and one large one, of text that compresses about threefold. Bytes are plain bytes of
//! the source, whatever an actor is fed with; so the actor with the least of them a second is the one to look at.
//! Repositories and targets lie in `$TMPDIR`, so uploader, downloader and writer include its file system.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use mover_actors::backup::alone as backup;
use mover_actors::backup::{BackupJob, BackupOptions, BackupReport, run_backup};
use mover_actors::progress::Progress;
use mover_actors::restore::file_target::{FileTarget, FileTargetOptions};
use mover_actors::restore::{RestoreJob, alone as restore};
use mover_actors::runtime::{ShardOptions, Shards, StopSignal};
use mover_actors::scratch::default_scratch;
use mover_actors::source::file::{FileSource, FileSourceOptions};
use mover_repository::backend::LocalBackend;
use mover_repository::ids::ObjectId;
use mover_repository::keys::{Credential, Stretching};
use mover_repository::repository::{InitOptions, Repository};

const BYTES: usize = 64 << 20;
const SMALL_BYTES: usize = 16 << 10;

struct Set {
    name: &'static str,
    place: tempfile::TempDir,
}

/// Words of a small vocabulary in random order.
fn text(bytes: usize, seed: u64) -> Vec<u8> {
    let (mut state, mut text) = (seed | 1, Vec::with_capacity(bytes + 16));
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(format!("{:x} ", (state >> 33) % 4096).as_bytes());
    }
    text.truncate(bytes);
    text
}

fn sets() -> [Set; 2] {
    let make = |name| Set { name, place: tempfile::tempdir().expect("a directory") };
    let (small, large) = (make("small files"), make("large file"));
    for number in 0..BYTES / SMALL_BYTES {
        let directory = small.place.path().join(format!("d{}", number / 64));
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join(format!("f{number}")), text(SMALL_BYTES, number as u64)).expect("write");
    }
    std::fs::write(large.place.path().join("file"), text(BYTES, 7)).expect("write");
    [small, large]
}

fn repository(place: &Path) -> Repository {
    let backend = Arc::new(LocalBackend::open(place, true).expect("a directory"));
    let credential = Credential::password("secret").expect("a password");
    let options = InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() };
    futures_lite::future::block_on(Repository::init(backend, &credential, options)).expect("a repository")
}

fn job(repository: Repository, source: &Path) -> BackupJob {
    let options = FileSourceOptions::new(vec![source.to_owned()]);
    BackupJob {
        repository,
        source: Arc::new(FileSource::new(options).expect("a source")),
        is_stream: false,
        set: "set".into(),
        host: "host".into(),
        tags: vec![],
        job: ObjectId([1; 32]),
        process_id: std::process::id(),
        options: BackupOptions { memory_bytes: 2 << 30, levels: 1..=1, ..BackupOptions::default() },
        scratch: default_scratch(),
    }
}

fn fresh(number: &mut u32, place: &Path) -> PathBuf {
    *number += 1;
    place.join(number.to_string())
}

fn backup_stages(criterion: &mut Criterion) {
    use backup::Stage;
    let shards = Shards::start(ShardOptions { shards: 1 }).expect("a shard");
    let stages =
        [Stage::Scanner, Stage::Chunker, Stage::Deduplicator, Stage::Compressor, Stage::Uploader, Stage::Recorder];
    for set in sets() {
        let mut group = criterion.benchmark_group(format!("backup, {}", set.name));
        group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
        let place = tempfile::tempdir().expect("a directory");
        let mut number = 0;
        for stage in stages {
            group.bench_function(BenchmarkId::from_parameter(format!("{stage:?}").to_lowercase()), |bencher| {
                bencher.iter_custom(|count| {
                    let mut sum = Duration::ZERO;
                    for _ in 0..count {
                        let at = fresh(&mut number, place.path());
                        let job = job(repository(&at), set.place.path());
                        sum += shards.run(move |rt| backup::time_of_stage(rt, job, stage)).expect("a stage");
                        std::fs::remove_dir_all(&at).expect("remove");
                    }
                    sum
                });
            });
        }
    }
}

fn restore_stages(criterion: &mut Criterion) {
    use restore::Stage;
    let shards = Shards::start(ShardOptions { shards: 1 }).expect("a shard");
    for set in sets() {
        let mut group = criterion.benchmark_group(format!("restore, {}", set.name));
        group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
        let place = tempfile::tempdir().expect("a directory");
        let repository = repository(&place.path().join("repository"));
        let order = job(repository.clone(), set.place.path());
        let report: BackupReport =
            shards.run(move |rt| run_backup(rt, order, Progress::new(), StopSignal::new())).expect("a backup");
        let point = report.point.expect("a recovery point");
        let pieces = report.counts.chunks;
        let mut number = 0;
        for stage in [Stage::Planner, Stage::Downloader, Stage::Decompressor, Stage::Writer] {
            group.bench_function(BenchmarkId::from_parameter(format!("{stage:?}").to_lowercase()), |bencher| {
                bencher.iter_custom(|count| {
                    let mut sum = Duration::ZERO;
                    for _ in 0..count {
                        let at = fresh(&mut number, place.path());
                        let target = FileTarget::new(FileTargetOptions::new(at.clone())).expect("a target");
                        let job = RestoreJob::new(repository.clone(), point.clone(), Arc::new(target));
                        sum += shards.run(move |rt| restore::time_of_stage(rt, job, pieces, stage)).expect("a stage");
                        std::fs::remove_dir_all(&at).expect("remove");
                    }
                    sum
                });
            });
        }
    }
}

criterion_group!(stages, backup_stages, restore_stages);
criterion_main!(stages);

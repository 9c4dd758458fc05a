//! What grows with a repository and not with a backup: `cargo bench -p mover-bench --bench lifecycle`.
//!
//! Loading an index of a million chunks, in memory and on one core: what is left is the CPU that a large repository
//! costs each run. And `points` and `forget` of the released binary on 10,000 recovery points, in CPU seconds: with the
//! log summed up in a checkpoint, and read record by record.

#[allow(dead_code, reason = "one function of it is called here")]
#[path = "../src/clock.rs"]
mod clock;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use clock::children_seconds;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_lite::future::block_on;
use mover_repository::backend::{LocalBackend, MemoryBackend};
use mover_repository::crypto::KeyBlock;
use mover_repository::ids::{ChunkId, LogNumber, ObjectId, PackId, UnixNanos};
use mover_repository::index::{Index, SegmentBuilder};
use mover_repository::keys::{Credential, Stretching};
use mover_repository::log::{Grade, OpenRecord, Outcome, RecoveryPoint, Role, Totals};
use mover_repository::pack::{FrameInfo, PackClass, PackContents};
use mover_repository::repository::{InitOptions, Repository};

const CHUNKS: u64 = 1_000_000;
const CHUNKS_A_PACK: u64 = 500;
const PACKS_A_SEGMENT: u64 = 500;

fn repository() -> Repository {
    let credential = Credential::password("secret").expect("a password");
    let options = InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() };
    block_on(Repository::init(Arc::new(MemoryBackend::new()), &credential, options)).expect("a repository")
}

fn hash(kind: u8, number: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]).update(&number.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// The table of a pack that need not exist: loading an index reads segments alone.
fn pack(number: u64) -> PackContents {
    let first = number * CHUNKS_A_PACK;
    let frame = |at: u64| FrameInfo {
        number: at as u32,
        offset: 1000 + at * 60_000,
        sealed_bytes: 60_000,
        blake3: [0; 32],
        chunks: vec![(ChunkId(hash(1, first + at)), 250_000)],
    };
    PackContents {
        id: PackId(hash(2, number)),
        writer: LogNumber(1),
        class: PackClass::Data,
        generation: 1,
        key_block: KeyBlock([1; 84]),
        bytes: 32 << 20,
        frames: (0..CHUNKS_A_PACK).map(frame).collect(),
    }
}

fn index(criterion: &mut Criterion) {
    let repository = repository();
    for first in (0..CHUNKS / CHUNKS_A_PACK).step_by(PACKS_A_SEGMENT as usize) {
        let mut segment = SegmentBuilder::new(&repository);
        (first..first + PACKS_A_SEGMENT).for_each(|number| segment.add(&pack(number)));
        block_on(segment.write()).expect("a segment");
    }
    let history = block_on(repository.history()).expect("a history");
    let mut group = criterion.benchmark_group("index");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(CHUNKS));
    group.bench_function("load", |bencher| {
        bencher.iter(|| {
            let index = block_on(Index::load(&repository, &history, 1 << 30)).expect("an index");
            assert_eq!(index.chunks(), CHUNKS);
            assert!(index.memory_bytes() as u64 <= 64 * CHUNKS + 4096, "{}", index.memory_bytes());
        });
    });
    group.finish();
}

const POINTS: u64 = 10_000;

/// A repository of so many points, half an hour apart and of ten sets, and its key file. Takes minutes: each registration
/// reads the log and checks its signatures.
fn many_points(place: &Path) -> PathBuf {
    let key = place.with_extension("key");
    let content = [7; 32];
    std::fs::write(&key, content).expect("a key file");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("a private key file");
    std::fs::create_dir(place).expect("a directory");
    let backend = Arc::new(LocalBackend::open(place, true).expect("a backend"));
    let credential = Credential::key_file(content.to_vec()).expect("a key");
    let options = InitOptions { memory_directory: Some(place.with_extension("state")), ..InitOptions::default() };
    let repository = block_on(Repository::init(backend, &credential, options)).expect("a repository");
    let now = UnixNanos(std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as i128);
    for number in 0..POINTS {
        // Sums up the log, so that each registration reads little of it.
        if number % 450 == 449 {
            mover(place, &key, &["prune"]);
        }
        let time = UnixNanos(now.0 - i128::from(POINTS - number) * 1_800_000_000_000);
        let set = format!("host:/data/{}", number % 10);
        let open = OpenRecord {
            role: Role::Writer,
            host: "host".into(),
            process_id: 1,
            machine: ObjectId([0; 32]),
            set: set.clone(),
            job: ObjectId(hash(3, number)),
            adopts: None,
            depends_on: None,
            started: time,
        };
        let registration = block_on(repository.register(open)).expect("a registration");
        let point = RecoveryPoint {
            id: ObjectId(hash(4, number)),
            set,
            host: "host".into(),
            paths: vec![b"/data".to_vec()],
            tags: vec![],
            started: time,
            finished: time,
            parent: None,
            depends_on: None,
            filesets: vec![],
            totals: Totals::default(),
            grade: Grade::Stable,
            errors: 0,
        };
        block_on(registration.commit(Outcome::RecoveryPoint(point))).expect("a point");
    }
    key
}

/// CPU of one run of the binary.
fn mover(place: &Path, key: &Path, arguments: &[&str]) -> Duration {
    let program = std::env::var_os("MOVER").map_or_else(|| PathBuf::from("../target/release/mover"), PathBuf::from);
    let before = children_seconds();
    let output = Command::new(program)
        .args(arguments)
        .arg("-r")
        .arg(place)
        .env("MOVER_KEY_FILE", key)
        .env("XDG_STATE_HOME", place.with_extension("state"))
        .output()
        .expect("the released binary: cargo build --release -p mover");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Duration::from_secs_f64(children_seconds() - before)
}

fn points(criterion: &mut Criterion) {
    // In memory, where a sync costs nothing: it is the CPU that counts.
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let place = scratch.path().join("repository");
    let key = many_points(&place);
    let mut group = criterion.benchmark_group("10,000 points, CPU");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(5));
    let rules = ["forget", "--dry-run", "--keep-daily", "30", "--keep-monthly", "12"];
    for log in ["summed up", "record by record"] {
        for (name, arguments) in [("points", &["points", "--json"][..]), ("forget", &rules)] {
            group.bench_function(format!("{name}, log {log}"), |bencher| {
                bencher.iter_custom(|runs| (0..runs).map(|_| mover(&place, &key, arguments)).sum());
            });
        }
        // Where a checkpoint is gone, every record is read.
        for number in std::fs::read_dir(place.join("log")).expect("the log") {
            let _ = std::fs::remove_dir_all(number.expect("the log").path().join("sum"));
        }
    }
    group.finish();
    println!("forget of what the rules drop: {:?} CPU", mover(&place, &key, &[&rules[..1], &rules[2..]].concat()));
}

criterion_group!(benches, index, points);
criterion_main!(benches);

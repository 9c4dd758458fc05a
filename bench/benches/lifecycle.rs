//! What grows with a repository and not with a backup: `cargo bench -p mover-bench --bench lifecycle`.
//!
//! Loading an index of a million chunks, in memory and on one core: what is left is the CPU that a large repository
//! costs each run.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_lite::future::block_on;
use mover_repository::backend::MemoryBackend;
use mover_repository::crypto::KeyBlock;
use mover_repository::ids::{ChunkId, LogNumber, PackId};
use mover_repository::index::{Index, SegmentBuilder};
use mover_repository::keys::{Credential, Stretching};
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

criterion_group!(benches, index);
criterion_main!(benches);

use mover_actors::backup::*;
use mover_actors::progress::Progress;
use mover_actors::runtime::{GlommioShards, ShardOptions, StopSignal};
use mover_actors::scratch::default_scratch;
use mover_actors::source::file::{FileSource, FileSourceOptions};
use mover_repository::backend::local::LocalBackend;
use mover_repository::ids::ObjectId;
use mover_repository::keys::{Credential, Stretching};
use mover_repository::repository::{InitOptions, Repository};
use std::path::PathBuf;
use std::sync::Arc;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let repo = PathBuf::from(&args[1]);
    let create = !repo.join("config").exists();
    let backend = Arc::new(LocalBackend::open(&repo, create).unwrap());
    let credential = Credential::password("secret").unwrap();
    let t0 = std::time::Instant::now();
    let repository = futures_lite::future::block_on(async {
        if create {
            Repository::init(
                backend,
                &credential,
                InitOptions { stretching: Stretching::CHEAPEST, ..Default::default() },
            )
            .await
        } else {
            Repository::open(backend, &credential).await
        }
    })
    .unwrap();
    let shards = GlommioShards::start(ShardOptions { shards: 2 }).unwrap();
    let t1 = t0.elapsed();
    let source = Arc::new(FileSource::new(FileSourceOptions::new(vec![PathBuf::from(&args[2])])).unwrap());
    let job = BackupJob {
        repository,
        source,
        is_stream: false,
        set: "s".into(),
        host: "h".into(),
        tags: vec![],
        job: ObjectId([1; 32]),
        process_id: 1,
        options: BackupOptions { memory_bytes: 160 << 20, ..Default::default() },
        scratch: default_scratch(),
    };
    let progress = Progress::new();
    let p = progress.clone();
    let report = shards.run(move |rt| run_backup(rt, job, p, StopSignal::new())).unwrap();
    println!("open {:?} total {:?} counts {:?}", t1, t0.elapsed(), report.counts);
    println!(
        "levels {:?} packs {} segs {} verified {:?} peak {} problems {}",
        report.levels,
        report.packs,
        report.segments,
        report.frames_verified,
        report.buffer_bytes_peak >> 20,
        report.lists.problems.len()
    );
    for a in progress.snapshot().actors {
        println!("{a:?}");
    }
}

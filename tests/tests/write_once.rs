//! A backup into a store that never deletes: object lock, append-only buckets (FAILURES F26).

use std::sync::Arc;

use futures_lite::future::block_on;
use mover_actors::backup::{BackupJob, BackupOptions, BackupReport, run_backup};
use mover_actors::progress::Progress;
use mover_actors::runtime::{ShardOptions, Shards, StopSignal};
use mover_actors::scratch::default_scratch;
use mover_actors::source::file::{FileSource, FileSourceOptions};
use mover_repository::backend::faulty::{Effect, Fault, Operation};
use mover_repository::backend::{FaultyBackend, MemoryBackend};
use mover_repository::ids::ObjectId;
use mover_repository::keys::{Credential, Stretching};
use mover_repository::repository::{InitOptions, Repository};
use mover_repository::verify::{Data, VerifyOptions, verify};
use mover_tests::mover::scratch;
use mover_tests::tree::{KIB, MIB, small_files, write_random};

fn back_up(shards: &Shards, repository: &Repository, path: &std::path::Path, job: ObjectId) -> BackupReport {
    let source = FileSource::new(FileSourceOptions::new(vec![path.to_owned()])).expect("a source");
    let job = BackupJob {
        repository: repository.clone(),
        source: Arc::new(source),
        is_stream: false,
        set: "set".into(),
        host: "host".into(),
        tags: vec![],
        job,
        process_id: 1,
        options: BackupOptions::default(),
        scratch: default_scratch(),
    };
    shards.run(move |rt| run_backup(rt, job, Progress::new(), StopSignal::new())).expect("a backup")
}

/// Object lock broke a store of this field because its commit had to delete. Here a whole backup, and one on top of it,
/// ask for no delete at all, so one that is refused cannot hurt; nor is any object written twice.
#[test]
fn f26_a_backup_commits_on_a_store_that_refuses_every_delete() {
    let faulty = FaultyBackend::new(Arc::new(MemoryBackend::new()));
    faulty.plan(Fault::at(Operation::Delete, 1, Effect::Io).forever());
    let options = InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() };
    let credential = Credential::password("secret").expect("a password");
    let repository = block_on(Repository::init(Arc::new(faulty.clone()), &credential, options)).expect("a repository");
    let shards = Shards::start(ShardOptions { shards: 2 }).expect("shards");
    let place = scratch();
    small_files(place.path(), 200, 0, 20 * KIB, 1);
    for round in 0..2 {
        write_random(&place.path().join(format!("large-{round}")), 40 * MIB, round);
        assert!(back_up(&shards, &repository, place.path(), ObjectId([round as u8; 32])).point.is_some());
    }
    assert_eq!(faulty.count(Operation::Delete, ""), 0);
    let mut written: Vec<String> = faulty
        .calls()
        .into_iter()
        .filter(|call| matches!(call.operation, Operation::Create | Operation::Finish))
        .map(|call| call.object)
        .collect();
    let all = written.len();
    assert!(all > 8, "only {all} objects");
    written.sort();
    written.dedup();
    assert_eq!(written.len(), all, "an object was written twice");
    let report = verify(&repository, &VerifyOptions { data: Data::All, ..VerifyOptions::default() }, &|_| {});
    let report = report.expect("a verified repository");
    assert!(report.is_clean() && report.points == 2, "{report:?}");
}

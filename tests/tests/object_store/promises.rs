//! What a store must promise, asked of each: by the suite of backends, and by `mover doctor` and `prune`, which find a
//! store out that does not keep it.

use futures_lite::future::block_on;
use mover_repository::backend::conformance::conformance;
use mover_repository::backend::{Backend, RemoteBackend};
use mover_tests::s3::{Fault, Kind, Rule, S3Server, SeaweedFs};
use mover_tests::{exit, skip_test};

use super::fixture::{PREFIX, backend, repository, tree};

/// The smallest part that S3 takes.
const SMALL_PART_BYTES: u64 = 5 << 20;

/// All checks hold, and leave nothing.
#[track_caller]
pub fn assert_conforms(store: &RemoteBackend) {
    let checks = block_on(conformance(store)).expect("the checks are made");
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let left = block_on(store.list("")).expect("list");
    assert!(left.is_empty(), "the checks left {left:?}");
}

#[test]
fn store_in_process_keeps_every_promise_of_a_store() {
    let server = S3Server::start();
    assert_conforms(&backend(&server.url(PREFIX), server.environment(), |_| {}));
    assert_eq!(server.requests().of(Kind::CreateUpload), 0);
    server.forget_requests();
    let in_parts = |options: &mut mover_repository::backend::remote::RemoteOptions| {
        options.part_bytes = SMALL_PART_BYTES;
    };
    assert_conforms(&backend(&server.url("parts"), server.environment(), in_parts));
    let requests = server.requests();
    // Two objects of 9 MiB: one is handed over at once and is one part, the other in pieces.
    let counts = [Kind::CreateUpload, Kind::UploadPart, Kind::CompleteUpload].map(|kind| requests.of(kind));
    assert_eq!(counts, [2, 3, 2]);
}

#[test]
fn store_behind_tls_keeps_every_promise_of_a_store() {
    let server = S3Server::start_tls();
    assert_conforms(&backend(&server.url(PREFIX), server.environment(), |options| {
        options.part_bytes = SMALL_PART_BYTES;
    }));
}

#[test]
fn store_of_seaweedfs_keeps_every_promise_of_a_store() {
    if let Some(reason) = SeaweedFs::missing() {
        skip_test!(reason);
    }
    let server = SeaweedFs::start();
    assert_conforms(&backend(&server.url(PREFIX), server.environment(), |_| {}));
    assert_conforms(&backend(&server.url("parts"), server.environment(), |options| {
        options.part_bytes = SMALL_PART_BYTES;
    }));
}

#[test]
fn doctor_trusts_a_store_that_keeps_its_word_and_leaves_nothing_there() {
    let server = S3Server::start();
    let repo = repository(&server);
    let before = block_on(backend(&server.url(PREFIX), server.environment(), |_| {}).list("")).expect("list");
    repo.run("doctor", &[] as &[&str]).expect(exit::DONE);
    let after = block_on(backend(&server.url(PREFIX), server.environment(), |_| {}).list("")).expect("list");
    assert_eq!(before, after);
}

#[test]
fn a_store_that_overwrites_is_found_out_by_doctor_and_by_prune() {
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 1);
    let point = repo.backup(&source).point();
    server.faults().add(Rule::new(Fault::IgnoreConditions));
    let run = repo.run("doctor", &[] as &[&str]).expect(exit::FAILED);
    assert!(run.text().contains("create-if-absent") || run.stderr.contains("create-if-absent"), "{run}");
    server.forget_requests();
    repo.run("forget", &[&point]).expect(exit::DONE);
    server.forget_requests();
    let run = repo.run("prune", &[] as &[&str]).expect(exit::FAILED);
    assert!(run.stderr.contains("two were told that they created one name"), "{run}");
    let touched: Vec<_> = server.requests().all.into_iter().filter(|request| request.kind == Kind::Delete).collect();
    assert!(touched.iter().all(|request| request.key.contains("/scratch/")), "{touched:?}");
}

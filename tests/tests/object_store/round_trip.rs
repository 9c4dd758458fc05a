//! What works on a disk works in a store: the same commands, the same trees, and only what is new is sent.

use mover_tests::s3::{S3Server, SeaweedFs};
use mover_tests::tree::{MIB, write_random};
use mover_tests::{Repo, exit, needs, skip_test};

use super::fixture::{PREFIX, assert_restores, initialised, repository, tree};

/// Everything a person does with a repository, in order.
pub fn live(repo: &Repo) {
    let source = tree(repo, 20);
    let first = repo.backup(&source);
    assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 1);
    repo.verify_all();
    assert_restores(repo, &first.point(), &source, "first");
    write_random(&source.join("new"), 3 * MIB, 9);
    let second = repo.backup(&source);
    assert_restores(repo, &second.point(), &source, "second");
    repo.run("forget", &[&first.point()]).expect(exit::DONE);
    repo.run("prune", &[] as &[&str]).expect(exit::DONE);
    repo.verify_all();
    assert_restores(repo, &second.point(), &source, "after-prune");
    assert_eq!(repo.run("points", &["--json"]).expect(exit::DONE).summary().points(), 1);
}

#[test]
fn store_in_plain_http_keeps_what_it_is_given() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    live(&repository(&server));
}

#[test]
fn store_behind_tls_of_a_private_authority_keeps_what_it_is_given() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start_tls();
    live(&repository(&server));
}

#[test]
fn store_of_seaweedfs_keeps_what_it_is_given() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    if let Some(reason) = SeaweedFs::missing() {
        skip_test!(reason);
    }
    let server = SeaweedFs::start();
    live(&initialised(&server.url(PREFIX), server.environment()));
}

#[test]
fn store_is_sent_only_what_changed() {
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 20);
    mover_tests::tree::settle(&source);
    repo.backup(&source);
    let whole = server.requests().request_bytes();
    assert!(whole > 20 * MIB && whole < 22 * MIB, "{whole} bytes for 20 MiB");
    server.forget_requests();
    repo.backup(&source);
    let nothing = server.requests().request_bytes();
    assert!(nothing < 100_000, "an unchanged tree sent {nothing} bytes");
    write_random(&source.join("new"), 2 * MIB, 10);
    server.forget_requests();
    repo.backup(&source);
    let change = server.requests().request_bytes();
    assert!((2 * MIB..2 * MIB + 300_000).contains(&change), "2 MiB that are new sent {change} bytes");
}

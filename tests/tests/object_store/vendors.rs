//! The same promises and the same life in the stores of other vendors than S3's.

use futures_lite::future::block_on;
use mover_repository::backend::remote::RemoteOptions;
use mover_repository::backend::{Backend, StorageErrorKind};
use mover_tests::azurite::Azurite;
use mover_tests::s3::{Kind, S3Server};
use mover_tests::{Repo, exit, needs, skip_test};

use super::fixture::{PREFIX, backend, with};
use super::promises::assert_conforms;
use super::round_trip::live;

/// `doctor` before there is a repository and after, and all that a person does with one.
fn doctor_and_live(url: &str, environment: Vec<(String, String)>) {
    let repo = Repo::in_store(url, environment);
    let doctor = || {
        let said = repo.run("doctor", &[] as &[&str]).expect(exit::DONE).text();
        assert!(said.contains("create-if-absent has one winner: yes"), "{said}");
        assert!(said.contains(&format!("{url} can be trusted with a repository")), "{said}");
    };
    doctor();
    repo.run("init", &[] as &[&str]).expect(exit::DONE);
    live(&repo);
    doctor();
}

/// Objects that go whole, and objects that go in parts.
fn conforms_whole_and_in_parts(url: &str, environment: Vec<(String, String)>) {
    for part_bytes in [64 << 20, 5 << 20] {
        let sized = |options: &mut RemoteOptions| options.part_bytes = part_bytes;
        assert_conforms(&backend(url, environment.clone(), sized));
    }
}

#[test]
fn store_of_azurite_keeps_every_promise_of_a_store() {
    if let Some(reason) = Azurite::missing() {
        skip_test!(reason);
    }
    let server = Azurite::start();
    conforms_whole_and_in_parts(&server.url("promises"), server.environment());
    let wrong = with(&server.environment(), &[("AZURE_STORAGE_ACCOUNT_KEY", "bm90IHRoZSBrZXk=")]);
    let refused = block_on(backend(&server.url(PREFIX), wrong, |_| {}).list("")).expect_err("another key");
    assert_eq!(refused.kind, StorageErrorKind::PermissionDenied, "{refused}");
}

#[test]
fn store_of_azurite_keeps_what_it_is_given() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    if let Some(reason) = Azurite::missing() {
        skip_test!(reason);
    }
    let server = Azurite::start();
    doctor_and_live(&server.url(PREFIX), server.environment());
}

/// What this proves and what not is said where the dialect is translated.
#[test]
fn store_in_the_dialect_of_google_keeps_every_promise_of_a_store() {
    let server = S3Server::start_google();
    conforms_whole_and_in_parts(&server.url("promises"), server.environment());
    let requests = server.requests();
    let puts: Vec<_> = requests.all.iter().filter(|request| request.kind == Kind::Put).collect();
    assert!(puts.len() > 40 && puts.iter().all(|put| put.is_conditional), "{} objects", puts.len());
    assert!(requests.of(Kind::UploadPart) > 0 && requests.all.iter().all(|request| request.status != Some(400)));
    let wrong = with(&server.environment(), &[("GOOGLE_BEARER_TOKEN", "ya29.another")]);
    server.forget_requests();
    let refused = block_on(backend(&server.url(PREFIX), wrong, |_| {}).list("")).expect_err("another token");
    assert_eq!(refused.kind, StorageErrorKind::PermissionDenied, "{refused}");
    assert_eq!(server.requests().total(), 1, "a token that is refused is not tried again");
}

#[test]
fn store_in_the_dialect_of_google_keeps_what_it_is_given() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start_google();
    doctor_and_live(&server.url(PREFIX), server.environment());
}

//! A repository in a store with a tree to put into it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mover_repository::backend::RemoteBackend;
use mover_repository::backend::remote::{RemoteOptions, RemotePlace};
use mover_tests::s3::{Kind, Requests, S3Server};
use mover_tests::tree::{KIB, MIB, small_files, write_random};
use mover_tests::{Repo, exit};

/// Prefix of all repositories in their buckets.
pub const PREFIX: &str = "backups/host";

/// A repository in `server`, initialised.
pub fn repository(server: &S3Server) -> Repo {
    initialised(&server.url(PREFIX), server.environment())
}

/// A repository at `url`, initialised.
pub fn initialised(url: &str, environment: Vec<(String, String)>) -> Repo {
    let repo = Repo::in_store(url, environment);
    repo.run("init", &[] as &[&str]).expect(exit::DONE);
    repo
}

/// A tree with one large file of `large_mib` MiB that does not compress, and 60 small files.
pub fn tree(repo: &Repo, large_mib: u64) -> PathBuf {
    let source = repo.directory("source");
    write_random(&source.join("large"), large_mib * MIB, 7);
    small_files(&source.join("small"), 60, 100, 8 * KIB, 8);
    source
}

/// Backs the tree up, restores it to `target_name` and compares.
#[track_caller]
pub fn assert_restores(repo: &Repo, point: &str, source: &std::path::Path, target_name: &str) {
    let restored = repo.restore(point, source, target_name);
    mover_tests::assert_same_tree(source, &restored);
}

/// Variables as a slice of pairs makes them.
pub fn with(environment: &[(String, String)], changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut changed: Vec<(String, String)> =
        environment.iter().filter(|(name, _)| changes.iter().all(|(other, _)| other != name)).cloned().collect();
    changed.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    changed
}

/// The backend itself, with a short patience.
pub fn backend(
    url: &str,
    environment: Vec<(String, String)>,
    change: impl FnOnce(&mut RemoteOptions),
) -> RemoteBackend {
    let mut options = RemoteOptions::new(environment);
    options.patience = Duration::from_secs(60);
    change(&mut options);
    let place = RemotePlace::parse(url).expect("the URL of a test");
    RemoteBackend::open(&place, options).expect("a client")
}

/// As [`backend`], for whoever shares it.
pub fn shared_backend(server: &S3Server) -> Arc<RemoteBackend> {
    Arc::new(backend(&server.url(PREFIX), server.environment(), |_| {}))
}

/// How many requests of each kind there were, for messages.
pub fn kinds(requests: &Requests) -> String {
    let all = [
        Kind::Get,
        Kind::GetRange,
        Kind::Head,
        Kind::List,
        Kind::Put,
        Kind::CreateUpload,
        Kind::UploadPart,
        Kind::CompleteUpload,
        Kind::AbortUpload,
        Kind::Delete,
        Kind::DeleteMany,
        Kind::Other,
    ];
    let counts: Vec<String> = all
        .iter()
        .filter(|kind| requests.of(**kind) > 0)
        .map(|kind| format!("{kind:?} {}", requests.of(*kind)))
        .collect();
    format!("{} requests: {}", requests.total(), counts.join(", "))
}

/// Keys and bytes of all packs that were sent whole, in one piece or in parts.
pub fn packs_sent(requests: &Requests) -> Vec<(String, u64)> {
    let packs = requests.below(&format!("{PREFIX}/packs"));
    let puts = packs.all.iter().filter(|request| request.kind == Kind::Put && request.status == Some(200));
    puts.map(|request| (request.key.clone(), request.request_bytes)).collect()
}

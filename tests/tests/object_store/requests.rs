//! What large files cost in requests.

use mover_tests::s3::S3Server;
use mover_tests::tree::{MIB, write_random};

use super::fixture::{kinds, repository};

/// Issue 5: at most so many for a GiB of large files, all that is not packs included.
const REQUESTS_MAX: usize = 40;

#[test]
fn a_gib_of_large_files_takes_few_requests() {
    let server = S3Server::start();
    let repo = repository(&server);
    let source = repo.directory("source");
    for number in 0..4 {
        write_random(&source.join(format!("file-{number}")), 256 * MIB, 100 + number);
    }
    server.forget_requests();
    let point = repo.backup(&source).point();
    let backup = server.requests();
    println!("backup: {}", kinds(&backup));
    server.forget_requests();
    let restored = repo.restore(&point, &source, "target");
    let restore = server.requests();
    println!("restore: {}", kinds(&restore));
    for number in 0..4 {
        let name = format!("file-{number}");
        let is_same =
            std::fs::read(source.join(&name)).expect("read") == std::fs::read(restored.join(&name)).expect("read");
        assert!(is_same, "{name} differs");
    }
    assert!(backup.total() <= REQUESTS_MAX, "backup: {}", kinds(&backup));
    assert!(restore.total() <= REQUESTS_MAX, "restore: {}", kinds(&restore));
}

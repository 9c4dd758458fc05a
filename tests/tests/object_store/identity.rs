//! Credentials that end in the middle of a job, and come from where they are renewed.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_repository::backend::{Backend, Created, RemoteBackend, StorageErrorKind};
use mover_tests::mover::wait;
use mover_tests::s3::{Answer, Fault, Link, Rule, S3Server};
use mover_tests::{exit, needs};

use super::fixture::{PREFIX, assert_restores, backend, initialised, packs_sent, tree, with};

fn secret(server: &S3Server) -> String {
    let environment = server.environment();
    let found = environment.iter().find(|(name, _)| name == "AWS_SECRET_ACCESS_KEY");
    found.expect("a secret").1.clone()
}

/// The server takes only the second key from now on.
fn expire_first_key(server: &S3Server) {
    let [first, _] = S3Server::access_keys();
    server.faults().add(Rule::new(Fault::Answer(Answer::expired_token())).access_key(first));
}

/// A service that hands out credentials as one for containers does.
struct Container {
    address: SocketAddr,
    /// The key, and the seconds until it ends.
    given: Arc<Mutex<(&'static str, i64)>>,
    asked: Arc<AtomicUsize>,
}

impl Container {
    fn start(secret: String, seconds: i64) -> Container {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let given = Arc::new(Mutex::new((S3Server::access_keys()[0], seconds)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (gives, counts) = (Arc::clone(&given), Arc::clone(&asked));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let head =
                    BufReader::new(&connection).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                if head.count() == 0 {
                    continue;
                }
                counts.fetch_add(1, Ordering::Relaxed);
                let (key, seconds) = *gives.lock().expect("what is given");
                let body = serde_json::json!({
                    "AccessKeyId": key, "SecretAccessKey": secret, "Token": "token", "Expiration": in_seconds(seconds),
                })
                .to_string();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        Container { address, given, asked }
    }
}

/// A time as RFC 3339 writes it, by a tool that is not ours.
fn in_seconds(seconds: i64) -> String {
    let format = ["-u", "-d", &format!("{seconds} seconds"), "+%Y-%m-%dT%H:%M:%SZ"];
    let output = std::process::Command::new("date").args(format).output().expect("run date");
    String::from_utf8(output.stdout).expect("a date").trim().to_owned()
}

/// Creates objects; half way the keys change.
fn creates_on(store: &RemoteBackend, half_way: impl FnOnce()) {
    let create = |number: usize| {
        let created = block_on(store.create(&format!("log/{number}"), Bytes::from(vec![7; 1000])));
        assert_eq!(created.expect("create"), Created::New);
    };
    (0..10).for_each(create);
    half_way();
    (10..20).for_each(create);
}

/// All that were taken after the change were signed by the second key.
#[track_caller]
fn assert_changed(server: &S3Server) {
    let [first, second] = S3Server::access_keys();
    let requests = server.requests();
    let taken =
        |key: &str| requests.all.iter().filter(|each| each.access_key == key && each.status == Some(200)).count();
    assert_eq!((taken(first), taken(second)), (10, 10));
}

fn container_environment(server: &S3Server, container: &Container, token_file: &Path) -> Vec<(String, String)> {
    std::fs::write(token_file, "a token").expect("write");
    let address = format!("http://{}/credentials", container.address);
    with(
        &server.environment(),
        &[
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &address),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file.to_str().expect("a path of a test")),
        ],
    )
}

/// Those that end soon are asked for again before they do.
#[test]
fn credentials_of_a_container_are_renewed_before_they_end() {
    let server = S3Server::start();
    let scratch = tempfile::tempdir().expect("a directory");
    let container = Container::start(secret(&server), 60);
    let environment = container_environment(&server, &container, &scratch.path().join("token"));
    let store = backend(&server.url(PREFIX), environment, |_| {});
    creates_on(&store, || {
        container.given.lock().expect("what is given").0 = S3Server::access_keys()[1];
        sleep(Duration::from_millis(150));
        expire_first_key(&server);
    });
    assert_changed(&server);
}

/// Those that should hold for an hour, and that the store refuses before, are asked for again too.
#[test]
fn credentials_that_the_store_calls_expired_are_asked_for_anew() {
    let server = S3Server::start();
    let scratch = tempfile::tempdir().expect("a directory");
    let container = Container::start(secret(&server), 3600);
    let environment = container_environment(&server, &container, &scratch.path().join("token"));
    let store = backend(&server.url(PREFIX), environment, |_| {});
    creates_on(&store, || {
        assert_eq!(container.asked.load(Ordering::Relaxed), 1);
        container.given.lock().expect("what is given").0 = S3Server::access_keys()[1];
        expire_first_key(&server);
    });
    assert_changed(&server);
    assert_eq!(container.asked.load(Ordering::Relaxed), 2);
}

/// A key that was replaced by another and taken away, as a rotation does.
#[test]
fn a_key_that_was_taken_away_is_asked_for_anew_once() {
    let server = S3Server::start();
    let scratch = tempfile::tempdir().expect("a directory");
    let container = Container::start(secret(&server), 3600);
    let environment = container_environment(&server, &container, &scratch.path().join("token"));
    let store = backend(&server.url(PREFIX), environment, |_| {});
    let take_away = |key: &str| {
        let unknown = Answer::error(403, "InvalidAccessKeyId", "There is no such key.");
        server.faults().add(Rule::new(Fault::Answer(unknown)).access_key(key));
    };
    let [first, second] = S3Server::access_keys();
    creates_on(&store, || {
        container.given.lock().expect("what is given").0 = second;
        take_away(first);
    });
    assert_changed(&server);
    // Where there is no other key, one request more is all that it costs.
    take_away(second);
    server.forget_requests();
    let refused = block_on(store.get("log/0", 1000)).expect_err("there is no key");
    assert_eq!(refused.kind, StorageErrorKind::PermissionDenied, "{refused}");
    assert_eq!((server.requests().total(), container.asked.load(Ordering::Relaxed)), (2, 3));
    // The answer to HEAD has no body that could say what is wrong.
    server.forget_requests();
    let refused = block_on(store.size("log/0")).expect_err("there is no key");
    assert_eq!((refused.kind, server.requests().total()), (StorageErrorKind::PermissionDenied, 2), "{refused}");
}

fn write_credentials(path: &Path, key: &str, secret: &str) {
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).expect("write");
    std::fs::rename(&fresh, path).expect("replace");
}

#[test]
fn credentials_in_a_file_that_is_replaced_in_mid_backup_are_read_again() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    let server = S3Server::start();
    let scratch = tempfile::tempdir().expect("a directory");
    let (file, secret) = (scratch.path().join("credentials"), secret(&server));
    let [first, second] = S3Server::access_keys();
    write_credentials(&file, first, &secret);
    let link = Link::to(server.address());
    let by_file = [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().expect("a path of a test")),
    ];
    let repo = initialised(&server.url(PREFIX), with(&server.environment_at(link.address()), &by_file));
    link.set_rate(Some(160_000_000));
    let source = tree(&repo, 60);
    server.forget_requests();
    let mut command = repo.command("backup", &["--json", source.to_str().expect("a path of a test")]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    while packs_sent(&server.requests()).is_empty() {
        sleep(Duration::from_millis(10));
    }
    write_credentials(&file, second, &secret);
    expire_first_key(&server);
    let summary = wait(child, "a backup".to_owned()).expect(exit::DONE).summary();
    let by = |key: &str| server.requests().all.iter().filter(|each| each.access_key == key).count();
    assert!(by(first) > 0 && by(second) > 0, "{} and {}", by(first), by(second));
    assert_restores(&repo, &summary.point(), &source, "target");
}

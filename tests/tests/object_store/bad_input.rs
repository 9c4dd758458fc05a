//! What a person gets wrong: each mistake has its own words, says what to do, and ends soon.

use std::net::TcpListener;

use mover_tests::s3::{Answer, Fault, Rule, S3Server};
use mover_tests::{Repo, Run, exit};

use super::fixture::{PREFIX, with};

/// `mover points` on a store, with these changes to the right environment.
fn points(server: &S3Server, changes: &[(&str, &str)]) -> Run {
    let repo = Repo::in_store(&server.url(PREFIX), with(&server.environment(), changes));
    repo.run("points", &[] as &[&str])
}

/// The run ended with `code`, and said these words.
#[track_caller]
fn assert_says(run: Run, code: i32, words: &[&str]) {
    let run = run.expect(code);
    for word in words {
        assert!(run.stderr.contains(word), "it does not say {word:?}: {run}");
    }
}

#[test]
fn wrong_credentials_are_told() {
    let server = S3Server::start();
    let help = "help: check the key of the store";
    let run = points(&server, &[("AWS_SECRET_ACCESS_KEY", "wrong")]);
    assert_says(run, exit::FAILED, &["HTTP 403", "s3://backups/backups/host", help]);
    let run = points(&server, &[("AWS_ACCESS_KEY_ID", "NOBODY")]);
    assert_says(run, exit::FAILED, &["HTTP 403", help]);
    // A key is not tried again: it stays wrong. Settings, key slots and the end of the log are asked for at once.
    assert!(server.requests().total() <= 8, "{:?}", server.requests());
}

#[test]
fn a_bucket_in_another_region_is_told_with_its_region() {
    let server = S3Server::start();
    server.faults().add(Rule::new(Fault::Answer(Answer::wrong_region("ap-south-1"))));
    let words = ["the bucket is in the region ap-south-1", "help: set AWS_REGION"];
    assert_says(points(&server, &[]), exit::FAILED, &words);
}

/// A HEAD has no body: only the date of the answer says that it is the clock.
#[test]
fn a_clock_that_is_wrong_is_told() {
    let server = S3Server::start();
    let skew = Answer::clock_skew().header("date", "Mon, 27 Mar 2006 22:43:16 GMT");
    server.faults().add(Rule::new(Fault::Answer(skew)));
    assert_says(points(&server, &[]), exit::FAILED, &["the clock of this machine is", "ahead", "help: set the clock"]);
}

#[test]
fn a_bucket_that_does_not_exist_is_told() {
    let server = S3Server::start();
    let repo = Repo::in_store("s3://nowhere/x", server.environment());
    let words = ["NoSuchBucket", "help: create the bucket first"];
    assert_says(repo.run("init", &[] as &[&str]), exit::FAILED, &words);
    let run = repo.run("points", &[] as &[&str]);
    assert!(run.code == exit::FAILED || run.code == exit::NO_REPOSITORY, "{run}");
}

#[test]
fn a_bucket_without_a_repository_is_told() {
    let server = S3Server::start();
    assert_says(points(&server, &[]), exit::NO_REPOSITORY, &["s3://backups/backups/host"]);
}

/// The bundle that is named is another's, so the server cannot prove who it is; plain HTTP is never a second try.
#[test]
fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let server = S3Server::start_tls();
    let other = S3Server::start_tls();
    let bundle = other.ca_file().expect("TLS").to_str().expect("a path of a test").to_owned();
    let run = points(&server, &[("AWS_CA_BUNDLE", &bundle)]);
    let words =
        ["the store cannot prove who it is", "certificate", "help: name the certificate authority", "AWS_CA_BUNDLE"];
    assert_says(run, exit::FAILED, &words);
    assert_eq!(server.requests().total(), 0);
}

#[test]
fn an_endpoint_of_the_other_protocol_is_told() {
    let plain = S3Server::start();
    let secured = S3Server::start_tls();
    let help = "help: check whether the endpoint is http:// or https://";
    let to_plain = format!("https://{}", plain.address());
    assert_says(points(&plain, &[("AWS_ENDPOINT_URL", &to_plain)]), exit::FAILED, &[help]);
    assert_eq!(plain.requests().total(), 0);
    let to_secured = format!("http://{}", secured.address());
    assert_says(points(&secured, &[("AWS_ENDPOINT_URL", &to_secured)]), exit::FAILED, &[help]);
    assert_eq!(secured.requests().total(), 0);
}

#[test]
fn a_certificate_file_that_is_none_is_told() {
    let server = S3Server::start_tls();
    let run = points(&server, &[("AWS_CA_BUNDLE", "/etc/hostname")]);
    assert_says(run, exit::FAILED, &["certificates of /etc/hostname", "there is none in it"]);
    let run = points(&server, &[("AWS_CA_BUNDLE", "/nowhere/ca.pem")]);
    assert_says(run, exit::FAILED, &["certificates of /nowhere/ca.pem", "No such file"]);
}

#[test]
fn urls_that_name_no_bucket_are_wrong_usage() {
    for url in ["s3://", "s3:///x", "s3://a b/c", "gs:///", "az://"] {
        let run = Repo::in_store(url, Vec::new()).run("points", &[] as &[&str]);
        assert_says(run, exit::USAGE, &[url, "it names no bucket"]);
    }
    let run = Repo::in_store("s3://bucket/a/../b", Vec::new()).run("points", &[] as &[&str]);
    assert_says(run, exit::USAGE, &["the prefix may have"]);
}

/// With a patience of 15 minutes: before a store has ever answered, nobody wants to wait so long for a mistyped name.
#[test]
fn an_endpoint_where_nobody_listens_is_told_long_before_patience_ends() {
    let server = S3Server::start();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let run = points(&server, &[("AWS_ENDPOINT_URL", &format!("http://{free}"))]);
    assert_says(run, exit::FAILED, &["Connection refused", "s3://backups/backups/host", "help: check the network"]);
}

/// Where no credentials are named the machine's metadata service is asked, and one that is silent keeps nobody waiting.
#[test]
fn missing_credentials_are_told_and_a_silent_metadata_service_keeps_nobody_waiting() {
    let server = S3Server::start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let metadata = format!("http://{}", silent.local_addr().expect("its address"));
    let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_METADATA_ENDPOINT", &*metadata)];
    let words = ["there are no credentials", "metadata service", "help: set the key and the secret"];
    assert_says(points(&server, &none), exit::FAILED, &words);
    assert_eq!(server.requests().total(), 0);
}

#[test]
fn half_a_key_is_told_with_what_is_missing() {
    let server = S3Server::start();
    let words = ["Missing SecretAccessKey", "help: set the credentials", "AWS_SECRET_ACCESS_KEY", "mover help init"];
    assert_says(points(&server, &[("AWS_SECRET_ACCESS_KEY", "")]), exit::FAILED, &words);
    assert_says(
        points(&server, &[("AWS_ACCESS_KEY_ID", "")]),
        exit::FAILED,
        &["Missing AccessKeyId", "mover help init"],
    );
    assert_eq!(server.requests().total(), 0);
    let help = mover_tests::Mover::run(&["help", "init"]).expect(exit::DONE).text();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "GOOGLE_", "AZURE_"] {
        assert!(help.contains(name), "{name} is not in {help}");
    }
}

#[test]
fn a_credentials_file_that_is_of_no_use_is_told() {
    let server = S3Server::start();
    let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials")];
    assert_says(points(&server, &none), exit::FAILED, &["credentials file /nowhere/credentials", "No such file"]);
    assert_eq!(server.requests().total(), 0);
}

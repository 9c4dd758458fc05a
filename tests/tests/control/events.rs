//! Live events, over a connection that is kept open.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use mover_tests::control::Serve;
use mover_tests::control::agent::backup;
use serde_json::{Value, json};

/// A stream of events.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(serve: &Serve, last: Option<&str>) -> Stream {
        Stream::open_with(serve, &serve.admin_token, last)
    }

    fn open_with(serve: &Serve, token: &str, last: Option<&str>) -> Stream {
        let address = serve.url().trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&address).expect("a connection");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a limit");
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{last}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("a request");
        Stream(BufReader::new(stream))
    }

    /// The next event of a job: its id and what it says.
    fn next_job(&mut self) -> (String, Value) {
        let (mut id, mut is_job) = (String::new(), false);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).expect("a line"), 0, "the stream ended");
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            } else if let Some(kind) = line.strip_prefix("event: ") {
                is_job = kind == "job";
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| is_job) {
                return (id, serde_json::from_str(data).expect("an event"));
            }
        }
    }
}

#[test]
fn events_are_told_live_and_go_on_after_the_last_that_was_seen() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &["--plain-http", "--agent-listen", "127.0.0.1:0"]);
    let admin = serve.admin();
    let submit = |set: &str| admin.post("/api/v1/jobs", &backup(set)).expect(201).field("id");
    let first = submit("a");
    // From before the first event on: all of them.
    let mut stream = Stream::open(&serve, Some("00000000000000000000000000"));
    let (seen, event) = stream.next_job();
    assert_eq!((event["job"].as_str(), event["state"].as_str()), (Some(first.as_str()), Some("queued")));
    let second = submit("b");
    assert_eq!(stream.next_job().1["job"], second.as_str());
    drop(stream);
    let third = submit("c");
    let mut stream = Stream::open(&serve, Some(&seen));
    let told = [stream.next_job().1, stream.next_job().1];
    assert_eq!((told[0]["job"].as_str(), told[1]["job"].as_str()), (Some(second.as_str()), Some(third.as_str())));
    let fourth = submit("d");
    assert_eq!(stream.next_job().1["job"], fourth.as_str(), "none is told twice");
}

/// A token was revoked, and whoever held it followed the pool for as long as the connection lived.
#[test]
fn stream_of_a_token_that_is_revoked_ends() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &["--plain-http", "--agent-listen", "127.0.0.1:0"]);
    let made = serve.admin().post("/api/v1/tokens", &json!({ "name": "spy", "role": "viewer" })).expect(201);
    let mut stream = Stream::open_with(&serve, &made.field("secret"), None);
    let mut line = String::new();
    stream.0.read_line(&mut line).expect("it begins");
    assert!(line.contains("200"), "{line}");
    serve.admin().post(&format!("/api/v1/tokens/{}/revoke", made.field("id")), &json!({})).expect(204);
    // Progress goes on until the next look at the token; then the stream ends, which a limit of the socket is not.
    let mut rest = String::new();
    stream.0.read_to_string(&mut rest).expect("it ends");
    assert!(!rest.is_empty());
}

//! Requests that are wrong, too large, too slow, repeated; lists in pages; changes that meet others.

use std::io::{Read, Write};
use std::net::TcpStream;

use mover_tests::control::Serve;
use mover_tests::control::agent::{backup, policy};
use serde_json::{Value, json};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Method, place, headers and body of a request; status and problem of its answer.
type Wrong<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);

#[test]
fn malformed_requests_get_a_problem_that_says_what_is_wrong() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let admin = serve.admin();
    // Longer than the document allows: it was taken, and found nothing.
    let long_cursor = format!("/api/v1/agents?cursor={}", "0".repeat(65));
    let wrong: [Wrong<'_>; 13] = [
        ("POST", "/api/v1/jobs", &JSON, b"{", 400, "malformed"),
        ("POST", "/api/v1/jobs", &JSON, b"[]", 400, "malformed"),
        ("POST", "/api/v1/jobs", &JSON, b"\xff\xfe", 400, "malformed"),
        ("POST", "/api/v1/jobs", &JSON, br#"{"kind":"backup","nonsense":1}"#, 400, "malformed"),
        ("POST", "/api/v1/tokens", &JSON, br#"{"name":"a\u0000b","role":"viewer"}"#, 400, "malformed"),
        ("POST", "/api/v1/tokens", &JSON, br#"{"name":"","role":"viewer"}"#, 422, "invalid"),
        ("POST", "/api/v1/tokens", &JSON, br#"{"name":"a","role":"agent"}"#, 400, "malformed"),
        ("POST", "/api/v1/jobs", &[("content-type", "text/plain")], b"{}", 415, "media-type"),
        ("GET", "/api/v1/jobs?limit=0", &[], b"", 400, "malformed"),
        ("GET", "/api/v1/jobs?limit=1001", &[], b"", 400, "malformed"),
        ("GET", "/api/v1/jobs?nonsense=1", &[], b"", 400, "malformed"),
        ("GET", &long_cursor, &[], b"", 400, "malformed"),
        ("PATCH", "/api/v1/jobs", &[], b"", 405, "method-not-allowed"),
    ];
    for (method, path, headers, body, status, name) in wrong {
        let answer = admin.send(method, path, headers, body.to_vec()).expect_problem(status, name);
        assert!(status != 405 || answer.header("allow").contains("GET"), "{:?}", answer.headers);
    }
    let mut retention = backup("a");
    retention["kind"] = json!("retention");
    admin.post("/api/v1/jobs", &retention).expect_problem(400, "malformed");
    let mut closed = policy("never");
    closed["when"]["windows"] = json!([{ "begin": "10:00", "end": "11:00" }]);
    closed["when"]["blackouts"] = json!([{ "begin": "00:00", "end": "24:00" }]);
    closed["when"]["schedules"] = json!([{ "at": ["10:30"] }]);
    let refused = admin.post("/api/v1/policies", &closed).expect_problem(422, "invalid");
    let verdict = admin.post("/api/v1/policies/validate", &closed).expect(200);
    assert_eq!(verdict.body["valid"], false);
    assert_eq!(verdict.field("reason"), refused.field("detail"));
    assert_eq!(admin.get("/api/v1/jobs").expect(200).body["items"], json!([]));
}

#[test]
fn oversized_bodies_are_refused_before_they_are_read() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let admin = serve.admin();
    let large = vec![b' '; (1 << 20) + 1];
    admin.send("POST", "/api/v1/jobs", &JSON, large).expect_problem(413, "too-large");
    let long = format!("/api/v1/jobs?set={}", "a".repeat(200_000));
    let answer = admin.try_send("GET", &long, &[], Vec::new());
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status >= 400), "a head without bounds");
    admin.get("/api/v1/jobs").expect(200);
}

/// Somebody opens connections and sends a byte now and then; others are served all the same, and the slow end.
#[test]
fn slow_clients_are_cut_off_and_keep_nobody_waiting() {
    let scratch = tempfile::tempdir().expect("a directory");
    let more = ["--plain-http", "--agent-listen", "127.0.0.1:0"];
    let serve = Serve::start(&scratch.path().join("data"), &more);
    let address = serve.url().trim_start_matches("http://").to_owned();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&address).expect("a connection")).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        let head = if number % 2 == 0 {
            "GET /healthz HTT".to_owned()
        } else {
            format!(
                "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
                 Content-Length: 100\r\n\r\n{{",
                serve.admin_token
            )
        };
        stream.write_all(head.as_bytes()).expect("a part of a request");
    }
    serve.admin().get("/api/v1/jobs").expect(200);
    for mut stream in slow {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a limit");
        let mut answer = Vec::new();
        // A reset is an end too; only to wait for ever is wrong.
        let ended = stream.read_to_end(&mut answer);
        let is_timeout = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_timeout, "a slow client was not cut off");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    }
}

/// One address took all places of a server and left none to others.
#[test]
fn connections_of_one_address_are_bounded_and_counted() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &["--connections-per-address", "4"]);
    // Each client keeps its connection after the answer.
    let admin = serve.admin();
    admin.get("/api/v1/jobs").expect(200);
    let mut others: Vec<_> = (0..3).map(|_| serve.client("")).collect();
    for client in &others {
        client.get("/healthz").expect(200);
    }
    let late = serve.client("");
    assert!(late.try_send("GET", "/healthz", &[], Vec::new()).is_err(), "one too many");
    let figures = admin.get("/metrics").expect(200).text;
    let refused = figures.lines().find_map(|line| line.strip_prefix("mover_http_connections_refused_total "));
    assert!(refused.and_then(|count| count.parse::<u32>().ok()) >= Some(1), "{figures}");
    others.pop();
    crate::site::until("a place is free again", || late.try_send("GET", "/healthz", &[], Vec::new()).is_ok());
    for client in others.iter().chain([&admin]) {
        client.get("/healthz").expect(200);
    }
}

#[test]
fn same_idempotency_key_makes_one_job_and_another_request_with_it_is_refused() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let serve = Serve::start(&data, &[]);
    let admin = serve.admin();
    let key = [("idempotency-key", "nightly-1")];
    let first = admin.post_with("/api/v1/jobs", &key, &backup("a")).expect(201);
    let again = admin.post_with("/api/v1/jobs", &key, &backup("a")).expect(201);
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("idempotency-replayed"), "true");
    admin.post_with("/api/v1/jobs", &key, &backup("b")).expect_problem(409, "conflict");
    let other = serve.with_role("operator").post_with("/api/v1/jobs", &key, &backup("b")).expect(201);
    assert_ne!(other.field("id"), first.field("id"), "keys of different people");
    let token = serve.admin_token.clone();
    serve.kill();
    let serve = Serve::start(&data, &[]);
    let later = serve.client(&token).post_with("/api/v1/jobs", &key, &backup("a")).expect(201);
    assert_eq!(later.field("id"), first.field("id"), "also after a restart");
    let jobs = serve.client(&token).get("/api/v1/jobs").expect(200);
    assert_eq!(jobs.body["items"].as_array().map(Vec::len), Some(2));
}

#[test]
fn lists_come_in_pages_and_no_entry_twice() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let admin = serve.admin();
    let mut made: Vec<String> = (0..7)
        .map(|number| admin.post("/api/v1/jobs", &backup(&format!("s{number}"))).expect(201).field("id"))
        .collect();
    made.reverse();
    let mut seen = Vec::new();
    let mut path = "/api/v1/jobs?limit=3".to_owned();
    for page in 0.. {
        assert!(page < 4, "the pages have no end");
        let answer = admin.get(&path).expect(200);
        let items = answer.body["items"].as_array().expect("items").clone();
        seen.extend(items.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
        let Some(next) = answer.body["next"].as_str() else { break };
        // What is submitted meanwhile does not move the pages.
        admin.post("/api/v1/jobs", &backup("later")).expect(201);
        path = format!("/api/v1/jobs?limit=3&cursor={next}");
    }
    assert_eq!(seen, made, "newest first");
    let one = admin.get("/api/v1/jobs?set=s3&state=queued").expect(200);
    assert_eq!(one.body["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn policy_changed_meanwhile_is_not_overwritten() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let admin = serve.admin();
    let made = admin.post("/api/v1/policies", &policy("nightly")).expect(201);
    assert_eq!(made.header("etag"), "\"1\"");
    let path = format!("/api/v1/policies/{}", made.field("id"));
    let put = |tag: Option<&str>, body: &Value| {
        let mut headers = JSON.to_vec();
        headers.extend(tag.map(|tag| ("if-match", tag)));
        admin.send("PUT", &path, &headers, body.to_string().into_bytes())
    };
    let mut changed = policy("nightly");
    changed["how"] = json!({ "priority": 5 });
    put(None, &changed).expect_problem(428, "precondition-required");
    let done = put(Some("\"1\""), &changed).expect(200);
    assert_eq!((done.header("etag"), &done.body["policy"]["how"]["priority"]), ("\"2\"", &json!(5)));
    put(Some("\"1\""), &policy("nightly")).expect_problem(412, "changed-meanwhile");
    admin.post("/api/v1/policies", &policy("nightly")).expect_problem(409, "conflict");
    admin.post(&format!("{path}/disable"), &json!({})).expect(200);
    assert_eq!(admin.get(&path).expect(200).body["enabled"], false);
    admin.post(&format!("{path}/enable"), &json!({})).expect(200);
    let run = admin.post(&format!("{path}/run"), &json!({ "bandwidth": "1MiB/s" })).expect(201);
    assert_eq!((run.field("set"), run.field("state")), ("nightly".to_owned(), "queued".to_owned()));
    admin.post(&format!("{path}/run"), &json!({ "bandwidth": "much" })).expect_problem(400, "malformed");
    admin.delete(&path).expect(204);
    admin.get(&path).expect_problem(404, "not-found");
}

//! The console in a real Chromium, against the real server: `tests/console/console.mjs` drives it, one scenario a test.
//!
//! What it shows was made by requests of people and of an agent made of requests: a policy, a backup that has ended with
//! exceptions, one that failed, one that runs, and an agent that answers questions about the repository. No request of a
//! page may leave the server, no message may come to the browser's console. Screenshots stay in `target/screenshots`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use mover_tests::control::agent::{backup, poll_request};
use mover_tests::control::{Serve, TestAgent};
use mover_tests::skip;
use serde_json::{Value, json};

/// How long a heartbeat may be late; far below the silence that ends a lease.
const POLL_SECONDS: u64 = 2;

fn missing() -> Option<String> {
    let playwright = std::env::var_os("MOVER_TEST_PLAYWRIGHT").map(PathBuf::from);
    match playwright {
        _ if !chromium().is_file() || !skip::has_tool("node") => Some("needs chromium and node".to_owned()),
        Some(place) if place.join("node_modules/playwright-core").is_dir() => None,
        _ => Some("needs playwright-core in MOVER_TEST_PLAYWRIGHT".to_owned()),
    }
}

fn chromium() -> PathBuf {
    std::env::var_os("MOVER_TEST_CHROMIUM").map_or_else(|| "/usr/bin/chromium".into(), PathBuf::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a scenario; fails the test with what it says unless all is as it should be.
fn play(scenario: &str, serve: &Serve, known: Value) {
    let token = |role: &str| {
        let made = serve.admin().post("/api/v1/tokens", &json!({ "name": role, "role": role }));
        made.expect(201).field("secret")
    };
    let mut given = json!({
        "url": serve.url(),
        "tokens": { "admin": serve.admin_token, "operator": token("operator"), "viewer": token("viewer") },
        "screenshots": root().join("target/screenshots"),
    });
    given.as_object_mut().expect("an object").extend(known.as_object().expect("an object").clone());
    let mut command = Command::new("node");
    command.arg(root().join("tests/console/console.mjs")).arg(scenario);
    let ran = command.env("MOVER_CONSOLE_TEST", given.to_string()).output().expect("start node");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "the scenario {scenario}: {told}{}", String::from_utf8_lossy(&ran.stdout));
}

/// An agent that keeps its lease and answers questions until it is dropped.
struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    fn start(agent: TestAgent, held: Value, progress: Value) -> Answering {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                agent.client.post("/agent/v1/beat", &json!({ "jobs": [[held, progress]] })).expect(200);
                let asked = poll_request(0, POLL_SECONDS);
                let answer = agent.client.post("/agent/v1/poll", &asked).expect(200);
                for question in answer.body["questions"].as_array().into_iter().flatten() {
                    let reply = json!({ "id": question["id"], "reply": { "Ok": entries(question) } });
                    agent.client.post("/agent/v1/reply", &reply).expect(204);
                }
            }
        });
        Answering { stop, thread: Some(thread) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What `mover ls --json` would tell of the directory that is asked for.
fn entries(question: &Value) -> Vec<Value> {
    let entry = |path: &str, kind: &str, bytes: u64| {
        json!({
            "type": "entry", "path": path, "kind": kind, "mode": "0644", "uid": 1000, "gid": 1000, "bytes": bytes,
            "mtime": "2026-03-01T12:30:05.123456789Z", "torn": false, "unread": false,
        })
    };
    let root = entry("/srv/files", "directory", 4096);
    let below = [
        entry("/srv/files/archive", "directory", 4096),
        entry(
            "/srv/files/a name that is long, as people give them to the third draft of a report.odt",
            "file",
            1_234_567,
        ),
    ];
    match question["ask"]["list"]["path"].as_str() {
        Some("/srv/files") => below.into(),
        _ => [vec![root], below.into()].concat(),
    }
}

/// A server with something of everything: what is known of it, and the agent.
fn furnished(serve: &Serve) -> (Value, Answering) {
    let admin = serve.admin();
    let agent = serve.agent("proxy-one");
    let document = json!({
        "name": "nightly",
        "what": {
            "workload": "virtual_machine", "source": "a hypervisor", "repository": "/srv/backup", "set": "files",
            "place": { "pool": { "pool": "main", "reach": null, "preferred": null } },
            "filesets": [
                { "name": "files", "paths": ["/srv/files"], "exclude": ["*.tmp"] },
                { "name": "projects", "paths": ["/srv/projects"] },
            ],
        },
        "when": { "zone": "Europe/Berlin", "schedules": [{ "days": ["mon", "fri"], "at": ["22:00"] }] },
        "keep": { "daily": 14 },
    });
    let policy = admin.post("/api/v1/policies", &document).expect(201).field("id");
    let take = |agent: &TestAgent| {
        let lease = agent.poll(20).remove(0);
        let held = json!({ "job": lease["job"]["id"], "fence": lease["fence"] });
        (held["job"].as_str().expect("an id").to_owned(), held)
    };
    let advance = |held: &Value, progress: &Value| {
        let said = json!({ "held": held, "state": "running", "progress": progress });
        agent.client.post("/agent/v1/advance", &said).expect(200);
    };
    let finish = |held: &Value, ending: Value, outcome: Value| {
        let said = json!({ "held": held, "ending": ending, "outcome": outcome });
        agent.client.post("/agent/v1/finish", &said).expect(200);
    };
    let progress = |fileset: u32, read: u64, unchanged: u64| {
        json!({
            "fileset": fileset, "filesets": 2, "files": 1200, "files_estimated": 4800, "bytes_estimated": 4u64 << 30,
            "bytes": { "read": read, "unchanged": unchanged, "new": read / 2, "stored": read / 4 },
            "bytes_per_second": 50u64 << 20, "bottleneck": "source", "exceptions": 1,
        })
    };

    admin.post(&format!("/api/v1/policies/{policy}/run"), &json!({})).expect(201);
    let (completed, held) = take(&agent);
    let whole = progress(2, 3 << 30, 1 << 30);
    advance(&held, &whole);
    agent.client.post("/agent/v1/grant", &json!({ "held": held })).expect(204);
    let exception = json!({ "path": "/srv/files/locked.db", "cause": "locked by another program" });
    let outcome = json!({
        "recovery_point": "0123456789abcdef", "exceptions": [exception], "exceptions_total": 1,
        "excluded": { "*.tmp": 7 }, "progress": whole,
    });
    finish(&held, json!("completed"), outcome);

    admin.post("/api/v1/jobs", &backup("databases")).expect(201);
    let (failed, held) = take(&agent);
    let outcome = json!({ "message": "the repository refused the password" });
    finish(&held, json!({ "failed": { "retry": false } }), outcome);

    admin.post("/api/v1/jobs", &backup("machines")).expect(201);
    let (running, held) = take(&agent);
    let part = progress(1, 1 << 30, 0);
    advance(&held, &part);
    let known = json!({ "policy": policy, "completed": completed, "failed": failed, "running": running });
    (known, Answering::start(agent, held, part))
}

/// Plays a scenario on a server that is empty, or has something of everything.
fn play_on(scenario: &str, is_furnished: bool) {
    if let Some(reason) = missing() {
        mover_tests::skip_test!(reason);
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (mut known, _agent) = match is_furnished {
        true => {
            let (known, agent) = furnished(&serve);
            (known, Some(agent))
        }
        false => (json!({}), None),
    };
    known["order"] = backup("made elsewhere");
    play(scenario, &serve, known);
}

#[test]
fn console_is_used_by_keyboard_alone_in_every_view() {
    play_on("keyboard", true);
}

#[test]
fn console_fits_a_phone_and_is_legible_in_light_and_dark() {
    play_on("phone", true);
}

#[test]
fn page_of_a_job_shows_what_it_moved_left_out_and_missed() {
    play_on("job", true);
}

#[test]
fn s059_restore_form_browses_marks_a_full_scan_and_submits_a_job() {
    play_on("restore", true);
}

#[test]
fn console_shows_what_others_do_without_a_reload() {
    play_on("live", true);
}

#[test]
fn console_that_gets_no_events_looks_every_few_seconds_until_it_does() {
    play_on("polling", true);
}

/// Nights that were aborted or expired were no warnings: "nothing failed in the last 24 hours".
#[test]
fn overview_warns_of_what_was_aborted_or_expired_and_tells_exceptions_apart() {
    if let Some(reason) = missing() {
        mover_tests::skip_test!(reason);
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let agent = serve.agent("proxy-one");
    let end = |set: &str, ending: Value, exceptions: u64, point: Option<&str>| {
        serve.admin().post("/api/v1/jobs", &backup(set)).expect(201);
        let lease = agent.poll(20).remove(0);
        let held = json!({ "job": lease["job"]["id"], "fence": lease["fence"] });
        if point.is_some() {
            agent.client.post("/agent/v1/grant", &json!({ "held": held })).expect(204);
        }
        let outcome = json!({ "recovery_point": point, "exceptions_total": exceptions });
        agent
            .client
            .post("/agent/v1/finish", &json!({ "held": held, "ending": ending, "outcome": outcome }))
            .expect(200);
    };
    end("databases", json!("aborted"), 0, None);
    end("machines", json!("completed"), 3, Some("0123456789abcdef"));
    // Nobody asks for work any more.
    let mut late = backup("archive");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    late["expires_at"] = json!(now + 2000);
    let late = serve.admin().post("/api/v1/jobs", &late).expect(201).field("id");
    let state = || serve.admin().get(&format!("/api/v1/jobs/{late}")).expect(200).field("state");
    crate::site::until("it expires", || state() == "expired");
    play("night", &serve, json!({}));
}

#[test]
fn policy_form_shows_refusals_at_their_fields() {
    play_on("policy", true);
}

#[test]
fn console_of_an_empty_server_says_what_to_do_and_offers_a_viewer_nothing_forbidden() {
    play_on("empty", false);
}

//! How a server begins and ends, and what it refuses to begin with.

use std::os::unix::fs::PermissionsExt;

use mover_tests::control::Serve;
use mover_tests::control::serve::refused;
use mover_tests::exit;
use serde_json::json;

#[test]
fn first_start_makes_everything_for_its_owner_alone_and_shows_secrets_once() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let serve = Serve::start(&data, &[]);
    assert!(serve.admin_token.starts_with("mvr_"));
    assert_eq!((serve.started["admin_token"].as_str(), serve.started["join"].as_str()), (None, None), "no terminal");
    let join = std::fs::read_to_string(data.join("agent.join")).expect("how to join");
    for part in ["mover agent --server https://", "--token mve_", "--authority "] {
        assert!(join.contains(part), "{part} is not in {join}");
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in ["authority.key", "admin.token", "agent.join"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    assert_eq!(serve.stop(), 0);
    let again = Serve::start(&data, &[]);
    assert_eq!((again.started["admin_token_file"].as_str(), again.started["join_file"].as_str()), (None, None));
    assert_eq!(again.stop(), 0);
    let anew = Serve::start(&data, &["--new-admin-token"]);
    anew.admin().get("/api/v1/tokens").expect(200);
}

#[test]
fn stop_ends_polls_and_streams_that_wait() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let agent = serve.agent("one");
    let waiting = std::thread::spawn(move || {
        agent.client.post("/agent/v1/poll", &json!({ "free": 1, "wait_seconds": 60 })).status
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(serve.stop(), 0);
    assert_eq!(waiting.join().expect("an answer"), 200);
}

#[test]
fn what_a_server_cannot_begin_with_is_refused_in_words() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    refused(&data, &["--listen", "0.0.0.0:0", "--plain-http"]).expect_error(exit::USAGE, "not loopback");
    refused(&data, &["--plain-http"]).expect_error(exit::USAGE, "--agent-listen");
    refused(&data, &["--database", "mysql://x"]).expect_error(exit::USAGE, "PostgreSQL");
    let nowhere = "postgres://nobody@127.0.0.1:1/none";
    refused(&data, &["--database", nowhere]).expect_error(exit::FAILED, "connect to the PostgreSQL database");
    let away = scratch.path().join("away.json");
    std::fs::write(&away, r#"{"nas": {"on_demand": "pray", "scheduled": "queue"}}"#).expect("a file");
    let path = away.to_str().expect("a path").to_owned();
    refused(&data, &["--away", &path]).expect_error(exit::USAGE, "away.json");
    let open = scratch.path().join("open");
    std::fs::create_dir(&open).expect("a directory");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    refused(&open, &[]).expect_error(exit::FAILED, "other users");
    let first = Serve::start(&data, &[]);
    let address = first.url().trim_start_matches("https://").to_owned();
    refused(&scratch.path().join("second"), &["--listen", &address]).expect_error(exit::FAILED, &address);
}

//! How a server begins and ends, and what it refuses to begin with.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use mover_tests::control::agent::poll_request;
use mover_tests::control::serve::{free_port, refused};
use mover_tests::control::{Client, Serve};
use mover_tests::{Mover, exit, mover};
use serde_json::json;

#[test]
fn first_start_makes_everything_for_its_owner_alone_and_shows_secrets_once() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let serve = Serve::start(&data, &[]);
    assert!(serve.admin_token.starts_with("mvr_"));
    assert_eq!((serve.started["admin_token"].as_str(), serve.started["join"].as_str()), (None, None), "no terminal");
    let join = std::fs::read_to_string(data.join("agent.join")).expect("how to join");
    for part in ["mover agent enrol --server https://", " --token mve_", " --ca-fingerprint "] {
        assert!(join.contains(part), "{part} is not in {join}");
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in ["authority.key", "admin.token", "agent.join"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    assert_eq!(serve.stop(), 0);
    let log = std::fs::read_to_string(data.with_extension("log")).expect("what it has said");
    assert!(log.contains("serving") && !log.contains('\x1b'), "no colours where nobody sees them: {log}");
    let again = Serve::start(&data, &[]);
    assert_eq!((again.started["admin_token_file"].as_str(), again.started["join_file"].as_str()), (None, None));
    assert_eq!(again.stop(), 0);
    let anew = Serve::start(&data, &["--new-admin-token"]);
    anew.admin().get("/api/v1/tokens").expect(200);
}

/// Ends a server that was started without `--json`.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first line of `output` that has `before` in it, from there on.
fn line_after(output: &mut impl BufRead, before: &str) -> String {
    let lines = output.lines().map_while(Result::ok);
    let found = lines.filter_map(|line| Some(line.split_once(before)?.1.trim().to_owned())).next();
    found.unwrap_or_else(|| panic!("no line with {before:?}"))
}

/// An old release printed a line that no command accepted: whoever copied it could not join.
#[test]
fn printed_line_is_the_command_that_joins_at_the_start_by_the_client_and_by_the_api() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    // Secrets are shown at a terminal and nowhere else.
    let typed = format!("mover serve --data {} --listen {listen}", data.display());
    let mut serve = Mover::shell("exec script -qefc \"$TYPED\" /dev/null");
    let mut serve = Killed(serve.env("TYPED", typed).stdout(Stdio::piped()).spawn().expect("start the server"));
    let mut output = BufReader::new(serve.0.stdout.take().expect("its output"));
    let token = line_after(&mut output, "admin token, shown this once: ");
    let at_start = line_after(&mut output, "an agent joins within the hour with: ");
    let (url, authority) = (format!("https://{listen}"), data.join("authority.pem"));
    let mut asked = Mover::command(&["agent", "enrol-token"]);
    let token_file = scratch.path().join("token");
    std::fs::write(&token_file, &token).expect("write the token");
    asked.env("MOVER_SERVER", &url).env("MOVER_TOKEN_FILE", &token_file).env("MOVER_CA", &authority);
    let by_client = mover::finish(asked, None).expect(exit::DONE).text();
    let by_client = line_after(&mut by_client.as_bytes(), "the host joins with: ");
    let admin = Client::new(&url, &std::fs::read(authority).expect("the authority"), None, &token);
    let by_api = admin.post("/api/v1/enrolments", &json!({})).expect(201).field("command");
    for (number, line) in [at_start, by_client, by_api].iter().enumerate() {
        let mut shell = Mover::shell(&format!("{line} --name host-{number}"));
        shell.env("HOME", scratch.path()).env("STATE_DIRECTORY", scratch.path().join(format!("agent-{number}")));
        mover::finish(shell, None).expect(exit::DONE);
    }
    let agents = admin.get("/api/v1/agents").expect(200);
    assert_eq!(agents.body["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn stop_ends_polls_and_streams_that_wait() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let agent = serve.agent("one");
    let waiting = std::thread::spawn(move || agent.client.post("/agent/v1/poll", &poll_request(1, 60)).status);
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

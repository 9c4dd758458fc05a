//! The commands that are clients of the API: what they print, and what they say when something is wrong.

use mover_tests::{Mover, Run, exit, mover};
use serde_json::json;

use crate::site::{Site, backup_of, tree};

fn typed(site: &Site, arguments: &[&str]) -> Run {
    let mut command = Mover::command(arguments);
    command.env("MOVER_SERVER", site.url()).env("MOVER_TOKEN_FILE", site.token_file());
    command.env("MOVER_CA", site.authority());
    mover::finish(command, None)
}

#[test]
fn jobs_are_submitted_waited_for_listed_and_told_from_the_command_line() {
    let site = Site::new();
    let agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 2, 1000);
    let file = site.repo.scratch().join("job.json");
    std::fs::write(&file, backup_of(&source, "files").to_string()).expect("write");
    let run = typed(&site, &["job", "submit", file.to_str().expect("a path"), "--json"]).expect(exit::DONE);
    let job = run.summary().value()["id"].as_str().expect("an id").to_owned();
    let waited = typed(&site, &["job", "wait", &job]).expect(exit::DONE).text();
    assert!(waited.contains("completed") && waited.contains("recovery point"), "{waited}");
    let listed = typed(&site, &["job", "list", "--set", "files"]).expect(exit::DONE).text();
    assert!(listed.lines().count() == 2 && listed.contains(&job), "{listed}");
    let logs = typed(&site, &["job", "logs", &job]).expect(exit::DONE).text();
    assert!(logs.contains("grant") && logs.contains("queued"), "{logs}");
    typed(&site, &["job", "cancel", &job]).expect_error(exit::FAILED, "completed");
    typed(&site, &["job", "show", "nothing"]).expect_error(exit::FAILED, "nothing");
    let points = typed(&site, &["point", "list"]).expect(exit::DONE).text();
    assert!(points.contains("files"), "{points}");
    let path = source.to_str().expect("a path");
    let browsed = typed(&site, &["point", "browse", "--repository", "main", "latest", path]).expect(exit::DONE).text();
    assert!(browsed.contains("file-0") && browsed.contains("file-1"), "{browsed}");
    let target = site.repo.scratch().join("target");
    let restore = ["point", "restore", "latest", "--repository", "main", "--set", "files", "--agent", "one", "--json"];
    let restore: Vec<&str> = restore.into_iter().chain(["--target", target.to_str().expect("a path")]).collect();
    let run = typed(&site, &restore).expect(exit::DONE);
    let job = run.summary().value()["id"].as_str().expect("an id").to_owned();
    typed(&site, &["job", "wait", &job]).expect(exit::DONE);
    assert!(mover::landed(&target, &source).join("file-1").exists());
    let agents = typed(&site, &["agent", "list"]).expect(exit::DONE).text();
    assert!(agents.contains("connected") && agents.contains(&agent.id), "{agents}");
    typed(&site, &["agent", "drain", "one"]).expect(exit::DONE);
    assert!(typed(&site, &["agent", "show", "one"]).expect(exit::DONE).text().contains("draining"));
    typed(&site, &["agent", "undrain", &agent.id]).expect(exit::DONE);
    typed(&site, &["agent", "show", "nobody"]).expect_error(exit::FAILED, "no agent nobody");
}

#[test]
fn policies_and_tokens_are_made_changed_and_ended_from_the_command_line() {
    let site = Site::new();
    let file = site.repo.scratch().join("policy.json");
    let policy = |window: serde_json::Value| {
        json!({
            "name": "nightly",
            "what": {
                "workload": "database", "source": "db", "repository": "main",
                "place": { "pool": { "pool": "main", "reach": null, "preferred": null } },
                "filesets": [{ "name": "all", "paths": ["/srv"] }],
            },
            "when": { "zone": "Europe/Berlin", "schedules": [{ "at": ["02:00"] }], "windows": window },
        })
    };
    let path = file.to_str().expect("a path");
    std::fs::write(&file, policy(json!([])).to_string()).expect("write");
    typed(&site, &["policy", "validate", path]).expect(exit::DONE);
    typed(&site, &["policy", "create", path]).expect(exit::DONE);
    typed(&site, &["policy", "create", path]).expect_error(exit::FAILED, "nightly");
    assert!(typed(&site, &["policy", "list"]).expect(exit::DONE).text().contains("nightly"));
    assert!(typed(&site, &["policy", "show", "nightly"]).expect(exit::DONE).text().contains("02:00"));
    assert_eq!(typed(&site, &["policy", "next", "nightly"]).expect(exit::DONE).text().lines().count(), 11);
    typed(&site, &["policy", "update", "nightly", path, "--version", "77"]).expect_error(exit::FAILED, "version");
    typed(&site, &["policy", "update", "nightly", path]).expect(exit::DONE);
    typed(&site, &["policy", "disable", "nightly"]).expect(exit::DONE);
    assert!(typed(&site, &["policy", "enable", "nightly"]).expect(exit::DONE).text().contains("yes"));
    let run = typed(&site, &["policy", "run", "nightly", "--full", "--json"]).expect(exit::DONE);
    assert_eq!(run.summary().value()["order"]["full"], true);
    std::fs::write(&file, policy(json!([{ "begin": "03:00", "end": "03:00" }])).to_string()).expect("write");
    assert!(!typed(&site, &["policy", "validate", path]).expect(exit::FAILED).stderr.is_empty());
    typed(&site, &["policy", "delete", "nightly"]).expect(exit::DONE);
    typed(&site, &["policy", "show", "nightly"]).expect_error(exit::FAILED, "nightly");
    let made = typed(&site, &["token", "create", "auditor", "--for", "1d", "--json"]).expect(exit::DONE);
    let (secret, id) = (made.summary().value()["secret"].clone(), made.summary().value()["id"].clone());
    let token = site.repo.scratch().join("auditor");
    std::fs::write(&token, secret.as_str().expect("a secret")).expect("write");
    let token = token.to_str().expect("a path");
    typed(&site, &["job", "list", "--token-file", token]).expect(exit::DONE);
    let forbidden = typed(&site, &["token", "list", "--token-file", token]).expect(exit::FAILED);
    assert!(forbidden.stderr.contains("ask an administrator"), "{forbidden}");
    typed(&site, &["token", "revoke", id.as_str().expect("an id")]).expect(exit::DONE);
    assert!(typed(&site, &["job", "list", "--token-file", token]).expect(exit::FAILED).stderr.contains("token"));
    assert!(typed(&site, &["token", "list"]).expect(exit::DONE).text().contains("auditor"));
    let nobody = mover::finish(Mover::command(&["job", "list", "--server", "https://127.0.0.1:1"]), None);
    nobody.expect_error(exit::USAGE, "--token-file");
}

//! The API is what its document says: each route of it answers, and a fuzzer that reads it finds nothing.

use std::process::Command;

use mover_tests::control::Serve;
use mover_tests::skip_test;
use serde_json::Value;

#[test]
fn every_route_of_the_document_is_there_and_none_answers_strangers() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let document = serve.client("").get("/api/v1/openapi.json").expect(200).body;
    let admin = serve.admin();
    let mut count = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            count += 1;
            let concrete = path.replace("{id}", "nothing");
            if path.ends_with("/events") && !path.contains("jobs") {
                continue;
            }
            let headers = [("content-type", "application/json")];
            let answer = admin.send(&method.to_uppercase(), &concrete, &headers, b"{}".to_vec());
            assert!(![401, 403, 405, 500].contains(&answer.status), "{method} {path}: {}", answer.text);
            let is_named = operation["responses"][answer.status.to_string()].is_object();
            let is_problem = answer.body["type"].as_str().is_some_and(|kind| kind.starts_with("urn:mover:problem:"));
            assert!(is_named || is_problem, "{method} {path} answers {}: {}", answer.status, answer.text);
        }
    }
    assert!(count > 35, "{count} operations");
}

/// schemathesis reads the document and sends what it allows and what it does not.
#[test]
fn fuzzer_that_reads_the_document_finds_nothing() {
    let Some(program) = std::env::var_os("MOVER_TEST_SCHEMATHESIS").filter(|path| std::path::Path::new(path).is_file())
    else {
        skip_test!("needs schemathesis: MOVER_TEST_SCHEMATHESIS names no file");
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &["--plain-http", "--agent-listen", "127.0.0.1:0"]);
    let document = format!("{}/api/v1/openapi.json", serve.url());
    let output = Command::new(program)
        .arg("run")
        .arg(document)
        .args(["--header", &format!("Authorization: Bearer {}", serve.admin_token)])
        .args(["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--seed", "6"])
        // One thread: with more, the parser of Python 3.11 itself fails now and then.
        .args(["--workers", "1"])
        // Below what one token may ask, so that no answer is only "too many requests".
        .args(["--rate-limit", "95/s"])
        // What a policy means, not only its form, decides whether it is taken: a schema cannot say that.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--exclude-path", "/api/v1/events", "--exclude-path-regex", "/session$|/repository/"])
        .args(["--generation-database", "none", "--no-color"])
        .current_dir(scratch.path())
        .output()
        .expect("schemathesis");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let alive: Value = serve.admin().get("/readyz").expect(200).body;
    assert_eq!(alive["ready"], true);
}

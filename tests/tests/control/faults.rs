//! What survives: a kill of the server, an absence of its database, the loss of one of two servers.

use std::process::{Command, Stdio};

use mover_tests::control::agent::{backup, poll_request};
use mover_tests::control::{Postgres, Serve};
use mover_tests::{needs, skip_test};
use serde_json::json;

#[test]
fn killed_server_loses_no_job_and_its_agents_go_on() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let port = mover_tests::control::serve::free_port();
    let listen = format!("127.0.0.1:{port}");
    let serve = Serve::start(&data, &["--listen", &listen]);
    let (token, agent) = (serve.admin_token.clone(), serve.agent("one"));
    for set in ["a", "b", "c"] {
        serve.admin().post("/api/v1/jobs", &backup(set)).expect(201);
    }
    let lease = agent.poll(20).remove(0);
    serve.kill();
    let away = json!({ "jobs": [[{ "job": lease["job"]["id"], "fence": lease["fence"] }, null]] });
    let headers = [("content-type", "application/json")];
    let lost = agent.client.try_send("POST", "/agent/v1/beat", &headers, away.to_string().into_bytes());
    assert!(lost.is_err(), "nobody is there");
    let serve = Serve::start(&data, &["--listen", &listen]);
    assert_eq!(serve.admin_token, "", "the admin token is shown once");
    let admin = serve.client(&token);
    assert_eq!(agent.client.post("/agent/v1/beat", &away).expect(200).body["advice"], json!(["continue"]));
    agent.finish(&lease, json!("completed"), Some("point")).expect(200);
    let mut done = 1;
    while done < 3 {
        for lease in agent.poll(20) {
            agent.finish(&lease, json!("completed"), Some("point")).expect(200);
            done += 1;
        }
    }
    let completed = admin.get("/api/v1/jobs?state=completed").expect(200);
    assert_eq!(completed.body["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(serve.stop(), 0);
}

#[test]
fn locked_database_is_a_problem_that_passes() {
    needs!("python3");
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let serve = Serve::start(&data, &[]);
    let admin = serve.admin();
    let program = "import sqlite3, sys\n\
        database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        database.execute('PRAGMA busy_timeout = 30000')\n\
        database.execute('BEGIN IMMEDIATE')\n\
        print('locked', flush=True)\n\
        sys.stdin.read()\n";
    let mut holder = Command::new("python3")
        .args(["-c", program])
        .arg(data.join("control.sqlite"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = String::new();
    let mut output = std::io::BufReader::new(holder.stdout.take().expect("its output"));
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    assert_eq!(line.trim(), "locked");
    admin.get("/readyz").expect(200);
    let refused = admin.post("/api/v1/jobs", &backup("a")).expect_problem(503, "database-away");
    assert!(!refused.header("retry-after").is_empty());
    drop(holder.stdin.take());
    holder.wait().expect("its end");
    admin.post("/api/v1/jobs", &backup("a")).expect(201);
    let jobs = admin.get("/api/v1/jobs").expect(200);
    assert_eq!(jobs.body["items"].as_array().map(Vec::len), Some(1), "what was refused left nothing");
}

#[test]
fn postgres_that_is_away_is_a_problem_that_passes() {
    if let Some(reason) = Postgres::missing() {
        skip_test!(reason);
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let postgres = Postgres::start();
    let serve = Serve::start(&scratch.path().join("data"), &["--database", &postgres.url()]);
    let (admin, agent) = (serve.admin(), serve.agent("one"));
    admin.post("/api/v1/jobs", &backup("a")).expect(201);
    let lease = agent.poll(20).remove(0);
    postgres.interrupt();
    let away = admin.get("/readyz");
    assert_eq!(away.status, 503, "{}", away.text);
    admin.get("/healthz").expect(200);
    agent.finish(&lease, json!("completed"), Some("p")).expect_problem(503, "database-away");
    postgres.resume();
    agent.finish(&lease, json!("completed"), Some("p")).expect(200);
    admin.get("/readyz").expect(200);
    let point = admin.get("/api/v1/points").expect(200);
    assert_eq!(point.body["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn two_servers_on_one_postgres_share_the_work_and_one_may_go() {
    if let Some(reason) = Postgres::missing() {
        skip_test!(reason);
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let postgres = Postgres::start();
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    let first = Serve::start(&one, &["--database", &postgres.url()]);
    let token = first.admin_token.clone();
    let refused = mover_tests::control::serve::refused(&two, &["--database", &postgres.url()]);
    refused.expect_error(mover_tests::exit::FAILED, "authority.key");
    std::fs::copy(one.join("authority.key"), two.join("authority.key")).expect("a copy of the key");
    let second = Serve::start(&two, &["--database", &postgres.url()]);
    assert_eq!(second.started["authority_sha256"], first.started["authority_sha256"]);
    let agent = first.agent("one");
    let at_second = agent.at(&second);
    let admin = first.client(&token);
    for number in 0..4 {
        admin.post("/api/v1/jobs", &backup(&format!("s{number}"))).expect(201);
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut leases = agent.poll(20);
    let asked = poll_request(4, 20);
    while seen.len() < 4 {
        for lease in leases.drain(..) {
            assert!(seen.insert(lease["job"]["id"].to_string()), "leased twice: {lease}");
            let held = json!({ "job": lease["job"]["id"], "fence": lease["fence"] });
            let end = json!({ "held": held, "ending": "completed", "outcome": { "recovery_point": "p" } });
            at_second.post("/agent/v1/finish", &end).expect(200);
        }
        if seen.len() < 4 {
            let answer = at_second.post("/agent/v1/poll", &asked).expect(200);
            leases = answer.body["leases"].as_array().expect("leases").clone();
        }
    }
    first.kill();
    let survivor = second.client(&token);
    let points = survivor.get("/api/v1/points").expect(200);
    assert_eq!(points.body["items"].as_array().map(Vec::len), Some(4));
    survivor.post("/api/v1/jobs", &backup("later")).expect(201);
    let answer = at_second.post("/agent/v1/poll", &asked).expect(200);
    assert_eq!(answer.body["leases"].as_array().map(Vec::len), Some(1));
    assert_eq!(second.stop(), 0);
}

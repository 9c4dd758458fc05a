//! Who may do what: tokens, roles, sessions of the console, the audit log.

use mover_tests::control::agent::{VERSION, backup, policy};
use mover_tests::control::{Client, Serve};
use serde_json::{Value, json};

#[test]
fn requests_without_a_token_are_refused_and_tell_nothing() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    for token in ["", "mvr_0000", "Bearer"] {
        let answer = serve.client(token).get("/api/v1/jobs").expect_problem(401, "unauthenticated");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
    }
    let nobody = serve.client("");
    nobody.get("/metrics").expect_problem(401, "unauthenticated");
    nobody.post("/api/v1/jobs", &backup("set")).expect_problem(401, "unauthenticated");
    nobody.get("/healthz").expect(200);
    nobody.get("/readyz").expect(200);
    nobody.get("/api/v1/nothing").expect_problem(404, "no-such-path");
    let page = nobody.get("/").expect(200);
    assert!(page.header("content-security-policy").contains("default-src 'none'"), "{:?}", page.headers);
    let jobs = serve.admin().get("/api/v1/jobs").expect(200);
    assert_eq!(jobs.body["items"], json!([]), "nothing was submitted");
}

/// What each role may, as one table: viewer, operator, admin.
#[test]
fn roles_allow_what_the_table_says_and_nothing_else() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let clients: Vec<Client> = ["viewer", "operator", "admin"].map(|role| serve.with_role(role)).into();
    let empty = json!({});
    let table: [(&str, &str, &Value, [bool; 3]); 12] = [
        ("GET", "/api/v1/jobs", &empty, [true, true, true]),
        ("GET", "/api/v1/audit", &empty, [true, true, true]),
        ("GET", "/metrics", &empty, [true, true, true]),
        ("POST", "/api/v1/policies/validate", &policy("a"), [true, true, true]),
        ("POST", "/api/v1/jobs", &backup("a"), [false, true, true]),
        ("POST", "/api/v1/jobs/nothing/cancel", &empty, [false, true, true]),
        ("POST", "/api/v1/agents/nothing/drain", &empty, [false, true, true]),
        ("POST", "/api/v1/agents/nothing/revoke", &empty, [false, false, true]),
        ("POST", "/api/v1/policies", &policy("a"), [false, false, true]),
        ("GET", "/api/v1/tokens", &empty, [false, false, true]),
        ("POST", "/api/v1/tokens", &json!({ "name": "x", "role": "viewer" }), [false, false, true]),
        ("POST", "/api/v1/enrolments", &empty, [false, false, true]),
    ];
    for (method, path, body, allowed) in table {
        for (client, is_allowed) in clients.iter().zip(allowed) {
            let headers = [("content-type", "application/json")];
            let answer = client.send(method, path, &headers, body.to_string().into_bytes());
            assert_eq!(answer.status != 403, is_allowed, "{method} {path}: {}", answer.text);
            assert_ne!(answer.status, 401, "{method} {path}");
        }
    }
    let admin = serve.admin();
    let refused = admin.get("/api/v1/audit?limit=1000").expect(200);
    let acts = refused.body["items"].as_array().expect("acts").clone();
    let by_viewer = |act: &&Value| act["who"] == "viewer" && act["action"] == "job.submit";
    let act = acts.iter().find(by_viewer).expect("what was refused is in the audit log");
    assert!(act["outcome"].as_str().expect("an outcome").contains("needs the role operator"), "{act}");
    assert!(
        acts.iter().any(|act| act["who"] == "operator" && act["action"] == "job.submit" && act["outcome"] == "done")
    );
}

#[test]
fn secrets_are_shown_once_and_a_revoked_token_ends_with_its_sessions() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let serve = Serve::start(&data, &[]);
    let admin = serve.admin();
    let key = [("idempotency-key", "one")];
    let asked = json!({ "name": "me", "role": "operator" });
    let made = admin.post_with("/api/v1/tokens", &key, &asked).expect(201);
    let secret = made.field("secret");
    admin.post_with("/api/v1/tokens", &key, &asked).expect_problem(409, "secret-shown-once");
    let listed = admin.get("/api/v1/tokens").expect(200);
    assert!(!listed.text.contains(&secret[4..]), "a secret is listed");
    let me = serve.client(&secret);
    me.get("/api/v1/session").expect(200);
    let opened = serve.client("").post("/api/v1/session", &json!({ "token": secret })).expect(201);
    let cookie = opened.header("set-cookie").to_owned();
    for part in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{part} is not in {cookie}");
    }
    let value = cookie.split(';').next().expect("a value");
    assert!(!value.contains(&secret), "the cookie is the token");
    let console = serve.client("");
    let with = |more: &[(&str, &str)], method: &str, path: &str, body: &Value| {
        let mut headers = vec![("cookie", value), ("content-type", "application/json")];
        headers.extend(more);
        console.send(method, path, &headers, body.to_string().into_bytes())
    };
    with(&[], "GET", "/api/v1/jobs", &json!({})).expect(200);
    with(&[], "POST", "/api/v1/jobs", &backup("a")).expect_problem(403, "forbidden");
    let cross = [("x-mover-console", "1"), ("sec-fetch-site", "cross-site")];
    with(&cross, "POST", "/api/v1/jobs", &backup("a")).expect_problem(403, "forbidden");
    let own = [("x-mover-console", "1"), ("sec-fetch-site", "same-origin")];
    with(&own, "POST", "/api/v1/jobs", &backup("a")).expect(201);
    admin.post(&format!("/api/v1/tokens/{}/revoke", made.field("id")), &json!({})).expect(204);
    me.get("/api/v1/session").expect_problem(401, "unauthenticated");
    with(&[], "GET", "/api/v1/jobs", &json!({})).expect_problem(401, "unauthenticated");
    drop(serve);
    for entry in std::fs::read_dir(&data).expect("the data") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        let holds = bytes.windows(64).any(|window| window == &secret.as_bytes()[4..68]);
        assert!(!holds, "{} holds the secret of a token", path.display());
    }
}

/// The audit log named whoever failed to log in or to join "anybody".
#[test]
fn audit_log_names_who_failed_to_log_in_or_join_and_keeps_no_secret() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (admin, nobody) = (serve.admin(), serve.client(""));
    let made = admin.post("/api/v1/tokens", &json!({ "name": "eve", "role": "viewer" })).expect(201);
    admin.post(&format!("/api/v1/tokens/{}/revoke", made.field("id")), &json!({})).expect(204);
    let unknown = format!("mvr_{}", "0123456789abcdef".repeat(4));
    for secret in [&made.field("secret"), &unknown, "correct horse"] {
        let refused = nobody.post("/api/v1/session", &json!({ "token": secret }));
        refused.expect_problem(401, "unauthenticated");
    }
    nobody.post("/api/v1/session", &json!({ "token": serve.admin_token })).expect(201);
    let key = rcgen::KeyPair::generate().expect("a key");
    let joined = mover_tests::control::TestAgent::enrol(&serve, "mve_wrong", "id-1", "proxy-9", &key, VERSION);
    joined.expect_problem(403, "forbidden");
    let log = admin.get("/api/v1/audit?limit=1000").expect(200);
    let acts = log.body["items"].as_array().expect("acts").clone();
    let mut told: Vec<_> = acts
        .iter()
        .filter(|act| act["action"] == "session.open" || act["action"] == "agent.enrol")
        .map(|act| (act["who"].as_str().expect("who"), act["outcome"] == "done"))
        .collect();
    told.reverse();
    let expected =
        [("eve", false), ("mvr_01234567…", false), ("what is no token", false), ("admin", true), ("proxy-9", false)];
    assert_eq!(told, expected);
    for secret in [&made.field("secret"), &unknown, "correct horse", &serve.admin_token] {
        assert!(!log.text.contains(&secret[secret.len() / 2..]), "a secret is in the audit log");
    }
}

#[test]
fn guesses_of_tokens_are_slowed_down_with_a_time_to_wait() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    serve.admin().get("/api/v1/jobs").expect(200);
    for guess in ["mvr_guess", &format!("mvr_{}", "0".repeat(serve.admin_token.len() - 4))] {
        let guesser = serve.client(guess);
        let answers: Vec<_> = (0..400).map(|_| guesser.get("/api/v1/jobs")).collect();
        assert!(answers.iter().all(|answer| [401, 429].contains(&answer.status)));
        let refused = answers.iter().find(|answer| answer.status == 429).expect("a guess that was slowed down");
        let wait: u32 = refused.header("retry-after").parse().expect("a time to wait");
        assert!(wait >= 1);
    }
    // Who has proven itself is not held up by who guesses behind the same address.
    serve.admin().get("/api/v1/jobs").expect(200);
}

//! Agents: joining, the life of a job, and every certificate that does not count.

use mover_tests::control::agent::{VERSION, backup, certificate_request, description, enrolment, new_id, poll_request};
use mover_tests::control::{Client, Serve, TestAgent};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use serde_json::json;

#[test]
fn job_goes_from_a_person_to_an_agent_and_its_end_comes_back() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (admin, agent) = (serve.admin(), serve.agent("one"));
    let hello = agent.client.post("/agent/v1/hello", &json!({ "description": description(VERSION) })).expect(200);
    // Some of them within the silence that ends a lease, which servers of these tests begin with.
    assert_eq!(hello.body["heartbeat_seconds"], 2);
    assert!(hello.body["slots"].as_u64() > Some(0));
    assert!(agent.poll(0).is_empty());
    let job = admin.post("/api/v1/jobs", &backup("files")).expect(201).field("id");
    let leases = agent.poll(20);
    assert_eq!((leases.len(), leases[0]["job"]["id"].as_str()), (1, Some(job.as_str())));
    let held = json!({ "job": job, "fence": leases[0]["fence"] });
    let progress = json!({ "fileset": 1, "filesets": 1, "bytes_per_second": 1000, "bottleneck": "uploader" });
    let advance = json!({ "held": held, "state": "running", "progress": progress });
    let advice = agent.client.post("/agent/v1/advance", &advance).expect(200);
    assert_eq!(advice.body, json!("continue"));
    let beat = agent.client.post("/agent/v1/beat", &json!({ "jobs": [[held, progress]] })).expect(200);
    assert_eq!(beat.body["advice"], json!(["continue"]));
    let seen = admin.get("/api/v1/overview").expect(200);
    assert_eq!(seen.body["running"][0]["progress"]["bottleneck"], "uploader", "{}", seen.text);
    assert_eq!(seen.body["bytes_per_second"], 1000);
    agent.client.post("/agent/v1/grant", &json!({ "held": held })).expect(204);
    admin.post(&format!("/api/v1/jobs/{job}/cancel"), &json!({})).expect_problem(409, "conflict");
    let finished = agent.finish(&leases[0], json!("completed"), Some("point-1")).expect(200);
    assert_eq!(finished.body, json!({ "state": "completed", "repeated": false }));
    let again = agent.finish(&leases[0], json!("completed"), Some("point-1")).expect(200);
    assert_eq!(again.body["repeated"], true);
    agent.finish(&leases[0], json!("cancelled"), None).expect_problem(409, "ended");
    let point = &admin.get("/api/v1/points?set=files").expect(200).body["items"][0];
    assert_eq!((point["id"].as_str(), point["job"].as_str()), (Some("point-1"), Some(job.as_str())));
    let history = admin.get(&format!("/api/v1/jobs/{job}/events")).expect(200);
    let states: Vec<_> =
        history.body["items"].as_array().expect("events").iter().map(|event| &event["state"]).collect();
    assert_eq!((states.first(), states.last()), (Some(&&json!("queued")), Some(&&json!("completed"))));
    let figures = admin.get("/metrics").expect(200).text;
    for line in
        ["mover_jobs{state=\"completed\"} 1", "mover_agents_connected{pool=\"main\"} 1", "mover_jobs_finished_total"]
    {
        assert!(figures.contains(line), "{line} is not in\n{figures}");
    }
    let retried = admin.post(&format!("/api/v1/jobs/{job}/retry"), &json!({})).expect(201);
    assert_ne!(retried.field("id"), job);
    admin.post(&format!("/api/v1/jobs/{}/cancel", retried.field("id")), &json!({})).expect(200);
}

#[test]
fn answers_that_were_lost_do_no_harm_to_an_agent_that_joins_or_renews() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (token, id, key) = (enrolment(&serve), new_id("one"), KeyPair::generate().expect("a key"));
    let first = TestAgent::enrol(&serve, &token, &id, "one", &key, VERSION).expect(201);
    let second = TestAgent::enrol(&serve, &token, &id, "one", &key, VERSION).expect(201);
    let authority = std::fs::read(serve.authority_file()).expect("the authority");
    for answer in [first, second] {
        let identity = [answer.field("certificate"), key.serialize_pem()].concat();
        let client = Client::new(&serve.agents_url(), &authority, Some(identity.as_bytes()), "");
        client.post("/agent/v1/poll", &poll_request(0, 0)).expect(200);
        let renewal = json!({ "certificate_request": certificate_request(&key) });
        let renewed = client.post("/agent/v1/renew", &renewal).expect(200);
        let identity = [renewed.field("certificate"), key.serialize_pem()].concat();
        let client = Client::new(&serve.agents_url(), &authority, Some(identity.as_bytes()), "");
        client.post("/agent/v1/beat", &json!({ "jobs": [] })).expect(200);
    }
    let stranger = KeyPair::generate().expect("a key");
    TestAgent::enrol(&serve, &token, &new_id("two"), "two", &stranger, VERSION).expect_problem(403, "forbidden");
    assert_eq!(serve.admin().get("/api/v1/agents").expect(200).body["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn agent_of_another_version_is_refused_in_words() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (token, key) = (enrolment(&serve), KeyPair::generate().expect("a key"));
    let newer = TestAgent::enrol(&serve, &token, &new_id("one"), "one", &key, "9.0.0");
    let newer = newer.expect_problem(403, "agent-version");
    assert!(newer.field("detail").contains("upgrade the control plane first"), "{}", newer.text);
    let agent = serve.agent("two");
    let hello = agent.client.post("/agent/v1/hello", &json!({ "description": description("9.0.0") }));
    hello.expect_problem(403, "agent-version");
    // One that was upgraded and did not say hello, or did not care what came of it.
    for version in ["9.0.0", ""] {
        let asked = json!({ "version": version, "free": 1, "wait_seconds": 0 });
        agent.client.post("/agent/v1/poll", &asked).expect_problem(403, "agent-version");
    }
    assert!(agent.poll(0).is_empty(), "the one that is there goes on");
}

#[test]
fn revoked_agent_gets_nothing_delivers_nothing_and_its_certificate_stays_refused() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (admin, agent) = (serve.admin(), serve.agent("one"));
    admin.post("/api/v1/jobs", &backup("a")).expect(201);
    let lease = agent.poll(20).remove(0);
    let path = format!("/api/v1/agents/{}", agent.id);
    admin.delete(&path).expect_problem(409, "conflict");
    admin.post(&format!("{path}/drain"), &json!({})).expect(200);
    admin.post("/api/v1/jobs", &backup("b")).expect(201);
    assert!(agent.poll(0).is_empty(), "one that drains gets nothing new");
    admin.post(&format!("{path}/revoke"), &json!({})).expect(200);
    agent.finish(&lease, json!("completed"), Some("p")).expect_problem(403, "agent-revoked");
    agent.client.post("/agent/v1/renew", &agent.renewal()).expect_problem(403, "agent-revoked");
    let jobs = admin.get("/api/v1/points").expect(200);
    assert_eq!(jobs.body["items"], json!([]));
}

/// Each certificate that does not count has a problem of its own.
#[test]
fn certificates_that_do_not_count_are_told_apart() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let serve = Serve::start(&data, &[]);
    let authority = std::fs::read(serve.authority_file()).expect("the authority");
    let ask = |identity: Option<&[u8]>| {
        let client = Client::new(&serve.agents_url(), &authority, identity, "");
        client.post("/agent/v1/poll", &poll_request(0, 0))
    };
    ask(None).expect_problem(401, "certificate-missing");
    let foreign = Foreign::new();
    ask(Some(&foreign.sign("somebody", 2099))).expect_problem(401, "certificate-authority");
    // A token does not make up for a certificate, nor a certificate for a token.
    let with_token = Client::new(&serve.agents_url(), &authority, None, &serve.admin_token);
    with_token.post("/agent/v1/beat", &json!({ "jobs": [] })).expect_problem(401, "certificate-missing");
    let agent = serve.agent("one");
    agent.client.get("/api/v1/jobs").expect_problem(401, "unauthenticated");
    let other = serve.agent("two");
    other.client.post("/agent/v1/beat", &json!({ "jobs": [] })).expect(200);
    serve.admin().post(&format!("/api/v1/agents/{}/revoke", other.id), &json!({})).expect(200);
    serve.admin().delete(&format!("/api/v1/agents/{}", other.id)).expect(204);
    other.client.post("/agent/v1/beat", &json!({ "jobs": [] })).expect_problem(401, "certificate-unknown");
}

/// An authority that is not ours.
struct Foreign(Issuer<'static, KeyPair>);

impl Foreign {
    fn new() -> Foreign {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "mover control plane");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Foreign(Issuer::new(params, key))
    }

    fn sign(&self, name: &str, until: i32) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        [certificate.pem(), key.serialize_pem()].concat().into_bytes()
    }
}

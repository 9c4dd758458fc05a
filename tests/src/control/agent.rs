//! An agent made of requests: what a real one says, said by a test.

use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::serve::Serve;

/// The version of the program under test.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An agent that has joined.
pub struct TestAgent {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Speaks with its certificate.
    pub client: Client,
    /// PEM of its certificate and key.
    pub identity: Vec<u8>,
    key: KeyPair,
}

/// What an agent of this version says of itself.
pub fn description(version: &str) -> Value {
    json!({ "version": version, "cores": 4, "memory_bytes": 8u64 << 30, "tags": [], "reaches": [], "instance": "one" })
}

/// An agent of this version asks for so many jobs and waits so long.
pub fn poll_request(free: u32, wait_seconds: u64) -> Value {
    json!({ "version": VERSION, "free": free, "wait_seconds": wait_seconds })
}

/// A request for a certificate, PEM.
pub fn certificate_request(key: &KeyPair) -> String {
    let request = CertificateParams::default().serialize_request(key).expect("a request");
    request.pem().expect("PEM")
}

/// An id that nobody has.
pub fn new_id(name: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    format!("{name}-{nanos:x}")
}

/// An enrolment token.
pub fn enrolment(serve: &Serve) -> String {
    serve.admin().post("/api/v1/enrolments", &json!({ "pool": "main" })).expect(201).field("token")
}

impl TestAgent {
    /// Joins the pool `main`.
    pub fn join(serve: &Serve, name: &str) -> TestAgent {
        let key = KeyPair::generate().expect("a key");
        let id = new_id(name);
        let answer = TestAgent::enrol(serve, &enrolment(serve), &id, name, &key, VERSION).expect(201);
        let identity = [answer.field("certificate"), key.serialize_pem()].concat().into_bytes();
        let authority = std::fs::read(serve.authority_file()).expect("the authority");
        let client = Client::new(&serve.agents_url(), &authority, Some(&identity), "");
        TestAgent { id, name: name.to_owned(), client, identity, key }
    }

    /// Asks to join: what came of it.
    pub fn enrol(serve: &Serve, token: &str, id: &str, name: &str, key: &KeyPair, version: &str) -> Answer {
        let authority = std::fs::read(serve.authority_file()).expect("the authority");
        let client = Client::new(&serve.agents_url(), &authority, None, "");
        client.post(
            "/agent/v1/enrol",
            &json!({
                "token": token, "agent": id, "name": name, "description": description(version),
                "certificate_request": certificate_request(key),
            }),
        )
    }

    /// The same agent at another address of the control plane.
    pub fn at(&self, serve: &Serve) -> Client {
        let authority = std::fs::read(serve.authority_file()).expect("the authority");
        Client::new(&serve.agents_url(), &authority, Some(&self.identity), "")
    }

    /// A request for a new certificate for the key that it has.
    pub fn renewal(&self) -> Value {
        json!({ "certificate_request": certificate_request(&self.key) })
    }

    /// Asks for work and waits so long: the leases.
    #[track_caller]
    pub fn poll(&self, wait_seconds: u64) -> Vec<Value> {
        let answer = self.client.post("/agent/v1/poll", &poll_request(4, wait_seconds)).expect(200);
        answer.body["leases"].as_array().expect("leases").clone()
    }

    /// Says how a leased job ended: the answer.
    pub fn finish(&self, lease: &Value, ending: Value, recovery_point: Option<&str>) -> Answer {
        let held = json!({ "job": lease["job"]["id"], "fence": lease["fence"] });
        let outcome = json!({ "recovery_point": recovery_point });
        self.client.post("/agent/v1/finish", &json!({ "held": held, "ending": ending, "outcome": outcome }))
    }
}

/// A backup that any agent of the pool `main` can do.
pub fn backup(set: &str) -> Value {
    json!({
        "kind": "backup", "workload": "virtual_machine", "set": set, "source": "a hypervisor", "repository": "/srv/backup",
        "place": { "pool": { "pool": "main", "reach": null, "preferred": null } },
        "order": { "filesets": [{ "name": "all", "paths": ["/"] }] },
    })
}

/// A policy that runs on demand.
pub fn policy(name: &str) -> Value {
    json!({
        "name": name,
        "what": {
            "workload": "virtual_machine", "source": "a hypervisor", "repository": "/srv/backup",
            "place": { "pool": { "pool": "main", "reach": null, "preferred": null } },
            "filesets": [{ "name": "all", "paths": ["/"] }],
        },
        "when": { "zone": "Europe/Berlin" },
    })
}

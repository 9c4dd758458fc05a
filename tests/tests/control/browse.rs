//! Questions about repositories: asked by a person, replied to by an agent that serves the repository.

use mover_tests::control::Serve;
use mover_tests::control::agent::{backup, poll_request};
use serde_json::{Value, json};

const BROWSE: &str = "/api/v1/repository/browse?repository=/srv/backup&point=latest&path=/etc&limit=5";

#[test]
fn directory_is_listed_by_an_agent_that_serves_the_repository() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let (viewer, agent) = (serve.with_role("viewer"), serve.agent("one"));
    viewer.get(BROWSE).expect_problem(409, "conflict");
    serve.admin().post("/api/v1/jobs", &backup("a")).expect(201);
    let lease = agent.poll(20).remove(0);
    let entries = json!([{ "path": "/etc/hosts", "size": 100 }]);
    let asked = std::thread::scope(|scope| {
        let answer = scope.spawn(|| viewer.get(BROWSE));
        let question = next_question(&agent);
        assert_eq!(question["ask"], json!({ "list": { "point": "latest", "path": "/etc", "limit": 5 } }));
        let reply = json!({ "id": question["id"], "reply": { "Ok": entries } });
        agent.client.post("/agent/v1/reply", &reply).expect(204);
        answer.join().expect("an answer")
    });
    assert_eq!(asked.expect(200).body["items"], entries);
    let refused = std::thread::scope(|scope| {
        let answer = scope.spawn(|| viewer.get("/api/v1/repository/points?repository=/srv/backup"));
        let question = next_question(&agent);
        let reply = json!({ "id": question["id"], "reply": { "Err": "wrong password or key" } });
        agent.client.post("/agent/v1/reply", &reply).expect(204);
        answer.join().expect("an answer")
    });
    let refused = refused.expect_problem(422, "repository");
    assert_eq!(refused.field("detail"), "wrong password or key");
    // A question that came first has cost the agent no job.
    serve.admin().post("/api/v1/jobs", &backup("b")).expect(201);
    assert_eq!(agent.poll(20).len(), 1);
    agent.finish(&lease, json!("completed"), Some("p")).expect(200);
}

fn next_question(agent: &mover_tests::control::TestAgent) -> Value {
    for _ in 0..10 {
        let answer = agent.client.post("/agent/v1/poll", &poll_request(0, 20)).expect(200);
        if let Some(question) = answer.body["questions"].as_array().and_then(|questions| questions.first()) {
            return question.clone();
        }
    }
    panic!("no question came");
}

#[test]
fn restore_is_a_job_of_the_set_that_it_reads() {
    let scratch = tempfile::tempdir().expect("a directory");
    let serve = Serve::start(&scratch.path().join("data"), &[]);
    let asked = json!({
        "repository": "/srv/backup", "set": "files", "workload": "virtual_machine", "target": "/restored",
        "place": { "pool": { "pool": "main", "reach": null, "preferred": null } }, "paths": ["/etc"], "overwrite": "never",
    });
    let job = serve.with_role("operator").post("/api/v1/points/point-1/restore", &asked).expect(201);
    assert_eq!((job.field("kind"), job.field("set")), ("restore".to_owned(), "files".to_owned()));
    assert_eq!(job.body["order"]["restore"]["point"], "point-1");
    serve.with_role("viewer").post("/api/v1/points/point-1/restore", &asked).expect_problem(403, "forbidden");
}

//! The real agent against the real server: enrolment, backup, restore, and both of them killed at any moment.

use std::time::Duration;

use mover_tests::random::Random;
use mover_tests::{Mover, assert_same_tree, exit, mover};
use rustix::process::Signal;
use serde_json::json;

use crate::site::{AgentProcess, Relay, Site, backup_of, restore_to, tree, until};

/// Rounds of the test that kills both; more at night.
const ROUNDS: u32 = 20;

/// A zombie has nothing open.
fn is_dead(process: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn agent_enrols_backs_up_and_restores_and_no_data_passes_the_server_s002_s004_s006() {
    let site = Site::new();
    let relay = Relay::start(site.url().trim_start_matches("https://"));
    let agent = site.agent_by("one", "", &relay.url);
    let source = tree(&site.repo, "source", 8, 2_000_000);
    std::fs::write(source.join("left.tmp"), "left out").expect("write");
    mover_tests::tree::settle(&source);
    let mut order = backup_of(&source, "files");
    order["order"]["filesets"][0]["exclude"] = json!(["*.tmp"]);
    order["order"]["verify_percent"] = json!(100);
    let job = site.completed(&site.submit(&order));
    assert_eq!(site.points(), [job["recovery_point"].as_str().expect("a point")]);
    assert_eq!(job["outcome"]["excluded"], json!({ "*.tmp": 1 }), "counted by rule");
    assert_eq!((&job["outcome"]["full"], &job["outcome"]["exceptions_total"]), (&json!(true), &json!(0)));
    let bytes = &job["progress"]["bytes"];
    assert_eq!(bytes["read"], 16_000_000, "{job}");
    assert!(bytes["verified"].as_u64() > Some(16_000_000), "{job}");
    let target = site.repo.scratch().join("target");
    let restored = site.completed(&site.submit(&restore_to(&target, "files")));
    assert_eq!(restored["progress"]["bytes"]["restored"], 16_000_000, "{restored}");
    let time = std::fs::metadata(&source).and_then(|meta| meta.modified()).expect("a time");
    std::fs::remove_file(source.join("left.tmp")).expect("remove");
    std::fs::File::open(&source).and_then(|directory| directory.set_modified(time)).expect("set the time");
    assert_same_tree(&source, &mover::landed(&target, &source));
    assert!(relay.bytes() > 1000, "the agent speaks by way of the relay");
    assert!(relay.bytes() < 1_000_000, "{} bytes passed the server for 16 MB of data, twice", relay.bytes());
    // S-013: the second is incremental, whoever starts it.
    let again = site.completed(&site.submit(&backup_of(&source, "files")));
    assert_eq!((&again["outcome"]["full"], &again["progress"]["bytes"]["read"]), (&json!(false), &json!(0)), "{again}");
    assert!(agent.log().contains("works for"), "{}", agent.log());
}

#[test]
fn agent_with_a_wrong_fingerprint_token_or_directory_is_told_in_words() {
    let site = Site::new();
    let state = site.repo.directory("state");
    let enrol = |token: &str, fingerprint: &str| {
        let url = site.url();
        let typed = ["agent", "enrol", "--server", &url, "--token", token, "--ca-fingerprint", fingerprint, "--state"];
        mover::finish(Mover::command(&[&typed[..], &[state.to_str().expect("a path")]].concat()), None)
    };
    let made = site.admin().post("/api/v1/enrolments", &json!({ "pool": "main" })).expect(201);
    enrol(&made.field("token"), &"0".repeat(64)).expect_error(exit::FAILED, "did not enrol");
    enrol(&made.field("token"), "abc").expect_error(exit::USAGE, "no fingerprint");
    enrol("mve_wrong", &made.field("authority_sha256")).expect_error(exit::FAILED, "used already");
    let run = Mover::run(&["agent", "run", "--state", state.to_str().expect("a path")]);
    run.expect_error(exit::USAGE, "no agent yet");
    // Neither has spent the token.
    enrol(&made.field("token"), &made.field("authority_sha256")).expect(exit::DONE);
}

#[test]
fn revoked_agent_gets_no_work_and_writes_nothing_s003() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    site.completed(&site.submit(&backup_of(&source, "a")));
    // A job in mid-transfer, and another one behind it.
    let large = tree(&site.repo, "large", 40, 8_000_000);
    let before = site.repo.objects().len();
    let cut = site.submit(&backup_of(&large, "b"));
    until("data is stored", || site.repo.objects().len() > before + 1);
    let children = agent.children();
    assert_eq!(children.len(), 1, "it is at work");
    site.admin().post(&format!("/api/v1/agents/{}/revoke", agent.id), &json!({})).expect(200);
    let waiting = site.submit(&backup_of(&source, "c"));
    until("the revoked agent ends", || agent.ended().is_some());
    assert_eq!(agent.ended(), Some(exit::REVOKED), "{}", agent.log());
    assert!(agent.log().contains("does not accept this agent any more"), "{}", agent.log());
    assert!(is_dead(children[0]), "what it ran ended with it");
    assert_eq!(site.job(&waiting)["state"], "queued");
    let objects = site.repo.objects();
    assert_eq!(site.points().len(), 1, "the job that was cut off published nothing: {}", site.job(&cut));
    agent.start();
    until("it is refused again", || agent.ended().is_some());
    assert_eq!(agent.ended(), Some(exit::REVOKED));
    assert_eq!(site.repo.objects(), objects, "nothing was written");
}

#[test]
fn server_killed_in_mid_transfer_and_started_again_the_job_completes_s003() {
    let site = Site::new();
    let agent = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 20, 8_000_000);
    let job = site.submit(&backup_of(&source, "files"));
    until("data is stored", || site.repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    site.kill_serve();
    // It goes on without the server, to the point where it would publish; that it must not without the permission.
    until("it waits at the gate", || agent.log().contains("it waits for the permission"));
    assert!(site.points().is_empty() && agent.children().len() == 1);
    site.start_serve();
    let done = site.completed(&job);
    assert_eq!((done["attempt"].as_i64(), done["fence"].as_i64()), (Some(1), Some(1)), "nobody had to begin anew");
    assert_eq!(site.points().len(), 1);
    site.repo.verify_all();
}

#[test]
fn results_are_delivered_after_the_server_was_away_and_the_agent_began_anew() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    let mut order = backup_of(&source, "files");
    // The server dies after the commit and before the result.
    let marker = site.repo.scratch().join("committed");
    let script = format!("touch {0}; while test -e {0}; do sleep 0.05; done", marker.display());
    order["order"]["after"] = json!([{ "arguments": ["sh", "-c", script], "limit_seconds": 600 }]);
    let job = site.submit(&order);
    until("it has committed", || marker.exists());
    site.kill_serve();
    std::fs::remove_file(&marker).expect("remove");
    let spooled = |agent: &AgentProcess| {
        let files = std::fs::read_dir(agent.state.join("results")).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|end| end == "json")).count()
    };
    until("the result is spooled", || spooled(&agent) == 1);
    agent.kill();
    site.start_serve();
    agent.start();
    let done = site.completed(&job);
    assert_eq!(done["fence"], 1, "delivered under the lease that made it");
    assert_eq!(site.points(), [done["recovery_point"].as_str().expect("a point")]);
    until("the spool is empty", || spooled(&agent) == 0);
}

#[test]
fn agent_killed_its_job_goes_on_elsewhere_from_what_is_durable() {
    let site = Site::new();
    let mut first = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 30, 8_000_000);
    let job = site.submit(&backup_of(&source, "files"));
    let stored =
        || site.repo.objects().iter().filter(|(path, _)| path.starts_with("packs")).map(|(_, size)| size).sum::<u64>();
    until("a pack is stored", || stored() > 40_000_000);
    let children = first.children();
    first.kill();
    for child in children {
        until("the child is dead", || is_dead(child));
    }
    let kept = stored();
    let _second = site.agent("two", "");
    let done = site.completed(&job);
    assert_eq!(done["fence"], 2, "leased anew");
    assert_eq!(done["progress"]["bytes_estimated"], 240_000_000, "counted beside the work: {done}");
    let new = done["progress"]["bytes"]["new"].as_u64().expect("a number");
    assert!(new < 240_000_000 - kept / 2, "{new} bytes were stored although {kept} were there");
    assert_eq!(site.points().len(), 1);
    site.repo.verify_all();
}

/// The first agent is not dead, only silent: it comes back when the job is another one's, and must not publish.
#[test]
fn late_commit_of_an_agent_that_lost_its_job_is_refused() {
    let site = Site::new();
    let first = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 30, 8_000_000);
    let job = site.submit(&backup_of(&source, "files"));
    until("data is stored", || site.repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    // The agent first: its child is never without it.
    first.signal(Signal::STOP);
    let children = first.children();
    let child = rustix::process::Pid::from_raw(children[0]).expect("a child");
    rustix::process::kill_process(child, Signal::STOP).expect("stop the child");
    let _second = site.agent("two", "");
    let done = site.completed(&job);
    assert_eq!(done["fence"], 2);
    assert_eq!(first.children(), children, "the child of the first is in the middle of its work");
    rustix::process::kill_process(child, Signal::CONT).expect("go on");
    first.signal(Signal::CONT);
    until("the first has learned it", || first.log().contains("lost: it is somebody else's"));
    assert!(first.log().contains("fence 1 of job"), "by its stale fence: {}", first.log());
    until("it runs nothing", || first.children().is_empty());
    assert_eq!(site.points().len(), 1);
    assert_eq!(site.job(&job)["recovery_point"], done["recovery_point"]);
}

#[test]
fn agent_that_is_stopped_gives_its_job_back_and_one_that_drains_finishes_it() {
    let site = Site::new();
    let mut agent = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 20, 8_000_000);
    let job = site.submit(&backup_of(&source, "files"));
    until("data is stored", || site.repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    agent.signal(Signal::TERM);
    until("it ends", || agent.ended().is_some());
    assert_eq!(agent.ended(), Some(exit::DONE), "{}", agent.log());
    let back = site.job(&job);
    assert_eq!((&back["state"], &back["attempt"]), (&json!("queued"), &json!(0)), "this lease does not count: {back}");
    agent.start();
    site.wait(&job, &["estimating", "running"]);
    site.admin().post(&format!("/api/v1/agents/{}/drain", agent.id), &json!({})).expect(200);
    let waiting = site.submit(&backup_of(&source, "other"));
    site.completed(&job);
    assert_eq!(site.job(&waiting)["state"], "queued");
    site.admin().post(&format!("/api/v1/agents/{}/undrain", agent.id), &json!({})).expect(200);
    site.completed(&waiting);
    assert_eq!(site.points().len(), 2);
}

#[test]
fn job_that_is_cancelled_stops_and_keeps_its_work() {
    let site = Site::new();
    let agent = site.agent("one", "job-cores = 1");
    let source = tree(&site.repo, "source", 40, 8_000_000);
    let job = site.submit(&backup_of(&source, "files"));
    until("data is stored", || site.repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    site.admin().post(&format!("/api/v1/jobs/{job}/cancel"), &json!({})).expect(200);
    let ended = site.wait(&job, &["cancelled", "completed", "failed"]);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert!(site.points().is_empty() && agent.children().is_empty());
    let packs = site.repo.objects().into_iter().filter(|(path, _)| path.starts_with("packs"));
    let kept = packs.map(|(_, size)| size).sum::<u64>();
    let again = site.completed(&site.submit(&backup_of(&source, "files")));
    let new = again["progress"]["bytes"]["new"].as_u64().expect("a number");
    assert!(new < 320_000_000 - kept / 2, "{new} bytes were stored although {kept} were there");
}

#[test]
fn commands_run_before_and_after_with_limits_and_what_fails_is_told() {
    let site = Site::new();
    let _agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    let log = site.repo.scratch().join("hooks");
    let note = format!("echo $MOVER_WHEN $MOVER_STATE >> {}", log.display());
    let command = |arguments: &[&str], limit: u32, required: bool| json!({ "arguments": arguments, "limit_seconds": limit, "required": required });
    let mut order = backup_of(&source, "files");
    order["order"]["attempts"] = json!(1);
    order["order"]["before"] = json!([command(&["sh", "-c", &note], 60, true), command(&["sleep", "600"], 1, false)]);
    order["order"]["after"] = json!([command(&["sh", "-c", &note], 60, true)]);
    let done = site.wait(&site.submit(&order), &["completed_with_errors", "completed", "failed"]);
    assert_eq!(done["state"], "completed_with_errors", "{done}");
    let exceptions = done["outcome"]["exceptions"].to_string();
    assert!(exceptions.contains("command before") && exceptions.contains("killed after 1 s"), "{exceptions}");
    order["order"]["before"] = json!([command(&["false"], 60, true)]);
    let failed = site.wait(&site.submit(&order), &["completed_with_errors", "completed", "failed"]);
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["message"].as_str().expect("why").contains("false"), "{failed}");
    assert_eq!(std::fs::read_to_string(&log).expect("notes"), "before\nafter completed\nafter failed\n");
    assert_eq!(site.points().len(), 1);
}

/// Kills the server, or agents, or all of them at moments that the seed decides, while jobs come in.
#[test]
fn server_and_agents_killed_at_random_moments_lose_no_job_and_commit_none_twice() {
    let seed = std::env::var("MOVER_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let rounds = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 10 * ROUNDS } else { ROUNDS };
    eprintln!("seed {seed}, {rounds} rounds");
    let mut random = Random::new(seed);
    let site = Site::new();
    let mut agents: Vec<AgentProcess> = ["one", "two"].iter().map(|name| site.agent(name, "job-cores = 1")).collect();
    let queue = |number: u32| {
        let source = tree(&site.repo, &format!("source-{number}"), 4, 4_000_000);
        site.submit(&backup_of(&source, &format!("set-{number}")))
    };
    let jobs: Vec<String> = (0..rounds).map(queue).collect();
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(random.below(1500)));
        let victim = random.below(4);
        if victim == 0 || victim == 3 {
            site.kill_serve();
        }
        for (number, agent) in agents.iter_mut().enumerate() {
            if victim == 3 || victim == number as u64 + 1 {
                agent.kill();
                std::thread::sleep(Duration::from_millis(random.below(300)));
                agent.start();
            }
        }
        if victim == 0 || victim == 3 {
            std::thread::sleep(Duration::from_millis(random.below(500)));
            site.start_serve();
        }
    }
    let (mut made, mut begun_anew): (Vec<String>, usize) = (Vec::new(), 0);
    for job in &jobs {
        let done = site.completed(job);
        begun_anew += usize::from(done["fence"].as_i64() > Some(1));
        made.push(done["recovery_point"].as_str().expect("a point").to_owned());
    }
    let mut points = site.points();
    points.sort();
    made.sort();
    assert_eq!(points, made, "one point a job, and no other (seed {seed})");
    assert!(begun_anew >= 3, "{begun_anew} jobs met a kill (seed {seed}): the test is too gentle");
    site.repo.verify_all();
}

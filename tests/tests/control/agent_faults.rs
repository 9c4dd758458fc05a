//! What goes wrong around a real agent: a full disk, an upgrade below it, a server that does not understand it, a kill
//! between two commands, a cancellation in the middle of one.

use mover_tests::control::{Postgres, Serve};
use mover_tests::mounts::Mount;
use mover_tests::tree::MIB;
use mover_tests::{Mover, exit, needs, skip_test};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::site::{Site, backup_of, restore_to, tree, until};

const ENDS: [&str; 5] = ["completed", "completed_with_errors", "failed", "aborted", "cancelled"];

fn command(script: &str, required: bool) -> Value {
    json!([{ "arguments": ["sh", "-c", script], "limit_seconds": 600, "required": required }])
}

/// The result could not be written down and was gone; the next jobs were taken, and swallowed as well.
#[test]
fn agent_with_a_full_disk_delivers_its_result_and_takes_no_job_until_there_is_room() {
    needs!(root, "mount");
    let mount = match Mount::tmpfs(32 * MIB) {
        Ok(mount) => mount,
        Err(reason) => skip_test!(reason),
    };
    let site = Site::new();
    let agent = site.agent_in("one", "", &site.url(), mount.place().to_owned());
    let source = tree(&site.repo, "source", 1, 1000);
    let marker = site.repo.scratch().join("committed");
    let mut order = backup_of(&source, "files");
    order["order"]["after"] =
        command(&format!("touch {0}; while test -e {0}; do sleep 0.05; done", marker.display()), true);
    let job = site.submit(&order);
    until("it has committed", || marker.exists());
    let filler = mount.fill(0);
    std::fs::remove_file(&marker).expect("remove");
    let done = site.completed(&job);
    assert_eq!(site.points(), [done["recovery_point"].as_str().expect("a point")]);
    assert!(agent.log().contains("it is kept in memory"), "{}", agent.log());
    let waiting = site.submit(&backup_of(&source, "other"));
    until("it knows that there is no room", || {
        agent.log().contains("takes none") || agent.log().contains("given back")
    });
    std::fs::remove_file(&filler).expect("make room");
    let done = site.completed(&waiting);
    assert!(done["fence"].as_i64() <= Some(2), "it was not given out again and again: {done}");
    assert_eq!(done["attempt"], 1, "what was given back does not count: {done}");
    assert_eq!(site.points().len(), 2);
}

/// An upgrade replaces the file; `current_exe` names it "(deleted)" from then on, and no job could be started.
#[test]
fn agent_whose_program_was_replaced_goes_on_with_the_one_that_it_is() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    agent.kill();
    let program = site.repo.scratch().join("mover-of-the-agent");
    std::fs::copy(Mover::program(), &program).expect("copy");
    agent.program = Some(program.clone());
    agent.start();
    until("it runs", || {
        std::fs::read_link(format!("/proc/{}/exe", agent.pid().as_raw_nonzero())).is_ok_and(|exe| exe == program)
    });
    std::fs::remove_file(&program).expect("remove");
    std::fs::write(&program, "the next version").expect("write");
    let source = tree(&site.repo, "source", 1, 1000);
    site.completed(&site.submit(&backup_of(&source, "files")));
}

#[test]
fn commands_that_the_host_does_not_allow_are_not_run_and_the_setting_is_named() {
    let site = Site::new();
    let _agent = site.agent("one", "commands = ['/etc/mover/hooks']");
    let source = tree(&site.repo, "source", 1, 1000);
    let marker = site.repo.scratch().join("ran");
    let mut order = backup_of(&source, "files");
    order["order"]["before"] = command(&format!("touch {}", marker.display()), true);
    let failed = site.wait(&site.submit(&order), &ENDS);
    assert_eq!(
        (&failed["state"], &failed["attempt"]),
        (&json!("failed"), &json!(1)),
        "another try does not help: {failed}"
    );
    assert!(failed["message"].as_str().expect("why").contains("`commands` of its agent.toml"), "{failed}");
    order["order"]["before"] = command(&format!("touch {}", marker.display()), false);
    let done = site.wait(&site.submit(&order), &ENDS);
    assert_eq!(done["state"], "completed_with_errors", "{done}");
    assert!(!marker.exists());
}

#[test]
fn command_before_a_job_ends_when_the_job_is_cancelled_or_its_agent_stops() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    let mut order = backup_of(&source, "files");
    order["order"]["before"] = command("sleep 100000", true);
    order["order"]["before"][0]["limit_seconds"] = json!(80_000);
    let job = site.submit(&order);
    until("it runs", || agent.children().len() == 1);
    site.admin().post(&format!("/api/v1/jobs/{job}/cancel"), &json!({})).expect(200);
    assert_eq!(site.wait(&job, &ENDS)["state"], "cancelled");
    let job = site.submit(&order);
    until("it runs", || agent.children().len() == 1);
    agent.signal(Signal::TERM);
    until("it ends", || agent.ended().is_some());
    assert_eq!(agent.ended(), Some(exit::DONE), "{}", agent.log());
    let back = site.job(&job);
    assert_eq!((&back["state"], &back["attempt"]), (&json!("queued"), &json!(0)), "{back}");
}

/// What a job had frozen stayed frozen when its agent was killed.
#[test]
fn commands_after_a_job_are_made_up_for_at_the_next_start_of_an_agent_that_was_killed() {
    let site = Site::new();
    let mut agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    let (marker, log) = (site.repo.scratch().join("marker"), site.repo.scratch().join("hooks"));
    std::fs::write(&marker, "").expect("write");
    let note = format!("echo $MOVER_WHEN $MOVER_STATE >> {}", log.display());
    let mut order = backup_of(&source, "files");
    order["order"]["before"] =
        command(&format!("{note}; while test -e {}; do sleep 0.05; done", marker.display()), true);
    let gate = site.repo.scratch().join("gate");
    std::fs::write(&gate, "").expect("write");
    order["order"]["after"] = command(&format!("{note}; while test -e {}; do sleep 0.05; done", gate.display()), true);
    let job = site.submit(&order);
    let noted = || std::fs::read_to_string(&log).unwrap_or_default();
    until("it is frozen", || noted() == "before\n");
    agent.kill();
    agent.start();
    until("it is thawed", || noted().starts_with("before\nafter given back\n"));
    // The job comes back to this very agent, and waits: nothing is frozen beside a thaw.
    until("it has the job again", || site.job(&job)["fence"] == 2);
    until("it knows", || agent.log().matches("begins").count() == 2);
    assert_eq!(noted(), "before\nafter given back\n");
    std::fs::remove_file(&marker).expect("remove");
    std::fs::remove_file(&gate).expect("remove");
    site.completed(&job);
    assert_eq!(noted(), "before\nafter given back\nbefore\nafter completed\n");
}

/// It failed without its point, although the point was there.
#[test]
fn required_command_that_fails_after_the_commit_leaves_the_recovery_point() {
    let site = Site::new();
    let _agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    let mut order = backup_of(&source, "files");
    order["order"]["after"] = command("exit 7", true);
    let done = site.wait(&site.submit(&order), &ENDS);
    assert_eq!(done["state"], "completed_with_errors", "{done}");
    assert_eq!(site.points(), [done["recovery_point"].as_str().expect("a point")]);
    assert!(done["outcome"]["exceptions"].to_string().contains("exit status: 7"), "{done}");
}

/// The server refused each document with these six characters, for ever, and the agent then deleted the result.
#[test]
fn result_with_words_that_look_like_a_nul_is_delivered() {
    let site = Site::new();
    let _agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    let mut order = backup_of(&source, "files");
    order["order"]["before"] = command(r"printf 'a\\u0000b' >&2; exit 1", false);
    let done = site.wait(&site.submit(&order), &ENDS);
    assert_eq!(done["state"], "completed_with_errors", "{done}");
    let cause = done["outcome"]["exceptions"][0]["cause"].as_str().expect("a cause");
    assert!(cause.ends_with(r"a\u0000b"), "{cause}");
}

/// Two agents of a pool, each with a key of its own that may only add: neither can fence the other's run.
#[test]
fn job_of_a_dead_agent_goes_to_one_with_another_put_only_key() {
    let site = Site::new();
    let key = |name: &str| {
        let file = site.repo.scratch().join(name);
        std::fs::write(&file, format!("password of {name}")).expect("write");
        let path = file.to_str().expect("a path").to_owned();
        site.repo.run("key", &["add", "--put-only", "--new-password-file", &path]).expect(exit::DONE);
        file
    };
    let keys = ["one", "two"].map(key);
    let mut first = site.agent("one", "job-cores = 1");
    first.use_password(&keys[0]);
    let source = tree(&site.repo, "source", 30, 8_000_000);
    let job = site.submit(&backup_of(&source, "files"));
    until("data is stored", || site.repo.objects().iter().any(|(path, _)| path.starts_with("packs")));
    first.kill();
    let mut second = site.agent("two", "");
    second.use_password(&keys[1]);
    let done = site.completed(&job);
    assert!(done["fence"].as_i64() > Some(1), "{done}");
    assert_eq!(site.points(), [done["recovery_point"].as_str().expect("a point")]);
    site.repo.verify_all();
}

/// An agent that is cut off from its server does not begin to write beside the one that has its job now.
#[test]
fn restore_writes_nothing_before_the_server_permits_it() {
    let site = Site::new();
    let agent = site.agent("one", "");
    let source = tree(&site.repo, "source", 1, 1000);
    site.completed(&site.submit(&backup_of(&source, "files")));
    let (marker, target) = (site.repo.scratch().join("marker"), site.repo.scratch().join("target"));
    std::fs::write(&marker, "").expect("write");
    let mut order = restore_to(&target, "files");
    order["order"]["before"] = command(&format!("while test -e {}; do sleep 0.05; done", marker.display()), true);
    let job = site.submit(&order);
    until("it runs", || agent.children().len() == 1);
    site.kill_serve();
    std::fs::remove_file(&marker).expect("remove");
    until("it waits", || agent.log().contains("it waits for the permission"));
    assert!(!target.exists() && agent.children().is_empty());
    site.start_serve();
    site.completed(&job);
    assert!(target.exists());
}

/// Enrolled with one of two servers, an agent once waited for that one for ever, beside the other that ran.
#[test]
fn agent_asks_the_other_server_while_its_own_is_gone_and_goes_on_in_mid_job() {
    if let Some(reason) = Postgres::missing() {
        skip_test!(reason);
    }
    let postgres = Postgres::start();
    let on_postgres = ["--database", &postgres.url()];
    let site = Site::with(&on_postgres);
    let other = site.repo.directory("other");
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    std::fs::copy(site.repo.scratch().join("serve/authority.key"), other.join("authority.key")).expect("the key");
    let second = Serve::start(&other, &on_postgres);
    let agent = site.agent("one", &format!("standby = ['{}']", second.agents_url()));
    let source = tree(&site.repo, "source", 4, 100_000);
    let marker = site.repo.scratch().join("runs");
    let mut order = backup_of(&source, "files");
    let script = format!("touch {0}; while test -e {0}; do sleep 0.05; done", marker.display());
    order["order"]["before"] = command(&script, true);
    let job = site.submit(&order);
    until("it runs", || marker.exists());
    site.kill_serve();
    std::fs::remove_file(&marker).expect("remove");
    let survivor = second.client(site.token());
    let state_of = |job: &str| survivor.get(&format!("/api/v1/jobs/{job}")).expect(200).body;
    until("the job that ran has completed", || state_of(&job)["state"] == "completed");
    assert_eq!(state_of(&job)["attempt"], 1, "nobody took it away: {}", state_of(&job));
    let later = survivor.post("/api/v1/jobs", &backup_of(&source, "files")).expect(201).field("id");
    until("a new one as well", || state_of(&later)["state"] == "completed");
    // And back.
    site.start_serve();
    assert_eq!(second.stop(), 0);
    site.completed(&site.submit(&backup_of(&source, "files")));
    assert_eq!(site.points().len(), 3, "{}", agent.log());
}

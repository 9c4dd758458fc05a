//! Windows that end while nobody is there, and blackouts within one: the table *Agent away*, past its first window.

use crate::agents::{Description, store as registry};
use crate::database::Database;
use crate::ids::{AgentId, PolicyId, UnixMillis};
use crate::job::{Job, JobKind, JobState, NewJob, Origin, Outcome, Place, Workload, store};
use crate::lease::take::take;
use crate::policy::store::{self as policies, StoredPolicy};
use crate::service::scheduler::job_of;
use crate::testing::{NOON, agent, backup, backup_of_host, each_database, submit};

use super::report::{Ending, finish};
use super::tests::{begin_anew, close_windows, held, offer, seconds, take_one};

const HOUR: u64 = 3600;

/// A policy of virtual machines at 22:00, whose `when` goes on with `more`.
async fn nightly(database: &Database, workload: &str, place: &str, more: &str) -> StoredPolicy {
    let document = format!(
        r#"{{"name":"nightly","what":{{"workload":"{workload}","place":{place},"source":"s","repository":"r",
        "filesets":[{{"name":"f","paths":["/"]}}]}},"when":{{"zone":"UTC","schedules":[{{"at":["22:00"]}}],{more}}}}}"#
    );
    let policy = serde_json::from_str(&document).expect("a policy");
    policies::create(database, &PolicyId::from("id"), &policy, NOON).await.expect("stored")
}

/// A run of the policy as its calendar makes it.
async fn run(database: &Database, stored: &StoredPolicy) -> Job {
    let run = stored.policy.next_runs(&stored.id, NOON).next().expect("a run");
    let mut new = job_of(stored, "run".into(), Origin::Scheduled, "schedule");
    new.expires_at = Some(run.ends);
    submit(database, new, run.begins).await
}

async fn now_is(database: &Database, job: &Job, now: UnixMillis) -> Job {
    close_windows(database, now).await.expect("sweep");
    store::get(database, &job.id).await.expect("get")
}

fn at(hours: u64) -> UnixMillis {
    NOON.plus(seconds(hours * HOUR))
}

async fn heard(database: &Database, agent: &AgentId, now: UnixMillis) {
    registry::write_seen(database, &[(agent.clone(), now)]).await.expect("seen");
}

const POOL: &str = r#"{"pool":{"pool":"main","reach":null,"preferred":null}}"#;

#[test]
fn s065_s172_database_and_hyperv_wait_for_their_agent_and_run_when_it_is_up() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let later = at(1);
        let mut jobs = Vec::new();
        for (workload, kind) in [(Workload::SqlServer, JobKind::Backup), (Workload::HyperV, JobKind::Restore)] {
            let new = NewJob { workload, kind, ..backup_of_host(&a, later) };
            let job = submit(&database, new, later).await;
            assert_eq!((job.state, job.expires_at), (JobState::Queued, None), "on demand there is no end");
            jobs.push(job);
        }
        // Two days later, long past the time that others wait.
        for job in &jobs {
            assert_eq!(now_is(&database, job, at(50)).await.state, JobState::Queued);
        }
        begin_anew(&database, &a, "boot", &[], at(50)).await;
        assert_eq!(take(&database, &[offer(&a, 4)], at(50)).await.expect("take").len(), 2);
    });
}

#[test]
fn s024_restore_of_files_is_queued_while_its_agent_is_away() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let restore = NewJob { kind: JobKind::Restore, ..backup_of_host(&a, at(1)) };
        let job = submit(&database, restore, at(1)).await;
        assert_eq!(now_is(&database, &job, at(40)).await.state, JobState::Queued);
        heard(&database, &a, at(40)).await;
        assert_eq!(take_one(&database, &a, at(40)).await.job.id, job.id);
    });
}

#[test]
fn s151_s161_job_for_a_pool_waits_until_an_agent_is_free_however_long_that_is() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        for number in 0..4 {
            submit(&database, backup(&format!("set {number}"), NOON), NOON).await;
        }
        let busy = take(&database, &[offer(&a, 4)], NOON).await.expect("take");
        assert_eq!(busy.len(), 4, "all its slots");
        let kinds = [JobKind::Backup, JobKind::Restore];
        let mut waiting = Vec::new();
        for kind in kinds {
            waiting.push(submit(&database, NewJob { kind, ..backup("waits", NOON) }, NOON).await);
        }
        heard(&database, &a, at(30)).await;
        for job in &waiting {
            assert_eq!(now_is(&database, job, at(30)).await.state, JobState::Queued);
        }
        for lease in &busy[..2] {
            finish(&database, &a, &held(lease), &Ending::Completed, Outcome::default(), at(30)).await.expect("finish");
        }
        let taken = take(&database, &[offer(&a, 4)], at(30)).await.expect("take");
        assert_eq!(taken.len(), 2, "as many as became free: a restore waits for no backup that has begun before it");
    });
}

#[test]
fn s065_scheduled_job_whose_agent_is_away_waits_for_the_next_window_and_the_one_after() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let window = r#""windows":[{"begin":"22:00","end":"02:00"}]"#;
        let stored = nightly(&database, "virtual_machine", POOL, window).await;
        let job = run(&database, &stored).await;
        assert_eq!((job.state, job.expires_at), (JobState::Queued, Some(at(14))));
        for night in 1..=2 {
            let ended = now_is(&database, &job, at(14 + 24 * (night - 1))).await;
            let (begins, ends) = (at(10 + 24 * night), at(14 + 24 * night));
            assert_eq!((ended.state, ended.not_before, ended.expires_at), (JobState::Queued, begins, Some(ends)));
        }
        // It is up again in the middle of the day: not before the window.
        let (day, night) = (at(50), at(10 + 48));
        heard(&database, &a, day).await;
        now_is(&database, &job, day).await;
        assert!(take(&database, &[offer(&a, 1)], day).await.expect("take").is_empty());
        heard(&database, &a, night).await;
        now_is(&database, &job, night).await;
        assert_eq!(take_one(&database, &a, night).await.job.id, job.id);
    });
}

#[test]
fn s012_s130_scheduled_run_of_a_file_server_and_of_oracle_fails_when_its_window_ends() {
    for workload in ["file_server", "oracle_direct"] {
        each_database(async |database| {
            let a = agent(&database, "a", &[], NOON).await;
            let place = format!(r#"{{"host":{{"agent":"{a}"}}}}"#);
            let window = r#""windows":[{"begin":"22:00","end":"02:00"}]"#;
            let stored = nightly(&database, workload, &place, window).await;
            let manual = job_of(&stored, "manual".into(), Origin::OnDemand, "me");
            assert_eq!(submit(&database, manual, at(9)).await.state, JobState::Failed, "at once");
            let job = run(&database, &stored).await;
            assert_eq!(now_is(&database, &job, UnixMillis(at(14).0 - 1)).await.state, JobState::Queued);
            assert_eq!(now_is(&database, &job, at(14)).await.state, JobState::Failed);
        });
    }
}

/// A blackout of an hour in the middle of the night ended the run of the night.
#[test]
fn blackout_within_a_window_does_not_expire_the_queue() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let more = r#""windows":[{"begin":"22:00","end":"04:00"}],"blackouts":[{"begin":"00:00","end":"01:00"}]"#;
        let stored = nightly(&database, "virtual_machine", POOL, more).await;
        let job = run(&database, &stored).await;
        assert_eq!(job.expires_at, Some(at(12)), "the blackout begins");
        for hour in 10..16 {
            heard(&database, &a, at(hour)).await;
            let seen = now_is(&database, &job, at(hour)).await;
            assert_eq!(seen.state, JobState::Queued);
            let is_dark = hour == 12;
            assert_eq!(seen.waits_on.as_deref(), is_dark.then_some("time"), "at {hour}");
        }
        heard(&database, &a, at(16)).await;
        assert_eq!(now_is(&database, &job, at(16)).await.state, JobState::Expired, "the window has ended");
    });
}

/// The same without a window: it may wait for a day in all, and begins after the blackout.
#[test]
fn blackout_without_a_window_does_not_expire_the_queue_before_its_day_is_over() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let stored =
            nightly(&database, "virtual_machine", POOL, r#""blackouts":[{"begin":"23:00","end":"06:00"}]"#).await;
        let job = run(&database, &stored).await;
        heard(&database, &a, at(11)).await;
        let dark = now_is(&database, &job, at(11)).await;
        assert_eq!((dark.not_before, dark.expires_at), (at(18), Some(at(34))));
        heard(&database, &a, at(34)).await;
        assert_eq!(now_is(&database, &job, at(34)).await.state, JobState::Expired);
    });
}

#[test]
fn s011_agent_is_looked_for_before_anything_else_and_the_one_that_runs_gets_the_job() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        assert_eq!(submit(&database, backup_of_host(&a, NOON), NOON).await.state, JobState::Queued, "it runs");
        let away = submit(&database, backup_of_host(&a, at(1)), at(1)).await;
        assert_eq!((away.state, away.attempt), (JobState::Failed, 0), "it does not");
        assert!(away.message.expect("why").contains("no agent that could do it is connected"));
        let nobody = Place::Host { agent: AgentId::from("nobody") };
        let unknown = NewJob { place: nobody, ..backup("set", NOON) };
        let refused = crate::job::admission::submit(&database, unknown, &Default::default(), NOON).await;
        assert!(matches!(refused, Err(crate::ControlError::NotFound { kind: "agent", .. })), "{refused:?}");
    });
}

/// The description that [`registry`] has of an agent is the one of its last hello.
#[test]
fn hello_that_is_said_again_changes_nothing_more() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        submit(&database, backup("set", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        let description =
            Description { instance: "second".to_owned(), ..registry::get(&database, &a).await.expect("a").description };
        let said = crate::protocol::HelloRequest { description, boot: None, held: vec![held(&lease)] };
        for _ in 0..2 {
            let told = super::lapse::greet(&database, &a, &said, NOON).await.expect("hello");
            assert_eq!(told.description, said.description);
        }
        assert_eq!(store::get(&database, &lease.job.id).await.expect("get").state, JobState::Estimating);
        // It forgot the job while its answer was lost: the same process loses nothing.
        let forgot = crate::protocol::HelloRequest { held: Vec::new(), ..said };
        super::lapse::greet(&database, &a, &forgot, NOON).await.expect("hello");
        assert_eq!(store::get(&database, &lease.job.id).await.expect("get").state, JobState::Estimating);
    });
}

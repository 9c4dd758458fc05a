//! Whom nobody heard, and why: a server that was away, agents that are drained, hosts that are gone for good.

use std::time::Duration;

use actix::Actor;

use crate::agents::{CONNECTED, hearing, store as registry};
use crate::clock::ManualClock;
use crate::database::Database;
use crate::ids::{AgentId, PolicyId, UnixMillis};
use crate::job::{Job, JobKind, JobState, NewJob, Place, store};
use crate::lease::lapse;
use crate::lease::take::{Offer, take};
use crate::placement::away::AwayTable;
use crate::policy::{Policy, Retention, store as policies};
use crate::testing::{NOON, agent, backup, backup_of_host, each_database, submit};

use super::{Context, Queue, Scheduler, retention, scheduler};

const MINUTE: Duration = Duration::from_secs(60);

/// A policy of a NAS that runs each minute by any of the pool that reaches it: its runs are left out while nobody is there.
async fn each_minute(database: &Database, change: impl FnOnce(&mut Policy)) {
    let document = r#"{"name":"n","what":{"workload":"nas","place":{"pool":{"pool":"main","reach":"filer",
        "preferred":null}},"source":"filer","repository":"r","filesets":[{"name":"f","paths":["/vol"]}]},
        "when":{"zone":"UTC","schedules":[{"every_minutes":1}]}}"#;
    let mut policy: Policy = serde_json::from_str(document).expect("a policy");
    change(&mut policy);
    policies::create(database, &PolicyId::from("id"), &policy, NOON).await.expect("stored");
}

async fn jobs(database: &Database) -> Vec<Job> {
    store::list(database, &store::JobFilter::default(), 100).await.expect("list")
}

async fn take_one(database: &Database, agent: &AgentId, now: UnixMillis) -> Option<Job> {
    let offer = Offer { agent: agent.clone(), free: 1, resident: Vec::new() };
    take(database, &[offer], now).await.expect("take").pop().map(|lease| lease.job)
}

/// A server that was away for longer than an agent may be silent left out the first run of each NAS: it took all agents
/// for silent, though nobody had listened.
#[test]
fn runs_missed_while_no_server_ran_begin_though_nobody_was_heard() {
    for (was_there, state) in [(true, JobState::Queued), (false, JobState::Skipped)] {
        each_database(async |database| {
            let a = agent(&database, "a", &["filer"], NOON).await;
            each_minute(&database, |_| {}).await;
            let heard = if was_there { vec![(a, NOON.plus(MINUTE * 5))] } else { Vec::new() };
            hearing::listen(&database, &heard, NOON.plus(MINUTE * 5)).await.expect("listen");
            let clock = ManualClock::at(NOON.plus(MINUTE * 15));
            let context = Context::new(database.clone(), clock);
            let queue = Queue::new(context.clone()).start();
            let scheduler = Scheduler::new(context, queue).start();
            let mut made = jobs(&database).await;
            while made.is_empty() {
                assert!(scheduler.connected());
                tokio::time::sleep(Duration::from_millis(20)).await;
                made = jobs(&database).await;
            }
            assert_eq!(made[0].state, state, "{:?}", made[0].message);
        });
    }
}

#[test]
fn an_agent_that_is_drained_is_not_called_away() {
    each_database(async |database| {
        let a = agent(&database, "a", &["filer"], NOON).await;
        registry::drain(&database, &a, true).await.expect("drain");
        each_minute(&database, |_| {}).await;
        let by_hand = submit(&database, backup_of_host(&a, NOON), NOON).await;
        assert_eq!(by_hand.state, JobState::Failed);
        assert!(by_hand.message.expect("why").contains("drained"));
        let context = Context::new(database.clone(), ManualClock::at(NOON.plus(MINUTE)));
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
        let left_out = jobs(&database).await.into_iter().find(|job| job.state == JobState::Skipped).expect("a run");
        assert!(left_out.message.expect("why").contains("drained"));
    });
}

/// A restore whose host was scrapped half-way kept every backup of its set from running, for ever and without a word.
#[test]
fn s058_backup_waits_for_no_restore_whose_host_is_gone() {
    each_database(async |database| {
        let (a, b) = (agent(&database, "a", &[], NOON).await, agent(&database, "b", &[], NOON).await);
        let place = Place::Host { agent: b.clone() };
        let restore = NewJob { kind: JobKind::Restore, place, wait: true, ..backup("one", NOON) };
        let restore = submit(&database, restore, NOON).await;
        assert_eq!(take_one(&database, &b, NOON).await.expect("the restore").id, restore.id);
        let mut description = registry::get(&database, &b).await.expect("b").description;
        description.instance = "begun anew".to_owned();
        let said = crate::protocol::HelloRequest { description, boot: None, held: Vec::new() };
        lapse::greet(&database, &b, &said, NOON).await.expect("began anew");

        let waits = NewJob { expires_at: Some(NOON.plus(MINUTE)), ..backup("one", NOON) };
        let waits = submit(&database, waits, NOON).await;
        assert!(take_one(&database, &a, NOON).await.is_none(), "its host is there, and goes on with it");
        lapse::sweep_queue(&database, &AwayTable::default(), NOON.plus(MINUTE)).await.expect("sweep");
        let expired = store::get(&database, &waits.id).await.expect("get");
        assert_eq!(expired.state, JobState::Expired);
        let why = expired.message.expect("why");
        assert!(why.contains("restore") && why.contains(restore.id.as_str()), "{why}");

        let later = NOON.plus(CONNECTED * 2);
        let backup = submit(&database, backup("one", later), later).await;
        registry::write_seen(&database, &[(a.clone(), later)]).await.expect("seen");
        assert_eq!(take_one(&database, &a, later).await.expect("a job").id, backup.id);

        registry::revoke(&database, &b).await.expect("revoke");
        registry::remove(&database, &b, later).await.expect("remove");
        let ended = store::get(&database, &restore.id).await.expect("get");
        assert_eq!(ended.state, JobState::Failed);
        assert!(ended.message.expect("why").contains("removed"));
    });
}

/// Retention began at the hour in which its policy was made, with all the bandwidth there is, and one more each day while
/// its host was away.
#[test]
fn retention_keeps_to_windows_and_bandwidth_of_its_policy_and_does_not_pile_up() {
    each_database(async |database| {
        let window = |policy: &mut Policy| {
            policy.keep = Some(Retention { daily: 7, prune: true, ..Retention::default() });
            policy.how.bandwidth = Some("1MiB/s".to_owned());
            policy.how.attempts = 5;
            policy.when.windows = serde_json::from_str(r#"[{"begin":"22:00","end":"23:00"}]"#).expect("a window");
        };
        each_minute(&database, window).await;
        let sql = "UPDATE policies SET last_success = $1";
        database.change(async |tx| tx.execute(sql, crate::arguments![NOON]).await).await.expect("a success");
        let clock = ManualClock::at(NOON);
        let context = Context::new(database.clone(), clock.clone());
        let mut made = 0;
        for _ in 0..4 {
            made += retention::plan_due(&context).await.expect("plan");
            clock.advance(MINUTE * 60 * 25);
        }
        assert_eq!(made, 1, "the first waits still");
        let job = jobs(&database).await.remove(0);
        let ten = NOON.plus(MINUTE * 60 * 10);
        assert_eq!((job.kind, job.not_before, job.expires_at), (JobKind::Retention, ten, Some(ten.plus(MINUTE * 60))));
        assert_eq!((job.order.bandwidth.as_deref(), job.order.attempts), (Some("1MiB/s"), 5));
    });
}

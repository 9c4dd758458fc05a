//! Rules of workloads (S-…) that a job obeys before any agent has it: tests on both databases.

use std::time::Duration;

use crate::clock::ManualClock;
use crate::database::Database;
use crate::ids::{AgentId, PolicyId};
use crate::job::{Job, JobKind, NewJob, Origin, Outcome, Place};
use crate::lease::report::{Ending, Held, finish};
use crate::lease::take::{Offer, take};
use crate::policy::store::{self as policies, StoredPolicy};
use crate::testing::{NOON, agent, backup_of_host, each_database, submit};

use super::{Context, scheduler};

const HOUR: Duration = Duration::from_secs(3600);

/// A policy of this workload that runs each hour at this place, with a bandwidth limit.
async fn hourly(database: &Database, workload: &str, place: &str) -> StoredPolicy {
    let document = format!(
        r#"{{"name":"hourly","what":{{"workload":"{workload}","place":{place},"source":"s","repository":"r",
        "filesets":[{{"name":"f","paths":["/vol"]}}]}},"when":{{"zone":"UTC","schedules":[{{"every_minutes":60}}]}},
        "how":{{"bandwidth":"1MiB/s"}}}}"#
    );
    let policy = serde_json::from_str(&document).expect("a policy");
    policies::create(database, &PolicyId::from("id"), &policy, NOON).await.expect("stored")
}

/// The one job that this agent is given.
async fn given(database: &Database, agent: &AgentId, context: &Context) -> Job {
    let (now, offer) = (context.clock.now(), Offer { agent: agent.clone(), free: 1, resident: Vec::new() });
    crate::agents::store::write_seen(database, &[(agent.clone(), now)]).await.expect("seen");
    let lease = take(database, &[offer], now).await.expect("take").pop().expect("a job");
    let held = Held { job: lease.job.id.clone(), fence: lease.fence };
    finish(database, agent, &held, &Ending::Completed, Outcome::default(), now).await.expect("finish");
    lease.job
}

const POOL: &str = r#"{"pool":{"pool":"main","reach":null,"preferred":null}}"#;
const HOST: &str = r#"{"host":{"agent":"a"}}"#;

#[test]
fn s001_s150_s170_backups_begin_by_schedule_and_on_demand_and_go_to_pool_or_agent() {
    for (workload, place, lane) in [("virtual_machine", POOL, "pool:main"), ("hyper_v", HOST, "host:a")] {
        each_database(async |database| {
            let a = agent(&database, "a", &[], NOON).await;
            let stored = hourly(&database, workload, place).await;
            let clock = ManualClock::at(NOON.plus(HOUR - Duration::from_secs(1)));
            let context = Context::new(database.clone(), clock.clone());
            assert_eq!(scheduler::run_due(&context).await.expect("run"), 0, "not before its time");
            clock.advance(Duration::from_secs(1));
            assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
            let scheduled = given(&database, &a, &context).await;
            assert_eq!((scheduled.origin, scheduled.lane.as_str()), (Origin::Scheduled, lane));
            let by_hand = scheduler::job_of(&stored, "by hand".into(), Origin::OnDemand, "me");
            submit(&database, by_hand, context.clock.now()).await;
            let on_demand = given(&database, &a, &context).await;
            assert_eq!((on_demand.origin, on_demand.lane.as_str()), (Origin::OnDemand, lane));
        });
    }
}

/// Full or incremental is what the data path finds: no job but one that says so reads everything again.
#[test]
fn s013_s032_backup_by_hand_is_told_what_the_calendar_tells_and_neither_asks_for_a_full_one() {
    for workload in ["file_server", "nas"] {
        each_database(async |database| {
            let a = agent(&database, "a", &[], NOON).await;
            let stored = hourly(&database, workload, HOST).await;
            let clock = ManualClock::at(NOON.plus(HOUR));
            let context = Context::new(database.clone(), clock.clone());
            crate::agents::store::write_seen(&database, &[(a.clone(), NOON.plus(HOUR))]).await.expect("seen");
            assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
            let first = given(&database, &a, &context).await;
            submit(&database, scheduler::job_of(&stored, "x".into(), Origin::OnDemand, "admin"), NOON.plus(HOUR)).await;
            let second = given(&database, &a, &context).await;
            assert_eq!((first.order.full, &first.set), (false, &second.set));
            assert_eq!(first.order, second.order);
        });
    }
}

/// The rule as it is described (S-079) is a weakness: here a run by hand obeys the limit, and who wants otherwise says so.
#[test]
fn s079_run_by_hand_obeys_the_bandwidth_limit_and_ignores_it_when_told_to() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let stored = hourly(&database, "virtual_machine", POOL).await;
        let context = Context::new(database.clone(), ManualClock::at(NOON));
        for (said, told) in [(None, "1MiB/s"), (Some("unlimited"), "unlimited")] {
            let mut by_hand = scheduler::job_of(&stored, told.into(), Origin::OnDemand, "me");
            by_hand.order.bandwidth = said.map(str::to_owned).or(by_hand.order.bandwidth);
            submit(&database, by_hand, NOON).await;
            assert_eq!(given(&database, &a, &context).await.order.bandwidth.as_deref(), Some(told));
        }
    });
}

#[test]
fn s023_restore_goes_to_the_server_that_was_chosen_and_to_no_other() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let b = agent(&database, "b", &[], NOON).await;
        let context = Context::new(database.clone(), ManualClock::at(NOON));
        submit(&database, backup_of_host(&a, NOON), NOON).await;
        let backup = given(&database, &a, &context).await;
        let place = Place::Host { agent: b.clone() };
        let restore = NewJob { kind: JobKind::Restore, place, set: backup.set, ..backup_of_host(&a, NOON) };
        let restore = submit(&database, restore, NOON).await;
        let offer = Offer { agent: a.clone(), free: 1, resident: Vec::new() };
        assert!(take(&database, &[offer], NOON).await.expect("take").is_empty(), "not where it came from");
        assert_eq!(given(&database, &b, &context).await.id, restore.id);
    });
}

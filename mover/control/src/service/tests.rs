//! Schedules, retention, messages and the waiting queue, on both databases and with two servers on one.

use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::agents::store as registry;
use crate::clock::{BELIEF, ManualClock};
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{PolicyId, UnixMillis};
use crate::job::store::JobFilter;
use crate::job::{Job, JobKind, JobState, NewJob, Outcome, store};
use crate::lease::handover::hand_over;
use crate::lease::report::{Ending, Held, finish};
use crate::lease::take::{Offer, take};
use crate::policy::store::{self as policies, StoredPolicy};
use crate::policy::{CatchUp, Policy, Retention};
use crate::testing::{NOON, agent, backup, each_database, poll, submit};

use super::delivery::{Deliveries, WebhookDelivery};
use super::notification::{Channel, NotifyRule};
use super::queue::{Queue, Wake};
use super::{Context, notifier, retention, scheduler};

const HOUR: Duration = Duration::from_secs(3600);

/// A policy that runs each hour, by the preferred agent `a` of the pool.
async fn hourly(database: &Database, change: impl FnOnce(&mut Policy)) -> StoredPolicy {
    let document = r#"{"name":"hourly","what":{"workload":"nas","place":{"pool":{"pool":"main","reach":"filer",
        "preferred":"a"}},"source":"filer","repository":"r","filesets":[{"name":"f","paths":["/vol"]}]},
        "when":{"zone":"UTC","schedules":[{"every_minutes":60}]}}"#;
    let mut policy: Policy = serde_json::from_str(document).expect("a policy");
    change(&mut policy);
    policies::create(database, &PolicyId::from("id"), &policy, NOON).await.expect("stored")
}

async fn all_jobs(database: &Database) -> Vec<Job> {
    let mut jobs = store::list(database, &JobFilter::default(), 1000).await.expect("list");
    jobs.reverse();
    jobs
}

fn server(database: &Database, clock: &Arc<ManualClock>) -> Context {
    Context::new(database.clone(), clock.clone())
}

async fn heard(database: &Database, name: &str, now: UnixMillis) {
    registry::write_seen(database, &[(name.into(), now)]).await.expect("seen");
}

/// Takes and ends all that agent `a` can take.
async fn work_off(database: &Database, now: UnixMillis) -> usize {
    let leases =
        take(database, &[Offer { agent: "a".into(), free: 4, resident: Vec::new() }], now).await.expect("take");
    for lease in &leases {
        let held = Held { job: lease.job.id.clone(), fence: lease.fence };
        finish(database, &lease.agent, &held, &Ending::Completed, Outcome::default(), now).await.expect("finish");
    }
    leases.len()
}

#[test]
fn schedule_runs_each_time_once_with_two_servers() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        hourly(&database, |_| {}).await;
        let clock = ManualClock::at(NOON);
        let (first, second) = (server(&database, &clock), server(&database, &clock));
        for hour in 1..=3 {
            clock.advance(HOUR);
            heard(&database, "a", NOON.plus(HOUR * hour)).await;
            let (a, b) = tokio::join!(scheduler::run_due(&first), scheduler::run_due(&second));
            assert_eq!(a.expect("first") + b.expect("second"), 1);
            assert_eq!(work_off(&database, NOON.plus(HOUR * hour)).await, 1);
        }
        assert_eq!(all_jobs(&database).await.len(), 3);
        let stored = policies::get(&database, &PolicyId::from("id")).await.expect("get");
        assert_eq!(stored.last_success, Some(NOON.plus(HOUR * 3)));
    });
}

#[test]
fn schedule_is_not_run_again_when_the_clock_is_set_back_nor_all_at_once_when_it_jumps() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        hourly(&database, |_| {}).await;
        let clock = ManualClock::at(NOON.plus(HOUR));
        let context = server(&database, &clock);
        heard(&database, "a", NOON.plus(HOUR)).await;
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
        work_off(&database, NOON.plus(HOUR)).await;
        // Set back by two hours, for good: the hours that come again run nothing.
        clock.set_wall(UnixMillis(NOON.0 - 3_600_000));
        for _ in 0..4 {
            assert_eq!(scheduler::run_due(&context).await.expect("run"), 0);
            clock.advance(BELIEF);
        }
        // A jump of a week that is set right again starts nothing; one that stays is caught up by one run.
        let right = context.clock.now();
        clock.set_wall(right.plus(HOUR * 24 * 7));
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 0);
        clock.set_wall(right);
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 0);
        clock.set_wall(right.plus(HOUR * 24 * 7));
        context.clock.now();
        clock.advance(BELIEF);
        heard(&database, "a", context.clock.now()).await;
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 0);
    });
}

#[test]
fn schedule_missed_by_downtime_is_caught_up_once_or_skipped() {
    for (catch_up, state) in [(CatchUp::Once, JobState::Queued), (CatchUp::Skip, JobState::Skipped)] {
        each_database(async |database| {
            let later = NOON.plus(HOUR * 5 + HOUR / 2);
            agent(&database, "a", &["filer"], later).await;
            hourly(&database, |policy| policy.when.catch_up = catch_up).await;
            let context = server(&database, &ManualClock::at(later));
            assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
            let jobs = all_jobs(&database).await;
            assert_eq!((jobs.len(), jobs[0].state), (1, state));
            let next = policies::get(&database, &PolicyId::from("id")).await.expect("get").next_due;
            assert_eq!(next, Some(NOON.plus(HOUR * 6)));
        });
    }
}

#[test]
fn s031_scheduled_nas_runs_are_skipped_and_after_a_few_another_proxy_takes_them() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        agent(&database, "b", &["filer"], NOON).await;
        hourly(&database, |_| {}).await;
        let clock = ManualClock::at(NOON);
        let context = server(&database, &clock);
        let mut states = Vec::new();
        for hour in 1..=5 {
            clock.advance(HOUR);
            heard(&database, "b", NOON.plus(HOUR * hour)).await;
            scheduler::run_due(&context).await.expect("run");
            let job = all_jobs(&database).await.pop().expect("a job");
            states.push((job.state, job.lane.clone()));
            if job.state == JobState::Queued {
                let offer = Offer { agent: "b".into(), free: 1, resident: Vec::new() };
                let lease = take(&database, &[offer], context.clock.now()).await.expect("take").remove(0);
                let held = Held { job: lease.job.id, fence: lease.fence };
                let done = finish(&database, &lease.agent, &held, &Ending::Completed, Outcome::default(), NOON).await;
                done.expect("finish");
            }
        }
        let lanes: Vec<&str> = states.iter().map(|(_, lane)| lane.as_str()).collect();
        assert_eq!(lanes[3..], ["pool:main/filer"; 2], "another proxy");
        let states: Vec<JobState> = states.iter().map(|(state, _)| *state).collect();
        use JobState::{Queued, Skipped};
        assert_eq!(states, [Skipped, Skipped, Skipped, Queued, Queued]);
        // On demand any connected proxy takes it at once.
        let stored = policies::get(&database, &PolicyId::from("id")).await.expect("get");
        let now = scheduler::job_of(&stored, "now".into(), crate::job::Origin::OnDemand, "me");
        assert_eq!(submit(&database, now, context.clock.now()).await.lane, "pool:main/filer");
        // Its own agent is back: the count begins anew.
        clock.advance(HOUR);
        heard(&database, "a", context.clock.now()).await;
        scheduler::run_due(&context).await.expect("run");
        assert_eq!(policies::get(&database, &PolicyId::from("id")).await.expect("get").skips, 0);
    });
}

#[test]
fn s031_nas_job_whose_proxy_died_goes_to_another() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        agent(&database, "b", &["filer"], NOON).await;
        let stored = hourly(&database, |_| {}).await;
        let new = scheduler::job_of(&stored, "job".into(), crate::job::Origin::Scheduled, "schedule");
        assert_eq!(submit(&database, new, NOON).await.lane, "host:a");
        let offer = |name: &str| Offer { agent: name.into(), free: 1, resident: Vec::new() };
        assert!(take(&database, &[offer("b")], NOON).await.expect("take").is_empty());
        assert_eq!(take(&database, &[offer("a")], NOON).await.expect("take").len(), 1);
        let mut description = registry::get(&database, &"a".into()).await.expect("a").description;
        description.instance = "second".to_owned();
        let said = crate::protocol::HelloRequest { description, boot: None, held: Vec::new() };
        crate::lease::lapse::greet(&database, &"a".into(), &said, NOON).await.expect("began anew");
        assert_eq!(take(&database, &[offer("b")], NOON).await.expect("take").len(), 1);
    });
}

#[test]
fn s031_queued_nas_job_whose_proxy_went_away_goes_to_another_after_a_few_skips() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        agent(&database, "b", &["filer"], NOON).await;
        let stored = hourly(&database, |_| {}).await;
        let clock = ManualClock::at(NOON);
        let context = server(&database, &clock);
        let by_hand = scheduler::job_of(&stored, "hand".into(), crate::job::Origin::OnDemand, "me");
        submit(&database, NewJob { set: "other".to_owned(), ..by_hand }, NOON).await;
        let offer = |name: &str| Offer { agent: name.into(), free: 1, resident: Vec::new() };
        let mut taken = Vec::new();
        for hour in 1..=4 {
            clock.advance(HOUR);
            let now = context.clock.now();
            heard(&database, "b", now).await;
            if hour == 1 {
                heard(&database, "a", now).await;
            }
            scheduler::run_due(&context).await.expect("run");
            // The first run was let in while its proxy lived; it was silent soon after.
            clock.advance(crate::agents::CONNECTED * 2);
            let now = context.clock.now();
            hand_over(&database, &context.away, now).await.expect("nobody else was heard");
            assert!(take(&database, &[offer("b")], now).await.expect("take").is_empty(), "a server that hears nobody");
            heard(&database, "b", now).await;
            hand_over(&database, &context.away, now).await.expect("hand over");
            let leases = take(&database, &[offer("b"), offer("b")], now).await.expect("take");
            for lease in &leases {
                let held = Held { job: lease.job.id.clone(), fence: lease.fence };
                let done = finish(&database, &lease.agent, &held, &Ending::Completed, Outcome::default(), now).await;
                done.expect("finish");
            }
            taken.push(leases.iter().map(|lease| lease.job.origin).collect::<Vec<_>>());
        }
        use crate::job::Origin::{OnDemand, Scheduled};
        assert_eq!(
            taken,
            [vec![OnDemand], vec![], vec![], vec![Scheduled]],
            "by hand at once, the run after three skips"
        );
        let states: Vec<JobState> = all_jobs(&database).await.iter().map(|job| job.state).collect();
        use JobState::{Completed, Skipped};
        assert_eq!(states.iter().filter(|state| **state == Completed).count(), 2);
        assert_eq!(states.iter().filter(|state| **state == Skipped).count(), 3);
    });
}

#[test]
fn run_that_is_due_while_the_one_before_is_open_is_left_out() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        hourly(&database, |_| {}).await;
        let clock = ManualClock::at(NOON);
        let context = server(&database, &clock);
        for hour in 1..=2 {
            clock.advance(HOUR);
            heard(&database, "a", NOON.plus(HOUR * hour)).await;
            scheduler::run_due(&context).await.expect("run");
        }
        let jobs = all_jobs(&database).await;
        assert_eq!(jobs.iter().map(|job| job.state).collect::<Vec<_>>(), [JobState::Queued, JobState::Skipped]);
        assert!(jobs[1].message.as_deref().is_some_and(|why| why.contains("has not ended")));
    });
}

#[test]
fn retention_is_planned_once_a_day_after_a_success() {
    each_database(async |database| {
        agent(&database, "a", &["filer"], NOON).await;
        hourly(&database, |policy| policy.keep = Some(Retention { daily: 7, ..Retention::default() })).await;
        let clock = ManualClock::at(NOON);
        let (first, second) = (server(&database, &clock), server(&database, &clock));
        assert_eq!(retention::plan_due(&first).await.expect("plan"), 0, "nothing was backed up yet");
        let mut planned = 0;
        for hour in 1..=49 {
            clock.advance(HOUR);
            let now = first.clock.now();
            heard(&database, "a", now).await;
            scheduler::run_due(&first).await.expect("run");
            work_off(&database, now).await;
            let (a, b) = tokio::join!(retention::plan_due(&first), retention::plan_due(&second));
            planned += a.expect("first") + b.expect("second");
            work_off(&database, now).await;
            assert!(planned <= hour as usize);
        }
        assert_eq!(planned, 2);
        let jobs = all_jobs(&database).await;
        let made: Vec<&Job> = jobs.iter().filter(|job| job.kind == JobKind::Retention).collect();
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].order.retention.expect("rules").daily, 7);
    });
}

/// Refuses so many times, then accepts.
struct Sluggish(Mutex<(u32, Vec<String>)>);

#[async_trait]
impl WebhookDelivery for Sluggish {
    async fn post(&self, _: &str, body: String) -> Result<()> {
        let mut state = self.0.lock();
        if state.0 > 0 {
            state.0 -= 1;
            return Err(ControlError::Delivery { target: "test".to_owned(), reason: "not now".to_owned() });
        }
        state.1.push(body);
        Ok(())
    }
}

#[test]
fn messages_are_delivered_once_by_two_servers_after_failures_and_no_job_notices() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        let clock = ManualClock::at(NOON);
        let (first, second) = (server(&database, &clock), server(&database, &clock));
        let hook = Arc::new(Sluggish(Mutex::new((2, Vec::new()))));
        let deliveries = Deliveries { webhook: hook.clone(), mail: None };
        let mut new = backup("set", NOON);
        let to = Channel::Webhook { url: "http://x".to_owned(), body: Some("{set} {state}".to_owned()) };
        new.order.notify = vec![NotifyRule { states: vec![JobState::Completed], to }];
        submit(&database, new, NOON).await;
        assert_eq!(notifier::deliver_due(&first, &deliveries).await.expect("deliver"), 0, "queued is not named");
        work_off(&database, NOON).await;
        let mut accepted = 0;
        for _ in 0..10 {
            let (a, b) =
                tokio::join!(notifier::deliver_due(&first, &deliveries), notifier::deliver_due(&second, &deliveries));
            accepted += a.expect("first") + b.expect("second");
            clock.advance(HOUR);
        }
        assert_eq!(accepted, 1);
        assert_eq!(hook.0.lock().1, ["set completed"]);
        assert_eq!(all_jobs(&database).await[0].state, JobState::Completed);
    });
}

#[test]
fn poll_that_waits_is_answered_when_a_job_arrives_and_empty_when_none_does() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let queue = Queue::new(server(&database, &ManualClock::at(NOON))).start();
        let offer = || Offer { agent: a.clone(), free: 1, resident: Vec::new() };
        let empty = poll(&queue, offer(), Duration::from_millis(20)).await.expect("answer");
        assert!(empty.is_empty());
        let waiting = poll(&queue, offer(), Duration::from_secs(50));
        let arriving = async {
            tokio::task::yield_now().await;
            let job = submit(&database, backup("set", NOON), NOON).await;
            queue.send(Wake).await.expect("alive");
            job
        };
        let (leases, job) = tokio::join!(waiting, arriving);
        let leases = leases.expect("answer");
        assert_eq!(leases.iter().map(|lease| &lease.job.id).collect::<Vec<_>>(), [&job.id]);
        // Let in by another server, without a wake: noticed all the same.
        let held = Held { job: leases[0].job.id.clone(), fence: leases[0].fence };
        finish(&database, &a, &held, &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
        let other = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            submit(&database, NewJob { ..backup("two", NOON) }, NOON).await
        };
        let (leases, job) = tokio::join!(poll(&queue, offer(), Duration::from_secs(50)), other);
        assert_eq!(leases.expect("answer")[0].job.id, job.id);
    });
}

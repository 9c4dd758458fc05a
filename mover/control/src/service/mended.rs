//! Clocks that were wrong, shares that were idle, targets that are dead, ends that are counted: on both databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;

use crate::arguments;
use crate::clock::ManualClock;
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, JobId, PolicyId, UnixMillis};
use crate::job::{JobKind, JobState, NewJob, Origin, Outcome, order, requests, store};
use crate::lease::lapse::{Watch, sweep_queue};
use crate::lease::report::{Ending, Held, finish};
use crate::lease::take::{Lease, Offer, take};
use crate::lease::{LEASE, SWEEP};
use crate::policy::store as policies;
use crate::policy::{Policy, Retention};
use crate::testing::{NOON, agent, backup, backup_of_host, each_database, poll, submit};

use super::delivery::{Deliveries, HttpWebhook, WebhookDelivery};
use super::notification::{Channel, NotifyRule};
use super::queue::{Poll, Queue, Silent, Wake};
use super::{Context, notifier, retention, scheduler};

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

async fn hourly(database: &Database, now: UnixMillis) {
    let document = r#"{"name":"hourly","what":{"workload":"virtual_machine","place":{"pool":{"pool":"main","reach":null,
        "preferred":null}},"source":"s","repository":"r","filesets":[{"name":"f","paths":["/vol"]}]},
        "when":{"zone":"UTC","schedules":[{"every_minutes":60}]}}"#;
    let mut policy: Policy = serde_json::from_str(document).expect("a policy");
    policy.keep = Some(Retention { daily: 7, ..Retention::default() });
    policies::create(database, &PolicyId::from("id"), &policy, now).await.expect("stored");
}

fn offer(free: u32) -> Offer {
    Offer { agent: "a".into(), free, resident: Vec::new() }
}

async fn take_one(database: &Database, now: UnixMillis) -> Option<Lease> {
    take(database, &[offer(1)], now).await.expect("take").pop()
}

async fn end(database: &Database, lease: &Lease, ending: &Ending, now: UnixMillis) {
    let held = Held { job: lease.job.id.clone(), fence: lease.fence };
    finish(database, &lease.agent, &held, ending, Outcome::default(), now).await.expect("finish");
}

/// Takes and ends all there is.
async fn work_off(database: &Database, now: UnixMillis) -> Vec<JobKind> {
    crate::agents::store::write_seen(database, &[("a".into(), now)]).await.expect("seen");
    let mut kinds = Vec::new();
    while let Some(lease) = take_one(database, now).await {
        end(database, &lease, &Ending::Completed, now).await;
        kinds.push(lease.job.kind);
    }
    kinds
}

/// A retention ended a minute after a backup that failed: the policy said that all was well.
#[test]
fn retention_that_succeeds_is_no_success_of_the_policy() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        hourly(&database, NOON).await;
        let clock = ManualClock::at(NOON.plus(HOUR));
        let context = Context::new(database.clone(), clock.clone());
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 1);
        assert_eq!(work_off(&database, context.clock.now()).await, [JobKind::Backup]);
        let stored = async || policies::get(&database, &PolicyId::from("id")).await.expect("get");
        let backup = stored().await;
        assert!(backup.last_success.is_some() && backup.last_job.is_some());
        clock.advance(HOUR / 2);
        assert_eq!(retention::plan_due(&context).await.expect("plan"), 1);
        assert_eq!(work_off(&database, context.clock.now()).await, [JobKind::Retention]);
        let after = stored().await;
        assert_eq!((after.last_success, after.last_job), (backup.last_success, backup.last_job));
    });
}

/// A server began with a clock a year ahead, ran each policy once, and then none for a year.
#[test]
fn schedules_that_a_wrong_clock_moved_ahead_run_again_when_it_is_right() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        hourly(&database, NOON).await;
        let ahead = Context::new(database.clone(), ManualClock::at(NOON.plus(YEAR)));
        assert_eq!(scheduler::mend_places(&ahead).await.expect("mend"), 0);
        assert_eq!(scheduler::run_due(&ahead).await.expect("run"), 1);
        work_off(&database, NOON.plus(YEAR)).await;
        assert_eq!(retention::plan_due(&ahead).await.expect("plan"), 1);
        work_off(&database, NOON.plus(YEAR)).await;

        let right = ManualClock::at(NOON.plus(HOUR / 2));
        let context = Context::new(database.clone(), right.clone());
        assert_eq!(scheduler::mend_places(&context).await.expect("mend"), 1);
        assert_eq!(scheduler::mend_places(&context).await.expect("mend"), 0, "it is right");
        assert_eq!(scheduler::run_due(&context).await.expect("run"), 0, "not before its time");
        let mut made = Vec::new();
        for _ in 0..3 {
            right.advance(HOUR);
            made.push(scheduler::run_due(&context).await.expect("run"));
            work_off(&database, context.clock.now()).await;
        }
        assert_eq!(made, [1, 1, 1]);
        assert_eq!(retention::plan_due(&context).await.expect("plan"), 1, "and its day too");
        // Back again by two hours: what has run does not run again.
        let back = Context::new(database.clone(), ManualClock::at(context.clock.now().minus(HOUR * 2)));
        assert_eq!(scheduler::mend_places(&back).await.expect("mend"), 1);
        let again = Context::new(database.clone(), ManualClock::at(back.clock.now().plus(HOUR)));
        assert_eq!(scheduler::run_due(&again).await.expect("run"), 0);
    });
}

#[test]
fn order_is_judged_by_the_rules_of_policies() {
    each_database(async |database| {
        let refused = async |change: fn(&mut order::JobOrder)| {
            let mut new = backup("set", NOON);
            change(&mut new.order);
            let result = crate::job::admission::submit(&database, new, &Default::default(), NOON).await;
            result.expect_err("it can never work").to_string()
        };
        type Spoil = fn(&mut order::JobOrder);
        let cases: [(Spoil, &str); 5] = [
            (
                |order| order.before = vec![order::Command { arguments: vec![], limit_seconds: 1, required: false }],
                "needs a program",
            ),
            (
                |order| {
                    order.after =
                        vec![order::Command { arguments: vec!["x".to_owned()], limit_seconds: 0, required: true }];
                },
                "limit_seconds is 1",
            ),
            (
                |order| {
                    let to = Channel::Webhook { url: "file:///etc/passwd".to_owned(), body: None };
                    order.notify = vec![NotifyRule { states: vec![JobState::Failed], to }];
                },
                "no http or https address",
            ),
            (|order| order.bandwidth = Some("fast".to_owned()), "bandwidth"),
            (|order| order.verify_percent = 101, "verify_percent"),
        ];
        for (change, says) in cases {
            let reason = refused(change).await;
            assert!(reason.contains(says), "{says}: {reason}");
        }
    });
}

/// First pages were empty where "~" comes before letters: in every collation that people use.
#[test]
fn first_pages_of_all_lists_are_full_in_every_collation() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        for number in 0..3 {
            submit(&database, backup(&format!("set {number}"), NOON), NOON).await;
            let lease = take_one(&database, NOON).await.expect("a lease");
            let held = Held { job: lease.job.id.clone(), fence: lease.fence };
            let outcome = Outcome { recovery_point: Some(number.to_string()), ..Outcome::default() };
            finish(&database, &lease.agent, &held, &Ending::Completed, outcome, NOON).await.expect("finish");
        }
        let jobs = async |before: Option<JobId>| {
            let filter = store::JobFilter { before, ..Default::default() };
            store::list(&database, &filter, 2).await.expect("a page")
        };
        let first = jobs(None).await;
        assert_eq!((first.len(), jobs(Some(first[1].id.clone())).await.len()), (2, 1));
        let points = async |before: Option<JobId>| {
            let filter = crate::job::points::PointFilter { before, ..Default::default() };
            crate::job::points::list(&database, &filter, 2).await.expect("a page")
        };
        let first = points(None).await;
        assert_eq!(first.iter().map(|point| point.id.as_str()).collect::<Vec<_>>(), ["2", "1"]);
        assert_eq!(points(Some(first[1].job.clone())).await.len(), 1);
    });
}

/// One job that nobody could do stood at the head of the queue: who was idle began at its place, before all who waited.
#[test]
fn share_that_was_idle_begins_where_work_is_given_out_though_a_job_nobody_can_do_stands_first() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        let of = |share: &str, number: usize| NewJob {
            share: Some(share.to_owned()),
            ..backup(&format!("{share} {number}"), NOON)
        };
        let place =
            crate::job::Place::Pool { pool: "main".to_owned(), reach: Some("nowhere".to_owned()), preferred: None };
        submit(&database, NewJob { place, ..of("stuck", 0) }, NOON).await;
        for number in 0..12 {
            submit(&database, of("busy", number), NOON).await;
        }
        for _ in 0..6 {
            let lease = take_one(&database, NOON).await.expect("a lease");
            assert_eq!(lease.job.share, "busy");
            end(&database, &lease, &Ending::Completed, NOON).await;
        }
        for number in 0..6 {
            submit(&database, of("idle", number), NOON).await;
        }
        let mut order = Vec::new();
        for _ in 0..6 {
            let lease = take_one(&database, NOON).await.expect("a lease");
            end(&database, &lease, &Ending::Completed, NOON).await;
            order.push(lease.job.share);
        }
        let idle = order.iter().filter(|share| *share == "idle").count();
        assert_eq!(idle, 3, "half of the turns, not all that it was away for: {order:?}");
    });
}

/// More jobs of one set than a lease looks at stood before the only one that could run: it waited for a minute.
#[test]
fn job_behind_more_than_one_lease_can_park_is_given_out_at_once() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        submit(&database, backup("set", NOON), NOON).await;
        take_one(&database, NOON).await.expect("it runs");
        for _ in 0..160 {
            submit(&database, backup("set", NOON), NOON).await;
        }
        let last = submit(&database, backup("other", NOON), NOON).await;
        assert!(take_one(&database, NOON).await.is_none(), "one transaction does not come so far");
        let unpark = "UPDATE jobs SET waits_on = NULL WHERE phase = 0";
        database.change(async |tx| tx.execute(unpark, &[]).await).await.expect("as before");
        let queue = Queue::new(Context::new(database.clone(), ManualClock::at(NOON))).start();
        let leases = poll(&queue, offer(1), Duration::from_secs(50)).await;
        assert_eq!(leases.expect("an answer")[0].job.id, last.id);
    });
}

/// The poll of an agent that had been killed waited on, and took the job that came back from it, only to give it back:
/// its next process had the job under the third fence.
#[test]
fn poll_whose_asker_has_gone_takes_no_job() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let b = agent(&database, "b", &[], NOON).await;
        let queue = Queue::new(Context::new(database.clone(), ManualClock::at(NOON))).start();
        let offer = |agent: &AgentId| Offer { agent: agent.clone(), free: 1, resident: Vec::new() };
        let (of_the_dead, asker) = Poll::new(offer(&a), Duration::from_secs(50));
        let of_the_dead = queue.send(of_the_dead);
        let dies = async {
            tokio::task::yield_now().await;
            drop(asker);
        };
        let over = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(of_the_dead, dies) }).await;
        let (nothing, ()) = over.expect("it does not wait on");
        assert!(nothing.expect("alive").expect("an answer").is_empty());
        // The look that was under way for it may find the first job, and gives that back; the next look is without it.
        for (set, is_sure) in [("first", false), ("second", true)] {
            submit(&database, backup(set, NOON), NOON).await;
            queue.send(Wake).await.expect("alive");
            let lease = poll(&queue, offer(&b), Duration::from_secs(50)).await.expect("an answer").remove(0);
            assert!(lease.agent == b && (lease.fence == 1 || !is_sure), "{set}: {lease:?}");
            end(&database, &lease, &Ending::Completed, NOON).await;
        }
    });
}

/// The poll of an agent that had fallen silent took the very job that was taken from it, and nobody read the answer: it
/// was given back, or lapsed again.
#[test]
fn poll_of_an_agent_that_fell_silent_is_answered_empty() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let queue = Queue::new(Context::new(database.clone(), ManualClock::at(NOON))).start();
        let falls_silent = async {
            tokio::task::yield_now().await;
            queue.send(Silent(vec![a.clone()])).await.expect("alive");
        };
        let waiting = poll(&queue, offer(1), Duration::from_secs(50));
        let over = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(waiting, falls_silent) }).await;
        assert!(over.expect("it does not wait on").0.expect("an answer").is_empty());
        // Who that is, the watch tells: once.
        submit(&database, backup("set", NOON), NOON).await;
        take_one(&database, NOON).await.expect("it runs");
        let mut watch = Watch::default();
        for look in 0..=LEASE.as_secs() / SWEEP.as_secs() {
            assert!(watch.take_silent().is_empty());
            watch.sweep(&database, SWEEP * look as u32, NOON).await.expect("a look");
        }
        assert_eq!((watch.take_silent(), watch.take_silent()), (vec![a], Vec::new()));
    });
}

/// Notes which targets were asked; those named dead accept nothing.
struct Targets(Mutex<Vec<String>>);

#[async_trait]
impl WebhookDelivery for Targets {
    async fn post(&self, url: &str, _: String) -> Result<()> {
        self.0.lock().push(url.to_owned());
        if url.contains("dead") {
            return Err(ControlError::Delivery { target: "dead".to_owned(), reason: "it is".to_owned() });
        }
        Ok(())
    }
}

#[test]
fn target_that_is_dead_holds_up_no_message_to_another() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        let told = async |set: &str, url: &str| {
            let mut new = backup(set, NOON);
            let to = Channel::Webhook { url: url.to_owned(), body: None };
            new.order.notify = vec![NotifyRule { states: vec![JobState::Queued], to }];
            submit(&database, new, NOON).await
        };
        for number in 0..100 {
            told(&format!("set {number}"), &format!("http://dead:1/{number}")).await;
        }
        told("last", "http://well:1/x").await;
        let hooks = Arc::new(Targets(Mutex::new(Vec::new())));
        let deliveries = Deliveries { webhook: hooks.clone(), mail: None };
        let context = Context::new(database.clone(), ManualClock::at(NOON));
        assert_eq!(notifier::deliver_due(&context, &deliveries).await.expect("deliver"), 1);
        let asked = hooks.0.lock().clone();
        assert_eq!(asked.iter().filter(|url| url.contains("dead")).count(), 4, "its share of the places");
        assert_eq!(asked.len(), 5);
    });
}

#[test]
fn webhook_reaches_no_link_local_address_and_this_machine_only_where_a_setting_says_so() {
    crate::testing::run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        listener.set_nonblocking(true).expect("a listener");
        let hook = HttpWebhook::new(false).expect("TLS");
        let local = ["127.0.0.1", "localhost", "[::1]", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]", "me@127.0.0.1"];
        for host in local.iter().chain(&["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"]) {
            let refused = hook.post(&format!("http://{host}:{port}/latest"), String::new()).await.expect_err(host);
            assert!(refused.to_string().contains("do not reach link-local"), "{host}: {refused}");
        }
        let reached = listener.accept().map(|_| ()).expect_err("nobody came");
        assert_eq!(reached.kind(), std::io::ErrorKind::WouldBlock);
        let hook = HttpWebhook::with_patience(Duration::from_millis(200), true).expect("TLS");
        let refused = hook.post("http://169.254.169.254/latest", String::new()).await.expect_err("never");
        assert!(refused.to_string().contains("do not reach link-local"), "{refused}");
        hook.post(&format!("http://localhost:{port}/"), String::new()).await.expect_err("it does not answer");
        listener.accept().expect("it came");
    });
}

/// Only what agents reported was counted: a pool whose jobs all expired looked as if it did nothing.
#[test]
fn every_end_of_a_job_is_counted_once_wherever_it_ends() {
    each_database(async |database| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let figures = recorder.handle();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let a = agent(&database, "a", &[], NOON).await;
        let later = NOON.plus(HOUR);
        // Completed, and said twice.
        submit(&database, backup("done", NOON), NOON).await;
        let lease = take_one(&database, NOON).await.expect("a lease");
        for _ in 0..2 {
            end(&database, &lease, &Ending::Completed, NOON).await;
        }
        // Cancelled in the queue, twice.
        let cancelled = submit(&database, backup("cancelled", NOON), NOON).await;
        for _ in 0..2 {
            requests::cancel(&database, &cancelled.id, "me", NOON).await.expect("cancel");
        }
        // Expired, failed at the end of its window, failed at its admission.
        let window = Some(NOON.plus(HOUR / 2));
        submit(&database, NewJob { expires_at: window, ..backup("expired", NOON) }, NOON).await;
        let host = NewJob { origin: Origin::Scheduled, expires_at: window, ..backup_of_host(&a, NOON) };
        submit(&database, host, NOON).await;
        let none: &[Offer] = &[];
        assert!(take(&database, none, NOON).await.expect("take").is_empty());
        let b = agent(&database, "b", &[], later).await;
        sweep_queue(&database, &Default::default(), later).await.expect("sweep");
        submit(&database, backup_of_host(&AgentId::from("a"), later), later).await;
        // Aborted by its agent; and a transaction that fails counts nothing.
        submit(&database, backup_of_host(&b, later), later).await;
        let lease = take(&database, &[Offer { agent: b, ..offer(1) }], later).await.expect("take").remove(0);
        let held = Held { job: lease.job.id.clone(), fence: lease.fence };
        let stale = Held { fence: 9, ..held.clone() };
        finish(&database, &lease.agent, &stale, &Ending::Aborted, Outcome::default(), later).await.expect_err("stale");
        let broken = async |tx: &mut crate::database::Transaction| {
            tx.execute("UPDATE jobs SET message = NULL WHERE id = $1", arguments![&held.job]).await?;
            let job = store::locked(tx, &held.job).await?.expect("it is there");
            store::move_to(tx, &job, job.clone(), JobState::Failed, later).await?;
            Err::<(), _>(ControlError::Conflict("rolled back".to_owned()))
        };
        database.change(broken).await.expect_err("rolled back");
        finish(&database, &lease.agent, &held, &Ending::Aborted, Outcome::default(), later).await.expect("finish");
        let mut counted = BTreeMap::new();
        for line in figures.render().lines().filter(|line| line.starts_with("mover_jobs_finished_total{")) {
            let (labels, count) = line.rsplit_once(' ').expect("a value");
            let state = labels.split("state=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a state");
            counted.insert(state.to_owned(), count.parse::<u64>().expect("a number"));
        }
        let expected = [("aborted", 1), ("cancelled", 1), ("completed", 1), ("expired", 1), ("failed", 2)];
        assert_eq!(counted, expected.map(|(state, count)| (state.to_owned(), count)).into());
    });
}

#[test]
fn actors_tell_how_long_they_worked_and_how_long_they_waited() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let figures = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    crate::testing::run(async {
        super::ticker::timed("test", tokio::time::sleep(Duration::from_millis(30))).await;
    });
    let text = figures.render();
    let sum = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}_sum{{actor=\"test\"}}")));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let (busy, blocked) = (sum("mover_actor_busy_seconds"), sum("mover_actor_blocked_seconds"));
    assert!(busy < blocked, "it slept: {text}");
}

/// Addresses of webhooks and arguments of commands were shown to everybody who looks, and sent to every agent.
#[test]
fn secrets_of_commands_and_messages_are_for_admins_and_no_address_goes_to_agents() {
    each_database(async |database| {
        agent(&database, "a", &[], NOON).await;
        let mut new = backup("set", NOON);
        let arguments = ["sh", "-c", "s3cret"].map(str::to_owned).to_vec();
        let command = order::Command { arguments, limit_seconds: 60, required: true };
        new.order.before = vec![command.clone()];
        new.order.after = vec![command];
        let url = "https://me:s3cret@hooks.example/s3cret?s3cret".to_owned();
        let to = Channel::Webhook { url, body: Some("s3cret".to_owned()) };
        new.order.notify = vec![NotifyRule { states: vec![JobState::Completed], to }];
        let job = submit(&database, new, NOON).await;
        let shown = crate::database::json(&job.order.clone().redacted());
        assert!(!shown.contains("s3cret") && shown.contains("hooks.example") && shown.contains("sh"), "{shown}");
        let lease = take_one(&database, NOON).await.expect("a lease");
        assert!(lease.job.order.notify.is_empty() && lease.job.order.before == job.order.before, "an agent runs it");
        end(&database, &lease, &Ending::Completed, NOON).await;
        let hooks = Arc::new(Targets(Mutex::new(Vec::new())));
        let deliveries = Deliveries { webhook: hooks.clone(), mail: None };
        let context = Context::new(database.clone(), ManualClock::at(NOON));
        assert_eq!(notifier::deliver_due(&context, &deliveries).await.expect("deliver"), 1, "it is sent all the same");
    });
}

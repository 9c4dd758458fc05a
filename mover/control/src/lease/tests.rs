//! Leases on both databases: who owns a job when, and what a late agent may still do.

use std::time::Duration;

use crate::agents::store as registry;
use crate::database::Database;
use crate::error::{ControlError, Result};
use crate::ids::{AgentId, UnixMillis};
use crate::job::{JobKind, JobOrder, JobState, NewJob, Outcome, Place, Progress, events, requests, store};
use crate::placement::away::AwayTable;
use crate::protocol::HelloRequest;
use crate::testing::{NOON, agent, backup, backup_of_host, each_database, submit};

use super::lapse::{Watch, greet, sweep_queue};
use super::report::{Advice, Ending, Held, advance, beat, finish, grant};
use super::take::{Lease, Offer, take};
use super::{GRANT, LEASE, SWEEP};

pub(super) fn offer(agent: &AgentId, free: u32) -> Offer {
    Offer { agent: agent.clone(), free, resident: Vec::new() }
}

pub(super) fn held(lease: &Lease) -> Held {
    Held { job: lease.job.id.clone(), fence: lease.fence }
}

pub(super) async fn take_one(database: &Database, agent: &AgentId, now: UnixMillis) -> Lease {
    let mut leases = take(database, &[offer(agent, 1)], now).await.expect("take");
    assert_eq!(leases.len(), 1);
    leases.remove(0)
}

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) fn outcome(point: &str) -> Outcome {
    Outcome { recovery_point: Some(point.to_owned()), ..Outcome::default() }
}

/// All leases lapse: a new watch looks for as long as a lease may be silent.
pub(super) async fn lapse_all(database: &Database, now: UnixMillis) -> u64 {
    watch_for(&mut Watch::default(), database, Duration::ZERO, GRANT, now).await
}

/// Looks as often as a server does, from one moment of its monotonic clock to another: how many lapsed.
pub(super) async fn watch_for(
    watch: &mut Watch,
    database: &Database,
    from: Duration,
    to: Duration,
    now: UnixMillis,
) -> u64 {
    let (mut moment, mut lapsed) = (from, 0);
    loop {
        lapsed += watch.sweep(database, moment, now).await.expect("a look");
        if moment >= to {
            return lapsed;
        }
        moment = (moment + SWEEP).min(to);
    }
}

pub(super) async fn close_windows(database: &Database, now: UnixMillis) -> Result<u64> {
    sweep_queue(database, &AwayTable::default(), now).await
}

/// Another process of an agent says hello: of this boot of its host, and holding these jobs.
pub(super) async fn begin_anew(database: &Database, agent: &AgentId, boot: &str, held: &[Held], now: UnixMillis) {
    let mut description = registry::get(database, agent).await.expect("an agent").description;
    description.instance.push('+');
    let said = HelloRequest { description, boot: Some(boot.to_owned()), held: held.to_vec() };
    greet(database, agent, &said, now).await.expect("hello");
}

#[test]
fn lease_goes_through_a_whole_life_with_its_history() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let job = submit(&database, backup("set", NOON), NOON).await;
        let again = submit(&database, NewJob { id: job.id.clone(), ..backup("other", NOON) }, NOON).await;
        assert_eq!(again, job, "the same id is the same job");
        let lease = take_one(&database, &a, NOON).await;
        assert_eq!((lease.fence, lease.job.attempt, lease.job.state), (1, 1, JobState::Estimating));
        let progress = Progress { fileset: 1, filesets: 2, files: 7, ..Progress::default() };
        advance(&database, &a, &held(&lease), JobState::Running, &progress, NOON).await.expect("run");
        let second = Progress { fileset: 2, ..progress };
        advance(&database, &a, &held(&lease), JobState::Running, &second, NOON).await.expect("second fileset");
        let advice = beat(&database, &a, &[(held(&lease), None)], NOON).await.expect("beat");
        assert_eq!(advice, [Advice::Continue]);
        grant(&database, &a, &held(&lease), NOON).await.expect("grant");
        let done = finish(&database, &a, &held(&lease), &Ending::Completed, outcome("p"), NOON).await.expect("finish");
        assert_eq!((done.job.state, done.repeated), (JobState::Completed, false));
        let stored = store::get(&database, &job.id).await.expect("get");
        assert_eq!(stored.recovery_point.as_deref(), Some("p"));
        let history = events::of_job(&database, &job.id, None, 100).await.expect("events");
        let told: Vec<(&str, JobState)> = history.iter().map(|event| (event.kind.as_str(), event.state)).collect();
        use JobState::{Completed, Estimating, Queued, Running};
        let expected =
            [("state", Queued), ("state", Estimating), ("state", Running), ("fileset", Running), ("grant", Running)];
        assert_eq!(told, [&expected[..], &[("state", Completed)]].concat());
        let page = events::after(&database, Some(&history[3].id), 100).await.expect("events");
        assert_eq!(page, history[4..]);
    });
}

#[test]
fn lease_of_a_dead_agent_goes_to_another_and_the_late_commit_is_refused() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let b = agent(&database, "b", &[], NOON).await;
        submit(&database, backup("set", NOON), NOON).await;
        let first = take_one(&database, &a, NOON).await;
        assert_eq!(lapse_all(&database, NOON).await, 1);
        let second = take_one(&database, &b, NOON).await;
        assert_eq!((second.job.id.clone(), second.fence), (first.job.id.clone(), 2));
        for ending in [Ending::Completed, Ending::Failed { retry: true }, Ending::GivenBack] {
            let late = finish(&database, &a, &held(&first), &ending, outcome("late"), NOON).await;
            assert!(matches!(late, Err(ControlError::StaleFence { given: 1, current: 2, .. })), "{late:?}");
        }
        assert!(matches!(grant(&database, &a, &held(&first), NOON).await, Err(ControlError::StaleFence { .. })));
        let advice = beat(&database, &a, &[(held(&first), None)], NOON).await.expect("beat");
        assert!(matches!(&advice[..], [Advice::Lost { .. }]), "{advice:?}");
        // A fence alone is not enough: it is the lease of an agent.
        let stolen = finish(&database, &a, &held(&second), &Ending::Completed, outcome("stolen"), NOON).await;
        assert!(matches!(stolen, Err(ControlError::StaleFence { .. })));
        finish(&database, &b, &held(&second), &Ending::Completed, outcome("p"), NOON).await.expect("finish");
    });
}

#[test]
fn lease_that_lapsed_is_its_agents_own_until_somebody_else_has_it() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        for ending in [Ending::Completed, Ending::Failed { retry: false }, Ending::Cancelled, Ending::Aborted] {
            submit(&database, backup("set", NOON), NOON).await;
            let lease = take_one(&database, &a, NOON).await;
            assert_eq!(lapse_all(&database, NOON).await, 1);
            assert_eq!(store::get(&database, &lease.job.id).await.expect("get").state, JobState::Queued);
            // Hours later.
            let later = NOON.plus(seconds(8 * 3600));
            let late = finish(&database, &a, &held(&lease), &ending, outcome("late"), later).await.expect("late");
            assert!(!late.repeated && late.job.state.phase() == crate::job::Phase::Ended, "{ending:?}");
        }
        submit(&database, backup("set", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        lapse_all(&database, NOON).await;
        assert_eq!(beat(&database, &a, &[(held(&lease), None)], NOON).await.expect("beat"), [Advice::Continue]);
        assert_eq!(store::get(&database, &lease.job.id).await.expect("get").state, JobState::Running);
        assert!(take(&database, &[offer(&a, 1)], NOON).await.expect("take").is_empty(), "it is not in the queue");
    });
}

#[test]
fn commit_repeated_changes_nothing_and_another_ending_is_refused() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        submit(&database, backup("set", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        let first = finish(&database, &a, &held(&lease), &Ending::Completed, outcome("p"), NOON).await.expect("finish");
        let later = NOON.plus(seconds(3600));
        let again = finish(&database, &a, &held(&lease), &Ending::Completed, outcome("p"), later).await.expect("again");
        assert!(again.repeated && again.job == first.job);
        for (ending, point) in
            [(Ending::Completed, "q"), (Ending::Failed { retry: false }, "p"), (Ending::GivenBack, "p")]
        {
            let other = finish(&database, &a, &held(&lease), &ending, outcome(point), later).await;
            assert!(matches!(other, Err(ControlError::Ended { state: JobState::Completed, .. })), "{other:?}");
        }
        let history = events::of_job(&database, &lease.job.id, None, 100).await.expect("events");
        assert_eq!(history.iter().filter(|event| event.state == JobState::Completed).count(), 1);
    });
}

#[test]
fn grant_keeps_the_lease_from_lapsing_and_from_being_cancelled() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        submit(&database, backup("set", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        grant(&database, &a, &held(&lease), NOON).await.expect("grant");
        let mut watch = Watch::default();
        let mut before = Duration::ZERO;
        for (monotonic, lapsed) in [(LEASE * 2, 0), (GRANT - seconds(1), 0), (GRANT, 1)] {
            let refused = requests::cancel(&database, &lease.job.id, "me", NOON).await;
            assert!(matches!(refused, Err(ControlError::Conflict(_))), "{refused:?}");
            assert_eq!(watch_for(&mut watch, &database, before, monotonic, NOON).await, lapsed, "{monotonic:?}");
            before = monotonic;
        }
    });
}

#[test]
fn lapse_is_judged_by_what_this_server_saw_and_by_no_wall_clock() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        submit(&database, backup("set", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        let year = UnixMillis(NOON.0 + 365 * 86_400_000);
        let mut watch = Watch::default();
        // The wall clock jumps a year ahead and back between two looks: nothing lapses.
        assert_eq!(watch_for(&mut watch, &database, seconds(0), seconds(30), NOON).await, 0);
        assert_eq!(watch_for(&mut watch, &database, seconds(30), LEASE - seconds(1), year).await, 0);
        beat(&database, &a, &[(held(&lease), None)], year).await.expect("beat");
        let heard = watch_for(&mut watch, &database, LEASE - seconds(1), LEASE + seconds(1), NOON).await;
        assert_eq!(heard, 0, "it was heard");
        // A server that begins gives everybody the whole time, however long it was away.
        let mut fresh = Watch::default();
        let begin = seconds(90_000);
        assert_eq!(watch_for(&mut fresh, &database, begin, begin + LEASE - seconds(1), year).await, 0);
        assert_eq!(watch_for(&mut fresh, &database, begin + LEASE, begin + LEASE, year).await, 1);
        // The other server saw it go as well, and does nothing twice.
        assert_eq!(watch_for(&mut watch, &database, LEASE + seconds(1), LEASE * 9, NOON).await, 0);
        let history = events::of_job(&database, &lease.job.id, None, 100).await.expect("events");
        assert_eq!(history.iter().filter(|event| event.kind == "lapsed").count(), 1);
    });
}

#[test]
fn s012_file_server_away_fails_now_on_demand_and_at_the_end_of_its_window_when_scheduled() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let later = NOON.plus(seconds(3600));
        let failed = submit(&database, backup_of_host(&a, later), later).await;
        assert_eq!(failed.state, JobState::Failed);
        let waits = submit(&database, NewJob { wait: true, ..backup_of_host(&a, later) }, later).await;
        assert_eq!(waits.state, JobState::Queued);
        requests::cancel(&database, &waits.id, "me", later).await.expect("cancel");
        let end = later.plus(seconds(7200));
        let origin = crate::job::Origin::Scheduled;
        let scheduled = NewJob { origin, expires_at: Some(end), ..backup_of_host(&a, later) };
        let scheduled = submit(&database, scheduled, later).await;
        assert_eq!(scheduled.state, JobState::Queued);
        close_windows(&database, UnixMillis(end.0 - 1)).await.expect("sweep");
        assert_eq!(store::get(&database, &scheduled.id).await.expect("get").state, JobState::Queued);
        close_windows(&database, end).await.expect("sweep");
        let ended = store::get(&database, &scheduled.id).await.expect("get");
        assert_eq!(ended.state, JobState::Failed);
        assert!(ended.message.expect("why").contains("no agent"), "told why");
        // Connected, but never free: that is another end.
        registry::write_seen(&database, &[(a.clone(), end)]).await.expect("seen");
        let busy = NewJob { expires_at: Some(end.plus(seconds(10))), ..backup_of_host(&a, end) };
        let busy = submit(&database, busy, end).await;
        close_windows(&database, end.plus(seconds(10))).await.expect("sweep");
        assert_eq!(store::get(&database, &busy.id).await.expect("get").state, JobState::Expired);
    });
}

#[test]
fn s058_backup_waits_for_a_restore_of_the_same_set_and_s057_others_run_beside_it() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        submit(&database, NewJob { kind: JobKind::Restore, ..backup("one", NOON) }, NOON).await;
        let restore = take_one(&database, &a, NOON).await;
        let same = submit(&database, backup("one", NOON), NOON).await;
        let other = submit(&database, backup("two", NOON), NOON).await;
        let second_restore = submit(&database, NewJob { kind: JobKind::Restore, ..backup("one", NOON) }, NOON).await;
        let leases = take(&database, &[offer(&a, 3)], NOON).await.expect("take");
        let taken: Vec<_> = leases.iter().map(|lease| lease.job.id.clone()).collect();
        assert_eq!(taken, [other.id, second_restore.id], "s057: beside it on the same agent");
        let waiting = store::get(&database, &same.id).await.expect("get");
        assert_eq!((waiting.state, waiting.waits_on.as_deref()), (JobState::Queued, Some("set:one")));
        // A restore that lost its agent is in progress still.
        finish(&database, &a, &held(&leases[1]), &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
        assert!(take(&database, &[offer(&a, 3)], NOON).await.expect("take").is_empty());
        finish(&database, &a, &held(&restore), &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
        assert_eq!(take_one(&database, &a, NOON).await.job.id, same.id);
    });
}

#[test]
fn s151_busy_agents_leave_the_job_queued_until_one_is_free() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let b = agent(&database, "b", &[], NOON).await;
        for number in 0..9 {
            submit(&database, backup(&format!("set {number}"), NOON), NOON).await;
        }
        // Each has four slots: 8 cores.
        let leases = take(&database, &[offer(&a, 9), offer(&b, 9)], NOON).await.expect("take");
        let of = |agent: &AgentId| leases.iter().filter(|lease| lease.agent == *agent).count();
        assert_eq!((of(&a), of(&b)), (4, 4), "balanced, within the slots");
        assert!(take(&database, &[offer(&a, 9), offer(&b, 9)], NOON).await.expect("take").is_empty());
        finish(&database, &b, &held(&leases[1]), &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
        assert_eq!(take(&database, &[offer(&b, 9)], NOON).await.expect("take").len(), 1);
    });
}

#[test]
fn limits_of_source_and_repository_hold_and_free_places_are_used() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        for number in 0..5 {
            let limited =
                NewJob { source: "nas".to_owned(), source_limit: Some(2), ..backup(&format!("{number}"), NOON) };
            submit(&database, limited, NOON).await;
        }
        let mut open = take(&database, &[offer(&a, 4)], NOON).await.expect("take");
        assert_eq!(open.len(), 2);
        let mut done = 0;
        while let Some(lease) = open.pop() {
            finish(&database, &a, &held(&lease), &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
            done += 1;
            open.extend(take(&database, &[offer(&a, 4)], NOON).await.expect("take"));
            assert!(open.len() <= 2);
        }
        assert_eq!(done, 5);
    });
}

#[test]
fn priorities_go_first_and_shares_are_fair_by_weight() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let mut number = 0;
        let mut job = |share: &str, weight: u32, priority: i64| {
            number += 1;
            NewJob { share: Some(share.to_owned()), weight, priority, ..backup(&format!("{number}"), NOON) }
        };
        for _ in 0..6 {
            submit(&database, job("many", 1, 0), NOON).await;
        }
        for _ in 0..6 {
            submit(&database, job("heavy", 2, 0), NOON).await;
        }
        submit(&database, job("urgent", 1, 9), NOON).await;
        let mut order = Vec::new();
        for _ in 0..7 {
            let lease = take_one(&database, &a, NOON).await;
            order.push(lease.job.share.clone());
            finish(&database, &a, &held(&lease), &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
        }
        assert_eq!(order[0], "urgent");
        let heavy = order.iter().filter(|share| *share == "heavy").count();
        assert!((3..=4).contains(&heavy), "two of three: {order:?}");
    });
}

#[test]
fn retry_comes_after_its_pause_and_attempts_end() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let order = JobOrder { attempts: 2, retry_pause_seconds: 60, ..JobOrder::default() };
        submit(&database, NewJob { order, ..backup("set", NOON) }, NOON).await;
        let first = take_one(&database, &a, NOON).await;
        let failed = Ending::Failed { retry: true };
        let back = finish(&database, &a, &held(&first), &failed, Outcome::default(), NOON).await.expect("finish");
        assert_eq!(back.job.state, JobState::Queued);
        assert!(finish(&database, &a, &held(&first), &failed, Outcome::default(), NOON).await.expect("again").repeated);
        let early = NOON.plus(seconds(59));
        close_windows(&database, early).await.expect("sweep");
        assert!(take(&database, &[offer(&a, 1)], early).await.expect("take").is_empty());
        let late = NOON.plus(seconds(60));
        close_windows(&database, late).await.expect("sweep");
        let second = take_one(&database, &a, late).await;
        assert_eq!((second.fence, second.job.attempt), (2, 2));
        let end = finish(&database, &a, &held(&second), &failed, Outcome::default(), late).await.expect("finish");
        assert_eq!(end.job.state, JobState::Failed);
    });
}

#[test]
fn host_files_wait_for_their_host_and_sources_for_who_reaches_them() {
    each_database(async |database| {
        let a = agent(&database, "a", &["filer"], NOON).await;
        let b = agent(&database, "b", &[], NOON).await;
        let own = submit(&database, backup_of_host(&a, NOON), NOON).await;
        let place = Place::Pool { pool: "main".to_owned(), reach: Some("filer".to_owned()), preferred: None };
        let share = submit(&database, NewJob { place, ..backup("share", NOON) }, NOON).await;
        let elsewhere = Place::Pool { pool: "other".to_owned(), reach: None, preferred: None };
        submit(&database, NewJob { place: elsewhere, ..backup("elsewhere", NOON) }, NOON).await;
        assert!(take(&database, &[offer(&b, 4)], NOON).await.expect("take").is_empty());
        let leases = take(&database, &[offer(&a, 4)], NOON).await.expect("take");
        let mut taken: Vec<_> = leases.iter().map(|lease| &lease.job.id).collect();
        taken.sort_unstable();
        assert_eq!(taken, [&own.id, &share.id]);
        assert_eq!(lapse_all(&database, NOON).await, 2);
        assert!(take(&database, &[offer(&b, 4)], NOON).await.expect("take").is_empty(), "its own host or nobody");
    });
}

/// Its preferred agent died and another one did the job; the retry was then anybody's, at the weight of everybody.
#[test]
fn retry_is_of_the_same_preferred_agent_and_weight_also_after_others_did_it() {
    each_database(async |database| {
        let a = agent(&database, "a", &["filer"], NOON).await;
        let b = agent(&database, "b", &["filer"], NOON).await;
        let place =
            Place::Pool { pool: "main".to_owned(), reach: Some("filer".to_owned()), preferred: Some(a.clone()) };
        let new = NewJob { place, weight: 7, share: Some("team".to_owned()), ..backup("share", NOON) };
        let same = |again: &NewJob| {
            assert_eq!((&again.place, again.weight, &again.share), (&new.place, new.weight, &new.share));
        };
        submit(&database, new.clone(), NOON).await;
        let first = take_one(&database, &a, NOON).await;
        assert_eq!(lapse_all(&database, NOON).await, 1);
        let second = take_one(&database, &b, NOON).await;
        assert_eq!(second.job.id, first.job.id, "the others have it");
        let done = finish(&database, &b, &held(&second), &Ending::Completed, outcome("p"), NOON).await.expect("finish");
        let again = requests::again(&done.job, "again".to_owned().into(), "me").expect("it has ended");
        same(&again);
        let retried = submit(&database, again, NOON).await;
        assert!(take(&database, &[offer(&b, 1)], NOON).await.expect("take").is_empty(), "that of its own agent");
        // In the queue of its own agent, and ended there.
        let cancelled = requests::cancel(&database, &retried.id, "me", NOON).await.expect("cancel");
        same(&requests::again(&cancelled, "third".to_owned().into(), "me").expect("it has ended"));
    });
}

#[test]
fn draining_and_revoked_agents_get_nothing_and_revoked_ones_deliver_nothing() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        submit(&database, backup("one", NOON), NOON).await;
        submit(&database, backup("two", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        registry::drain(&database, &a, true).await.expect("drain");
        assert!(take(&database, &[offer(&a, 1)], NOON).await.expect("take").is_empty());
        assert_eq!(beat(&database, &a, &[(held(&lease), None)], NOON).await.expect("beat"), [Advice::Continue]);
        registry::revoke(&database, &a).await.expect("revoke");
        let late = finish(&database, &a, &held(&lease), &Ending::Completed, Outcome::default(), NOON).await;
        assert!(matches!(late, Err(ControlError::AgentRefused { .. })), "{late:?}");
        assert!(matches!(registry::by_fingerprint(&database, "print a").await, Err(ControlError::AgentRefused { .. })));
    });
}

#[test]
fn cancel_stops_at_once_in_the_queue_and_by_its_agent_when_it_runs() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let queued = submit(&database, backup("one", NOON), NOON).await;
        for _ in 0..2 {
            let job = requests::cancel(&database, &queued.id, "me", NOON).await.expect("cancel");
            assert_eq!(job.state, JobState::Cancelled);
        }
        submit(&database, backup("two", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        requests::cancel(&database, &lease.job.id, "me", NOON).await.expect("cancel");
        let advice = beat(&database, &a, &[(held(&lease), None)], NOON).await.expect("beat");
        assert!(matches!(&advice[..], [Advice::Stop { why }] if why == "cancelled by me"), "{advice:?}");
        assert!(grant(&database, &a, &held(&lease), NOON).await.is_err(), "no commit after a cancellation");
        // Its agent died instead of stopping: cancelled all the same.
        lapse_all(&database, NOON).await;
        assert_eq!(store::get(&database, &lease.job.id).await.expect("get").state, JobState::Cancelled);
    });
}

#[test]
fn lease_reads_by_indexes_and_never_scans_the_queue() {
    each_database(async |database| {
        if database.dialect() != crate::database::dialect::Dialect::Sqlite {
            return;
        }
        let queries = [
            (
                "SELECT * FROM jobs WHERE phase = 0 AND waits_on IS NULL AND lane = $1 ORDER BY priority DESC, rank, id LIMIT 9",
                "jobs_ready",
            ),
            (
                "SELECT a.id, (SELECT COUNT(*) FROM jobs WHERE phase = 1 AND agent = a.id) AS running FROM agents a WHERE a.id IN ($1)",
                "jobs_active",
            ),
            (
                "WITH asked (lane) AS (VALUES ($1)) SELECT lane FROM asked WHERE EXISTS (
                    SELECT 1 FROM jobs WHERE phase = 0 AND waits_on IS NULL AND jobs.lane = asked.lane LIMIT 1 OFFSET 0)",
                "jobs_ready (lane=?)",
            ),
            ("SELECT id FROM jobs WHERE phase = 2 AND recovery_point IS NULL AND ended_at < 5 LIMIT 1", "jobs_over"),
            ("SELECT COUNT(*) AS n FROM jobs WHERE phase = 1 AND source = $1", "jobs_active_source"),
            (
                "SELECT rank FROM jobs WHERE phase = 0 AND pool = $1 AND priority = 0 LIMIT 1",
                "jobs_ranked",
            ),
            ("SELECT lane FROM jobs WHERE repository = $1 ORDER BY id DESC LIMIT 200", "jobs_repository"),
            (
                "SELECT id FROM jobs WHERE phase = 0 AND waits_on = $1 ORDER BY priority DESC, rank, id LIMIT 4",
                "jobs_waiting",
            ),
            (
                "SELECT id FROM jobs WHERE set_name = $1 AND phase < 2 AND id <> 'x'
                 AND ((kind = 'restore' AND attempt > 0) OR (kind = 'backup' AND phase = 1)
                    OR (kind = 'backup' AND agent IS NOT NULL AND (0 = 0 OR id < 'x'))) LIMIT 1",
                "jobs_open_set",
            ),
            ("SELECT COALESCE(MAX(id), '') AS id FROM events WHERE $1 = $1", "sqlite_autoindex_events_1"),
            (
                "SELECT id FROM jobs WHERE phase = 0 AND waits_on IS NOT NULL AND not_before <= $1 LIMIT 1",
                "jobs_parked",
            ),
        ];
        for (query, index) in queries {
            let explain = format!("EXPLAIN QUERY PLAN {query}");
            let plan = database.read(async |tx| tx.all(&explain, crate::arguments!["x"]).await).await.expect("a plan");
            let steps: Vec<String> = plan.iter().map(|row| row.text("detail").expect("text")).collect();
            assert!(steps.iter().any(|step| step.contains(index)), "{query}: {steps:?}");
            assert!(
                !steps.iter().any(|step| step.contains("TEMP B-TREE") || step == "SCAN jobs"),
                "{query}: {steps:?}"
            );
        }
    });
}

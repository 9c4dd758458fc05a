//! Agents that are lost, and what it costs their jobs: tests on both databases.

use std::time::Duration;

use crate::agents::store as registry;
use crate::job::order::RestartPolicy;
use crate::job::{JobOrder, JobState, NewJob, Outcome, Progress, store};
use crate::testing::{NOON, agent, backup, backup_of_host, each_database, submit};

use super::lapse::Watch;
use super::report::{Advice, Ending, advance, beat, finish};
use super::take::take;
use super::tests::{begin_anew, held, lapse_all, offer, outcome, seconds, take_one, watch_for};
use super::{LAPSES_MAX, LEASE, SWEEP};

/// The database of a server was away for a minute: its agents lived, nobody could write that down, and the first look
/// afterwards gave all their jobs to others.
#[test]
fn time_in_which_the_database_was_away_is_no_silence_of_agents() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        for number in 0..3 {
            submit(&database, backup(&format!("set {number}"), NOON), NOON).await;
        }
        let leases = take(&database, &[offer(&a, 3)], NOON).await.expect("take");
        let mut watch = Watch::default();
        assert_eq!(watch_for(&mut watch, &database, Duration::ZERO, seconds(20), NOON).await, 0);
        // Every look of 61 seconds fails: there are none.
        let back = seconds(20) + LEASE + seconds(1);
        assert_eq!(watch_for(&mut watch, &database, back, back + seconds(15), NOON).await, 0, "they have time to beat");
        for lease in &leases[1..] {
            let advice = beat(&database, &a, &[(held(lease), None)], NOON).await.expect("beat");
            assert_eq!(advice, [Advice::Continue]);
        }
        // The twenty seconds before are not forgotten: who stays silent lapses after the rest of its time.
        assert_eq!(watch_for(&mut watch, &database, back + SWEEP * 4, back + LEASE - seconds(20), NOON).await, 1);
        assert_eq!(store::get(&database, &leases[0].job.id).await.expect("get").state, JobState::Queued);
    });
}

#[test]
fn s010_policy_abort_ends_the_job_of_a_host_that_restarted_and_resume_queues_it() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        begin_anew(&database, &a, "boot 0", &[], NOON).await;
        for (restart, state) in [(RestartPolicy::Abort, JobState::Aborted), (RestartPolicy::Resume, JobState::Queued)] {
            let order = JobOrder { restart, ..JobOrder::default() };
            let job = submit(&database, NewJob { order, ..backup_of_host(&a, NOON) }, NOON).await;
            let lease = take_one(&database, &a, NOON).await;
            let progress = Progress::default();
            advance(&database, &a, &held(&lease), JobState::Running, &progress, NOON).await.expect("run");
            begin_anew(&database, &a, "boot 0", &[held(&lease)], NOON).await;
            assert_eq!(store::get(&database, &job.id).await.expect("get").state, JobState::Running, "still there");
            begin_anew(&database, &a, &format!("boot {state}"), &[], NOON).await;
            assert_eq!(store::get(&database, &job.id).await.expect("get").state, state);
            begin_anew(&database, &a, "boot 0", &[], NOON).await;
        }
    });
}

/// A minute without a word is a broken cable more often than a restart: it aborted jobs that went on.
#[test]
fn s010_silence_another_process_and_a_job_that_has_not_begun_abort_nothing() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        begin_anew(&database, &a, "boot", &[], NOON).await;
        let order = JobOrder { restart: RestartPolicy::Abort, ..JobOrder::default() };
        let job = submit(&database, NewJob { order, ..backup_of_host(&a, NOON) }, NOON).await;
        let state = async || store::get(&database, &job.id).await.expect("get").state;
        for (has_begun, boot) in [(true, None), (true, Some("boot")), (false, Some("another"))] {
            let lease = take_one(&database, &a, NOON).await;
            if has_begun {
                let progress = Progress::default();
                advance(&database, &a, &held(&lease), JobState::Running, &progress, NOON).await.expect("run");
            }
            match boot {
                Some(boot) => begin_anew(&database, &a, boot, &[], NOON).await,
                None => assert_eq!(lapse_all(&database, NOON).await, 1),
            }
            assert_eq!(state().await, JobState::Queued, "{has_begun} {boot:?}");
        }
        // Its agent says so itself.
        let lease = take_one(&database, &a, NOON).await;
        finish(&database, &a, &held(&lease), &Ending::Aborted, Outcome::default(), NOON).await.expect("finish");
        assert_eq!(state().await, JobState::Aborted);
    });
}

#[test]
fn lapses_eat_no_retry_and_have_a_bound_of_their_own() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let order = JobOrder { attempts: 2, retry_pause_seconds: 0, ..JobOrder::default() };
        let job = submit(&database, NewJob { order, ..backup("set", NOON) }, NOON).await;
        for _ in 0..4 {
            take_one(&database, &a, NOON).await;
            assert_eq!(lapse_all(&database, NOON).await, 1);
        }
        let lease = take_one(&database, &a, NOON).await;
        assert_eq!((lease.job.attempt, lease.job.lapses), (5, 4));
        let failed = Ending::Failed { retry: true };
        let first = finish(&database, &a, &held(&lease), &failed, Outcome::default(), NOON).await.expect("finish");
        assert_eq!(first.job.state, JobState::Queued, "the first of two attempts");
        super::tests::close_windows(&database, NOON).await.expect("its pause is over");
        let mut lapses = 4;
        loop {
            let lease = take_one(&database, &a, NOON).await;
            if lapses == 4 {
                // Heard again in time: that was no lapse.
                lapse_all(&database, NOON).await;
                beat(&database, &a, &[(held(&lease), None)], NOON).await.expect("beat");
            }
            lapse_all(&database, NOON).await;
            lapses += 1;
            let stored = store::get(&database, &job.id).await.expect("get");
            assert_eq!(stored.lapses, lapses);
            if stored.state != JobState::Queued {
                assert_eq!((stored.state, lapses), (JobState::Failed, LAPSES_MAX));
                assert!(stored.message.expect("why").contains("lost its agent 20 times"));
                break;
            }
        }
    });
}

/// The agent of a backup was silent, and may have worked on: another backup of the set began beside it.
#[test]
fn backup_waits_for_one_of_its_set_that_lapsed_while_its_agent_may_be_at_work() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        let b = agent(&database, "b", &[], NOON).await;
        let own = submit(&database, NewJob { set: "set".to_owned(), ..backup_of_host(&a, NOON) }, NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        assert_eq!(lapse_all(&database, NOON).await, 1);
        let other = submit(&database, backup("set", NOON), NOON).await;
        assert!(take(&database, &[offer(&b, 1)], NOON).await.expect("take").is_empty());
        assert_eq!(store::get(&database, &other.id).await.expect("get").waits_on.as_deref(), Some("set:set"));
        assert_eq!(beat(&database, &a, &[(held(&lease), None)], NOON).await.expect("beat"), [Advice::Continue]);
        finish(&database, &a, &held(&lease), &Ending::Completed, outcome("p"), NOON).await.expect("finish");
        assert_eq!(take_one(&database, &b, NOON).await.job.id, other.id);
        assert_eq!(store::get(&database, &own.id).await.expect("get").state, JobState::Completed);
    });
}

/// The recovery point was there, and a command after it failed: the job said failed, and nobody found the point.
#[test]
fn s009_backup_with_a_recovery_point_is_done_though_a_command_after_it_failed() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON).await;
        for retry in [true, false] {
            submit(&database, backup(&format!("set {retry}"), NOON), NOON).await;
            let lease = take_one(&database, &a, NOON).await;
            let failed = Ending::Failed { retry };
            for repeated in [false, true] {
                let done = finish(&database, &a, &held(&lease), &failed, outcome("p"), NOON).await.expect("finish");
                assert_eq!((done.job.state, done.repeated), (JobState::CompletedWithErrors, repeated));
            }
        }
        let points = crate::job::points::list(&database, &Default::default(), 10).await.expect("points");
        assert_eq!(points.iter().map(|point| point.id.as_str()).collect::<Vec<_>>(), ["p", "p"]);
        submit(&database, backup("none", NOON), NOON).await;
        let lease = take_one(&database, &a, NOON).await;
        let without = Ending::Failed { retry: false };
        let done = finish(&database, &a, &held(&lease), &without, Outcome::default(), NOON).await.expect("finish");
        assert_eq!(done.job.state, JobState::Failed, "none that succeeded, none that is listed");
        assert_eq!(crate::job::points::list(&database, &Default::default(), 10).await.expect("points").len(), 2);
    });
}

/// A clock that was ahead wrote down when agents were heard: for that long they seemed connected.
#[test]
fn agent_heard_in_the_future_is_put_right_and_a_little_later_stays() {
    each_database(async |database| {
        let a = agent(&database, "a", &[], NOON.plus(seconds(365 * 86_400))).await;
        let seen = async |now| {
            registry::write_seen(&database, &[(a.clone(), now)]).await.expect("seen");
            registry::get(&database, &a).await.expect("get").last_seen
        };
        assert_eq!(seen(NOON).await, NOON);
        let other_server = NOON.plus(seconds(5));
        assert_eq!(seen(other_server).await, other_server);
        assert_eq!(seen(NOON.plus(seconds(1))).await, other_server);
    });
}

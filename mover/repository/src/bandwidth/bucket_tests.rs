//! Bytes are counted over simulated hours: tokio's clock stands still but for the waits, and the wall clock follows it.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicI64;
use std::task::{Context, Poll, Waker};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use parking_lot::Mutex as Lock;

use super::super::BandwidthLimits;
use super::*;

/// A Wednesday, 07:30.
const BEGIN: &str = "2026-07-15T07:30:00Z";
const MIB: f64 = 1048576.0;

fn calendar(text: &str) -> Calendar {
    text.parse().unwrap()
}

/// A wall clock that follows tokio's, and how many seconds it is put forward.
fn wall_clock() -> (WallClock, Arc<AtomicI64>) {
    let jump_s = Arc::new(AtomicI64::new(0));
    let begin = BEGIN.parse::<Timestamp>().unwrap().to_zoned(TimeZone::UTC);
    let (started, jump) = (Instant::now(), Arc::clone(&jump_s));
    let clock = move || {
        let jump = SignedDuration::from_secs(jump.load(Ordering::Relaxed));
        &begin + SignedDuration::try_from(started.elapsed()).unwrap() + jump
    };
    (Arc::new(clock), jump_s)
}

fn bucket(text: &str) -> Arc<TokenBucket> {
    Arc::new(TokenBucket::new(calendar(text), wall_clock().0))
}

/// Seconds since the begin and bytes of each take of three greedy takers, for `length`.
async fn greedy(bucket: &Arc<TokenBucket>, length: Duration) -> Vec<(f64, f64)> {
    let taken = Arc::new(Lock::new(Vec::new()));
    let begin = Instant::now();
    let takers: Vec<_> = (0..3)
        .map(|_| {
            let (bucket, taken) = (Arc::clone(bucket), Arc::clone(&taken));
            tokio::spawn(async move {
                loop {
                    let bytes = bucket.slice_bytes();
                    bucket.take(bytes).await;
                    taken.lock().push((begin.elapsed().as_secs_f64(), bytes as f64));
                }
            })
        })
        .collect();
    tokio::time::sleep(length).await;
    takers.iter().for_each(tokio::task::JoinHandle::abort);
    std::mem::take(&mut *taken.lock())
}

/// Checks both promises: in each ten seconds that end with a take at most a twentieth more than `allowed(from, to)`,
/// and in all at least 97 percent of it. Begins with a take would not do: the bytes of a take were earned before it.
fn check(taken: &[(f64, f64)], length_s: f64, allowed: impl Fn(f64, f64) -> f64) {
    let (mut oldest, mut sum) = (0, 0.0);
    for (end_s, bytes) in taken {
        sum += bytes;
        while taken[oldest].0 < end_s - 10.0 {
            sum -= taken[oldest].1;
            oldest += 1;
        }
        let most = allowed((end_s - 10.0).max(0.0), *end_s) * 1.05;
        assert!(sum <= most, "{sum} bytes in ten seconds until {end_s} s, at most {most}");
    }
    let total: f64 = taken.iter().map(|(_, bytes)| bytes).sum();
    let least = allowed(0.0, length_s) * 0.97;
    assert!(total >= least, "{total} bytes in {length_s} s, at least {least}");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_limit_is_kept_in_any_ten_seconds_and_used_up() {
    for (rate, bytes, length_s) in [
        ("500B/s", 500.0, 3600),
        ("300KiB/s", MIB * 0.29296875, 7200),
        ("20MiB/s", 20.0 * MIB, 3600),
        ("8Gbit/s", 1e9, 60),
    ] {
        let taken = greedy(&bucket(rate), Duration::from_secs(length_s)).await;
        check(&taken, length_s as f64, |from, to| (to - from) * bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn bandwidth_limit_is_kept_from_rule_to_rule() {
    let bucket = bucket("daily 08:00-09:00 = 2MiB/s, daily 09:00-10:00 = 0, daily 10:00-11:00 = 512KiB/s, else 4MiB/s");
    let length_s = 4.0 * 3600.0;
    let taken = greedy(&bucket, Duration::from_secs_f64(length_s)).await;
    let rules = [(0.0, 4.0), (1800.0, 2.0), (5400.0, 0.0), (9000.0, 0.5), (12600.0, 4.0), (f64::MAX, 0.0)];
    let allowed = |from: f64, to: f64| {
        let overlap = |begin: f64, end: f64| (to.min(end) - from.max(begin)).max(0.0);
        rules.windows(2).map(|pair| overlap(pair[0].0, pair[1].0) * pair[0].1 * MIB).sum()
    };
    check(&taken, length_s, allowed);
    let in_pause = taken.iter().filter(|(at_s, _)| (5400.5..9000.0).contains(at_s)).count();
    assert_eq!(in_pause, 0, "nothing passes while the rate is 0");
    assert!(taken.iter().any(|(at_s, _)| (9000.0..9000.5).contains(at_s)), "it goes on when the pause ends");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_change_wakes_who_waits() {
    for (after, takes_ms) in [("unlimited", 0..1), ("1MiB/s", 480..520)] {
        let bucket = bucket("daily 07:00-23:00 = 0, else unlimited");
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                tokio::spawn(async move { bucket.take(64 << 10).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(3_600_500)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        bucket.set(calendar(after));
        let begin = Instant::now();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        let waited_ms = begin.elapsed().as_millis();
        assert!(takes_ms.contains(&waited_ms), "{after}: {waited_ms} ms of the simulated clock");
    }
}

#[tokio::test(start_paused = true)]
async fn bandwidth_turns_are_in_order_and_who_leaves_gives_the_turn_back() {
    let bucket = bucket("1MiB/s");
    let order = Arc::new(Lock::new(Vec::new()));
    let mut waiters = Vec::new();
    for number in 0..6 {
        let (bucket, order) = (Arc::clone(&bucket), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            // the first one alone would take a minute
            bucket.take(if number == 0 { 60 << 20 } else { 16 << 10 }).await;
            order.lock().push(number);
        }));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(order.lock().is_empty());
    waiters[0].abort();
    waiters[3].abort();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(*order.lock(), [1, 2, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn bandwidth_time_without_demand_saves_up_little() {
    let bucket = bucket("10MiB/s");
    bucket.take(1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let taken = greedy(&bucket, Duration::from_secs(1)).await;
    let total: f64 = taken.iter().map(|(_, bytes)| bytes).sum();
    assert!(total <= 11.0 * MIB + 1.0, "{total} bytes in the first second after an hour of rest");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_take_of_many_slices_takes_its_time() {
    let bucket = bucket("1MiB/s");
    let begin = Instant::now();
    bucket.take(10 << 20).await;
    let waited_ms = begin.elapsed().as_millis();
    assert!((9_900..10_100).contains(&waited_ms), "{waited_ms} ms of the simulated clock");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_jump_of_the_wall_clock_changes_the_rule_and_no_amount() {
    let (clock, jump_s) = wall_clock();
    let bucket = Arc::new(TokenBucket::new(calendar("2MiB/s"), Arc::clone(&clock)));
    let jumper = tokio::spawn({
        let jump_s = Arc::clone(&jump_s);
        async move {
            for years in [1, -3, 10, 0, -20].into_iter().cycle() {
                tokio::time::sleep(Duration::from_millis(1_700)).await;
                jump_s.store(years * 365 * 86_400, Ordering::Relaxed);
            }
        }
    });
    let taken = greedy(&bucket, Duration::from_secs(600)).await;
    check(&taken, 600.0, |from, to| (to - from) * 2.0 * MIB);
    jumper.abort();

    jump_s.store(0, Ordering::Relaxed);
    bucket.set(calendar("daily 20:00-21:00 = unlimited, else 0.001MiB/s"));
    let waiter = tokio::spawn(async move { bucket.take(64 << 20).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!waiter.is_finished());
    jump_s.store(13 * 3600, Ordering::Relaxed);
    let begin = Instant::now();
    waiter.await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(1_001), "the rule is looked up each second");
}

/// Polls once, without a runtime that could wake anybody.
fn is_ready_at_once(future: impl Future<Output = ()>) -> bool {
    matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
}

#[tokio::test(start_paused = true)]
async fn bandwidth_without_a_limit_takes_no_lock() {
    let unlimited = bucket("sat+sun = unlimited, else unlimited");
    let held = unlimited.meter.lock().await;
    assert!(is_ready_at_once(unlimited.take(usize::MAX)));
    unlimited.set(calendar("1MiB/s"));
    assert!(!is_ready_at_once(unlimited.take(1)));
    drop(held);

    // an hour without a limit: the first take finds out, the next ones need not
    let by_night = bucket("daily 08:00-18:00 = 1MiB/s, else unlimited");
    by_night.take(1).await;
    let held = by_night.meter.lock().await;
    assert!(is_ready_at_once(by_night.take(usize::MAX)));
    by_night.set(calendar("1MiB/s"));
    assert!(!is_ready_at_once(by_night.take(1)));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn bandwidth_directions_are_apart_and_shared_by_all_jobs() {
    let limits = BandwidthLimits::with_wall_clock(wall_clock().0);
    limits.set_upload(calendar("1MiB/s"));
    let job = |limits: Arc<BandwidthLimits>| {
        tokio::spawn(async move {
            for _ in 0..320 {
                limits.download.take(1 << 20).await;
                limits.upload.take(16 << 10).await;
            }
        })
    };
    let begin = Instant::now();
    let (first, second) = (job(Arc::clone(&limits)), job(Arc::clone(&limits)));
    first.await.unwrap();
    second.await.unwrap();
    let waited_ms = begin.elapsed().as_millis();
    assert!((9_900..10_100).contains(&waited_ms), "10 MiB of two jobs took {waited_ms} ms of the simulated clock");
    assert_eq!(
        (limits.upload.now_and_next().0, limits.download.now_and_next().0.to_string()),
        (calendar("1MiB/s").rate_at(&Zoned::now()), "unlimited".to_owned())
    );
}

//! The rules against a model that tries every point against every rule; and what a thief may try.

use proptest::prelude::*;

use super::*;
use crate::log::OpenRecord;
use crate::testing::{Bench, block_on};

const HOUR: i128 = 3_600_000_000_000;
const DAY: i128 = 24 * HOUR;

fn id(seed: u64) -> ObjectId {
    ObjectId(*blake3::hash(&seed.to_le_bytes()).as_bytes())
}

fn candidate(seed: u64, hours: i128, tags: &[&str]) -> Candidate {
    Candidate {
        id: id(seed),
        number: LogNumber(seed),
        time: UnixNanos(hours * HOUR),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn periods(wanted: &[(Period, u32)]) -> Policy {
    Policy { periods: wanted.iter().copied().collect(), ..Policy::default() }
}

/// Kept by a period rule: no newer point is in the same period, and fewer than the wanted number of newer periods
/// have a point. Said once more without a loop that remembers anything.
fn model(candidates: &[Candidate], policy: &Policy, zone: &TimeZone) -> Vec<bool> {
    let is_newer = |a: &Candidate, b: &Candidate| (a.time, a.number) > (b.time, b.number);
    let kept = |one: &Candidate| {
        let newer: Vec<&Candidate> = candidates.iter().filter(|other| is_newer(other, one)).collect();
        let by_period = policy.periods.iter().any(|(period, wanted)| {
            let name = period.name(one.time, zone);
            let newer_names: BTreeSet<String> = newer.iter().map(|other| period.name(other.time, zone)).collect();
            !newer_names.contains(&name) && newer_names.len() < *wanted as usize
        });
        let newest = candidates.iter().map(|other| other.time.0).max().unwrap_or(0);
        let is_young = policy.within.is_some_and(|within| newest - one.time.0 <= within.as_nanos() as i128);
        let is_tagged = one.tags.iter().any(|tag| policy.tags.contains(tag));
        newer.len() < policy.last as usize || by_period || is_young || is_tagged
    };
    let mut all: Vec<bool> = candidates.iter().map(kept).collect();
    if let Some(newest) = (0..candidates.len()).max_by_key(|at| (candidates[*at].time, candidates[*at].number)) {
        all[newest] = true;
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_keep_what_the_model_keeps(
        hours in proptest::collection::vec((480_000i128..520_000, any::<bool>()), 0..60),
        counts in proptest::collection::vec(0u32..6, 6),
        within_hours in proptest::option::of(0u64..3_000),
        tagged in any::<bool>(),
    ) {
        let mut candidates: Vec<Candidate> = (1..)
            .zip(&hours)
            .map(|(seed, (hour, is_tagged))| candidate(seed, *hour, if *is_tagged { &["keep"] } else { &[] }))
            .collect();
        candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.time, candidate.number)));
        let policy = Policy {
            last: counts[5],
            periods: Period::ALL.into_iter().zip(counts.iter().copied()).collect(),
            within: within_hours.map(|hours| std::time::Duration::from_secs(hours * 3600)),
            tags: if tagged { vec!["keep".into()] } else { vec![] },
        };
        let kept: Vec<bool> = apply(&candidates, &policy, &zone()).iter().map(|reasons| !reasons.is_empty()).collect();
        prop_assert_eq!(kept, model(&candidates, &policy, &zone()));
    }

    #[test]
    fn the_longest_rising_part_is_rising_and_no_shorter_than_any(
        times in proptest::collection::vec(0i128..12, 0..12),
    ) {
        let items: Vec<_> = (1..).map(LogNumber).zip(times.iter().copied().map(UnixNanos)).collect();
        let found = longest_rising(&items);
        prop_assert!(found.is_sorted());
        let best = (0u32..1 << items.len())
            .filter_map(|mask| {
                let part: Vec<_> = (0..items.len()).filter(|at| mask >> at & 1 == 1).map(|at| items[at].1).collect();
                part.is_sorted().then_some(part.len())
            })
            .max();
        prop_assert_eq!(Some(found.len()), best);
    }
}

#[test]
fn one_point_may_satisfy_several_rules_and_each_is_told() {
    let candidates = [candidate(3, 49, &[]), candidate(2, 25, &[]), candidate(1, 24, &["gold"])];
    let policy = Policy { last: 1, tags: vec!["gold".into()], ..periods(&[(Period::Day, 2), (Period::Year, 1)]) };
    let told = |reasons: &Vec<Reason>| reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
    let reasons: Vec<_> = apply(&candidates, &policy, &TimeZone::UTC).iter().map(told).collect();
    assert_eq!(reasons[0], ["last 1", "daily 1 (1970-01-03)", "yearly 1 (1970)"]);
    assert_eq!(reasons[1], ["daily 2 (1970-01-02)"]);
    assert_eq!(reasons[2], ["tag gold"]);
}

#[test]
fn a_day_is_that_of_the_time_zone_and_a_repeated_hour_is_two() {
    // 2026-10-25: clocks go back at 03:00 CEST (01:00 UTC).
    let of = |text: &str| UnixNanos(text.parse::<Timestamp>().unwrap().as_nanosecond());
    let name = |period: Period, text: &str| period.name(of(text), &zone());
    assert_ne!(name(Period::Hour, "2026-10-25T00:30:00Z"), name(Period::Hour, "2026-10-25T01:30:00Z"));
    assert_eq!(name(Period::Day, "2026-10-24T22:30:00Z"), "2026-10-25", "half past midnight in summer time");
    assert_eq!(name(Period::Day, "2026-10-25T22:30:00Z"), "2026-10-25", "half past eleven in winter time");
    assert_eq!(name(Period::Week, "2026-12-31T23:30:00Z"), "2026-W53", "the first of January belongs to week 53");
    assert_eq!(name(Period::Year, "2026-12-31T23:30:00Z"), "2027");
}

#[test]
fn the_newest_point_of_a_set_stays_whatever_the_rules_say() {
    let candidates = [candidate(2, 100, &[]), candidate(1, 1, &[])];
    let policy = Policy { tags: vec!["none has it".into()], ..Policy::default() };
    let reasons = apply(&candidates, &policy, &TimeZone::UTC);
    assert_eq!(reasons, [vec![Reason::Newest], vec![]]);
    assert!(Policy::default().is_empty() && !policy.is_empty());
}

/// A repository whose points and admin records have the times that a test says.
struct Timeline {
    bench: Bench,
}

impl Timeline {
    fn new() -> Self {
        Self { bench: Bench::new() }
    }

    fn open(role: Role, days: i128) -> OpenRecord {
        OpenRecord { started: UnixNanos(days * DAY), ..Bench::open_record(role) }
    }

    fn admin(&self, days: i128) {
        let registration = block_on(self.bench.repository.register(Self::open(Role::Admin, days))).unwrap();
        block_on(registration.commit(Outcome::Ended { reason: "looked".into() })).unwrap();
    }

    fn point(&self, days: i128, depends_on: Option<ObjectId>) -> ObjectId {
        let registration = block_on(self.bench.repository.register(Self::open(Role::Writer, days))).unwrap();
        let point = RecoveryPoint {
            id: ObjectId(crate::crypto::random_array()),
            finished: UnixNanos(days * DAY),
            parent: None,
            depends_on,
            ..crate::testing::point("set")
        };
        block_on(registration.commit(Outcome::RecoveryPoint(point.clone()))).unwrap();
        point.id
    }

    fn kept(&self, policy: &Policy, now_days: i128) -> Vec<ObjectId> {
        let history = block_on(self.bench.repository.history()).unwrap();
        let now = UnixNanos(now_days * DAY);
        let verdicts = judge(&history, self.bench.repository.secrets(), policy, &TimeZone::UTC, now, |_| true);
        verdicts.into_iter().filter(|verdict| !verdict.reasons.is_empty()).map(|verdict| verdict.point.id).collect()
    }
}

#[test]
fn what_a_kept_point_depends_on_is_kept_along_the_whole_chain() {
    let timeline = Timeline::new();
    let full = timeline.point(1, None);
    let first = timeline.point(2, Some(full));
    let second = timeline.point(3, Some(first));
    let other = timeline.point(4, None);
    let kept = timeline.kept(&Policy { last: 2, ..Policy::default() }, 10);
    assert_eq!(kept, [other, second, first, full]);
    let kept = timeline.kept(&Policy { last: 1, ..Policy::default() }, 10);
    assert_eq!(kept, [other]);
    let history = block_on(timeline.bench.repository.history()).unwrap();
    let found: Vec<_> = dependents(&history, &[full]).into_iter().map(|(point, base)| (point.id, base)).collect();
    assert_eq!(found, [(first, full)]);
    assert!(dependents(&history, &[full, first, second]).is_empty());
}

#[test]
fn a_flood_of_forged_dates_takes_no_place_of_another_day() {
    let timeline = Timeline::new();
    let honest: Vec<ObjectId> = (1..=7)
        .map(|day| {
            timeline.admin(day);
            timeline.point(day, None)
        })
        .collect();
    timeline.admin(8);
    // The thief has the key of the client: dates far ahead, and one for each day that has passed.
    let forged: Vec<ObjectId> = (1..=20).map(|day| timeline.point(day, None)).collect();
    let kept = timeline.kept(&periods(&[(Period::Day, 8)]), 8);
    assert!(honest.iter().all(|point| kept.contains(point)), "every honest day keeps its point");
    assert_eq!(kept.iter().filter(|point| forged.contains(point)).count(), 1, "the flood has its own day");
}

#[test]
fn one_clock_that_was_wrong_moves_no_other_point() {
    let timeline = Timeline::new();
    timeline.admin(1);
    let before = timeline.point(1, None);
    timeline.admin(20_000);
    let ahead = timeline.point(20_000, None);
    timeline.admin(2);
    let after = timeline.point(3, None);
    timeline.admin(4);
    let kept = timeline.kept(&periods(&[(Period::Day, 3)]), 5);
    assert_eq!(kept, [after, ahead, before]);
}

/// With one admin key: a point of Monday was brought back on Tuesday and counted as Tuesday's.
#[test]
fn a_point_that_was_brought_back_is_as_old_as_it_was() {
    let timeline = Timeline::new();
    let monday = timeline.point(1, None);
    let tuesday = timeline.point(2, None);
    let forget = block_on(timeline.bench.repository.register(Timeline::open(Role::Admin, 2))).unwrap();
    block_on(forget.commit(Outcome::Forget { points: vec![monday], reason: "by name".into() })).unwrap();
    let history = block_on(timeline.bench.repository.history()).unwrap();
    let point = forgotten(&history).remove(0);
    let again = block_on(timeline.bench.repository.register(Timeline::open(Role::Writer, 3))).unwrap();
    block_on(again.commit(Outcome::RecoveryPoint(point))).unwrap();
    assert_eq!(timeline.kept(&Policy { last: 1, ..Policy::default() }, 4), [tuesday]);
    let history = block_on(timeline.bench.repository.history()).unwrap();
    assert_eq!(history.latest_point("set").map(|(_, point)| point.id), Some(tuesday));
}

/// A backup of a whole night, with a prune at 23:00, was counted as one of the evening.
#[test]
fn a_long_backup_ends_after_an_admin_who_began_later() {
    let timeline = Timeline::new();
    let long = block_on(timeline.bench.repository.register(Timeline::open(Role::Writer, 1))).unwrap();
    timeline.admin(2);
    let finished = UnixNanos(3 * DAY);
    let point = RecoveryPoint { finished, parent: None, depends_on: None, ..crate::testing::point("set") };
    block_on(long.commit(Outcome::RecoveryPoint(point))).unwrap();
    let history = block_on(timeline.bench.repository.history()).unwrap();
    let policy = Policy { last: 1, ..Policy::default() };
    let verdicts =
        judge(&history, timeline.bench.repository.secrets(), &policy, &TimeZone::UTC, UnixNanos(9 * DAY), |_| true);
    assert_eq!(verdicts[0].time, finished);
}

/// Points of four days that were copied in one night all counted as that night's, behind the record of an admin.
#[test]
fn points_that_an_admin_copied_are_as_old_as_they_were() {
    let timeline = Timeline::new();
    timeline.admin(8);
    let bring = |client: &Bench, day: i128| {
        let registration = block_on(client.repository.register(Timeline::open(Role::Writer, 9))).unwrap();
        let finished = UnixNanos(day * DAY);
        let point = RecoveryPoint { finished, parent: None, depends_on: None, ..crate::testing::point("set") };
        block_on(registration.commit(Outcome::RecoveryPoint(point.clone()))).unwrap();
        point.id
    };
    let copied: Vec<ObjectId> = (1..=4).map(|day| bring(&timeline.bench, day)).collect();
    let client = timeline.bench.put_only_client();
    let forged: Vec<ObjectId> = (1..=4).map(|day| bring(&client, day)).collect();
    let kept = timeline.kept(&periods(&[(Period::Day, 8)]), 10);
    assert!(copied.iter().all(|point| kept.contains(point)), "each has a day of its own");
    assert_eq!(kept.iter().filter(|point| forged.contains(point)).count(), 1, "who may only add is not believed");
}

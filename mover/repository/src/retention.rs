//! Which recovery points a policy keeps, and why: pure, and the same for the command line and a schedule.
//!
//! Points are judged in groups of one set and one signing key, so that no client crowds out another. The
//! newest point of a period (hour, day, week, month, year, in a time zone) stands for it; a point may satisfy
//! several rules. Whatever the rules say, the newest point of a set stays, and so does one that a kept one
//! depends on.
//!
//! The clock of a client is not trusted. Log numbers are: a point lies between the records that admins wrote
//! before and after it, and its time is moved into that span. A flood of points with forged dates therefore
//! takes the places of the day on which it came, and of no other. A point that an admin key copied from elsewhere keeps
//! its time: it was finished before the run registered that brought it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::crypto::{Secrets, VerifyingKey};
use crate::ids::{LogNumber, ObjectId, UnixNanos};
use crate::log::{History, LogEntry, Outcome, RecoveryPoint, Role};

/// A rule that keeps the newest point of each of the newest periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour of the clock.
    Hour,
    /// A calendar day.
    Day,
    /// A week of ISO 8601: from Monday.
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

impl Period {
    /// All, shortest first.
    pub const ALL: [Period; 5] = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

    /// The name of the period that holds `time`: names of one kind order as the periods do.
    fn name(self, time: UnixNanos, zone: &TimeZone) -> String {
        let time = timestamp(time).to_zoned(zone.clone());
        match self {
            // With the offset: the hour that a clock set back runs through twice is two hours.
            Period::Hour => time.strftime("%Y-%m-%d %H:00%:z").to_string(),
            Period::Day => time.strftime("%Y-%m-%d").to_string(),
            Period::Week => time.strftime("%G-W%V").to_string(),
            Period::Month => time.strftime("%Y-%m").to_string(),
            Period::Year => time.strftime("%Y").to_string(),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        })
    }
}

/// What to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest points, whatever their time.
    pub last: u32,
    /// How many periods of each kind.
    pub periods: BTreeMap<Period, u32>,
    /// All points at most this much older than the newest of their group.
    pub within: Option<std::time::Duration>,
    /// All points with one of these tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// True if it names no rule at all: it would keep nothing.
    pub fn is_empty(&self) -> bool {
        self.last == 0
            && self.periods.values().all(|count| *count == 0)
            && self.within.is_none()
            && self.tags.is_empty()
    }
}

/// Why a point is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is the n-th newest, counted from 1.
    Last(u32),
    /// It stands for a period, the n-th newest that has a point.
    Period(Period, u32, String),
    /// It is young enough.
    Within,
    /// It has this tag.
    Tag(String),
    /// A kept point depends on it.
    Needed(ObjectId),
    /// It is the newest of its set: that one stays whatever the rules say.
    Newest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Last(nth) => write!(f, "last {nth}"),
            Reason::Period(period, nth, name) => write!(f, "{period} {nth} ({name})"),
            Reason::Within => write!(f, "within"),
            Reason::Tag(tag) => write!(f, "tag {tag}"),
            Reason::Needed(by) => write!(f, "{} depends on it", &by.to_string()[..16]),
            Reason::Newest => write!(f, "the newest of its set"),
        }
    }
}

/// One point as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: ObjectId,
    /// Where it stands in the log.
    pub number: LogNumber,
    /// Its time, within what the log allows.
    pub time: UnixNanos,
    /// Its tags.
    pub tags: Vec<String>,
}

/// What is to become of one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The point's number in the log.
    pub number: LogNumber,
    /// The point.
    pub point: RecoveryPoint,
    /// Its time as the rules took it; another one than its own where its clock contradicts the log.
    pub time: UnixNanos,
    /// Why it is kept; none: it is to be forgotten.
    pub reasons: Vec<Reason>,
}

/// Judges all points that are not forgotten. Points that are not `selected` are kept without a verdict.
/// In order of set, signing key and time, newest first.
pub fn judge(
    history: &History,
    secrets: &Secrets,
    policy: &Policy,
    zone: &TimeZone,
    now: UnixNanos,
    selected: impl Fn(&RecoveryPoint) -> bool,
) -> Vec<Verdict> {
    let (span, first) = (Span::of(history, secrets, now), history.first_numbers());
    let mut groups: BTreeMap<_, Vec<(Candidate, &RecoveryPoint)>> = BTreeMap::new();
    let mut kept: Vec<&RecoveryPoint> = Vec::new();
    for (number, point) in history.points() {
        if !selected(point) {
            kept.push(point);
            continue;
        }
        let signer = history.entry(number).map_or([0; 32], |entry| entry.signer.0);
        // One that was brought back is as old as it was.
        let first = first[&point.id];
        let time = match was_copied_by_admin(history, secrets, first, point) {
            true => point.finished.min(now),
            false => span.clamp(first, point.finished),
        };
        let candidate = Candidate { id: point.id, number, time, tags: point.tags.clone() };
        groups.entry((point.set.as_str(), signer)).or_default().push((candidate, point));
    }
    let mut verdicts = Vec::new();
    for members in groups.into_values() {
        let (mut candidates, points): (Vec<Candidate>, Vec<&RecoveryPoint>) = members.into_iter().unzip();
        let by_id: HashMap<ObjectId, &RecoveryPoint> = points.iter().map(|point| (point.id, *point)).collect();
        candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.time, candidate.number)));
        let reasons = apply(&candidates, policy, zone);
        verdicts.extend(candidates.into_iter().zip(reasons).map(|(candidate, reasons)| Verdict {
            number: candidate.number,
            point: by_id[&candidate.id].clone(),
            time: candidate.time,
            reasons,
        }));
    }
    keep_what_is_needed(&mut verdicts, kept);
    verdicts
}

/// Whether an admin key brought it from another repository. No clock of one host makes a backup of its own older than its
/// beginning.
fn was_copied_by_admin(history: &History, secrets: &Secrets, first: LogNumber, point: &RecoveryPoint) -> bool {
    history.entry(first).is_some_and(|entry| {
        let registered = entry.open.as_ref().map(|open| open.started);
        secrets.is_admin_key(&entry.signer) && registered.is_some_and(|registered| point.finished < registered)
    })
}

/// Judges the points of one group, which are newest first: why each is kept.
pub fn apply(candidates: &[Candidate], policy: &Policy, zone: &TimeZone) -> Vec<Vec<Reason>> {
    let mut reasons = vec![Vec::new(); candidates.len()];
    for (nth, reasons) in (1..=policy.last).zip(&mut reasons) {
        reasons.push(Reason::Last(nth));
    }
    for (period, wanted) in &policy.periods {
        let mut names = BTreeSet::new();
        for (candidate, reasons) in candidates.iter().zip(&mut reasons) {
            if names.len() == *wanted as usize {
                break;
            }
            let name = period.name(candidate.time, zone);
            if names.insert(name.clone()) {
                reasons.push(Reason::Period(*period, names.len() as u32, name));
            }
        }
    }
    if let (Some(within), Some(newest)) = (policy.within, candidates.first()) {
        let oldest = newest.time.0 - within.as_nanos() as i128;
        let young = candidates.iter().zip(&mut reasons).filter(|(candidate, _)| candidate.time.0 >= oldest);
        young.for_each(|(_, reasons)| reasons.push(Reason::Within));
    }
    for (candidate, reasons) in candidates.iter().zip(&mut reasons) {
        let tags = candidate.tags.iter().filter(|tag| policy.tags.contains(tag));
        reasons.extend(tags.map(|tag| Reason::Tag(tag.clone())));
    }
    if let Some(newest) = reasons.first_mut().filter(|reasons| reasons.is_empty()) {
        newest.push(Reason::Newest);
    }
    reasons
}

/// Keeps the points that kept ones depend on, and those that these depend on.
fn keep_what_is_needed(verdicts: &mut [Verdict], mut kept: Vec<&RecoveryPoint>) {
    let at: HashMap<ObjectId, usize> =
        verdicts.iter().enumerate().map(|(at, verdict)| (verdict.point.id, at)).collect();
    let mut needs: Vec<(ObjectId, ObjectId)> =
        kept.drain(..).filter_map(|point| Some((point.id, point.depends_on?))).collect();
    let is_kept = |verdict: &&Verdict| !verdict.reasons.is_empty();
    needs.extend(
        verdicts.iter().filter(is_kept).filter_map(|verdict| Some((verdict.point.id, verdict.point.depends_on?))),
    );
    while let Some((dependent, base)) = needs.pop() {
        let Some(verdict) = at.get(&base).map(|at| &mut verdicts[*at]) else { continue };
        let was_kept = !verdict.reasons.is_empty();
        verdict.reasons.push(Reason::Needed(dependent));
        if !was_kept && let Some(further) = verdict.point.depends_on {
            needs.push((base, further));
        }
    }
}

/// The points not among `doomed` that depend on one of these: what must not be forgotten by name alone.
pub fn dependents<'h>(history: &'h History, doomed: &[ObjectId]) -> Vec<(&'h RecoveryPoint, ObjectId)> {
    let doomed: HashSet<ObjectId> = doomed.iter().copied().collect();
    let stays = |point: &&RecoveryPoint| !doomed.contains(&point.id);
    let points = history.points().map(|(_, point)| point).filter(stays);
    points.filter_map(|point| Some((point, point.depends_on.filter(|base| doomed.contains(base))?))).collect()
}

/// What the records of admins say of the time at each log number.
struct Span<'h> {
    history: &'h History,
    /// Ascending by number and by time.
    admin_times: Vec<(LogNumber, UnixNanos)>,
    now: UnixNanos,
}

impl<'h> Span<'h> {
    fn of(history: &'h History, secrets: &Secrets, now: UnixNanos) -> Self {
        let is_admin = |signer: &VerifyingKey| secrets.is_admin_key(signer);
        let of_admin = |entry: &LogEntry| {
            let open = entry.open.as_ref().filter(|open| open.role == Role::Admin && is_admin(&entry.signer))?;
            Some((entry.number, open.started)).filter(|(_, time)| *time <= now)
        };
        let times: Vec<_> = history.entries().iter().filter_map(of_admin).collect();
        Self { history, admin_times: longest_rising(&times), now }
    }

    fn clamp(&self, number: LogNumber, time: UnixNanos) -> UnixNanos {
        let behind = self.admin_times.partition_point(|(admin, _)| *admin < number);
        // Not before who only registered later: a long backup ends after them.
        let has_seen_it = |admin: &LogNumber| {
            let done = self.history.entry(*admin).and_then(|entry| entry.done.as_ref());
            done.is_some_and(|done| done.seen.covers(number))
        };
        let latest = self.admin_times[behind..].iter().find(|(admin, _)| has_seen_it(admin));
        let latest = latest.map_or(self.now, |(_, time)| *time);
        let earliest = behind.checked_sub(1).map_or(UnixNanos(i128::MIN), |before| self.admin_times[before].1);
        UnixNanos(time.0.clamp(earliest.0, latest.0))
    }
}

/// The longest part of it whose times do not fall: one record of a clock that was wrong is left out.
fn longest_rising(times: &[(LogNumber, UnixNanos)]) -> Vec<(LogNumber, UnixNanos)> {
    // Patience sorting: `ends[n]` is where the best run of n + 1 items ends.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(times.len());
    for (at, (_, time)) in times.iter().enumerate() {
        let length = ends.partition_point(|end| times[*end].1 <= *time);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut rising: Vec<_> =
        std::iter::successors(ends.last().copied(), |at| before[*at]).map(|at| times[at]).collect();
    rising.reverse();
    rising
}

fn timestamp(time: UnixNanos) -> Timestamp {
    let bounded = time.0.clamp(Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond());
    Timestamp::from_nanosecond(bounded).expect("within the bounds of a timestamp")
}

/// The points that a forget record named and that no later record brought back, oldest first.
pub fn forgotten(history: &History) -> Vec<RecoveryPoint> {
    let live: BTreeSet<ObjectId> = history.points().map(|(_, point)| point.id).collect();
    let mut seen = BTreeSet::new();
    let points = history.entries().iter().filter_map(|entry| match entry.outcome()? {
        Outcome::RecoveryPoint(point) => Some(point),
        _ => None,
    });
    points.filter(|point| !live.contains(&point.id) && seen.insert(point.id)).cloned().collect()
}

#[cfg(test)]
mod tests;

//! The runs of a policy: when each is due, may begin, and must have begun.
//!
//! A run is due at the times of its schedules. Where no window is open then, it begins when the next one opens; several
//! that are due in the same closed time are one. The jitter of a policy follows from its id, so it is the same on every
//! server and after every restart, and it never leads out of the window.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::ids::{PolicyId, UnixMillis};
use crate::job::admission::WINDOW;

use super::calendar::on_day;
use super::week::Week;
use super::{Policy, When};

/// Days without a run after which none is looked for: a leap day comes every 4 years, or 8 around some centuries.
const HORIZON_DAYS: u32 = 366 * 8 + 2;

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// When it begins, jitter and windows counted in.
    pub begins: UnixMillis,
    /// It begins before this, or not at all.
    pub ends: UnixMillis,
}

/// Runs one after the other, without end as long as there are any.
pub struct Runs {
    when: When,
    zone: TimeZone,
    week: Week,
    jitter_ms: i64,
    /// The day that is looked at, and those of its instants that are left.
    day: Zoned,
    instants: Vec<Timestamp>,
    after: UnixMillis,
    days_left: u32,
}

impl Policy {
    /// Runs that begin after `after`; none where nothing in *when* makes sense.
    pub fn next_runs(&self, id: &PolicyId, after: UnixMillis) -> Runs {
        let zone = TimeZone::get(&self.when.zone);
        let week = Week::of(&self.when);
        let makes_sense = zone.is_ok() && week.is_ok();
        let zone = zone.unwrap_or(TimeZone::UTC);
        let week = week.unwrap_or_else(|_| Week::of(&When::on_demand()).expect("always open"));
        // What was due up to a day and the jitter before may begin after.
        let jitter_ms = jitter_ms(id, self.when.jitter_seconds);
        let early = after.0.saturating_sub(jitter_ms).saturating_sub(8 * 86_400_000);
        let first = UnixMillis(if week.is_always_open() { after.0.saturating_sub(jitter_ms) } else { early });
        let day = first.timestamp().to_zoned(zone.clone());
        let day = day.start_of_day().unwrap_or(day);
        let when = if makes_sense { self.when.clone() } else { When::on_demand() };
        let days_left = if when.schedules.is_empty() { 0 } else { HORIZON_DAYS };
        let mut runs = Runs { when, zone, week, jitter_ms, day, instants: Vec::new(), after, days_left };
        runs.fill();
        runs
    }

    /// The end of the window that is open at `moment`, or a day later.
    pub fn window_end(&self, moment: UnixMillis) -> UnixMillis {
        let (Ok(zone), Ok(week)) = (TimeZone::get(&self.when.zone), Week::of(&self.when)) else {
            return moment.plus(WINDOW);
        };
        end(&week, &moment.timestamp().to_zoned(zone))
    }

    /// Until when a job that was let in at `created` may begin if no blackout interrupted its window at `moment`; `None`
    /// where no window is open then. Without windows a job may wait for [`WINDOW`].
    pub fn window_end_without_blackouts(&self, moment: UnixMillis, created: UnixMillis) -> Option<UnixMillis> {
        if self.when.windows.is_empty() {
            return Some(created.plus(WINDOW));
        }
        let zone = TimeZone::get(&self.when.zone).ok()?;
        let week = Week::of(&When { blackouts: Vec::new(), ..self.when.clone() }).ok()?;
        let moment = moment.timestamp().to_zoned(zone);
        week.is_open(&moment).then(|| end(&week, &moment))
    }

    /// The first moment from `moment` on at which a run may begin.
    pub fn next_open(&self, moment: UnixMillis) -> UnixMillis {
        let (Ok(zone), Ok(week)) = (TimeZone::get(&self.when.zone), Week::of(&self.when)) else { return moment };
        week.next_open(&moment.timestamp().to_zoned(zone)).timestamp().into()
    }
}

impl When {
    /// Never by itself, at any time when asked for.
    pub fn on_demand() -> When {
        When {
            zone: "UTC".to_owned(),
            schedules: Vec::new(),
            windows: Vec::new(),
            blackouts: Vec::new(),
            jitter_seconds: 0,
            catch_up: super::CatchUp::Once,
        }
    }
}

/// The end of the window around `begins`; without windows, a day later.
fn end(week: &Week, begins: &Zoned) -> UnixMillis {
    let end = week.end_of_open(begins).map(|end| UnixMillis::from(end.timestamp()));
    end.unwrap_or_else(|| UnixMillis::from(begins.timestamp()).plus(WINDOW))
}

/// By how much this policy begins later than it is due.
fn jitter_ms(id: &PolicyId, jitter_seconds: u32) -> i64 {
    let span = u64::from(jitter_seconds) * 1000;
    if span == 0 {
        return 0;
    }
    let hash = blake3::hash(id.as_str().as_bytes());
    let word = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"));
    (word % span) as i64
}

impl Runs {
    /// The instants of the day in hand, last first.
    fn fill(&mut self) {
        let mut instants: Vec<Timestamp> =
            self.when.schedules.iter().flat_map(|schedule| on_day(schedule, &self.day)).collect();
        instants.sort_unstable();
        instants.dedup();
        instants.reverse();
        self.instants = instants;
    }

    /// The run that is due at `due`, unless it has been. What else is due before its window opens is the same run.
    fn run_of(&mut self, due: Timestamp) -> Option<Run> {
        let due = due.to_zoned(self.zone.clone());
        let open = self.week.next_open(&due);
        if open > due {
            self.skip_to(&open);
        }
        let ends = end(&self.week, &open);
        let begins = UnixMillis::from(open.timestamp());
        // The jitter ends before the window does.
        let room = (ends.0 - begins.0 - 1).max(0);
        let begins = UnixMillis(begins.0 + self.jitter_ms.min(room));
        let ends = if self.week.is_always_open() { begins.plus(WINDOW) } else { ends };
        (begins > self.after).then_some(Run { begins, ends })
    }
}

impl Runs {
    /// Leaves out what is due before `open`, without a look at each instant of the days until then.
    fn skip_to(&mut self, open: &Zoned) {
        let instant = open.timestamp();
        if self.day.date() < open.date() {
            self.day = open.start_of_day().unwrap_or_else(|_| open.clone());
            self.fill();
        }
        while self.instants.pop_if(|next| *next < instant).is_some() {}
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        loop {
            while let Some(due) = self.instants.pop() {
                if let Some(run) = self.run_of(due) {
                    // What opens with the same window is the same run.
                    self.after = run.begins;
                    self.days_left = HORIZON_DAYS;
                    return Some(run);
                }
            }
            self.days_left = self.days_left.checked_sub(1)?;
            self.day = self.day.checked_add(1.day()).ok()?.start_of_day().ok()?;
            self.fill();
        }
    }
}

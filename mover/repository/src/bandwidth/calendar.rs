//! Which rate is allowed when: rules of a week, the first that matches decides.
//!
//! Civil time decides at each moment, so a day with a change to summer time has its rules where the clock on the wall
//! has them. Minutes are the finest grain. Text is read and written by [`super::grammar`]. Plain data: no clock is
//! read here.

use std::num::NonZeroU64;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// Minutes of a day.
pub(super) const DAY_MINUTES: u16 = 24 * 60;
/// Days of a week.
pub(super) const WEEK_DAYS: u8 = 7;
/// Rules that one calendar may have.
pub(super) const RULES_MAX: usize = 64;
/// How many days ahead a change is looked for: a week, and one for what a change of the clock moves.
const HORIZON_DAYS: i64 = 8;

/// How many bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// No limit.
    Unlimited,
    /// At most so many bytes a second.
    Limited(NonZeroU64),
    /// Nothing at all.
    Paused,
}

/// Days of the week as bits, Monday lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Days(pub(super) u8);

impl Days {
    /// Every day.
    pub(super) const DAILY: Days = Days((1 << WEEK_DAYS) - 1);

    /// Whether the day is among them; Monday is 0.
    pub(super) fn has(self, day: u8) -> bool {
        self.0 & (1 << day) != 0
    }
}

/// From when to when, on which days, which rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) days: Days,
    /// Below [`DAY_MINUTES`].
    pub(super) from_minute: u16,
    /// At most [`DAY_MINUTES`]; below `from_minute` it is on the day after.
    pub(super) to_minute: u16,
    pub(super) rate: Rate,
}

impl Rule {
    fn covers(&self, day: u8, minute: u16) -> bool {
        if self.from_minute < self.to_minute {
            return self.days.has(day) && (self.from_minute..self.to_minute).contains(&minute);
        }
        let day_before = (day + WEEK_DAYS - 1) % WEEK_DAYS;
        (self.days.has(day) && minute >= self.from_minute) || (self.days.has(day_before) && minute < self.to_minute)
    }
}

/// The rates of a week.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    /// Whose civil time counts; without it that of the moment that is asked for.
    pub(super) zone: Option<TimeZone>,
    pub(super) rules: Vec<Rule>,
    /// Where no rule matches.
    pub(super) otherwise: Rate,
}

impl Calendar {
    /// No limit at any time.
    pub fn unlimited() -> Calendar {
        Calendar { zone: None, rules: Vec::new(), otherwise: Rate::Unlimited }
    }

    /// Whether it never limits anything.
    pub fn is_unlimited(&self) -> bool {
        self.otherwise == Rate::Unlimited && self.rules.iter().all(|rule| rule.rate == Rate::Unlimited)
    }

    /// The rate at a moment.
    pub fn rate_at(&self, moment: &Zoned) -> Rate {
        let here = self.here(moment);
        let day = here.weekday().to_monday_zero_offset() as u8;
        self.rate_in_week(day, here.hour() as u16 * 60 + here.minute() as u16)
    }

    /// The first moment after `moment` at which another rate begins, in the zone of the calendar; `None` if the rate
    /// stays.
    pub fn next_change_after(&self, moment: &Zoned) -> Option<Zoned> {
        if self.rules.is_empty() {
            return None;
        }
        let here = self.here(moment);
        let rate = self.rate_at(&here);
        let mut candidates = self.candidates_after(&here);
        candidates.sort_unstable();
        let at = |candidate: Timestamp| candidate.to_zoned(here.time_zone().clone());
        candidates.into_iter().map(at).find(|candidate| self.rate_at(candidate) != rate)
    }

    /// Whether there is a moment in a week at which anything is allowed.
    pub(super) fn ever_permits(&self) -> bool {
        let minutes = self.boundary_minutes();
        (0..WEEK_DAYS).any(|day| minutes.iter().any(|minute| self.rate_in_week(day, *minute) != Rate::Paused))
    }

    fn here(&self, moment: &Zoned) -> Zoned {
        match &self.zone {
            Some(zone) => moment.with_time_zone(zone.clone()),
            None => moment.clone(),
        }
    }

    fn rate_in_week(&self, day: u8, minute: u16) -> Rate {
        self.rules.iter().find(|rule| rule.covers(day, minute)).map_or(self.otherwise, |rule| rule.rate)
    }

    /// Minutes of a day at which a rule may begin or end; midnight among them, since days differ.
    fn boundary_minutes(&self) -> Vec<u16> {
        let ends = self.rules.iter().flat_map(|rule| [rule.from_minute, rule.to_minute % DAY_MINUTES]);
        let mut minutes: Vec<u16> = std::iter::once(0).chain(ends).collect();
        minutes.sort_unstable();
        minutes.dedup();
        minutes
    }

    /// Moments after `here` at which the rate may change, in no order: each boundary of the coming days, twice where the
    /// clock shows it twice, and each change of the clock itself.
    fn candidates_after(&self, here: &Zoned) -> Vec<Timestamp> {
        let zone = here.time_zone();
        let now = here.timestamp();
        let minutes = self.boundary_minutes();
        let mut candidates = Vec::new();
        for days in 0..=HORIZON_DAYS {
            // the calendar of the library ends in the year 9999, and so do changes
            let Ok(date) = here.date().checked_add(days.days()) else { break };
            for minute in &minutes {
                let time = Time::constant((minute / 60) as i8, (minute % 60) as i8, 0, 0);
                let moments = zone.to_ambiguous_zoned(date.to_datetime(time));
                let both = [moments.clone().earlier(), moments.later()];
                candidates.extend(both.into_iter().flatten().map(|moment| moment.timestamp()));
            }
        }
        let horizon = candidates.iter().max().copied().unwrap_or(now);
        let of_clock = zone.following(now).map(|transition| transition.timestamp());
        candidates.extend(of_clock.take_while(|moment| *moment <= horizon));
        candidates.retain(|moment| *moment > now);
        candidates
    }
}

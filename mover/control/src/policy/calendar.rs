//! From the clock on the wall to points in time, over every change to and from summer time.
//!
//! A time that does not exist on a day runs at the first instant after the gap; one that occurs twice runs once, the
//! first time.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan, Zoned};

use super::Schedule;
use super::week::minutes;

/// The first instant at which clocks in `zone` show `civil` or later.
pub(super) fn first_instant(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().ok(),
        AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
        AmbiguousOffset::Gap { .. } => {
            // Read with the offset from before the gap it lies behind the change, by at most the length of the gap.
            let behind = ambiguous.later().ok()?;
            let after = behind.checked_add(1.nanosecond()).ok()?;
            zone.preceding(after).next().map(|change| change.timestamp())
        }
    }
}

/// Instants of one schedule on the day of `day`, in order.
pub(super) fn on_day(schedule: &Schedule, day: &Zoned) -> Vec<Timestamp> {
    let date = day.date();
    let weekday = usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or(0);
    if !schedule.days.is_empty() && !schedule.days.iter().any(|named| named.number() == weekday) {
        return Vec::new();
    }
    let is_month_day = |wanted: i8| {
        let number = if wanted > 0 { wanted } else { date.days_in_month() + 1 + wanted };
        number == date.day()
    };
    if !schedule.month_days.is_empty() && !schedule.month_days.iter().any(|wanted| is_month_day(*wanted)) {
        return Vec::new();
    }
    let zone = day.time_zone();
    if let Some(every) = schedule.every_minutes {
        return every_minutes(date, zone, every);
    }
    let times = schedule.at.iter().filter_map(|text| minutes(text, false).ok());
    let civil = times.map(|minutes| date.at((minutes / 60) as i8, (minutes % 60) as i8, 0, 0));
    let mut instants: Vec<Timestamp> = civil.filter_map(|civil| first_instant(civil, zone)).collect();
    instants.sort_unstable();
    instants.dedup();
    instants
}

/// From the first instant of the day on, by the time that passes: a day of 25 hours has more of them.
fn every_minutes(date: jiff::civil::Date, zone: &TimeZone, every: u32) -> Vec<Timestamp> {
    let start = |date: jiff::civil::Date| first_instant(date.at(0, 0, 0, 0), zone);
    let (Some(mut next), Some(end)) = (start(date), date.tomorrow().ok().and_then(start)) else { return Vec::new() };
    let mut instants = Vec::new();
    while next < end {
        instants.push(next);
        let Ok(later) = next.checked_add(i64::from(every.max(1)).minutes()) else { break };
        next = later;
    }
    instants
}

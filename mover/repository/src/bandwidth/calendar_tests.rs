//! The grammar of calendars, and which rate is in force when.

use std::num::NonZeroU64;

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use proptest::prelude::*;

use super::calendar::{DAY_MINUTES, Days, Rule};
use super::{Calendar, Rate};

fn calendar(text: &str) -> Calendar {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// Rates as text at times of the week of Monday 2026-07-13.
fn rate(text: &str, day: i8, hour: i8, minute: i8) -> String {
    let moment = date(2026, 7, 12 + day).at(hour, minute, 0, 0).to_zoned(TimeZone::UTC).unwrap();
    calendar(text).rate_at(&moment).to_string()
}

/// Middle Europe, without a database of zones.
fn middle_europe(moment: DateTime) -> Zoned {
    moment.to_zoned(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()).unwrap()
}

#[test]
fn bandwidth_calendar_of_the_issue() {
    let text = "mon-fri 08:00-18:00 = 20MiB/s, else unlimited";
    assert_eq!(rate(text, 1, 8, 0), "20MiB/s");
    assert_eq!(rate(text, 5, 17, 59), "20MiB/s");
    assert_eq!(rate(text, 5, 18, 0), "unlimited");
    assert_eq!(rate(text, 1, 7, 59), "unlimited");
    assert_eq!(rate(text, 6, 12, 0), "unlimited");
    assert_eq!(calendar(text).to_string(), text);
}

#[test]
fn bandwidth_calendar_takes_the_first_rule_that_matches() {
    let text = "wed 12:00-13:00 = 1MiB/s, mon+wed-fri = 2MiB/s, daily 22:00-06:00 = 0";
    assert_eq!(rate(text, 3, 12, 30), "1MiB/s");
    assert_eq!(rate(text, 3, 13, 0), "2MiB/s");
    assert_eq!(rate(text, 2, 12, 0), "unlimited", "without else there is no limit");
    assert_eq!(rate(text, 2, 23, 0), "0");
    assert_eq!(rate(text, 1, 23, 0), "2MiB/s");
    assert_eq!(rate(text, 6, 0, 0), "0");
}

#[test]
fn bandwidth_calendar_over_midnight_belongs_to_the_day_it_begins() {
    let text = "sun 22:00-06:00 = 1MiB/s, else 5MiB/s";
    assert_eq!(rate(text, 7, 22, 0), "1MiB/s");
    assert_eq!(rate(text, 1, 5, 59), "1MiB/s");
    assert_eq!(rate(text, 1, 6, 0), "5MiB/s");
    assert_eq!(rate(text, 7, 5, 0), "5MiB/s");
    assert_eq!(
        calendar("fri-mon 22:00-00:00 = 8Mbit/s").to_string(),
        "mon+fri-sun 22:00-24:00 = 8Mbit/s, else unlimited"
    );
}

#[test]
fn bandwidth_rates_are_read_as_people_write_them() {
    let cases = [
        ("20MiB/s", 20 << 20),
        ("100Mbit/s", 12_500_000),
        ("1.5 kB/s", 1500),
        ("1Gbit/s", 125_000_000),
        ("7b/s", 7),
        ("20mib/s", 20 << 20),
    ];
    for (text, bytes) in cases {
        let limited = Rate::Limited(NonZeroU64::new(bytes).unwrap());
        assert_eq!(calendar(text).rate_at(&Zoned::now()), limited, "{text}");
    }
    assert!(calendar("Unlimited").is_unlimited() && calendar("mon = unlimited").is_unlimited());
    assert!(!calendar("mon = 0").is_unlimited());
    assert_eq!(calendar("daily 00:00-12:00 = 0MiB/s").to_string(), "daily 00:00-12:00 = 0, else unlimited");
}

#[test]
fn bandwidth_calendar_errors_name_the_place_and_the_reason() {
    let cases = [
        ("", 1, "no rule here"),
        ("fast", 1, "'fast' is no rate"),
        ("20", 1, "no rate"),
        ("20Mb/s", 1, "bits or bytes"),
        ("1bit/s", 1, "less than a byte"),
        ("99999999999GiB/s", 1, "too large"),
        ("mon-fri 8-18 = 20MiB/s", 1, "'8' is no time of day"),
        ("mon = 1MiB/s,  tus = 2MiB/s", 16, "'tus' is no day"),
        ("mon = 1MiB/s, sat,sun = 2MiB/s", 15, "needs days, '=' and a rate"),
        ("mon 08:00-25:00 = 1MiB/s", 1, "'25:00'"),
        ("mon 08:00-08:00 = 1MiB/s", 1, "no span of time"),
        ("mon 24:00-08:00 = 1MiB/s", 1, "no span of time"),
        ("mon 0800 = 1MiB/s", 1, "no span of time"),
        ("mon = 1MiB/s, else 2MiB/s, tue = 1MiB/s", 15, "comes last"),
        ("mon = 1MiB/s,", 14, "no rule here"),
        ("zone UTC", 1, "no rule follows"),
        ("mon = 1MiB/s, zone UTC", 15, "needs days"),
        ("zone Atlantis/Capital, 1MiB/s", 1, "Atlantis"),
        ("0", 1, "never permits anything"),
        ("daily = 0, else 20MiB/s", 1, "never permits anything"),
        ("mon-fri 06:00-06:01 = 0, fri-mon = 0, tue-thu = 0", 1, "never permits anything"),
    ];
    for (text, position, reason) in cases {
        let error = text.parse::<Calendar>().expect_err(text);
        assert_eq!(error.position, position, "{error}");
        assert!(error.reason.contains(reason), "{error}");
        assert!(error.to_string().contains("mon-fri 08:00-18:00 = 20MiB/s"), "an example: {error}");
    }
    let many = vec!["mon = 1MiB/s"; 65].join(",");
    assert!(many.parse::<Calendar>().unwrap_err().reason.contains("at most 64"));
    let one_minute = "daily 00:00-23:59 = 0, daily 23:59-24:00 = 1MiB/s";
    assert!(!calendar(one_minute).is_unlimited(), "a minute a day is something");
}

#[test]
fn bandwidth_calendar_of_a_zone_asks_the_clock_of_that_zone() {
    let noon_east = date(2026, 7, 15).at(12, 0, 0, 0).to_zoned(TimeZone::fixed(jiff::tz::offset(9))).unwrap();
    let text = "daily 03:00-04:00 = 1MiB/s";
    assert_eq!(calendar(&format!("zone UTC, {text}")).rate_at(&noon_east).to_string(), "1MiB/s");
    assert_eq!(calendar(text).rate_at(&noon_east).to_string(), "unlimited");
    assert_eq!(calendar("zone utc, 5MiB/s").to_string(), "zone UTC, 5MiB/s");
}

/// On 2026-03-29 the clock goes from 02:00 to 03:00, on 2026-10-25 from 03:00 back to 02:00.
#[test]
fn bandwidth_calendar_follows_the_clock_on_the_wall_when_it_changes() {
    let in_gap = calendar("daily 02:30-03:30 = 1MiB/s");
    let before = middle_europe(date(2026, 3, 29).at(1, 0, 0, 0));
    let begin = in_gap.next_change_after(&before).unwrap();
    assert_eq!(begin.datetime(), date(2026, 3, 29).at(3, 0, 0, 0), "02:30 is not there: the rule begins with 03:00");
    assert_eq!(in_gap.next_change_after(&begin).unwrap().datetime(), date(2026, 3, 29).at(3, 30, 0, 0));

    let in_fold = calendar("daily 02:00-02:30 = 1MiB/s");
    let mut moment = middle_europe(date(2026, 10, 25).at(1, 0, 0, 0));
    let mut changes = Vec::new();
    for _ in 0..4 {
        moment = in_fold.next_change_after(&moment).unwrap();
        changes.push(moment.strftime("%H:%M%z").to_string());
    }
    assert_eq!(changes, ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"], "the clock shows it twice");
}

#[test]
fn bandwidth_calendar_without_a_change_has_no_next_one() {
    let now = middle_europe(date(2026, 7, 15).at(1, 0, 0, 0));
    for text in ["20MiB/s", "unlimited", "mon = 1MiB/s, else 1MiB/s"] {
        assert_eq!(calendar(text).next_change_after(&now), None, "{text}");
    }
    let weekly = calendar("wed 00:00-01:00 = 1MiB/s").next_change_after(&now).unwrap();
    assert_eq!(weekly.datetime(), date(2026, 7, 22).at(0, 0, 0, 0), "a week later");
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let limited = (1u64.., 0u32..64).prop_map(|(bytes, zeros)| (bytes >> zeros).max(1));
    prop_oneof![
        Just(Rate::Unlimited),
        Just(Rate::Paused),
        limited.prop_map(|bytes| Rate::Limited(NonZeroU64::new(bytes).unwrap())),
    ]
}

fn any_calendar() -> impl Strategy<Value = Calendar> {
    let times = (0..DAY_MINUTES, 1..=DAY_MINUTES).prop_filter("a span", |(from, to)| from != to);
    let rule = (1u8..128, times, any_rate()).prop_map(|(days, (from_minute, to_minute), rate)| Rule {
        days: Days(days),
        from_minute,
        to_minute,
        rate,
    });
    let zone = prop_oneof![Just(None), Just(Some(TimeZone::get("UTC").unwrap()))];
    (zone, prop::collection::vec(rule, 0..6), any_rate())
        .prop_map(|(zone, rules, otherwise)| Calendar { zone, rules, otherwise })
        .prop_filter("refused", Calendar::ever_permits)
}

proptest! {
    #[test]
    fn bandwidth_calendar_that_is_printed_is_read_back(calendar in any_calendar()) {
        prop_assert_eq!(calendar.to_string().parse::<Calendar>().unwrap(), calendar);
    }

    #[test]
    fn bandwidth_calendar_text_never_panics(text in "[ -~ä,]{0,40}", words in prop::collection::vec(
        prop::sample::select(vec!["mon", "-", "+", "daily", " ", "08:00", ",", "=", "else", "0", "5MiB/s", "zone", "ü"]), 0..12)
    ) {
        let _ = text.parse::<Calendar>();
        let _ = words.concat().parse::<Calendar>();
    }

    /// Against a look at each minute of ten days about both changes of the clock.
    #[test]
    fn bandwidth_next_change_is_the_first_minute_with_another_rate(
        calendar in any_calendar(), month in prop::sample::select(vec![3i8, 10]), begin in 0i64..2 * 1440
    ) {
        let mut moment = middle_europe(date(2026, month, 24).at(0, 0, 0, 0)).checked_add(begin.minutes()).unwrap();
        let (rate, next) = (calendar.rate_at(&moment), calendar.next_change_after(&moment));
        let end = moment.checked_add(192.hours()).unwrap();
        while moment < end {
            moment = moment.checked_add(1.minutes()).unwrap();
            if calendar.rate_at(&moment) != rate {
                prop_assert_eq!(next.map(|next| next.timestamp()), Some(moment.timestamp()));
                return Ok(());
            }
        }
        prop_assert_eq!(next, None);
    }
}

//! The text of a calendar: `mon-fri 08:00-18:00 = 20MiB/s, else unlimited`.
//!
//! ```text
//! calendar = [ "zone" NAME "," ] ( RATE | rule { "," rule } [ "," "else" RATE ] )
//! rule     = days [ time "-" time ] "=" RATE
//! days     = "daily" | part { "+" part }          part = day | day "-" day, sun-tue among them
//! day      = "mon" | "tue" | "wed" | "thu" | "fri" | "sat" | "sun"
//! time     = HH:MM, to 24:00; an end before the begin is on the day after, and belongs to the day of its begin
//! RATE     = "unlimited" | "0" (nothing is sent) | NUMBER UNIT
//! UNIT     = "B/s" "KiB/s" "MiB/s" "GiB/s" "kB/s" "MB/s" "GB/s" "bit/s" "kbit/s" "Mbit/s" "Gbit/s"
//! ```
//!
//! The first rule that matches decides; where none does and there is no `else`, there is no limit. What is printed is
//! read back as the same calendar.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use jiff::tz::TimeZone;

use super::calendar::{Calendar, DAY_MINUTES, Days, RULES_MAX, Rate, Rule, WEEK_DAYS};

const DAY_NAMES: [&str; WEEK_DAYS as usize] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Units of a rate: the name, and bits in one. Printed in the first that divides the rate.
const UNITS: [(&str, u64); 11] = [
    ("GiB/s", 8 << 30),
    ("MiB/s", 8 << 20),
    ("KiB/s", 8 << 10),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("GB/s", 8_000_000_000),
    ("MB/s", 8_000_000),
    ("kB/s", 8_000),
    ("bit/s", 1),
    ("B/s", 8),
];

/// Text that is no calendar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{rule}' at position {position} of a bandwidth calendar: {reason}; \
     write for example 'mon-fri 08:00-18:00 = 20MiB/s, sat+sun = unlimited, else 100Mbit/s'"
)]
pub struct CalendarError {
    /// Which character the rule begins with, from 1.
    pub position: usize,
    /// The rule as it was written.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One part between commas.
struct Clause<'a> {
    position: usize,
    text: &'a str,
}

impl Clause<'_> {
    fn error(&self, reason: impl Into<String>) -> CalendarError {
        CalendarError { position: self.position, rule: self.text.to_owned(), reason: reason.into() }
    }
}

fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut found = Vec::new();
    let mut begin = 0;
    for part in text.split(',') {
        let trimmed = part.trim();
        let blank_bytes = part.len() - part.trim_start().len();
        let position = text[..begin + blank_bytes].chars().count() + 1;
        found.push(Clause { position, text: trimmed });
        begin += part.len() + 1;
    }
    found
}

/// What follows a word and a blank, whatever the case of the word.
fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    first.eq_ignore_ascii_case(word).then(|| rest.trim())
}

impl FromStr for Calendar {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Calendar, CalendarError> {
        let mut parts = clauses(text);
        let mut calendar = Calendar::unlimited();
        if let Some(name) = after_word(parts[0].text, "zone") {
            let zone = TimeZone::get(name).map_err(|error| parts[0].error(error.to_string()))?;
            if zone.iana_name().is_none() {
                return Err(parts[0].error("this time zone has no name"));
            }
            calendar.zone = Some(zone);
            parts.remove(0);
        }
        let Some(last) = parts.last() else {
            return Err(CalendarError { position: 1, rule: text.to_owned(), reason: "no rule follows".to_owned() });
        };
        if parts.len() > RULES_MAX {
            return Err(last.error(format!("there are {} rules, at most {RULES_MAX} are possible", parts.len())));
        }
        let whole = Clause { position: parts[0].position, text: text.trim() };
        let count = parts.len();
        for (number, clause) in parts.iter().enumerate() {
            let is_last = number + 1 == count;
            if clause.text.is_empty() {
                return Err(clause.error("there is no rule here"));
            }
            if let Some(rate) = after_word(clause.text, "else") {
                if !is_last {
                    return Err(clause.error("'else' is for what no rule matches, so it comes last"));
                }
                calendar.otherwise = parse_rate(rate).map_err(|reason| clause.error(reason))?;
            } else if let Some((when, rate)) = clause.text.split_once('=') {
                calendar.rules.push(parse_rule(when, rate).map_err(|reason| clause.error(reason))?);
            } else if count == 1 {
                calendar.otherwise = parse_rate(clause.text).map_err(|reason| clause.error(reason))?;
            } else {
                return Err(clause.error("a rule needs days, '=' and a rate"));
            }
        }
        if !calendar.ever_permits() {
            return Err(whole.error("it never permits anything: its rate is 0 in the whole week"));
        }
        Ok(calendar)
    }
}

fn parse_rule(when: &str, rate: &str) -> Result<Rule, String> {
    let when = when.trim();
    let (days, times) = when.split_once(char::is_whitespace).unwrap_or((when, ""));
    let (from_minute, to_minute) = parse_times(times.trim())?;
    Ok(Rule { days: parse_days(days)?, from_minute, to_minute, rate: parse_rate(rate.trim())? })
}

fn parse_day(name: &str) -> Result<u8, String> {
    let found = DAY_NAMES.iter().position(|day| day.eq_ignore_ascii_case(name));
    found.map(|day| day as u8).ok_or_else(|| {
        format!("'{name}' is no day: use {} or daily, joined as in mon-fri and sat+sun", DAY_NAMES.join(", "))
    })
}

fn parse_days(text: &str) -> Result<Days, String> {
    if text.eq_ignore_ascii_case("daily") {
        return Ok(Days::DAILY);
    }
    let mut days = 0;
    for part in text.split('+') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_day(first)?, parse_day(last)?);
        let count = (last + WEEK_DAYS - first) % WEEK_DAYS;
        days |= (0..=count).fold(0, |bits, offset| bits | 1 << ((first + offset) % WEEK_DAYS));
    }
    Ok(Days(days))
}

fn parse_times(text: &str) -> Result<(u16, u16), String> {
    if text.is_empty() {
        return Ok((0, DAY_MINUTES));
    }
    let (from, to) = text.split_once('-').ok_or_else(|| format!("'{text}' is no span of time such as 08:00-18:00"))?;
    let (from, to) = (parse_time(from.trim())?, parse_time(to.trim())?);
    if from == to || from == DAY_MINUTES {
        return Err(format!("'{text}' is no span of time; for a whole day write the day alone"));
    }
    Ok((from, if to == 0 { DAY_MINUTES } else { to }))
}

fn parse_time(text: &str) -> Result<u16, String> {
    let two_digits = |part: &str| {
        let is_number = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u16>().ok()).flatten()
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((two_digits(hour)?, two_digits(minute)?)));
    let minutes = parts.filter(|(_, minute)| *minute < 60).map(|(hour, minute)| hour * 60 + minute);
    minutes
        .filter(|minutes| *minutes <= DAY_MINUTES)
        .ok_or_else(|| format!("'{text}' is no time of day from 00:00 to 24:00"))
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(Rate::Unlimited);
    }
    let wrong = || format!("'{text}' is no rate: use 20MiB/s, 100Mbit/s, unlimited, or 0 for nothing at all");
    let unit_begin = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_begin);
    let (digits, scale) = parse_decimal(number.trim()).ok_or_else(wrong)?;
    if unit.is_empty() {
        return if digits == 0 { Ok(Rate::Paused) } else { Err(wrong()) };
    }
    if matches!(unit, "kb/s" | "Kb/s" | "Mb/s" | "Gb/s") {
        return Err(format!("'{unit}' may mean bits or bytes: write for example Mbit/s or MB/s"));
    }
    let (_, bits) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
    if digits == 0 {
        return Ok(Rate::Paused);
    }
    let bytes = digits.checked_mul(u128::from(*bits)).map(|scaled| scaled / scale / 8);
    let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(|| format!("'{text}' is too large"))?;
    NonZeroU64::new(bytes).map(Rate::Limited).ok_or_else(|| format!("'{text}' is less than a byte a second"))
}

/// `1.5` as 15 and 10.
fn parse_decimal(number: &str) -> Option<(u128, u128)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits_only = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only(whole) || !digits_only(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10u128.pow(fraction.len() as u32);
    Some((u128::from(whole.parse::<u64>().ok()?) * scale + fraction.parse::<u128>().ok()?, scale))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Rate::Unlimited => return f.write_str("unlimited"),
            Rate::Paused => return f.write_str("0"),
            Rate::Limited(bytes) => bytes.get(),
        };
        let bits = u128::from(bytes) * 8;
        let is_exact = |unit: &&(&str, u64)| bits.is_multiple_of(u128::from(unit.1)) && unit.0 != "bit/s";
        let (name, unit_bits) = UNITS.iter().find(is_exact).expect("bytes divide it");
        write!(f, "{}{name}", bits / u128::from(*unit_bits))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Days::DAILY {
            return f.write_str("daily");
        }
        let mut parts = Vec::new();
        let mut day = 0;
        while day < WEEK_DAYS {
            let end = (day..WEEK_DAYS).find(|next| !self.has(*next)).unwrap_or(WEEK_DAYS);
            match end - day {
                0 => {}
                1 => parts.push(DAY_NAMES[day as usize].to_owned()),
                2 => parts.push(format!("{}+{}", DAY_NAMES[day as usize], DAY_NAMES[day as usize + 1])),
                _ => parts.push(format!("{}-{}", DAY_NAMES[day as usize], DAY_NAMES[end as usize - 1])),
            }
            day = end + 1;
        }
        f.write_str(&parts.join("+"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.days)?;
        let (from, to) = (self.from_minute, self.to_minute);
        if (from, to) != (0, DAY_MINUTES) {
            write!(f, " {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)?;
        }
        write!(f, " = {}", self.rate)
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.zone.as_ref().and_then(TimeZone::iana_name) {
            write!(f, "zone {name}, ")?;
        }
        for rule in &self.rules {
            write!(f, "{rule}, ")?;
        }
        let word = if self.rules.is_empty() { "" } else { "else " };
        write!(f, "{word}{}", self.otherwise)
    }
}

//! Sizes, durations and shares as people write them: `64MiB`, `15m`, `1/100`, `10%`.
//!
//! Each type prints what it parses, exactly; the rounded forms for tables are the functions
//! `human_*`. Nothing here reads the locale.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units that a size is printed in, largest first.
const BINARY_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A number of bytes: `64MiB`, `1.5GiB`, `100MB`, `4096`. `K`, `M`, `G`, `T` alone are binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time: `15m`, `1h30m`, `250ms`, `2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A share of files, written `1/N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneIn(pub u32);

/// How much of the stored data to read: `10%` or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataShare {
    /// This many percent, 1 to 100.
    Percent(u8),
    /// Everything.
    All,
}

/// Text that is not such a value; says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {expected}")]
pub struct InvalidValue {
    text: String,
    expected: &'static str,
}

fn invalid(text: &str, expected: &'static str) -> InvalidValue {
    InvalidValue { text: text.to_owned(), expected }
}

const SIZE: &str = "a size such as 64MiB, 1.5GiB or 4096";
const PERIOD: &str = "a duration such as 15m, 1h30m or 250ms";

/// `number × multiplier` for a decimal number such as `1.5`, exactly or not at all.
fn scale_decimal(number: &str, multiplier: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) || fraction.len() > 9 {
        return None;
    }
    if number.ends_with('.') {
        return None;
    }
    let whole_part = whole.parse::<u64>().ok()?.checked_mul(multiplier)?;
    let fraction_value = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let fraction_part = fraction_value * u128::from(multiplier) / 10u128.pow(fraction.len() as u32);
    whole_part.checked_add(u64::try_from(fraction_part).ok()?)
}

impl FromStr for Size {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Size, InvalidValue> {
        let trimmed = text.trim();
        let unit_start = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_start);
        let multiplier: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(invalid(text, SIZE)),
        };
        scale_decimal(number.trim(), multiplier).map(Size).ok_or_else(|| invalid(text, SIZE))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in BINARY_UNITS {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(f, "{}{unit}", self.0 / bytes);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Period {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Period, InvalidValue> {
        let mut rest = text.trim();
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(invalid(text, PERIOD));
        }
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let unit_end =
                rest[number_end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |offset| number_end + offset);
            let number = rest[..number_end].parse::<u64>().map_err(|_| invalid(text, PERIOD))?;
            let unit_ms: u64 = match &rest[number_end..unit_end] {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(invalid(text, PERIOD)),
            };
            let part_ms = number.checked_mul(unit_ms).ok_or_else(|| invalid(text, PERIOD))?;
            total = total.checked_add(Duration::from_millis(part_ms)).ok_or_else(|| invalid(text, PERIOD))?;
            rest = &rest[unit_end..];
        }
        Ok(Period(total))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = self.0.as_millis();
        if rest_ms == 0 {
            return f.write_str("0s");
        }
        for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest_ms >= unit_ms {
                write!(f, "{}{unit}", rest_ms / unit_ms)?;
                rest_ms %= unit_ms;
            }
        }
        Ok(())
    }
}

impl FromStr for OneIn {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<OneIn, InvalidValue> {
        let count = text.strip_prefix("1/").and_then(|count| count.parse::<u32>().ok());
        count.filter(|count| *count > 0).map(OneIn).ok_or_else(|| invalid(text, "a share such as 1/100"))
    }
}

impl fmt::Display for OneIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1/{}", self.0)
    }
}

impl FromStr for DataShare {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<DataShare, InvalidValue> {
        if text == "all" {
            return Ok(DataShare::All);
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
        percent
            .filter(|percent| (1..=100).contains(percent))
            .map(DataShare::Percent)
            .ok_or_else(|| invalid(text, "'all' or a share such as 10%"))
    }
}

impl fmt::Display for DataShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataShare::Percent(percent) => write!(f, "{percent}%"),
            DataShare::All => f.write_str("all"),
        }
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Size, Period, OneIn);

/// Bytes for a table: `1.4 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    for (unit, unit_bytes) in BINARY_UNITS {
        if bytes >= unit_bytes {
            return format!("{:.1} {unit}", bytes as f64 / unit_bytes as f64);
        }
    }
    format!("{bytes} B")
}

/// A whole number with thin groups of three: `86,123`.
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A length of time to the second, for people: `1h 02m 03s`, `4.2s`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        return format!("{:.1}s", duration.as_secs_f64());
    }
    if seconds < 3600 {
        return format!("{}m {:02}s", seconds / 60, seconds % 60);
    }
    format!("{}h {:02}m {:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [("64MiB", 64 << 20), ("1.5GiB", 3 << 29), ("100MB", 100_000_000), ("4096", 4096), ("2k", 2048)];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.", ".5", "1.2.3", "5 apples", "99999999TiB", "1e3"] {
            assert!(text.parse::<Size>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn durations_and_shares() {
        assert_eq!("1h30m".parse(), Ok(Period(Duration::from_secs(5400))));
        assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
        for text in ["", "15", "m", "1x", "-1s", "99999999999999999999d"] {
            assert!(text.parse::<Period>().is_err(), "{text} was accepted");
        }
        assert_eq!("1/100".parse(), Ok(OneIn(100)));
        assert!("1/0".parse::<OneIn>().is_err() && "2/3".parse::<OneIn>().is_err());
        assert_eq!("10%".parse(), Ok(DataShare::Percent(10)));
        assert_eq!("all".parse(), Ok(DataShare::All));
        assert!("0%".parse::<DataShare>().is_err() && "101%".parse::<DataShare>().is_err());
    }

    #[test]
    fn human_forms() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(3 << 29), "1.5 GiB");
        assert_eq!(human_count(86_123), "86,123");
        assert_eq!(human_count(12), "12");
        assert_eq!(human_duration(Duration::from_secs(3723)), "1h 02m 03s");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes: u64, millis in 0u64..u64::MAX / 4, count in 1u32..) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            let period = Period(Duration::from_millis(millis));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            prop_assert_eq!(OneIn(count).to_string().parse(), Ok(OneIn(count)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Period>();
            let _ = text.parse::<DataShare>();
        }
    }
}

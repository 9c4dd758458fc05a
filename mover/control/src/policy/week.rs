//! The open minutes of a week: windows less blackouts, by the clock on the wall.

use jiff::civil::{DateTime, Weekday};
use jiff::{ToSpan, Zoned};

use super::{Day, Span, When};

/// Minutes of a day.
const DAY_MINUTES: usize = 24 * 60;
/// Minutes of a week.
const WEEK_MINUTES: usize = 7 * DAY_MINUTES;
/// Changes in a row that a clock set forward may leave out: every window of a day that it skips.
const LEFT_OUT_MAX: usize = 2 * DAY_MINUTES;

/// Which minutes of a week are open.
#[derive(Clone, Debug)]
pub struct Week {
    open: Vec<bool>,
    /// Of each minute, how many minutes later the next one is that differs; 0 where none does.
    steps: Vec<u32>,
}

impl Day {
    /// Its place in the week, Monday is 0.
    pub(super) fn number(self) -> usize {
        self as usize
    }
}

/// Minutes since midnight of `HH:MM`; 24:00 only where an end is meant.
pub(super) fn minutes(text: &str, is_end: bool) -> Result<usize, String> {
    let wrong = || format!("{text} is no time: write HH:MM");
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    if hours.len() != 2 || minutes.len() != 2 {
        return Err(wrong());
    }
    let hours: usize = hours.parse().map_err(|_| wrong())?;
    let minutes: usize = minutes.parse().map_err(|_| wrong())?;
    let is_midnight = is_end && hours == 24 && minutes == 0;
    if (hours > 23 || minutes > 59) && !is_midnight {
        return Err(wrong());
    }
    Ok(hours * 60 + minutes)
}

/// The spans of a list, as minutes of the week.
fn mark(spans: &[Span], mut each: impl FnMut(usize)) -> Result<(), String> {
    for span in spans {
        let begin = minutes(&span.begin, false)?;
        let end = minutes(&span.end, true)?;
        if begin == end {
            return Err(format!(
                "a span from {} to {} never opens; the whole day is 00:00 to 24:00",
                span.begin, span.end
            ));
        }
        let length = if end > begin { end - begin } else { end + DAY_MINUTES - begin };
        for day in 0..7 {
            if span.days.is_empty() || span.days.iter().any(|named| named.number() == day) {
                (0..length).for_each(|minute| each((day * DAY_MINUTES + begin + minute) % WEEK_MINUTES));
            }
        }
    }
    Ok(())
}

/// Of each minute of a week, how many minutes later the next one is that differs.
fn steps_to_change(open: &[bool]) -> Vec<u32> {
    let mut steps = vec![0; WEEK_MINUTES];
    // Twice around, for what changes only after the end of the week.
    for minute in (0..2 * WEEK_MINUTES).rev() {
        let (this, next) = (minute % WEEK_MINUTES, (minute + 1) % WEEK_MINUTES);
        steps[this] = match open[this] == open[next] {
            true if steps[next] == 0 => 0,
            true => steps[next] + 1,
            false => 1,
        };
    }
    steps
}

impl Week {
    /// The open minutes of a policy.
    ///
    /// # Errors
    /// A time that is none, or spans that leave nothing open: in words.
    pub fn of(when: &When) -> Result<Week, String> {
        let mut open = vec![when.windows.is_empty(); WEEK_MINUTES];
        mark(&when.windows, |minute| open[minute] = true)?;
        let before = open.clone();
        mark(&when.blackouts, |minute| open[minute] = false)?;
        for window in &when.windows {
            let mut is_open = false;
            mark(std::slice::from_ref(window), |minute| is_open |= open[minute])?;
            if !is_open {
                return Err(format!(
                    "the window {} to {} lies inside a blackout and never opens",
                    window.begin, window.end
                ));
            }
        }
        if !open.contains(&true) {
            assert!(before.contains(&true), "windows that are empty are refused one by one");
            return Err("the blackouts leave no minute of the week: no window ever opens".to_owned());
        }
        Ok(Week { steps: steps_to_change(&open), open })
    }

    /// True if every minute is open.
    pub fn is_always_open(&self) -> bool {
        !self.open.contains(&false)
    }

    fn place(civil: DateTime) -> usize {
        let day = match civil.weekday() {
            Weekday::Monday => 0,
            Weekday::Tuesday => 1,
            Weekday::Wednesday => 2,
            Weekday::Thursday => 3,
            Weekday::Friday => 4,
            Weekday::Saturday => 5,
            Weekday::Sunday => 6,
        };
        day * DAY_MINUTES + civil.hour() as usize * 60 + civil.minute() as usize
    }

    /// Whether this moment is open.
    pub fn is_open(&self, moment: &Zoned) -> bool {
        self.open[Week::place(moment.datetime())]
    }

    /// The first open moment from `moment` on. A window that a clock set forward leaves out does not open on that day.
    pub fn next_open(&self, moment: &Zoned) -> Zoned {
        let mut next = moment.clone();
        for _ in 0..LEFT_OUT_MAX {
            if self.is_open(&next) {
                return next;
            }
            let Some(change) = self.next_change(&next) else { break };
            next = change;
        }
        next
    }

    /// When the open span that holds `moment` ends; `None`: never.
    pub fn end_of_open(&self, moment: &Zoned) -> Option<Zoned> {
        self.next_change(moment)
    }

    /// The first moment after `moment` that is open where it is closed, or closed where it is open.
    fn next_change(&self, moment: &Zoned) -> Option<Zoned> {
        let civil = moment.datetime();
        let place = Week::place(civil);
        let steps = Some(self.steps[place]).filter(|steps| *steps > 0)?;
        let minute = civil.with().second(0).subsec_nanosecond(0).build().ok()?;
        let change = minute.checked_add(i64::from(steps).minutes()).ok()?;
        let zone = moment.time_zone();
        let at = |instant: jiff::Timestamp| instant.to_zoned(zone.clone());
        let first = at(super::calendar::first_instant(change, zone)?);
        if first > *moment {
            return Some(first);
        }
        // A clock set back shows some minutes twice, and this is the second time.
        let second = zone.to_ambiguous_timestamp(change).later().ok().map(at);
        // Never answer with a moment that has been.
        second.filter(|second| second > moment).or_else(|| moment.checked_add(1.minute()).ok())
    }
}

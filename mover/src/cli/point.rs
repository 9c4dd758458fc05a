//! From what a person types for POINT to one recovery point.
//!
//! `latest`, an id prefix, or a time: RFC 3339, or local `YYYY-MM-DD[ HH:MM[:SS]]`. A time means the
//! latest point not after it, and stands for the whole day, minute or second that it names, so
//! that the time which `mover points` prints can be typed back. The time of a point is when it
//! was finished: nothing in it is younger. Plain data in, an index out; no I/O.

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Unit};
use mover_repository::ids::UnixNanos;

use super::error::{CliError, Result};

/// What is known of one recovery point when choosing.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The id, 64 hexadecimal digits.
    pub id: String,
    /// The set it belongs to.
    pub set: String,
    /// When it was finished.
    pub finished: UnixNanos,
}

/// The index in `candidates` (oldest first) of the point that `spec` names.
///
/// # Errors
/// Nothing matches, the prefix matches several, the text is no POINT (all exit 1 or 2), or points
/// of several sets compete and no `set` was given.
pub fn resolve(spec: &str, set: Option<&str>, candidates: &[Candidate]) -> Result<usize> {
    resolve_in(spec, set, candidates, &TimeZone::system())
}

fn resolve_in(spec: &str, set: Option<&str>, candidates: &[Candidate], zone: &TimeZone) -> Result<usize> {
    let in_set = |candidate: &&(usize, &Candidate)| set.is_none_or(|name| candidate.1.set == name);
    let indexed: Vec<(usize, &Candidate)> = candidates.iter().enumerate().collect();
    let chosen: Vec<(usize, &Candidate)> = indexed.iter().filter(in_set).copied().collect();
    if chosen.is_empty() {
        return Err(nothing_there(set, candidates));
    }
    if spec == "latest" {
        refuse_several_sets(spec, &chosen)?;
        return latest(&chosen).ok_or_else(|| nothing_there(set, candidates));
    }
    if let Some(limit) = parse_time(spec, zone) {
        let early: Vec<(usize, &Candidate)> = chosen.into_iter().filter(|(_, c)| c.finished <= limit).collect();
        refuse_several_sets(spec, &early)?;
        return latest(&early).ok_or_else(|| {
            CliError::failed(
                format!("no recovery point is as old as '{spec}'"),
                "`mover points` lists them with their times",
            )
        });
    }
    by_prefix(spec, &chosen)
}

fn latest(chosen: &[(usize, &Candidate)]) -> Option<usize> {
    chosen.iter().max_by_key(|(index, candidate)| (candidate.finished, *index)).map(|(index, _)| *index)
}

fn by_prefix(spec: &str, chosen: &[(usize, &Candidate)]) -> Result<usize> {
    let prefix = spec.to_ascii_lowercase();
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CliError::usage(
            format!("'{spec}' is not a recovery point"),
            "give an id prefix, 'latest', or a time such as 2026-03-01 or '2026-03-01 14:30'",
        ));
    }
    let matches: Vec<&(usize, &Candidate)> = chosen.iter().filter(|(_, c)| c.id.starts_with(&prefix)).collect();
    match matches.as_slice() {
        [] => Err(CliError::failed(
            format!("no recovery point has an id that begins with '{spec}'"),
            "`mover points` lists them",
        )),
        [only] => Ok(only.0),
        several => {
            let ids: Vec<&str> = several.iter().map(|(_, c)| c.id.get(..16).unwrap_or(&c.id)).collect();
            Err(CliError::usage(
                format!("'{spec}' begins the ids of {} recovery points: {}", several.len(), ids.join(", ")),
                "give more digits",
            ))
        }
    }
}

fn refuse_several_sets(spec: &str, chosen: &[(usize, &Candidate)]) -> Result<()> {
    let sets: BTreeSet<&str> = chosen.iter().map(|(_, candidate)| candidate.set.as_str()).collect();
    if sets.len() <= 1 {
        return Ok(());
    }
    let names: Vec<&str> = sets.into_iter().collect();
    Err(CliError::usage(
        format!("'{spec}' is ambiguous: there are recovery points of {} sets", names.len()),
        format!("choose one with --set: {}", names.join(" · ")),
    ))
}

fn nothing_there(set: Option<&str>, candidates: &[Candidate]) -> CliError {
    match set {
        Some(name) if !candidates.is_empty() => {
            let sets: BTreeSet<&str> = candidates.iter().map(|candidate| candidate.set.as_str()).collect();
            let names: Vec<&str> = sets.into_iter().collect();
            CliError::failed(
                format!("there is no recovery point of set '{name}'"),
                format!("the sets are: {}", names.join(" · ")),
            )
        }
        _ => CliError::failed("there is no recovery point in this repository", "make one with `mover backup`"),
    }
}

/// The last nanosecond of the day, minute or second that `text` names, or the exact time.
fn parse_time(text: &str, zone: &TimeZone) -> Option<UnixNanos> {
    if !text.contains('-') {
        return None;
    }
    let has_fraction = text.contains('.') || text.contains(',');
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        let end = if has_fraction { timestamp } else { last_of(timestamp.checked_add(1.second()).ok()?) };
        return Some(UnixNanos(end.as_nanosecond()));
    }
    let civil: DateTime = text.parse().ok()?;
    let unit = match (text.contains(':'), text.matches(':').count(), has_fraction) {
        (false, ..) => Unit::Day,
        (true, 1, _) => Unit::Minute,
        (true, _, false) => Unit::Second,
        (true, _, true) => Unit::Nanosecond,
    };
    let span = match unit {
        Unit::Day => 1.day(),
        Unit::Minute => 1.minute(),
        Unit::Second => 1.second(),
        _ => 1.nanosecond(),
    };
    let next = civil.checked_add(span).ok()?.to_zoned(zone.clone()).ok()?;
    Some(UnixNanos(last_of(next.timestamp()).as_nanosecond()))
}

/// The nanosecond before `next`.
fn last_of(next: Timestamp) -> Timestamp {
    next.checked_sub(1.nanosecond()).unwrap_or(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    fn at(text: &str) -> UnixNanos {
        UnixNanos(text.parse::<Timestamp>().unwrap().as_nanosecond())
    }

    fn candidates() -> Vec<Candidate> {
        let make = |id: &str, set: &str, time: &str| Candidate {
            id: format!("{id}{}", "0".repeat(64 - id.len())),
            set: set.to_owned(),
            finished: at(time),
        };
        vec![
            make("abcd01", "web:/etc", "2026-03-01T14:30:05.5Z"),
            make("abce02", "web:/etc", "2026-03-02T09:00:00Z"),
            make("0123ff", "db:/var", "2026-03-03T09:00:00Z"),
        ]
    }

    fn find(spec: &str, set: Option<&str>) -> Result<usize> {
        resolve_in(spec, set, &candidates(), &TimeZone::UTC)
    }

    #[test]
    fn an_id_prefix_names_one_point() {
        assert_eq!(find("abcd", None).unwrap(), 0);
        assert_eq!(find("ABCE", None).unwrap(), 1);
        assert_eq!(find("abc", None).unwrap_err().exit, Exit::Usage);
        assert_eq!(find("ff", None).unwrap_err().exit, Exit::Failed);
        assert_eq!(find("abcd", Some("db:/var")).unwrap_err().exit, Exit::Failed);
    }

    #[test]
    fn latest_of_several_sets_needs_a_set() {
        let error = find("latest", None).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.help.unwrap().contains("db:/var · web:/etc"));
        assert_eq!(find("latest", Some("web:/etc")).unwrap(), 1);
        assert_eq!(find("latest", Some("db:/var")).unwrap(), 2);
        let unknown = find("latest", Some("nope")).unwrap_err();
        assert!(unknown.help.unwrap().contains("db:/var"));
    }

    #[test]
    fn latest_goes_by_the_time_it_was_finished_then_by_order() {
        let mut all = candidates();
        all.truncate(2);
        all[0].finished = all[1].finished;
        assert_eq!(resolve_in("latest", None, &all, &TimeZone::UTC).unwrap(), 1);
        all[0].finished = UnixNanos(all[1].finished.0 + 1);
        assert_eq!(resolve_in("latest", None, &all, &TimeZone::UTC).unwrap(), 0);
    }

    #[test]
    fn a_time_is_the_latest_not_after_it() {
        for (spec, expected) in [
            ("2026-03-01", 0),
            ("2026-03-01 14:30", 0),
            ("2026-03-01 14:30:05", 0),
            ("2026-03-01T14:30:05.5", 0),
            ("2026-03-01T14:30:05Z", 0),
            ("2026-03-01T15:30:05+01:00", 0),
            ("2026-03-02", 1),
        ] {
            assert_eq!(find(spec, None).unwrap(), expected, "{spec}");
        }
        for spec in ["2026-02-28", "2026-03-01 14:29", "2026-03-01 14:30:05.4", "2026-03-01T14:30:04Z"] {
            assert_eq!(find(spec, None).unwrap_err().exit, Exit::Failed, "{spec}");
        }
    }

    #[test]
    fn a_time_before_the_other_set_began_is_not_ambiguous() {
        assert_eq!(find("2026-03-02 12:00", None).unwrap(), 1);
        assert_eq!(find("2026-03-04", None).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn other_text_is_refused_and_an_empty_repository_says_so() {
        for spec in ["", "yesterday", "../x", "2026-13-45"] {
            assert_eq!(find(spec, None).unwrap_err().exit, Exit::Usage, "{spec}");
        }
        let error = resolve("latest", None, &[]).unwrap_err();
        assert!(error.message.contains("no recovery point in this repository"));
    }
}

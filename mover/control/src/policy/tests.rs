//! Calendars over changes of summer time, windows, jitter; and every refusal with its reason.

use proptest::prelude::*;

use crate::ids::{PolicyId, UnixMillis};

use super::{Policy, Retention};

/// A policy in Berlin whose part `when` is this.
fn policy(when: &str) -> Policy {
    let document = format!(
        r#"{{"name":"p","what":{{"workload":"nas","place":{{"pool":{{"pool":"main","reach":"filer","preferred":null}}}},
        "source":"filer","repository":"r","filesets":[{{"name":"f","paths":["/vol"]}}]}},
        "when":{{"zone":"Europe/Berlin",{when}}}}}"#
    );
    serde_json::from_str(&document).unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn refusal(when: &str) -> String {
    policy(when).validate().expect_err(when).to_string()
}

fn at(text: &str) -> UnixMillis {
    text.parse::<jiff::Timestamp>().expect("a time").into()
}

fn begins(policy: &Policy, after: &str, count: usize) -> Vec<String> {
    let runs = policy.next_runs(&PolicyId::from("id"), at(after)).take(count);
    runs.map(|run| run.begins.to_string()).collect()
}

#[test]
fn runs_at_a_time_that_does_not_exist_begin_at_the_first_instant_after() {
    // Clocks go from 02:00 to 03:00 on 2026-03-29.
    let nightly = policy(r#""schedules":[{"at":["02:15","02:30"]}]"#);
    nightly.validate().expect("valid");
    let runs = begins(&nightly, "2026-03-28T12:00:00Z", 3);
    assert_eq!(runs, ["2026-03-29T01:00:00Z", "2026-03-30T00:15:00Z", "2026-03-30T00:30:00Z"], "both are that instant");
}

#[test]
fn runs_at_a_time_that_occurs_twice_run_once() {
    // Clocks go from 03:00 back to 02:00 on 2026-10-25.
    let nightly = policy(r#""schedules":[{"at":["02:30"]}]"#);
    let runs = begins(&nightly, "2026-10-24T12:00:00Z", 2);
    assert_eq!(runs, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    // And not again for who asks between the two.
    assert_eq!(begins(&nightly, "2026-10-25T00:45:00Z", 1), ["2026-10-26T01:30:00Z"]);
}

#[test]
fn runs_every_so_many_minutes_follow_the_time_that_passes() {
    let hourly = policy(r#""schedules":[{"every_minutes":60}]"#);
    for (day, count) in [("2026-03-28T22:59:59Z", 23), ("2026-10-24T21:59:59Z", 25), ("2026-06-01T21:59:59Z", 24)] {
        let runs: Vec<UnixMillis> =
            hourly.next_runs(&PolicyId::from("id"), at(day)).take(count).map(|run| run.begins).collect();
        assert!(runs.windows(2).all(|pair| pair[1].0 - pair[0].0 == 3_600_000), "{day}");
    }
}

#[test]
fn runs_on_days_of_the_week_and_of_the_month() {
    let weekly = policy(r#""schedules":[{"days":["sat","sun"],"at":["01:00"]}]"#);
    assert_eq!(begins(&weekly, "2026-03-02T12:00:00Z", 2), ["2026-03-07T00:00:00Z", "2026-03-08T00:00:00Z"]);
    let last = policy(r#""schedules":[{"month_days":[-1],"at":["12:00"]}]"#);
    assert_eq!(begins(&last, "2026-01-15T00:00:00Z", 2), ["2026-01-31T11:00:00Z", "2026-02-28T11:00:00Z"]);
    let leap = policy(r#""schedules":[{"month_days":[30],"at":["12:00"]}]"#);
    assert_eq!(begins(&leap, "2026-01-31T00:00:00Z", 1), ["2026-03-30T10:00:00Z"]);
}

#[test]
fn runs_outside_the_window_begin_once_when_it_opens_and_expire_when_it_ends() {
    let when = r#""schedules":[{"every_minutes":120}],
        "windows":[{"days":["mon","tue","wed","thu","fri"],"begin":"22:00","end":"04:00"}],
        "blackouts":[{"begin":"23:00","end":"24:00"}]"#;
    let windowed = policy(when);
    windowed.validate().expect("valid");
    // 2026-03-02 is a Monday; Berlin is an hour ahead. Open 22-23 and 00-04.
    let id = PolicyId::from("id");
    let runs: Vec<(String, String)> = windowed
        .next_runs(&id, at("2026-03-02T05:00:00Z"))
        .take(4)
        .map(|run| (run.begins.to_string(), run.ends.to_string()))
        .collect();
    let expected = [
        ("2026-03-02T21:00:00Z", "2026-03-02T22:00:00Z"),
        ("2026-03-02T23:00:00Z", "2026-03-03T03:00:00Z"),
        ("2026-03-03T01:00:00Z", "2026-03-03T03:00:00Z"),
        ("2026-03-03T21:00:00Z", "2026-03-03T22:00:00Z"),
    ];
    assert_eq!(runs, expected.map(|(begin, end)| (begin.to_owned(), end.to_owned())));
    // Friday's window goes on into Saturday, then nothing until Monday.
    let weekend = begins(&windowed, "2026-03-07T01:30:00Z", 1);
    assert_eq!(weekend, ["2026-03-09T21:00:00Z"]);
}

#[test]
fn window_that_a_clock_set_forward_leaves_out_opens_on_the_next_day() {
    // Clocks go from 02:00 to 03:00 on 2026-03-29.
    let night = r#""schedules":[{"at":["01:00"]}],"windows":[{"begin":"02:00","end":"03:00"}]"#;
    let runs = begins(&policy(night), "2026-03-27T12:00:00Z", 3);
    assert_eq!(runs, ["2026-03-28T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-31T00:00:00Z"]);
}

#[test]
fn window_around_the_hour_that_occurs_twice_ends_in_its_second_pass() {
    // Clocks go from 03:00 back to 02:00 on 2026-10-25, which is 01:00 in UTC.
    let evening = policy(r#""schedules":[{"at":["01:00"]}],"windows":[{"begin":"20:00","end":"02:30"}]"#);
    assert_eq!(evening.window_end(at("2026-10-25T00:10:00Z")), at("2026-10-25T00:30:00Z"));
    assert_eq!(evening.window_end(at("2026-10-25T01:10:00Z")), at("2026-10-25T01:30:00Z"));
}

/// What a policy may ask for is bounded: its runs are computed while others wait.
#[test]
fn runs_of_the_largest_policy_with_the_smallest_window_are_found_by_windows_not_by_instants() {
    let schedules = vec![r#"{"every_minutes":1}"#; 100].join(",");
    let weekly = |count: usize| {
        let schedules = vec![schedules.as_str(); count].join(",");
        policy(&format!(r#""schedules":[{schedules}],"windows":[{{"days":["sun"],"begin":"05:00","end":"05:01"}}]"#))
    };
    weekly(1).validate().expect("valid");
    assert_eq!(begins(&weekly(1), "2026-03-02T12:00:00Z", 2), ["2026-03-08T04:00:00Z", "2026-03-15T04:00:00Z"]);
    let reason = weekly(2).validate().expect_err("too much").to_string();
    assert!(reason.contains("at most 100 schedules"), "{reason}");
}

proptest! {
    /// Runs come in order, each within a window; jitter moves each policy by the same span and never out of it.
    #[test]
    fn runs_are_ordered_and_inside_their_windows(
        start in 1_750_000_000_000_i64..1_850_000_000_000, jitter in 0_u32..7200, every in 7_u32..1440, name in "[a-z]{1,8}",
        window in prop::sample::select(vec![("20:30", "02:15"), ("02:00", "03:00"), ("02:30", "02:40"), ("01:59", "03:01")]),
    ) {
        let (opens, ends) = window;
        let when = format!(
            r#""schedules":[{{"every_minutes":{every}}}],"windows":[{{"begin":"{opens}","end":"{ends}"}}],"jitter_seconds":{jitter}"#
        );
        let policy = policy(&when);
        let week = super::week::Week::of(&policy.when).expect("a week");
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").expect("a zone");
        let id = PolicyId::from(name.as_str());
        let mut last = UnixMillis(start);
        let runs: Vec<_> = policy.next_runs(&id, last).take(20).collect();
        prop_assert_eq!(runs.len(), 20);
        for run in &runs {
            prop_assert!(run.begins > last && run.ends > run.begins);
            prop_assert!(week.is_open(&run.begins.timestamp().to_zoned(zone.clone())), "{}", run.begins);
            last = run.begins;
        }
        // The same on every server, and from every moment on.
        let later: Vec<_> = policy.next_runs(&id, runs[4].begins).take(15).collect();
        prop_assert_eq!(&later[..], &runs[5..]);
    }
}

#[test]
fn policy_that_can_never_work_is_refused_with_the_reason() {
    let cases = [
        (r#""windows":[{"begin":"22:00","end":"22:00"}]"#, "never opens"),
        (
            r#""windows":[{"begin":"01:00","end":"02:00"}],"blackouts":[{"begin":"00:00","end":"03:00"}]"#,
            "inside a blackout",
        ),
        (r#""blackouts":[{"begin":"00:00","end":"24:00"}]"#, "no window ever opens"),
        (r#""windows":[{"begin":"25:00","end":"02:00"}]"#, "25:00 is no time"),
        (r#""schedules":[{"at":["24:00"]}]"#, "24:00 is no time"),
        (r#""schedules":[{"at":["1:00"]}]"#, "1:00 is no time"),
        (r#""schedules":[{}]"#, "name times"),
        (r#""schedules":[{"at":["01:00"],"every_minutes":5}]"#, "exclude each other"),
        (r#""schedules":[{"every_minutes":0}]"#, "1 to 1440"),
        (r#""schedules":[{"at":["01:00"],"month_days":[0]}]"#, "0 is no day"),
        (r#""schedules":[{"at":["01:00"],"month_days":[32]}]"#, "32 is no day"),
    ];
    for (when, says) in cases {
        let reason = refusal(when);
        assert!(reason.contains(says), "{when}: {reason}");
    }
    let good = policy(r#""schedules":[{"at":["01:00"]}]"#);
    type Spoil = fn(&mut Policy);
    let spoiled: [(Spoil, &str); 10] = [
        (|p| p.when.zone = "Mars/Base".to_owned(), "no IANA time zone"),
        (|p| p.keep = Some(Retention { prune: true, ..Retention::default() }), "no rule keeps anything"),
        (|p| p.how.source_limit = Some(0), "how.source_limit: 0"),
        (|p| p.how.repository_limit = Some(0), "how.repository_limit: 0"),
        (|p| p.how.attempts = 0, "how.attempts: 0"),
        (|p| p.how.weight = 0, "how.weight"),
        (|p| p.how.bandwidth = Some("fast".to_owned()), "how.bandwidth"),
        (|p| p.verify_percent = 101, "verify_percent"),
        (|p| p.what.filesets.clear(), "what.filesets: at least one"),
        (|p| p.name.clear(), "name: 1 to"),
    ];
    good.validate().expect("valid");
    for (spoil, says) in spoiled {
        let mut bad = good.clone();
        spoil(&mut bad);
        let reason = bad.validate().expect_err(says).to_string();
        assert!(reason.contains(says), "{says}: {reason}");
    }
    let mut twice = good.clone();
    twice.what.filesets.push(twice.what.filesets[0].clone());
    assert!(twice.validate().expect_err("twice").to_string().contains("stands twice"));
    let unknown = serde_json::to_string(&good).expect("text").replace("\"jitter_seconds\"", "\"jitter\"");
    assert!(Policy::from_json(&unknown).expect_err("unknown").to_string().contains("unknown field `jitter`"));
}

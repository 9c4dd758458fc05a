//! What a policy must not say: refused with the place and the reason, all that is wrong at once.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use mover_repository::bandwidth::Calendar;

use crate::error::{ControlError, Result};
use crate::ids::{PolicyId, UnixMillis};
use crate::job::order::{Command, JobOrder};
use crate::service::notification::NotifyRule;

use super::week::{Week, minutes};
use super::{How, Policy, Retention, Schedule, When};

/// Text of a name at most.
const NAME_BYTES: usize = 256;
/// Longest time limit of a command.
const COMMAND_SECONDS_MAX: u64 = 24 * 3600;
/// Members of a list at most.
const LIST_MAX: usize = 1024;
/// Schedules, windows and blackouts of a policy, and times and days of each: what is computed of them keeps others waiting.
const TIMES_MAX: usize = 100;
/// A document at most.
const DOCUMENT_BYTES: usize = 1 << 20;
/// Longest jitter.
const JITTER_SECONDS_MAX: u32 = 24 * 3600;

/// Collects what is wrong, each with its place.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn refuse_if(&mut self, wrong: bool, says: impl Into<String>) {
        if wrong {
            self.0.push(says.into());
        }
    }
}

impl Policy {
    /// A policy from its document.
    ///
    /// # Errors
    /// It is no JSON, has an unknown field, or says what can never work: all reasons in one text.
    pub fn from_json(document: &str) -> Result<Policy> {
        if document.len() > DOCUMENT_BYTES {
            return Err(ControlError::Invalid(format!("the policy is over {DOCUMENT_BYTES} bytes")));
        }
        let policy: Policy =
            serde_json::from_str(document).map_err(|error| ControlError::Invalid(format!("the policy: {error}")))?;
        policy.validate()?;
        Ok(policy)
    }

    /// Refuses what can never work.
    ///
    /// # Errors
    /// All reasons in one text.
    pub fn validate(&self) -> Result<()> {
        let mut findings = Findings::default();
        self.validate_what(&mut findings);
        validate_when(&self.when, &mut findings);
        validate_how(&self.how, &mut findings);
        findings.refuse_if(self.verify_percent > 100, "verify_percent: at most 100");
        if let Some(keep) = &self.keep {
            let keeps_nothing = Retention { prune: false, ..*keep } == Retention::default();
            findings.refuse_if(keeps_nothing, "keep: no rule keeps anything; leave it out to keep everything");
        }
        validate_notify(&self.notify, &mut findings);
        if findings.0.is_empty() && !self.when.schedules.is_empty() {
            // Any time will do: the search covers more than a whole cycle of leap days.
            let is_empty = self.next_runs(&PolicyId::from(""), UnixMillis(0)).next().is_none();
            findings.refuse_if(is_empty, "when.schedules: there is no such day in any year");
        }
        if findings.0.is_empty() {
            Ok(())
        } else {
            Err(ControlError::Invalid(format!("the policy {:?}: {}", self.name, findings.0.join("; "))))
        }
    }

    fn validate_what(&self, findings: &mut Findings) {
        let what = &self.what;
        let names = [
            ("name", self.name.as_str()),
            ("what.source", &what.source),
            ("what.repository", &what.repository),
            ("what.set", self.set()),
        ];
        for (place, name) in names {
            let is_wrong = name.is_empty() || name.len() > NAME_BYTES;
            findings.refuse_if(is_wrong, format!("{place}: 1 to {NAME_BYTES} bytes"));
        }
        findings.refuse_if(what.filesets.is_empty(), "what.filesets: at least one");
        findings.refuse_if(what.filesets.len() > LIST_MAX, format!("what.filesets: at most {LIST_MAX}"));
        let mut seen = BTreeSet::new();
        for fileset in &what.filesets {
            findings.refuse_if(!seen.insert(&fileset.name), format!("what.filesets: {:?} stands twice", fileset.name));
            findings.refuse_if(fileset.paths.is_empty(), format!("what.filesets: {:?} has no path", fileset.name));
        }
    }
}

fn validate_when(when: &When, findings: &mut Findings) {
    if let Err(error) = TimeZone::get(&when.zone) {
        findings.0.push(format!("when.zone: {:?} is no IANA time zone ({error})", when.zone));
    }
    findings.refuse_if(when.jitter_seconds > JITTER_SECONDS_MAX, "when.jitter_seconds: at most a day");
    if has_too_much(when) {
        findings
            .0
            .push(format!("when: at most {TIMES_MAX} schedules, windows and blackouts, and times and days of each"));
        return;
    }
    if let Err(reason) = Week::of(when) {
        findings.0.push(format!("when.windows: {reason}"));
    }
    for schedule in &when.schedules {
        if let Some(reason) = problem_of(schedule) {
            findings.0.push(format!("when.schedules: {reason}"));
        }
    }
}

fn has_too_much(when: &When) -> bool {
    let lists = [when.schedules.len(), when.windows.len(), when.blackouts.len()];
    let of_schedules = when.schedules.iter().flat_map(|one| [one.at.len(), one.days.len(), one.month_days.len()]);
    let of_spans = when.windows.iter().chain(&when.blackouts).map(|span| span.days.len());
    lists.into_iter().chain(of_schedules).chain(of_spans).any(|length| length > TIMES_MAX)
}

fn problem_of(schedule: &Schedule) -> Option<String> {
    let is_wrong_day = |day: &i8| *day == 0 || !(-31..=31).contains(day);
    if let Some(day) = schedule.month_days.iter().find(|day| is_wrong_day(day)) {
        return Some(format!("{day} is no day of a month; −1 is the last"));
    }
    match (schedule.at.is_empty(), schedule.every_minutes) {
        (true, None) => Some("name times with at, or every_minutes".to_owned()),
        (false, Some(_)) => Some("at and every_minutes exclude each other".to_owned()),
        (true, Some(every)) if every == 0 || every > 24 * 60 => Some("every_minutes is 1 to 1440".to_owned()),
        (true, Some(_)) => None,
        (false, None) => schedule.at.iter().find_map(|text| minutes(text, false).err()),
    }
}

fn validate_how(how: &How, findings: &mut Findings) {
    findings.refuse_if(how.attempts == 0, "how.attempts: 0 would let it never run");
    findings.refuse_if(how.weight == 0 || how.weight > 1000, "how.weight: 1 to 1000");
    findings.refuse_if(how.source_limit == Some(0), "how.source_limit: 0 would let it never run");
    findings.refuse_if(how.repository_limit == Some(0), "how.repository_limit: 0 would let it never run");
    validate_shared("how.", how.bandwidth.as_deref(), how.before.iter().chain(&how.after), findings);
}

/// What policies and orders have in common; `place` says where it stands.
fn validate_shared<'c>(
    place: &str,
    bandwidth: Option<&str>,
    commands: impl Iterator<Item = &'c Command>,
    findings: &mut Findings,
) {
    if let Some(Err(error)) = bandwidth.map(str::parse::<Calendar>) {
        findings.0.push(format!("{place}bandwidth: {error}"));
    }
    for reason in commands.filter_map(problem_of_command) {
        findings.0.push(format!("{place}before and {place}after: {reason}"));
    }
}

fn validate_notify(rules: &[NotifyRule], findings: &mut Findings) {
    findings.refuse_if(rules.len() > LIST_MAX, format!("notify: at most {LIST_MAX}"));
    for reason in rules.iter().filter_map(NotifyRule::problem) {
        findings.0.push(format!("notify: {reason}"));
    }
}

/// Refuses an order that can never work, by the rules of policies.
///
/// # Errors
/// All reasons in one text.
pub fn order(order: &JobOrder) -> Result<()> {
    let mut findings = Findings::default();
    let commands = order.before.len() + order.after.len();
    findings.refuse_if(commands > LIST_MAX, format!("before and after: at most {LIST_MAX}"));
    validate_shared("", order.bandwidth.as_deref(), order.before.iter().chain(&order.after), &mut findings);
    validate_notify(&order.notify, &mut findings);
    findings.refuse_if(order.verify_percent > 100, "verify_percent: at most 100");
    if findings.0.is_empty() {
        return Ok(());
    }
    Err(ControlError::Invalid(format!("the order: {}", findings.0.join("; "))))
}

fn problem_of_command(command: &Command) -> Option<String> {
    if command.arguments.first().is_none_or(String::is_empty) {
        return Some("a command needs a program".to_owned());
    }
    let is_within = (1..=COMMAND_SECONDS_MAX).contains(&command.limit_seconds);
    (!is_within).then(|| format!("limit_seconds is 1 to {COMMAND_SECONDS_MAX}"))
}

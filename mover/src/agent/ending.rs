//! What a child said and how it ended, as the control plane keeps it.

use std::collections::BTreeMap;

use mover_control::job::order::JobOrder;
use mover_control::job::progress::EXCEPTIONS_KEPT;
use mover_control::job::{Exception, JobKind, Outcome, Progress};
use mover_control::lease::report::Ending;
use serde_json::Value;

use super::child::{Control, Ended};
use super::invocation::fileset_of;

/// Bytes of the exceptions that are kept, as they are sent: a result is no request that a server refuses for its size.
const EXCEPTION_BYTES_MAX: usize = 1 << 20;

/// Everything that the children of one job have said.
#[derive(Default)]
pub struct Tale {
    /// How far it is.
    pub progress: Progress,
    exceptions: Vec<Exception>,
    exception_bytes: usize,
    exceptions_total: u64,
    excluded: BTreeMap<String, u64>,
    recovery_point: Option<String>,
    was_full: bool,
    message: Option<String>,
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn text(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().map(str::to_owned)
}

impl Tale {
    /// Takes one line of a child.
    pub fn hear(&mut self, kind: JobKind, order: &JobOrder, line: &Value) {
        match line["type"].as_str().unwrap_or_default() {
            "progress" => self.progressed(kind, order, line),
            "problem" => self.except(text(line, "path"), text(line, "cause")),
            "damage" => self.except(text(line, "object"), text(line, "reason")),
            "hurt_file" => self.except(text(line, "path"), text(line, "reason")),
            "error" => self.message = text(line, "message"),
            "summary" => self.summed_up(kind, order, line),
            _ => {}
        }
    }

    /// Adds an exception.
    pub fn except(&mut self, path: Option<String>, cause: Option<String>) {
        self.exceptions_total += 1;
        self.progress.exceptions = self.exceptions_total;
        let clean = |text: Option<String>| without_nul(text.unwrap_or_default());
        let exception = Exception { path: clean(path), cause: clean(cause) };
        let bytes = serde_json::to_vec(&exception).map_or(0, |document| document.len());
        let has_room = self.exception_bytes + bytes <= EXCEPTION_BYTES_MAX;
        if has_room && self.exceptions.len() < EXCEPTIONS_KEPT {
            self.exception_bytes += bytes;
            self.exceptions.push(exception);
        }
    }

    /// Whether a recovery point was published.
    pub fn has_point(&self) -> bool {
        self.recovery_point.is_some()
    }

    /// Says why, unless something has been said.
    pub fn explain(&mut self, why: impl Into<String>) {
        self.message.get_or_insert(why.into());
    }

    fn progressed(&mut self, kind: JobKind, order: &JobOrder, line: &Value) {
        self.limited(line);
        let progress = &mut self.progress;
        progress.bytes_per_second = number(line, "bytes_per_second");
        match (kind, text(line, "step").as_deref()) {
            (_, Some("verify")) => progress.bytes.verified = number(line, "bytes"),
            (JobKind::Restore, _) => {
                progress.files = number(line, "files");
                progress.bytes.restored = number(line, "bytes");
            }
            _ => {
                progress.files = number(line, "files");
                progress.bytes.read = number(line, "bytes");
                progress.bytes.new = number(line, "bytes_new");
                progress.bytes.stored = number(line, "bytes_stored");
            }
        }
        if kind == JobKind::Backup && text(line, "step").as_deref() == Some("verify") {
            // What proves a backup has sizes of its own.
            return;
        }
        let better = |known: u64, name: &str| Some(number(line, name)).filter(|count| *count > 0).unwrap_or(known);
        progress.files_estimated = better(progress.files_estimated, "files_expected");
        progress.bytes_estimated = better(progress.bytes_estimated, "bytes_expected");
        if kind == JobKind::Backup && number(line, "fileset") > 0 {
            progress.fileset = progress.fileset.max(fileset_of(order, number(line, "fileset")));
        }
    }

    /// What limits it so far, or limited it in all; what does not say leaves what was said.
    fn limited(&mut self, line: &Value) {
        if let Some(limit) = line["bottleneck"]["limit"].as_str() {
            self.progress.bottleneck = Some(limit.to_owned());
        }
    }

    fn summed_up(&mut self, kind: JobKind, order: &JobOrder, line: &Value) {
        let is_proof = line.get("packs_read").is_some();
        self.limited(line);
        let progress = &mut self.progress;
        if is_proof {
            progress.bytes.verified = number(line, "bytes_read");
            self.exceptions_total = self.exceptions_total.max(number(line, "errors") + number(line, "hurt_files"));
            return;
        }
        match kind {
            JobKind::Backup => {
                progress.files = number(line, "files");
                progress.bytes.read = number(line, "bytes_read");
                progress.bytes.unchanged = number(line, "bytes").saturating_sub(number(line, "bytes_read"));
                progress.bytes.new = number(line, "bytes_new");
                progress.bytes.stored = number(line, "bytes_stored");
                progress.fileset = u32::try_from(order.filesets.len()).unwrap_or(u32::MAX);
                if progress.files_estimated == 0 {
                    // It was over before the count beside it had been told.
                    (progress.files_estimated, progress.bytes_estimated) =
                        (number(line, "files"), number(line, "bytes"));
                }
                self.recovery_point = text(line, "point");
                self.was_full = order.full || line["parent"].is_null();
                let rules = line["excluded_by_rule"].as_object().into_iter().flatten();
                self.excluded = rules.filter_map(|(rule, count)| Some((rule.clone(), count.as_u64()?))).collect();
                let listed = number(line, "problems") + number(line, "files_torn");
                self.exceptions_total = self.exceptions_total.max(listed);
            }
            JobKind::Restore => {
                progress.files = number(line, "files");
                progress.bytes.read = number(line, "bytes_read");
                progress.bytes.restored = number(line, "bytes_written");
                let listed = number(line, "problems") + number(line, "attribute_problems");
                self.exceptions_total = self.exceptions_total.max(listed);
                if number(line, "verified_different") > 0 {
                    self.explain(format!(
                        "{} files differ from the recovery point",
                        number(line, "verified_different")
                    ));
                }
            }
            JobKind::Verify | JobKind::Prune | JobKind::Retention => {}
        }
        self.progress.exceptions = self.exceptions_total;
    }

    /// As the control plane keeps it.
    pub fn outcome(self, ending: &Ending) -> Outcome {
        let is_done = *ending == Ending::Completed;
        Outcome {
            // A job that did not complete made none, whatever it says.
            recovery_point: self.recovery_point.filter(|_| is_done),
            full: self.was_full,
            message: self.message.map(|message| without_nul(message).chars().take(4096).collect()),
            exceptions: self.exceptions,
            exceptions_total: self.exceptions_total,
            excluded: self.excluded,
            progress: self.progress,
        }
    }
}

/// What a program says may hold one; no database column takes it.
fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// What the end of a child means for its job: nothing is left to do, or how the job ends; `None` if it is lost.
pub fn judge(ended: &Ended, control: &Control, tale: &mut Tale) -> Result<(), Option<Ending>> {
    const DONE: [i32; 2] = [0, 3];
    /// Wrong usage and wrong keys stay wrong.
    const HOPELESS: [i32; 2] = [2, 12];
    if matches!(control, Control::Lost(_)) {
        return Err(None);
    }
    if let Some(code) = ended.code.filter(|code| DONE.contains(code)) {
        if code == 3 && tale.exceptions_total == 0 {
            let last = ended.stderr.lines().last().unwrap_or("it did not say what");
            tale.except(None, Some(last.to_owned()));
        }
        return Ok(());
    }
    match control {
        Control::Stop(why) => {
            tale.message = Some(why.clone());
            return Err(Some(Ending::Cancelled));
        }
        Control::GiveBack => return Err(Some(Ending::GivenBack)),
        Control::GoOn | Control::Lost(_) => {}
    }
    let last = ended.stderr.lines().last().unwrap_or_default();
    tale.explain(match ended.code {
        Some(code) => format!("it ended with exit code {code}: {last}"),
        None => format!("it was killed, perhaps for want of memory: {last}"),
    });
    let retry = ended.code.is_none_or(|code| !HOPELESS.contains(&code));
    Err(Some(Ending::Failed { retry }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ended(code: Option<i32>) -> Ended {
        Ended { code, stderr: "mover: the last words".to_owned() }
    }

    #[test]
    fn exit_codes_have_their_endings() {
        let judged = |code, control: &Control| judge(&ended(code), control, &mut Tale::default());
        let failed = |retry| Err(Some(Ending::Failed { retry }));
        let go = Control::GoOn;
        assert_eq!([judged(Some(0), &go), judged(Some(3), &go)], [Ok(()), Ok(())]);
        assert_eq!([judged(Some(2), &go), judged(Some(12), &go)], [failed(false), failed(false)]);
        for code in [Some(1), Some(10), Some(11), Some(130), None] {
            assert_eq!(judged(code, &go), failed(true), "{code:?}");
        }
        let stop = Control::Stop("cancelled by me".into());
        assert_eq!(judged(Some(130), &stop), Err(Some(Ending::Cancelled)));
        assert_eq!(judged(Some(0), &stop), Ok(()), "it was done before it heard");
        assert_eq!(judged(Some(130), &Control::GiveBack), Err(Some(Ending::GivenBack)));
        assert_eq!(judged(Some(0), &Control::Lost(String::new())), Err(None), "whatever it says");
    }

    #[test]
    fn what_a_backup_says_is_counted_and_what_filters_left_out_is_kept_by_rule() {
        let order = JobOrder::default();
        let mut tale = Tale::default();
        let mut hear = |line: Value| tale.hear(JobKind::Backup, &order, &line);
        hear(json!({"type": "progress", "step": "backup", "files": 2, "bytes": 10, "files_expected": 9,
            "bytes_expected": 40, "bottleneck": {"limit": "the source", "limit_share": 0.9}}));
        hear(json!({"type": "progress", "step": "backup", "files": 2, "bytes": 10, "bytes_expected": null}));
        hear(json!({"type": "problem", "path": "/a", "cause": "denied"}));
        hear(json!({"type": "summary", "point": "p1", "parent": null, "files": 7, "bytes": 100, "bytes_read": 30,
            "bytes_new": 20, "bytes_stored": 9, "problems": 1, "files_torn": 2, "excluded_by_rule": {"*.tmp": 4},
            "bottleneck": {"limit": "source"}}));
        let outcome = tale.outcome(&Ending::Completed);
        assert_eq!((outcome.recovery_point.as_deref(), outcome.full), (Some("p1"), true));
        assert_eq!((outcome.exceptions.len(), outcome.exceptions_total), (1, 3));
        assert_eq!(outcome.excluded["*.tmp"], 4);
        let bytes = outcome.progress.bytes;
        assert_eq!((bytes.read, bytes.unchanged, bytes.new, bytes.stored), (30, 70, 20, 9));
        let progress = &outcome.progress;
        assert_eq!(
            (progress.files_estimated, progress.bytes_estimated),
            (9, 40),
            "what is unknown leaves what was known"
        );
        assert_eq!(progress.bottleneck.as_deref(), Some("source"));
    }

    /// The console showed what limits a job when it was over.
    #[test]
    fn what_limits_a_job_is_known_while_it_runs_and_as_last_told() {
        let order = JobOrder::default();
        for kind in [JobKind::Backup, JobKind::Restore] {
            let mut tale = Tale::default();
            let told = |limit: Value| json!({"type": "progress", "step": "it", "bytes": 1, "bottleneck": limit});
            let mut known = |line: Value| {
                tale.hear(kind, &order, &line);
                tale.progress.bottleneck.clone()
            };
            assert_eq!(known(told(Value::Null)), None);
            assert_eq!(known(told(json!({"limit": "the source"}))).as_deref(), Some("the source"));
            assert_eq!(known(told(Value::Null)).as_deref(), Some("the source"));
            assert_eq!(known(told(json!({"limit": "chunker"}))).as_deref(), Some("chunker"));
        }
    }

    /// A result with a million long names was once too large for the server, which refused it for ever.
    #[test]
    fn exceptions_are_all_counted_and_kept_within_bytes_and_without_nul() {
        let mut tale = Tale::default();
        for _ in 0..EXCEPTIONS_KEPT {
            tale.except(Some("\u{1}".repeat(4096)), Some("denied".into()));
        }
        tale.explain("a\0b");
        let outcome = tale.outcome(&Ending::Completed);
        assert_eq!(outcome.exceptions_total, EXCEPTIONS_KEPT as u64);
        let bytes = serde_json::to_vec(&outcome).expect("JSON").len();
        assert!(bytes > EXCEPTION_BYTES_MAX / 2 && bytes < EXCEPTION_BYTES_MAX + (64 << 10), "{bytes}");
        assert_eq!(outcome.message.as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn child_that_had_to_be_killed_after_a_stop_ends_as_what_was_wanted() {
        let stop = Control::Stop("cancelled by me".into());
        assert_eq!(judge(&ended(None), &stop, &mut Tale::default()), Err(Some(Ending::Cancelled)));
        assert_eq!(judge(&ended(None), &Control::GiveBack, &mut Tale::default()), Err(Some(Ending::GivenBack)));
    }

    #[test]
    fn exit_code_of_exceptions_is_never_without_one() {
        let mut tale = Tale::default();
        assert_eq!(judge(&ended(Some(3)), &Control::GoOn, &mut tale), Ok(()));
        assert_eq!(tale.outcome(&Ending::Completed).exceptions_total, 1);
    }
}

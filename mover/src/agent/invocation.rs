//! What is typed for a job: the order of the control plane as arguments and a config file of `mover`.
//!
//! The child reads no settings of this machine but the file that is written here, so that a job is what its order says.
//! Nothing of an order is ever read by a shell, nor taken for an option.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mover_control::ids::JobId;
use mover_control::job::order::{Fileset, JobOrder, RestoreOrder};
use mover_control::job::{Job, JobKind};
use mover_control::policy::Retention;
use mover_repository::bandwidth::Calendar;

use super::settings::{AgentSettings, RepositorySettings};
use crate::cli::units::{OneIn, Period};
use crate::config::{BackupSettings, BandwidthSettings, FilesetSettings, Settings};

/// How often a child tells how far it is.
const PROGRESS_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// One call of the binary.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// Command and options.
    pub arguments: Vec<String>,
    /// What its config file says.
    pub settings: Settings,
    /// Its own variables.
    pub environment: BTreeMap<String, String>,
}

/// What this host adds to an order.
pub struct Host<'a> {
    /// `agent.toml`.
    pub settings: &'a AgentSettings,
    /// Jobs at once.
    pub slots: u32,
}

impl Host<'_> {
    /// The repository by the name that the control plane knows.
    ///
    /// # Errors
    /// This host does not know it.
    pub fn repository(&self, name: &str) -> Result<&RepositorySettings, String> {
        self.settings.repository.get(name).ok_or_else(|| {
            format!("this agent knows no repository {name}: give it a [repository.{name}] in its agent.toml")
        })
    }

    /// A call on a repository, without its command.
    ///
    /// # Errors
    /// This host does not know the repository, or a limit is none.
    pub fn call(&self, repository: &str, bandwidth: Option<&str>) -> Result<Invocation, String> {
        let place = self.repository(repository)?;
        let own = self.settings;
        let settings = Settings {
            repo: Some(place.url.clone()),
            password_file: place.password_file.clone(),
            key_file: place.key_file.clone(),
            memory: own.job_memory,
            shards: Some(own.job_cores(self.slots)),
            progress_interval: Some(Period(PROGRESS_EVERY)),
            patience: own.patience,
            bandwidth: BandwidthSettings {
                upload: calendar(bandwidth.or(own.limit_upload.as_deref()))?,
                download: calendar(bandwidth.or(own.limit_download.as_deref()))?,
            },
            ..Settings::default()
        };
        Ok(Invocation { arguments: Vec::new(), settings, environment: place.environment.clone() })
    }

    /// The calls of a job, one after the other; those of a backup without what proves it.
    ///
    /// # Errors
    /// The order makes no sense here; another try does not help.
    pub fn calls(&self, job: &Job) -> Result<Vec<Invocation>, String> {
        let call = self.call(&job.repository, job.order.bandwidth.as_deref())?;
        Ok(match job.kind {
            JobKind::Backup => vec![backup(call, &job.id, &job.set, &job.order)?],
            JobKind::Restore => {
                let order = job.order.restore.as_ref().ok_or("the order does not say what to restore")?;
                vec![restore(call, &job.set, order)?]
            }
            JobKind::Verify => vec![verify(call, job.order.verify_percent)],
            JobKind::Prune => vec![call.with(["prune", "--json"])],
            JobKind::Retention => {
                let keep = job.order.retention.ok_or("the order does not say what to keep")?;
                let mut calls = vec![forget(call.clone(), &job.set, keep)?];
                calls.extend(keep.prune.then(|| call.with(["prune", "--json"])));
                calls
            }
        })
    }

    /// What proves a share of the data after a backup.
    ///
    /// # Errors
    /// As [`Host::call`].
    pub fn proof(&self, job: &Job) -> Result<Invocation, String> {
        Ok(verify(self.call(&job.repository, job.order.bandwidth.as_deref())?, job.order.verify_percent))
    }
}

fn calendar(text: Option<&str>) -> Result<Option<Calendar>, String> {
    let parsed = text.map(|text| text.parse().map_err(|error| format!("the limit '{text}' is none: {error}")));
    parsed.transpose()
}

impl Invocation {
    /// The same with these arguments behind.
    pub fn with<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Invocation {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }
}

/// The filesets of the config file for one of an order: one a path, in order.
fn filesets(fileset: &Fileset) -> Result<Vec<FilesetSettings>, String> {
    if fileset.paths.is_empty() {
        return Err(format!("fileset {} names no path", fileset.name));
    }
    let one = |path: &String| {
        if !path.starts_with('/') {
            return Err(format!("'{path}' of fileset {} is no absolute path", fileset.name));
        }
        Ok(FilesetSettings {
            exclude: fileset.exclude.clone(),
            exclude_if_present: fileset.exclude_if_present.clone(),
            exclude_caches: fileset.exclude_caches,
            one_file_system: fileset.one_file_system,
            ..FilesetSettings::new(PathBuf::from(path))
        })
    };
    fileset.paths.iter().map(one).collect()
}

fn backup(mut call: Invocation, id: &JobId, set: &str, order: &JobOrder) -> Result<Invocation, String> {
    for fileset in &order.filesets {
        call.settings.fileset.extend(filesets(fileset)?);
    }
    if call.settings.fileset.is_empty() {
        return Err("the order names nothing to back up".to_owned());
    }
    call.settings.backup = BackupSettings {
        set: Some(set.to_owned()),
        // Every unchanged file is read again and compared.
        reread: order.full.then_some(OneIn(1)),
        ..BackupSettings::default()
    };
    Ok(call.with(["backup", "--json", "--ask-before-commit"]).with([format!("--job={id}")]))
}

fn restore(call: Invocation, set: &str, order: &RestoreOrder) -> Result<Invocation, String> {
    const RULES: [&str; 4] = ["always", "if-changed", "if-newer", "never"];
    let mut call = call.with(["restore", "--json"]).with([format!("--set={set}")]);
    call = match &order.target {
        Some(target) if !target.starts_with('/') => return Err(format!("the target '{target}' is no absolute path")),
        Some(target) => call.with([format!("--target={target}")]),
        None => call.with(["--in-place"]),
    };
    if let Some(rule) = &order.overwrite {
        if !RULES.contains(&rule.as_str()) {
            return Err(format!("'{rule}' is no rule for existing files: it is one of {}", RULES.join(", ")));
        }
        call = call.with([format!("--overwrite={rule}")]);
    }
    call = call.with(order.verify.then_some("--verify"));
    call = call.with(order.paths.iter().map(|path| format!("--path={path}")));
    Ok(call.with(["--", order.point.as_str()]))
}

fn verify(call: Invocation, percent: u8) -> Invocation {
    let call = call.with(["verify", "--json"]);
    match percent {
        0 => call,
        share => call.with([format!("--data={}%", share.min(100))]),
    }
}

fn forget(call: Invocation, set: &str, keep: Retention) -> Result<Invocation, String> {
    let rules = [
        ("last", keep.last),
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("yearly", keep.yearly),
    ];
    let given: Vec<String> =
        rules.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("--keep-{name}={count}")).collect();
    if given.is_empty() {
        return Err("no rule says what to keep: nothing is forgotten".to_owned());
    }
    Ok(call.with(["forget", "--json"]).with([format!("--set={set}")]).with(given))
}

/// Which fileset of the order is in work when the child is at its `child`-th, from 1.
pub fn fileset_of(order: &JobOrder, child: u64) -> u32 {
    let mut last = 0;
    for (number, fileset) in (1..).zip(&order.filesets) {
        last += fileset.paths.len() as u64;
        if child <= last {
            return number;
        }
    }
    u32::try_from(order.filesets.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentSettings {
        let text = "cores = 4\nlimit-upload = '5MiB/s'\n[repository.main]\nurl = '/r'\nkey-file = '/k'\n";
        toml::from_str(text).expect("settings")
    }

    fn fileset(name: &str, paths: &[&str]) -> Fileset {
        Fileset { name: name.into(), paths: paths.iter().map(|path| (*path).into()).collect(), ..Fileset::default() }
    }

    #[test]
    fn filesets_are_in_order_with_filters_of_their_own() {
        let settings = agent();
        let host = Host { settings: &settings, slots: 2 };
        let mut second = fileset("logs", &["/var/log", "/srv/log"]);
        second.exclude = vec!["*.gz".into()];
        second.exclude_caches = true;
        let order = JobOrder { filesets: vec![fileset("etc", &["/etc"]), second], ..JobOrder::default() };
        let call = host.call("main", None).expect("known");
        let call = backup(call, &JobId::from("J1"), "web", &order).expect("makes sense");
        let paths: Vec<_> = call.settings.fileset.iter().map(|fileset| fileset.path.to_string_lossy()).collect();
        assert_eq!(paths, ["/etc", "/var/log", "/srv/log"]);
        assert!(call.settings.fileset[0].exclude.is_empty() && call.settings.fileset[2].exclude == ["*.gz"]);
        assert!(!call.settings.fileset[0].exclude_caches && call.settings.fileset[1].exclude_caches);
        assert_eq!(call.arguments, ["backup", "--json", "--ask-before-commit", "--job=J1"]);
        let text = toml::to_string(&call.settings).expect("a config file");
        assert_eq!(toml::from_str::<Settings>(&text).expect("is read back"), call.settings);
        assert_eq!([1, 2, 3].map(|child| fileset_of(&order, child)), [1, 2, 2]);
    }

    #[test]
    fn bandwidth_of_the_order_wins_and_that_of_the_agent_holds_where_it_says_nothing() {
        let settings = agent();
        let host = Host { settings: &settings, slots: 2 };
        let upload =
            |order| host.call("main", order).expect("a call").settings.bandwidth.upload.expect("a limit").to_string();
        assert_eq!(upload(None), "5MiB/s");
        assert_eq!(upload(Some("1MiB/s")), "1MiB/s");
        assert_eq!(upload(Some("unlimited")), "unlimited", "told otherwise");
        assert!(upload(Some("zone UTC, 1MiB/s")).contains("zone UTC"), "in the zone that the order names");
        assert!(host.call("main", Some("fast")).expect_err("no limit").contains("fast"));
    }

    #[test]
    fn orders_that_make_no_sense_are_refused_in_words_and_nothing_is_taken_for_an_option() {
        let settings = agent();
        let host = Host { settings: &settings, slots: 2 };
        assert!(host.call("other", None).expect_err("unknown").contains("[repository.other]"));
        let call = || host.call("main", None).expect("known");
        let wrong = JobOrder { filesets: vec![fileset("a", &["relative"])], ..JobOrder::default() };
        assert!(backup(call(), &JobId::from("J"), "s", &wrong).expect_err("relative").contains("relative"));
        assert!(backup(call(), &JobId::from("J"), "s", &JobOrder::default()).is_err());
        assert!(forget(call(), "s", Retention::default()).is_err(), "nothing to keep is no rule");
        let order = RestoreOrder {
            point: "--in-place".into(),
            target: Some("/t".into()),
            paths: vec!["--x".into()],
            overwrite: None,
            verify: true,
        };
        let typed = restore(call(), "s", &order).expect("typed").arguments;
        assert_eq!(
            typed,
            ["restore", "--json", "--set=s", "--target=/t", "--verify", "--path=--x", "--", "--in-place"]
        );
        let order = RestoreOrder { overwrite: Some("maybe".into()), ..order };
        assert!(restore(call(), "s", &order).expect_err("no rule").contains("maybe"));
    }
}

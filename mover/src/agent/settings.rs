//! `agent.toml`: what this host gives to jobs, and how it reaches the repositories that the control plane names.
//!
//! Secrets of repositories are here and nowhere else: the control plane knows names.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mover_control::agents::Description;
use mover_repository::bandwidth::Calendar;
use serde::Deserialize;

use crate::cli::error::{CliError, Result};
use crate::cli::units::{Period, Size};

/// Where it is if nobody says.
const FILE: &str = "/etc/mover/agent.toml";
/// How long a finished backup waits for the permission to publish.
const GRANT_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AgentSettings {
    /// Other servers of the same control plane, asked in turn when one does not answer.
    pub standby: Vec<String>,
    /// Cores that jobs may use together.
    pub cores: Option<u32>,
    /// Memory of this host that counts for its slots.
    pub memory: Option<Size>,
    /// Words for people and filters.
    pub tags: Vec<String>,
    /// What it reaches besides its own files.
    pub reaches: Vec<String>,
    /// Memory budget of one job.
    pub job_memory: Option<Size>,
    /// Cores of one job.
    pub job_cores: Option<u32>,
    /// What one job may send, where its order says nothing.
    pub limit_upload: Option<String>,
    /// The same for what it receives.
    pub limit_download: Option<String>,
    /// Programs that orders may run here before and after a job, and directories of such programs; none if nobody says.
    pub commands: Vec<PathBuf>,
    /// How long a finished backup waits for the permission to publish while the control plane is away.
    pub grant_patience: Option<Period>,
    /// How long a job of this host asks a store that does not answer.
    pub patience: Option<Period>,
    /// The repositories by the names that the control plane knows.
    pub repository: BTreeMap<String, RepositorySettings>,
}

/// `[repository.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RepositorySettings {
    /// Directory, or s3://, gs://, az://.
    pub url: String,
    /// What opens it.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// What opens it, as a password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Variables of its jobs: credentials of the store.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// Reads the file; without one, all is as it is built in.
///
/// # Errors
/// It cannot be read, or says what nobody understands (exit 2).
pub fn load(path: Option<&Path>) -> Result<AgentSettings> {
    let file = path.unwrap_or(Path::new(FILE));
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(CliError::system("read", file.display(), error)),
    };
    let settings: AgentSettings = toml::from_str(&text).map_err(|error| {
        CliError::usage(
            format!("{}: {}", file.display(), error.to_string().trim_end()),
            "config/agent.toml has all keys",
        )
    })?;
    if let Some(place) = settings.commands.iter().find(|place| !place.is_absolute()) {
        let message = format!("{}: commands: '{}' is no absolute path", file.display(), place.display());
        return Err(CliError::usage(message, "such as '/etc/mover/hooks', a directory, or one program"));
    }
    if let Some(url) = settings.standby.iter().find(|url| !url.starts_with("https://")) {
        let message = format!("{}: standby: '{url}' is no server", file.display());
        return Err(CliError::usage(message, "such as 'https://HOST:PORT', as the server prints it for agents"));
    }
    if settings.is_exposed(file) {
        tracing::warn!("{} has credentials in it, and others may read it: chmod 600", file.display());
    }
    for limit in [&settings.limit_upload, &settings.limit_download].into_iter().flatten() {
        limit.parse::<Calendar>().map_err(|error| {
            CliError::usage(format!("{}: limit '{limit}': {error}", file.display()), "such as 'mon-fri = 20MiB/s'")
        })?;
    }
    Ok(settings)
}

impl AgentSettings {
    /// Whether others than the owner may read credentials that are in this file.
    fn is_exposed(&self, file: &Path) -> bool {
        let has_secrets = self.repository.values().any(|repository| !repository.environment.is_empty());
        let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
        has_secrets && mode & 0o044 != 0
    }

    /// What this agent says of itself; `instance` is another one at each start.
    pub fn describe(&self, instance: String) -> Description {
        Description {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: self.cores(),
            memory_bytes: self.memory.map_or_else(memory_of_host, |size| size.0),
            tags: self.tags.clone(),
            reaches: self.reaches.clone(),
            instance,
        }
    }

    fn cores(&self) -> u32 {
        let present = u32::try_from(mover_actors::runtime::cores_available().len()).unwrap_or(u32::MAX);
        self.cores.unwrap_or(present).max(1)
    }

    /// Cores of one job, where `slots` run at once.
    pub fn job_cores(&self, slots: u32) -> u32 {
        let fair = self.cores() / slots.max(1);
        self.job_cores.unwrap_or(fair.max(2)).min(self.cores()).max(1)
    }

    /// How long a finished backup waits for the permission to publish.
    pub fn grant_patience(&self) -> Duration {
        self.grant_patience.map_or(GRANT_PATIENCE, |period| period.0)
    }
}

fn memory_of_host() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_example_is_read_and_a_wrong_key_is_named() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/agent.toml");
        let settings = load(Some(&example)).expect("the example");
        assert!(settings.repository.contains_key("main"));
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("agent.toml");
        std::fs::write(&file, "reach = ['x']").expect("write");
        let error = load(Some(&file)).expect_err("a wrong key");
        assert!(error.message.contains("reach"), "{error}");
        std::fs::write(&file, "limit-upload = 'fast'").expect("write");
        assert!(load(Some(&file)).expect_err("a wrong limit").message.contains("fast"));
        std::fs::write(&file, "standby = ['http://b:8443']").expect("write");
        assert!(load(Some(&file)).expect_err("a server without TLS").message.contains("http://b:8443"));
    }

    #[test]
    fn credentials_that_others_may_read_are_noticed_and_programs_are_absolute() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("agent.toml");
        let with = |text: &str, mode: u32| {
            std::fs::write(&file, text).expect("write");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
            load(Some(&file))
        };
        let secret = "[repository.a]\nurl = 's3://b'\nenvironment = { AWS_SECRET_ACCESS_KEY = 'x' }";
        for (text, mode, exposed) in
            [(secret, 0o600, false), (secret, 0o640, true), (secret, 0o604, true), ("", 0o644, false)]
        {
            assert_eq!(with(text, mode).expect("settings").is_exposed(&file), exposed, "{mode:o} {text}");
        }
        let wrong = with("commands = ['hooks']", 0o600).expect_err("relative");
        assert!(wrong.message.contains("hooks"), "{wrong}");
    }

    #[test]
    fn cores_of_a_job_are_its_share_and_two_at_least() {
        let settings = AgentSettings { cores: Some(16), ..AgentSettings::default() };
        assert_eq!((settings.job_cores(8), settings.job_cores(2), settings.job_cores(64)), (2, 8, 2));
        assert_eq!(AgentSettings { cores: Some(1), ..AgentSettings::default() }.job_cores(2), 1);
    }
}

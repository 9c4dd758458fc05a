//! One settings structure for flags, environment, file and defaults, and which of them wins.
//!
//! Precedence: flags > environment > file > default. A list given in a higher place replaces the
//! lower one, but for the rules of what to leave out: these add up, and the last match decides. Secrets are no settings: they are read by `cli::secret` and never printed; only the
//! *paths* of password and key files pass through here.

mod resolve;

use std::path::PathBuf;

use mover_repository::bandwidth::Calendar;
use serde::{Deserialize, Serialize};

pub use resolve::{CredentialSource, Resolved, config_file, load, read_bandwidth};

use crate::cli::args::{ObjectLockMode, Overwrite, VerifyBeforeUpload};
use crate::cli::units::{OneIn, Period, Size};

/// Every setting that a flag, a variable or the config file can give. All optional: a layer says
/// only what it knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Where the repository is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// File whose first line is the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Key file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Memory budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Where the local cache of far repositories is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// What that cache may take on the disk; 0: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<Size>,
    /// Cores in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    /// Yield to everything else on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<bool>,
    /// Time between two progress lines where there is no terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_interval: Option<Period>,
    /// How long a store in the network that does not answer is asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Period>,
    /// How long objects are locked from their upload on; unset: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<Period>,
    /// Who may end such a lock early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_lock_mode: Option<ObjectLockMode>,
    /// `[backup]`
    pub backup: BackupSettings,
    /// `[restore]`
    pub restore: RestoreSettings,
    /// `[bandwidth]`
    pub bandwidth: BandwidthSettings,
    /// `[[fileset]]`: what to back up when no PATH is given, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fileset: Vec<FilesetSettings>,
}

/// `[backup]`: as the flags of `mover backup` of the same names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BackupSettings {
    /// Name of the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Tags of the recovery point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Patterns to leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Vec<String>>,
    /// Patterns to take in all the same; after reading they are in `exclude`, with `!` before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include: Option<Vec<String>>,
    /// Files of patterns to leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_file: Option<Vec<PathBuf>>,
    /// Leave out directories marked by a CACHEDIR.TAG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_caches: Option<bool>,
    /// Leave out directories that hold a file of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_if_present: Option<Vec<String>>,
    /// Stay on the file system of each PATH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_file_system: Option<bool>,
    /// Leave out smaller files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Size>,
    /// Leave out larger files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// Share of unchanged files to read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reread: Option<OneIn>,
    /// Fixed zstd level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    /// Lowest zstd level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level_min: Option<i32>,
    /// Highest zstd level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level_max: Option<i32>,
    /// Which frames to check before they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_before_upload: Option<VerifyBeforeUpload>,
}

/// `[restore]`: as the flags of `mover restore` of the same names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RestoreSettings {
    /// Which existing files to replace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<Overwrite>,
    /// Read everything back afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

/// `[bandwidth]`: limits of network repositories.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BandwidthSettings {
    /// Of what is sent.
    #[serde(skip_serializing_if = "Option::is_none", with = "calendar_text")]
    pub upload: Option<Calendar>,
    /// Of what is received.
    #[serde(skip_serializing_if = "Option::is_none", with = "calendar_text")]
    pub download: Option<Calendar>,
}

/// A calendar in the config file, as it is typed on the command line.
mod calendar_text {
    use super::{Calendar, Deserialize};

    pub fn serialize<S: serde::Serializer>(calendar: &Option<Calendar>, serializer: S) -> Result<S::Ok, S::Error> {
        match calendar {
            Some(calendar) => serializer.collect_str(calendar),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Calendar>, D::Error> {
        String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

impl FilesetSettings {
    /// A path without a filter of its own.
    pub fn new(path: PathBuf) -> FilesetSettings {
        let (exclude, include, exclude_if_present) = (Vec::new(), Vec::new(), Vec::new());
        let (exclude_caches, one_file_system) = (false, false);
        FilesetSettings { path, exclude, include, exclude_if_present, exclude_caches, one_file_system }
    }
}

/// `[[fileset]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FilesetSettings {
    /// Absolute path.
    pub path: PathBuf,
    /// Patterns to leave out, besides those of `[backup]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Patterns to take in all the same, besides those of `[backup]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Leave out directories that hold a file of one of these names, besides those of `[backup]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_if_present: Vec<String>,
    /// Leave out directories marked by a CACHEDIR.TAG, here too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclude_caches: bool,
    /// Stay on the file system of the path, here too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_file_system: bool,
}

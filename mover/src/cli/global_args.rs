//! The options of every command, as typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mover_repository::bandwidth::Calendar;
use serde::{Deserialize, Serialize};

use super::units::{Period, Size};

/// Options of every command.
#[derive(Args, Debug, Default)]
pub struct GlobalArgs {
    /// The repository: a directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(short = 'r', long, global = true, value_name = "REPO", help_heading = "Global options")]
    pub repo: Option<String>,
    /// Read the password from the first line of this file
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "key_file", help_heading = "Global options")]
    pub password_file: Option<PathBuf>,
    /// Open the repository with this key file instead of a password
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub key_file: Option<PathBuf>,
    /// Print one JSON object a line; the last one is the summary
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print results and problems only
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Read settings from this file instead of the usual places
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Memory budget of all buffers and caches, at least 128MiB
    #[arg(long, global = true, value_name = "SIZE", help_heading = "Global options")]
    pub memory: Option<Size>,
    /// Where to keep what is read again and again of a repository in an object store
    #[arg(long, global = true, value_name = "DIRECTORY", help_heading = "Global options")]
    pub cache_dir: Option<PathBuf>,
    /// How large that cache may grow; 0: none
    #[arg(long, global = true, value_name = "SIZE", help_heading = "Global options")]
    pub cache_size: Option<Size>,
    /// How many cores to use
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    pub shards: Option<u32>,
    /// Yield to everything else on this machine: run only on cores and disks that nobody else wants
    #[arg(long, global = true, help_heading = "Global options")]
    pub idle: bool,
    /// How often to print progress where there is no terminal
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Global options")]
    pub progress_interval: Option<Period>,
    /// How long to go on asking a store in the network that does not answer or is busy
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Global options")]
    pub patience: Option<Period>,
    /// Send at most this much to a network repository: 20MiB/s, or by a calendar such as
    /// 'mon-fri 08:00-18:00 = 20MiB/s, else unlimited'
    #[arg(long, global = true, value_name = "CALENDAR", help_heading = "Global options")]
    pub limit_upload: Option<Calendar>,
    /// The same for what is received
    #[arg(long, global = true, value_name = "CALENDAR", help_heading = "Global options")]
    pub limit_download: Option<Calendar>,
    /// Lock every object for this long from its upload on, such as 30d; needs an S3 bucket with object lock
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Global options")]
    pub object_lock: Option<Period>,
    /// Who may end such a lock early: nobody, or whoever has the permission for it
    #[arg(long, global = true, value_name = "MODE", help_heading = "Global options")]
    pub object_lock_mode: Option<ObjectLockMode>,
}

/// Who may end an object lock early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectLockMode {
    /// Nobody.
    Compliance,
    /// Whoever has a special permission of the store.
    Governance,
}

//! The typed low-level arguments: what was typed, nothing more. `config::resolve` turns them, the
//! environment and the file into settings; commands read settings, not flags, wherever both exist.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

pub use super::global_args::{GlobalArgs, ObjectLockMode};
use super::serve::ServeArgs;
use super::stats::StatsArgs;
use super::units::{DataShare, OneIn, Period, Size};
use crate::agent::args::AgentArgs;
use crate::client::args::{JobArgs, PointArgs, PolicyArgs, TokenArgs};
use crate::config::{BackupSettings, BandwidthSettings, RestoreSettings, Settings};

const AFTER_HELP: &str = "\
Environment: MOVER_REPO, MOVER_PASSWORD, MOVER_PASSWORD_FILE, MOVER_KEY_FILE.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with exceptions, 10 no repository,
11 repository in use, 12 wrong password or key, 13 agent revoked, 130 interrupted (work kept).";

/// mover: backs up files fast, deduplicated and encrypted, and puts every byte and attribute back.
#[derive(Debug, Parser)]
#[command(name = "mover", version, about, after_help = AFTER_HELP, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true, infer_long_args = false)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Back PATH up into a throw-away repository twice, restore it, compare everything, print figures
    Try(TryArgs),
    /// Make a new repository
    Init(InitArgs),
    /// Back up files and directories, or standard input
    Backup(BackupArgs),
    /// List the recovery points
    Points(PointsArgs),
    /// List a directory of a recovery point
    Ls(LsArgs),
    /// Show what differs between two recovery points
    Diff(DiffArgs),
    /// Write one file of a recovery point to standard output
    Dump(DumpArgs),
    /// Put files of a recovery point back
    Restore(RestoreArgs),
    /// Copy recovery points into another repository
    Copy(CopyArgs),
    /// Check the repository, and the stored data on request
    Verify(VerifyArgs),
    /// Rebuild what can be rebuilt
    Repair(RepairArgs),
    /// Forget recovery points by rule or by name; `prune` then frees their room
    Forget(ForgetArgs),
    /// Delete what no recovery point needs, beside running backups
    Prune(PruneArgs),
    /// Have the store keep recovery points for a time, by object lock
    Protect(ProtectArgs),
    /// Run the control plane of a pool: jobs, schedules, agents, an API and a console
    Serve(ServeArgs),
    /// Be an agent of a control plane, or handle its agents
    Agent(AgentArgs),
    /// Jobs of a control plane
    Job(JobArgs),
    /// Policies of a control plane: what is protected, when, for how long
    Policy(PolicyArgs),
    /// Recovery points that a control plane knows
    Point(PointArgs),
    /// Who may use a control plane
    Token(TokenArgs),
    /// Check this machine, or with -r the place of a repository
    Doctor,
    /// The keys that open the repository
    Key(KeyArgs),
    /// The settings in force
    Config(ConfigArgs),
}

/// `mover try`
#[derive(Args, Debug)]
pub struct TryArgs {
    /// What to back up, restore and compare
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Keep the repository and the restored files, and say where they are
    #[arg(long)]
    pub keep: bool,
}

/// What `mover init` tells of object stores.
const STORE_HELP: &str = "\
A repository in an object store is s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX. Its credentials and
address are read from the variables that its vendor's tools know, among them:
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN   the key
  AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE   a file with keys (else ~/.aws/credentials), and which of them
  AWS_REGION                                 the region of the bucket
  AWS_ENDPOINT_URL                           another vendor's S3; plain HTTP where it begins with http://
  AWS_CA_BUNDLE, SSL_CERT_FILE               certificates (PEM) of a private authority, for all vendors
  GOOGLE_SERVICE_ACCOUNT                     the file with the key
  AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY   the account and its key";

/// `mover init`
#[derive(Args, Debug)]
#[command(after_help = STORE_HELP)]
pub struct InitArgs {
    /// Cut and name chunks as the repository FROM does, so that what `mover copy` brings from there and what is backed
    /// up here directly is stored once. Its own password and keys open it all the same
    #[arg(long, value_name = "FROM")]
    pub like: Option<String>,
    /// Read the password of FROM from the first line of this file
    #[arg(long, value_name = "FILE", requires = "like", conflicts_with = "like_key_file")]
    pub like_password_file: Option<PathBuf>,
    /// Open FROM with this key file
    #[arg(long, value_name = "FILE", requires = "like")]
    pub like_key_file: Option<PathBuf>,
    /// Make a key file here (mode 0600) and let it open the repository
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
}

/// `mover backup`
#[derive(Args, Debug, Default)]
pub struct BackupArgs {
    /// What to back up; each PATH is a fileset of its own
    #[arg(value_name = "PATH", conflicts_with = "stdin")]
    pub paths: Vec<PathBuf>,
    /// Back up standard input under this name
    #[arg(long, value_name = "NAME")]
    pub stdin: Option<String>,
    /// Name of the set; the default is <host>:<sorted absolute paths>
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Tag the recovery point (may be repeated)
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// The new point is of no use without POINT (a log backup without its base): keep that as long
    #[arg(long, value_name = "POINT")]
    pub depends_on: Option<String>,
    /// Read and compare, store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What is told at the end.
    #[command(flatten)]
    pub stats: StatsArgs,
    /// Who orders the run: at most one recovery point is ever made of one job, and a run that begins ends an earlier one
    #[arg(long, value_name = "ID", help_heading = "Run for somebody else")]
    pub job: Option<String>,
    /// Print {"type":"commit"} before the recovery point is published, and wait on standard input for `yes`; any other
    /// line, or none, is why not
    #[arg(long, requires = "json", conflicts_with = "stdin", help_heading = "Run for somebody else")]
    pub ask_before_commit: bool,

    /// Leave out what matches, with the meaning of a line in .gitignore (may be repeated)
    #[arg(long, value_name = "GLOB", help_heading = "What to leave out")]
    pub exclude: Vec<String>,
    /// Keep what matches although an earlier rule leaves it out; the last match decides
    #[arg(long, value_name = "GLOB", help_heading = "What to leave out")]
    pub include: Vec<String>,
    /// Read exclude patterns from a file (may be repeated)
    #[arg(long, value_name = "FILE", help_heading = "What to leave out")]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out the content of directories marked by a CACHEDIR.TAG
    #[arg(long, help_heading = "What to leave out")]
    pub exclude_caches: bool,
    /// Leave out the content of directories that hold a file of this name (may be repeated)
    #[arg(long, value_name = "NAME", help_heading = "What to leave out")]
    pub exclude_if_present: Vec<String>,
    /// Do not descend into other file systems
    #[arg(long, help_heading = "What to leave out")]
    pub one_file_system: bool,
    /// Leave out files smaller than this
    #[arg(long, value_name = "SIZE", help_heading = "What to leave out")]
    pub min_size: Option<Size>,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", visible_alias = "exclude-larger-than", help_heading = "What to leave out")]
    pub max_size: Option<Size>,
    /// `exclude` and `include` in the order of the command line, an include with `!` before it
    #[arg(skip)]
    pub rules: Vec<String>,
    /// List everything that was left out
    #[arg(long, help_heading = "What to leave out")]
    pub list_excluded: bool,

    /// Read this share of unchanged files again and report differences, for example 1/100
    #[arg(long, value_name = "1/N", help_heading = "How to store")]
    pub reread: Option<OneIn>,
    /// Compress at this zstd level, whatever the load
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19),
          conflicts_with_all = ["level_min", "level_max"], help_heading = "How to store")]
    pub level: Option<i32>,
    /// Lowest zstd level that the load may choose
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19), help_heading = "How to store")]
    pub level_min: Option<i32>,
    /// Highest zstd level that the load may choose
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19), help_heading = "How to store")]
    pub level_max: Option<i32>,
    /// Decode and hash frames again before they are stored
    #[arg(long, value_name = "WHEN", help_heading = "How to store")]
    pub verify_before_upload: Option<VerifyBeforeUpload>,
}

/// Which frames are decoded and hashed again before they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyBeforeUpload {
    /// Every frame.
    Always,
    /// The first ones of each kind, then every 64th.
    Sample,
    /// None.
    Never,
}

/// Which existing files a restore replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// All.
    Always,
    /// Those whose size or modification time differs.
    IfChanged,
    /// Those that are older than the one in the recovery point.
    IfNewer,
    /// None.
    Never,
}

/// `mover points`
#[derive(Args, Debug)]
pub struct PointsArgs {
    /// Only points of this set
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Those that were forgotten, whether or not they could be brought back
    #[arg(long)]
    pub forgotten: bool,
    /// Ask the store about the object lock of everything that each point needs, instead of believing the records
    #[arg(long, conflicts_with = "forgotten")]
    pub prove_protection: bool,
}

/// `mover protect`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("which").required(true).args(["points", "all"])))]
pub struct ProtectArgs {
    /// These points: `latest`, an id prefix, or a time (the latest point not after it)
    #[arg(value_name = "POINT")]
    pub points: Vec<String>,
    /// All points
    #[arg(long)]
    pub all: bool,
    /// How long from now on; a lock that lasts longer stays as it is
    #[arg(long = "for", value_name = "DURATION")]
    pub period: Period,
    /// Only points of this set
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
}

/// `mover ls`
#[derive(Args, Debug)]
pub struct LsArgs {
    /// `latest`, an id prefix, or a time (the latest point not after it)
    #[arg(value_name = "POINT")]
    pub point: String,
    /// Absolute path of a directory or file in it
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Everything below, not only the next level
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The set that POINT belongs to
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
}

/// `mover diff`
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The older point
    #[arg(value_name = "POINT")]
    pub older: String,
    /// The newer point
    #[arg(value_name = "POINT")]
    pub newer: String,
    /// The set that both belong to
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
}

/// `mover dump`
#[derive(Args, Debug)]
pub struct DumpArgs {
    /// `latest`, an id prefix, or a time (the latest point not after it)
    #[arg(value_name = "POINT")]
    pub point: String,
    /// Absolute path of a file in it
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The set that POINT belongs to
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
}

/// `mover restore`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("place").required(true).args(["target", "in_place"])))]
pub struct RestoreArgs {
    /// `latest`, an id prefix, or a time (the latest point not after it)
    #[arg(value_name = "POINT")]
    pub point: String,
    /// Put everything below this directory, at its absolute source path
    #[arg(long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Put everything back where it came from
    #[arg(long)]
    pub in_place: bool,
    /// Only this absolute source path and what is below it (may be repeated)
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Which existing files to replace
    #[arg(long, value_name = "WHICH")]
    pub overwrite: Option<Overwrite>,
    /// Read everything back afterwards and compare
    #[arg(long)]
    pub verify: bool,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The set that POINT belongs to
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// What is told at the end.
    #[command(flatten)]
    pub stats: StatsArgs,
}

/// `mover copy`
#[derive(Args, Debug)]
#[command(
    after_help = "-r names the repository that is copied from. Only chunks that TO lacks are read and stored, and a copy that \
was interrupted goes on from there. A point keeps its id, set, host, tags and times; one that TO has is skipped; those that \
it depends on come along. A key of TO that may only add is enough, but `forget` then counts the points as of the day they \
were copied.\n\
Make TO with `mover init -r TO --like FROM`: chunks then have the same ids in both, manifests stay as they are, and only \
what is missing is read. Between other repositories new content is read once to learn its ids.\n\
Environment: MOVER_TO_PASSWORD, MOVER_TO_PASSWORD_FILE, MOVER_TO_KEY_FILE."
)]
pub struct CopyArgs {
    /// The repository to copy into; `mover init` made it
    #[arg(value_name = "TO")]
    pub to: String,
    /// `latest`, id prefixes, or times
    #[arg(value_name = "POINT", required_unless_present = "all", conflicts_with = "all")]
    pub points: Vec<String>,
    /// All points, or with --set all of that set
    #[arg(long)]
    pub all: bool,
    /// The set that the points belong to
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Say what would be sent, store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Read the password of TO from the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "to_key_file")]
    pub to_password_file: Option<PathBuf>,
    /// Open TO with this key file
    #[arg(long, value_name = "FILE")]
    pub to_key_file: Option<PathBuf>,
}

/// `mover verify`
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Also read stored data: a share such as 10%, or all
    #[arg(long, value_name = "SHARE")]
    pub data: Option<DataShare>,
    /// Read only data that was not proven within this time, such as 30d, oldest first
    #[arg(long, value_name = "AGE")]
    pub max_age: Option<Period>,
    /// Read at most this much of it, such as 100GiB; the next run goes on from there
    #[arg(long, value_name = "SIZE", requires = "max_age")]
    pub budget: Option<Size>,
}

/// `mover forget`
#[derive(Args, Debug)]
#[command(
    after_help = "A point may satisfy several rules. Of each set the newest point always stays, unless it is named."
)]
pub struct ForgetArgs {
    /// These points, whatever the rules say
    #[arg(value_name = "POINT", conflicts_with_all = ["undo", "tags", "keep_last", "keep_hourly", "keep_daily", "keep_weekly",
          "keep_monthly", "keep_yearly", "keep_within", "keep_tags"])]
    pub points: Vec<String>,
    /// Show what would be forgotten, and why the rest is kept
    #[arg(long)]
    pub dry_run: bool,
    /// Bring a forgotten point back, if nothing of it is condemned or gone
    #[arg(long, value_name = "POINT", conflicts_with_all = ["dry_run", "sets", "tags", "keep_last", "keep_hourly", "keep_daily", "keep_weekly",
          "keep_monthly", "keep_yearly", "keep_within", "keep_tags"])]
    pub undo: Option<String>,

    /// Only points of this set (may be repeated)
    #[arg(long = "set", value_name = "NAME", help_heading = "Which points")]
    pub sets: Vec<String>,
    /// Only points with this tag (may be repeated)
    #[arg(long = "tag", value_name = "TAG", help_heading = "Which points")]
    pub tags: Vec<String>,

    /// Keep the newest N points of each set
    #[arg(long, value_name = "N", help_heading = "What to keep")]
    pub keep_last: Option<u32>,
    /// Keep the newest point of each of the newest N hours that have one
    #[arg(long, value_name = "N", help_heading = "What to keep")]
    pub keep_hourly: Option<u32>,
    /// The same by days
    #[arg(long, value_name = "N", help_heading = "What to keep")]
    pub keep_daily: Option<u32>,
    /// The same by weeks, from Monday
    #[arg(long, value_name = "N", help_heading = "What to keep")]
    pub keep_weekly: Option<u32>,
    /// The same by months
    #[arg(long, value_name = "N", help_heading = "What to keep")]
    pub keep_monthly: Option<u32>,
    /// The same by years
    #[arg(long, value_name = "N", help_heading = "What to keep")]
    pub keep_yearly: Option<u32>,
    /// Keep all points at most this much older than the newest of their set, such as 30d
    #[arg(long, value_name = "TIME", help_heading = "What to keep")]
    pub keep_within: Option<Period>,
    /// Keep all points with this tag (may be repeated)
    #[arg(long = "keep-tag", value_name = "TAG", help_heading = "What to keep")]
    pub keep_tags: Vec<String>,
    /// The time zone of days and hours, such as Europe/Berlin; default: that of this machine
    #[arg(long, value_name = "ZONE", help_heading = "What to keep")]
    pub timezone: Option<String>,
}

/// `mover prune`
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Copy what is live of half-empty packs until at most this share of the repository is unused
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_unused: u8,
    /// Copy at most this much in one run, before compression
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    pub max_move: Size,
    /// Wait this long for runs that began before
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub wait: Period,
    /// End runs that were not heard of for this long; they can never commit then
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub fence_after: Period,
}

/// `mover key`
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// What to do
    #[command(subcommand)]
    pub what: KeyCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys: which is yours, what each may do
    List,
    /// Add a key; without an option a new password is asked for
    Add(KeyAddArgs),
    /// Replace the key that is used now by a new one with the same rights
    Change(NewKeyArgs),
    /// Remove a key, by the beginning of its id
    Remove(KeyRemoveArgs),
    /// Draw new secrets for all that is written from now on, and give them to the keys that are there
    Rotate,
    /// Make a key pair: the private key in FILE (mode 0600), the public one in FILE.pub; touches no repository
    Generate(KeyGenerateArgs),
}

/// The new credential of `key add` and `key change`.
#[derive(Args, Debug)]
pub struct NewKeyArgs {
    /// Make a key file here (mode 0600)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_file", "recovery", "public_key"])]
    pub new_key_file: Option<PathBuf>,
    /// The new password is the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recovery", "public_key"])]
    pub new_password_file: Option<PathBuf>,
    /// Let the private key open it whose public key is in this file; `mover key generate` makes both
    #[arg(long, value_name = "FILE", conflicts_with = "recovery")]
    pub public_key: Option<PathBuf>,
    /// Draw a recovery key and print it once, to be kept on paper: it is typed as a password
    #[arg(long)]
    pub recovery: bool,
    /// What to call it in listings
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}

/// `mover key add`
#[derive(Args, Debug)]
pub struct KeyAddArgs {
    /// The new credential.
    #[command(flatten)]
    pub new: NewKeyArgs,
    /// It may back up, and neither read what is stored nor remove anything: for a host that might be taken over
    #[arg(long)]
    pub put_only: bool,
}

/// `mover key generate`
#[derive(Args, Debug)]
pub struct KeyGenerateArgs {
    /// Where the private key goes; neither it nor FILE.pub may exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `mover key remove`
#[derive(Args, Debug)]
pub struct KeyRemoveArgs {
    /// The beginning of its id
    #[arg(value_name = "KEY")]
    pub key: String,
}

/// `mover repair`
#[derive(Args, Debug)]
pub struct RepairArgs {
    /// What to rebuild
    #[command(subcommand)]
    pub what: RepairCommand,
}

/// What can be repaired.
#[derive(Debug, Subcommand)]
pub enum RepairCommand {
    /// Rebuild the index from the packs
    Index,
    /// Read all data and mark what is damaged: the next backup stores again what its source still has
    Packs,
    /// Store anew, under the newest keys, what older packs hold: after `mover key rotate`, in as many runs as it takes
    Rekey(RekeyArgs),
}

/// `mover repair rekey`
#[derive(Args, Debug)]
pub struct RekeyArgs {
    /// Copy at most this much live data, before compression; without it all
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<Size>,
}

/// `mover config`
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// What to do with it
    #[command(subcommand)]
    pub what: ConfigCommand,
}

/// What can be done with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its value and where it comes from
    Show,
}

impl Cli {
    /// Parses a command line.
    ///
    /// # Errors
    /// Wrong usage; also the wish to see the help or the version.
    pub fn parse_ordered(arguments: &[OsString]) -> Result<Cli, clap::Error> {
        let matches = Cli::command().try_get_matches_from(arguments)?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        if let (Command::Backup(args), Some(("backup", matches))) = (&mut cli.command, matches.subcommand()) {
            args.rules = ordered_rules(matches);
        }
        Ok(cli)
    }

    /// The settings that flags give, the highest layer.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings {
            repo: self.global.repo.clone(),
            password_file: self.global.password_file.clone(),
            key_file: self.global.key_file.clone(),
            memory: self.global.memory,
            cache_dir: self.global.cache_dir.clone(),
            cache_size: self.global.cache_size,
            shards: self.global.shards,
            idle: self.global.idle.then_some(true),
            progress_interval: self.global.progress_interval,
            patience: self.global.patience,
            bandwidth: BandwidthSettings {
                upload: self.global.limit_upload.clone(),
                download: self.global.limit_download.clone(),
            },
            object_lock: self.global.object_lock,
            object_lock_mode: self.global.object_lock_mode,
            ..Settings::default()
        };
        match &self.command {
            Command::Backup(args) => settings.backup = args.settings(),
            Command::Restore(args) => {
                settings.restore = RestoreSettings { overwrite: args.overwrite, verify: args.verify.then_some(true) };
            }
            _ => {}
        }
        settings
    }
}

/// Exclude and include patterns as they were typed: the last one that matches decides.
fn ordered_rules(matches: &ArgMatches) -> Vec<String> {
    let with_places = |name: &str, mark: &str| -> Vec<(usize, String)> {
        let places = matches.indices_of(name).into_iter().flatten();
        let patterns = matches.get_many::<String>(name).into_iter().flatten();
        places.zip(patterns.map(|pattern| format!("{mark}{pattern}"))).collect()
    };
    let mut rules = with_places("exclude", "");
    rules.extend(with_places("include", "!"));
    rules.sort();
    rules.into_iter().map(|(_, rule)| rule).collect()
}

impl BackupArgs {
    fn settings(&self) -> BackupSettings {
        let list = |values: &[String]| (!values.is_empty()).then(|| values.to_vec());
        BackupSettings {
            set: self.set.clone(),
            tags: list(&self.tags),
            exclude: list(&self.rules),
            include: None,
            exclude_file: (!self.exclude_file.is_empty()).then(|| self.exclude_file.clone()),
            exclude_caches: self.exclude_caches.then_some(true),
            exclude_if_present: list(&self.exclude_if_present),
            one_file_system: self.one_file_system.then_some(true),
            min_size: self.min_size,
            max_size: self.max_size,
            reread: self.reread,
            level: self.level,
            level_min: self.level_min,
            level_max: self.level_max,
            verify_before_upload: self.verify_before_upload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rules_keep_the_order_of_the_command_line() {
        let typed = ["mover", "backup", "--exclude", "*.log", "--include", "keep.log", "/a", "--exclude=/b"];
        let cli = Cli::parse_ordered(&typed.map(OsString::from)).unwrap();
        assert_eq!(cli.settings().backup.exclude.unwrap(), ["*.log", "!keep.log", "/b"]);
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        for typed in [["mover", "-r", "/x", "points"], ["mover", "points", "-r", "/x"]] {
            let cli = Cli::parse_ordered(&typed.map(OsString::from)).unwrap();
            assert_eq!(cli.settings().repo.as_deref(), Some("/x"));
        }
    }
}

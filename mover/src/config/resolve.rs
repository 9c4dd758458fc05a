//! Merging the layers, remembering for each setting which layer won.
//!
//! A layer is turned into a TOML table; the merged table is read back into the same structure. So a
//! new setting needs one field and no merge code.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mover_actors::runtime::shards::{MEMORY_BYTES_MIN, SHARDS_MAX, memory_bytes_default, shards_for};
use mover_repository::bandwidth::Calendar;
use toml::{Table, Value};

use super::{BackupSettings, BandwidthSettings, RestoreSettings, Settings};
use crate::cli::args::{ObjectLockMode, Overwrite, VerifyBeforeUpload};
use crate::cli::error::{CliError, Result};
use crate::cli::units::{OneIn, Period, Size};

/// Largest config file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The config file.
    File(PathBuf),
    /// Built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment => f.write_str("environment"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// What opens the repository. Decided by the highest layer that names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// `MOVER_PASSWORD`.
    EnvironmentPassword,
    /// The first line of a file.
    PasswordFile(PathBuf),
    /// A key file.
    KeyFile(PathBuf),
    /// Ask on the terminal.
    Prompt,
}

/// The settings of each place, before merging.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// From flags.
    pub flags: Settings,
    /// From the environment.
    pub environment: Settings,
    /// Whether `MOVER_PASSWORD` is set; its value never comes here.
    pub environment_password: bool,
    /// From the config file, if there is one.
    pub file: Option<(PathBuf, Settings)>,
    /// Built-in place of the local cache; none without a home directory.
    pub cache_dir: Option<PathBuf>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Every setting; those with a default are always there.
    pub settings: Settings,
    /// What opens the repository.
    pub credential: CredentialSource,
    /// Memory budget in bytes.
    pub memory_bytes: u64,
    /// Shards in use: lowered until each has its share of the budget.
    pub shards: usize,
    /// Dotted key, value, origin; sorted by key.
    pub listing: Vec<(String, String, Origin)>,
}

/// The config file to read: the one that was asked for, or the first that exists of
/// `$XDG_CONFIG_HOME/mover/mover.toml` (or `~/.config/…`) and `/etc/mover/mover.toml`.
pub fn config_file(asked_for: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(path) = asked_for {
        return Some(path.to_owned());
    }
    let home_config = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
    let places = home_config.into_iter().chain([PathBuf::from("/etc")]);
    places.map(|place| place.join("mover/mover.toml")).find(|path| path.exists())
}

/// Reads the environment and the config file.
///
/// # Errors
/// An unreadable file, an unknown key, a value of the wrong form (all exit 2).
pub fn load(flags: Settings, file: Option<PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Layers> {
    // an empty variable is how shells and unit files say "not set"
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let repo = match set("MOVER_REPO").map(OsString::into_string) {
        Some(Ok(repo)) => Some(repo),
        Some(Err(_)) => return Err(CliError::usage("MOVER_REPO is not UTF-8 text", "give the repository with -r")),
        None => None,
    };
    let environment = Settings {
        repo,
        password_file: set("MOVER_PASSWORD_FILE").map(PathBuf::from),
        key_file: set("MOVER_KEY_FILE").map(PathBuf::from),
        ..Settings::default()
    };
    let file = match file {
        Some(path) => Some((path.clone(), read_file(&path)?)),
        None => None,
    };
    let environment_password = set("MOVER_PASSWORD").is_some();
    Ok(Layers { flags, environment, environment_password, file, cache_dir: cache_directory(variable) })
}

/// `$XDG_CACHE_HOME/mover` or `~/.cache/mover`.
fn cache_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("mover"))
}

/// What `[bandwidth]` of the config file says now.
///
/// # Errors
/// As [`load`].
pub fn read_bandwidth(path: &Path) -> Result<BandwidthSettings> {
    read_file(path).map(|settings| settings.bandwidth)
}

fn read_file(path: &Path) -> Result<Settings> {
    let unreadable = |cause: &dyn fmt::Display| {
        CliError::usage(
            format!("cannot read config file {}: {cause}", path.display()),
            "check --config, or remove the file to use the defaults",
        )
    };
    let bytes = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(unreadable(&"it is larger than 1MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    let mut settings: Settings = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        CliError::usage(
            format!("config file {} line {line}: {}", path.display(), error.message().replace('\n', " ")),
            "config/mover.toml in the source tree shows every key with its meaning",
        )
    })?;
    // one list of rules, in which the last match decides, whatever place the rules come from
    if let Some(includes) = settings.backup.include.take() {
        let rules = settings.backup.exclude.get_or_insert_default();
        rules.extend(includes.into_iter().map(|pattern| format!("!{pattern}")));
    }
    Ok(settings)
}

fn defaults(shards: u32) -> Settings {
    Settings {
        memory: Some(Size(memory_bytes_default(shards as usize))),
        shards: Some(shards),
        cache_size: Some(Size(1 << 30)),
        idle: Some(false),
        progress_interval: Some(Period(Duration::from_secs(5))),
        patience: Some(Period(Duration::from_secs(15 * 60))),
        object_lock_mode: Some(ObjectLockMode::Compliance),
        backup: BackupSettings {
            exclude_caches: Some(false),
            one_file_system: Some(false),
            verify_before_upload: Some(VerifyBeforeUpload::Sample),
            ..BackupSettings::default()
        },
        restore: RestoreSettings { overwrite: Some(Overwrite::Always), verify: Some(false) },
        bandwidth: BandwidthSettings { upload: Some(Calendar::unlimited()), download: Some(Calendar::unlimited()) },
        ..Settings::default()
    }
}

impl Layers {
    /// Merges the layers; `cores` is how many this process may use.
    ///
    /// # Errors
    /// Settings that contradict each other or are out of bounds (exit 2).
    pub fn resolve(&self, cores: usize) -> Result<Resolved> {
        let named_shards = self.flags.shards.or(self.file.as_ref().and_then(|(_, settings)| settings.shards));
        let mut base = defaults(named_shards.unwrap_or(u32::try_from(cores).unwrap_or(1)).clamp(1, SHARDS_MAX as u32));
        base.cache_dir.clone_from(&self.cache_dir);
        let mut layers = vec![(Origin::Default, &base)];
        if let Some((path, settings)) = &self.file {
            layers.push((Origin::File(path.clone()), settings));
        }
        layers.push((Origin::Environment, &self.environment));
        layers.push((Origin::Flag, &self.flags));

        let mut merged = Table::new();
        let mut origins = BTreeMap::new();
        for (origin, settings) in layers {
            let table =
                Table::try_from(settings).map_err(|error| CliError::failed(error.to_string(), "report this"))?;
            merge(&mut merged, table, "", &origin, &mut origins);
        }
        let settings: Settings = merged
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| CliError::usage(error.message(), "see --help"))?;
        let credential = self.credential()?;
        let (memory_bytes, shards) = resources(&settings)?;
        check_levels(&settings.backup)?;
        let mut listing = listing(&merged, &origins);
        let credential_origin = self.credential_origin();
        // a password file of a lower layer is not in force when a higher one names another credential
        listing.retain(|(key, _, origin)| {
            !matches!(key.as_str(), "password-file" | "key-file") || Some(origin) == credential_origin.as_ref()
        });
        Ok(Resolved { settings, credential, memory_bytes, shards, listing })
    }

    fn credential_origin(&self) -> Option<Origin> {
        let names = |settings: &Settings| settings.password_file.is_some() || settings.key_file.is_some();
        if names(&self.flags) {
            Some(Origin::Flag)
        } else if self.environment_password || names(&self.environment) {
            Some(Origin::Environment)
        } else {
            self.file.as_ref().filter(|(_, settings)| names(settings)).map(|(path, _)| Origin::File(path.clone()))
        }
    }

    fn credential(&self) -> Result<CredentialSource> {
        let one_of = |settings: &Settings, password: bool, place: &str| {
            let mut sources = Vec::new();
            sources.extend(password.then_some(CredentialSource::EnvironmentPassword));
            sources.extend(settings.password_file.clone().map(CredentialSource::PasswordFile));
            sources.extend(settings.key_file.clone().map(CredentialSource::KeyFile));
            if sources.len() > 1 {
                let help = "keep one of password, password file and key file";
                return Err(CliError::usage(format!("{place} names more than one credential"), help));
            }
            Ok(sources.pop())
        };
        if let Some(source) = one_of(&self.flags, false, "the command line")? {
            return Ok(source);
        }
        if let Some(source) = one_of(&self.environment, self.environment_password, "the environment")? {
            return Ok(source);
        }
        if let Some((path, settings)) = &self.file
            && let Some(source) = one_of(settings, false, &path.display().to_string())?
        {
            return Ok(source);
        }
        Ok(CredentialSource::Prompt)
    }
}

fn resources(settings: &Settings) -> Result<(u64, usize)> {
    let memory = settings.memory.unwrap_or(Size(MEMORY_BYTES_MIN));
    if memory.0 < MEMORY_BYTES_MIN {
        let message = format!("a memory budget of {memory} is too small");
        return Err(CliError::usage(message, format!("the smallest is {}", Size(MEMORY_BYTES_MIN))));
    }
    let wanted = settings.shards.unwrap_or(1) as usize;
    if wanted == 0 || wanted > SHARDS_MAX {
        let help = format!("give a number from 1 to {SHARDS_MAX}");
        return Err(CliError::usage(format!("{wanted} shards cannot be used"), help));
    }
    Ok((memory.0, shards_for(memory.0, wanted)))
}

fn check_levels(backup: &BackupSettings) -> Result<()> {
    for level in [backup.level, backup.level_min, backup.level_max].into_iter().flatten() {
        if !(1..=19).contains(&level) {
            return Err(CliError::usage(format!("zstd level {level} is out of bounds"), "levels go from 1 to 19"));
        }
    }
    if let (Some(lowest), Some(highest)) = (backup.level_min, backup.level_max)
        && lowest > highest
    {
        let message = format!("level-min {lowest} is above level-max {highest}");
        return Err(CliError::usage(message, "give both bounds, or a fixed --level"));
    }
    if let Some(OneIn(0)) = backup.reread {
        return Err(CliError::usage("a share of 1/0 is none", "give for example 1/100"));
    }
    Ok(())
}

/// Lists of rules: a higher place adds to them, and its rules come last and decide.
const ADDED_LISTS: [&str; 2] = ["backup.exclude", "backup.exclude-file"];

fn merge(into: &mut Table, layer: Table, prefix: &str, origin: &Origin, origins: &mut BTreeMap<String, Origin>) {
    for (key, value) in layer {
        let dotted = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Value::Table(inner) = value {
            let slot = into.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(existing) = slot {
                merge(existing, inner, &dotted, origin, origins);
            }
            continue;
        }
        let lower = if ADDED_LISTS.contains(&dotted.as_str()) { into.remove(&key) } else { None };
        let value = match (lower, value) {
            (Some(Value::Array(lower)), Value::Array(higher)) => Value::Array([lower, higher].concat()),
            (_, value) => value,
        };
        origins.insert(dotted, origin.clone());
        into.insert(key, value);
    }
}

fn listing(merged: &Table, origins: &BTreeMap<String, Origin>) -> Vec<(String, String, Origin)> {
    let value_of = |dotted: &str| {
        let mut place = Some(merged);
        let mut value = None;
        for key in dotted.split('.') {
            value = place.and_then(|table| table.get(key));
            place = value.and_then(Value::as_table);
        }
        value.map(ToString::to_string).unwrap_or_default()
    };
    origins.iter().map(|(dotted, origin)| (dotted.clone(), value_of(dotted), origin.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(file: &str, flags: Settings, environment: &[(&str, &str)]) -> Result<Layers> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mover.toml");
        std::fs::write(&path, file).unwrap();
        let variables: BTreeMap<String, OsString> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        load(flags, Some(path), |name| variables.get(name).cloned())
    }

    fn origin_of<'a>(resolved: &'a Resolved, key: &str) -> Option<&'a Origin> {
        resolved.listing.iter().find(|(name, ..)| name == key).map(|(_, _, origin)| origin)
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_default() {
        let file = "repo = '/file'\nmemory = '256MiB'\nshards = 3\n[backup]\nlevel-max = 9\nexclude = ['*.o']\n";
        let only_file = layers(file, Settings::default(), &[]).unwrap().resolve(2).unwrap();
        assert_eq!(only_file.settings.repo.as_deref(), Some("/file"));
        assert_eq!((only_file.memory_bytes, only_file.shards), (256 << 20, 3));
        assert_eq!(only_file.settings.backup.level_max, Some(9));
        assert_eq!(only_file.settings.backup.one_file_system, Some(false), "a default beside keys of its table");
        assert_eq!(origin_of(&only_file, "backup.one-file-system"), Some(&Origin::Default));
        assert!(matches!(origin_of(&only_file, "backup.exclude"), Some(Origin::File(_))));

        let environment = [("MOVER_REPO", "/environment")];
        let with_environment = layers(file, Settings::default(), &environment).unwrap().resolve(2).unwrap();
        assert_eq!(with_environment.settings.repo.as_deref(), Some("/environment"));
        assert_eq!(origin_of(&with_environment, "repo"), Some(&Origin::Environment));

        let flags = Settings { repo: Some("/flag".to_owned()), shards: Some(1), ..Settings::default() };
        let with_flags = layers(file, flags, &environment).unwrap().resolve(2).unwrap();
        assert_eq!(with_flags.settings.repo.as_deref(), Some("/flag"));
        assert_eq!(with_flags.shards, 1);
        assert_eq!(origin_of(&with_flags, "repo"), Some(&Origin::Flag));
    }

    #[test]
    fn rules_add_up_and_those_of_a_higher_place_decide() {
        let file = "[backup]\ntags = ['a']\nexclude = ['*.log']\ninclude = ['keep.log']\n";
        let typed = BackupSettings {
            exclude: Some(vec!["keep.log".to_owned()]),
            tags: Some(vec!["b".to_owned()]),
            ..BackupSettings::default()
        };
        let flags = Settings { backup: typed, ..Settings::default() };
        let backup = layers(file, flags, &[]).unwrap().resolve(1).unwrap().settings.backup;
        assert_eq!(backup.exclude.unwrap(), ["*.log", "!keep.log", "keep.log"]);
        assert_eq!(backup.tags.unwrap(), ["b"], "other lists are replaced");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        for file in
            ["repo = '/a'\nrepository = '/b'\n", "[backup]\nexcludes = []\n", "[[fileset]]\npath = '/a'\nsort = 1\n"]
        {
            let error = layers(file, Settings::default(), &[]).unwrap_err();
            assert_eq!(error.exit, crate::cli::exit::Exit::Usage);
            assert!(error.message.contains("line") && error.message.contains("unknown field"), "{}", error.message);
        }
    }

    #[test]
    fn the_default_budget_grows_with_the_shards_and_a_small_one_lowers_them() {
        let resolved = layers("", Settings::default(), &[]).unwrap().resolve(4).unwrap();
        assert_eq!((resolved.memory_bytes, resolved.shards), ((128 + 4 * 16) << 20, 4));
        let many = layers("memory = '128MiB'\nshards = 64\n", Settings::default(), &[]).unwrap().resolve(2).unwrap();
        assert_eq!(many.shards, 4);
        for bad in ["memory = '127MiB'", "shards = 0", "[backup]\nlevel = 40", "[backup]\nlevel-min = 5\nlevel-max = 2"]
        {
            assert!(layers(bad, Settings::default(), &[]).unwrap().resolve(2).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_cache_lies_in_the_home_directory_unless_told_otherwise() {
        let cache = |file: &str, environment: &[(&str, &str)]| {
            let resolved = layers(file, Settings::default(), environment).unwrap().resolve(1).unwrap();
            (resolved.settings.cache_dir, resolved.settings.cache_size.unwrap().0)
        };
        let home = [("HOME", "/home/a")];
        assert_eq!(cache("", &home), (Some("/home/a/.cache/mover".into()), 1 << 30));
        assert_eq!(cache("", &[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")]), (Some("/c/mover".into()), 1 << 30));
        assert_eq!(cache("", &[("HOME", "/home/a"), ("XDG_CACHE_HOME", "c")]).0, Some("/home/a/.cache/mover".into()));
        assert_eq!(cache("cache-dir = '/x'\ncache-size = '0'\n", &home), (Some("/x".into()), 0));
        assert_eq!(cache("", &[]).0, None, "no home, no cache");
        let flags = Settings { cache_dir: Some("/f".into()), cache_size: Some(Size(5)), ..Settings::default() };
        let resolved = layers("cache-dir = '/x'\n", flags, &home).unwrap().resolve(1).unwrap();
        assert_eq!(resolved.settings.cache_dir, Some("/f".into()));
        assert_eq!(origin_of(&resolved, "cache-size"), Some(&Origin::Flag));
    }

    #[test]
    fn one_credential_is_in_force_and_two_in_one_place_are_refused() {
        let file = "password-file = '/p'\n";
        let credential = |file: &str, environment: &[(&str, &str)]| {
            layers(file, Settings::default(), environment).unwrap().resolve(1).map(|resolved| resolved.credential)
        };
        assert_eq!(credential("", &[]).unwrap(), CredentialSource::Prompt);
        assert_eq!(credential(file, &[]).unwrap(), CredentialSource::PasswordFile("/p".into()));
        assert_eq!(credential(file, &[("MOVER_PASSWORD", "")]).unwrap(), CredentialSource::PasswordFile("/p".into()));
        assert_eq!(credential(file, &[("MOVER_PASSWORD", "x")]).unwrap(), CredentialSource::EnvironmentPassword);
        assert_eq!(credential(file, &[("MOVER_KEY_FILE", "/k")]).unwrap(), CredentialSource::KeyFile("/k".into()));
        assert!(credential("", &[("MOVER_PASSWORD", "x"), ("MOVER_KEY_FILE", "/k")]).is_err());
        assert!(credential("password-file = '/p'\nkey-file = '/k'\n", &[]).is_err());
        let shadowed = layers(file, Settings::default(), &[("MOVER_PASSWORD", "x")]).unwrap().resolve(1).unwrap();
        assert_eq!(origin_of(&shadowed, "password-file"), None);
    }

    #[test]
    fn the_usual_places_are_searched_in_order() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/mover")).unwrap();
        let file = home.path().join(".config/mover/mover.toml");
        std::fs::write(&file, "").unwrap();
        let variable = |name: &str| (name == "HOME").then(|| home.path().into());
        assert_eq!(config_file(None, variable), Some(file));
        assert_eq!(config_file(Some(Path::new("/x")), variable), Some("/x".into()));
    }

    #[test]
    fn the_commented_example_is_accepted() {
        let example = include_str!("../../../config/mover.toml");
        let resolved = layers(example, Settings::default(), &[]).unwrap().resolve(2).unwrap();
        assert!(resolved.settings.repo.is_some());
        let uncommented: String = example
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line))
            .filter(|line| !line.starts_with("key-file"))
            .map(|line| format!("{line}\n"))
            .collect();
        let all = layers(&uncommented, Settings::default(), &[]).unwrap().resolve(2).unwrap();
        assert!(all.settings.fileset.len() > 1);
    }
}

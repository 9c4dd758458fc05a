//! Opening the repository that the settings name, and the recovery points in it.

use std::path::PathBuf;
use std::sync::Arc;

use futures_lite::future::block_on;
use mover_repository::RepositoryError;
use mover_repository::backend::remote::{RemoteOptions, RemotePlace, Retention, RetentionMode};
use mover_repository::backend::{Backend, CachedBackend, LocalBackend, RemoteBackend, StorageErrorKind};
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::{LogNumber, ObjectId, UnixNanos};
use mover_repository::index::Index;
use mover_repository::leftovers::Leftovers;
use mover_repository::log::{History, OpenRecord, RecoveryPoint, Registration, Role, this_machine};
use mover_repository::repository::{self, OpenOptions, Repository};

use super::Session;
use super::args::ObjectLockMode;
use super::error::{CliError, Result};
use super::point::{self, Candidate};
use super::secret;
use super::text::escape;
use super::units::human_bytes;
use crate::config::CredentialSource;

/// The place that the settings name.
pub fn place(session: &Session) -> Result<&str> {
    session.resolved.settings.repo.as_deref().filter(|place| !place.is_empty()).ok_or_else(|| {
        CliError::usage("no repository was named", "give one with -r, or set MOVER_REPO or `repo` in the config file")
    })
}

/// The store at `place`; with `create` a directory is made if need be.
///
/// # Errors
/// A kind of place that this build does not know (exit 2), no directory (exit 10), storage errors.
pub fn backend(session: &Session, place: &str, create: bool) -> Result<Arc<dyn Backend>> {
    if session.resolved.settings.object_lock.is_some() {
        refuse_without_lock(place)?;
    }
    if RemotePlace::is_remote(place) {
        return Ok(Arc::new(remote_backend(session, place)?));
    }
    local_backend(place, create)
}

fn local_backend(place: &str, create: bool) -> Result<Arc<dyn Backend>> {
    if let Some(scheme) = scheme_of(place) {
        return Err(CliError::usage(
            format!("a repository at '{scheme}:' is not supported by this build: {place}"),
            format!("name a directory, s3://, gs:// or az://; for a directory of that very name write ./{place}"),
        ));
    }
    match LocalBackend::open(place, create) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) if !create && error.kind == StorageErrorKind::NotFound => {
            Err(RepositoryError::NotARepository { place: place.to_owned() }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a place whose kind has no object lock.
///
/// # Errors
/// Such a place (exit 2).
pub fn refuse_without_lock(place: &str) -> Result<()> {
    if RemotePlace::parse(place).is_ok_and(|remote| remote.has_object_lock()) {
        return Ok(());
    }
    Err(CliError::usage(
        format!("there is no object lock in {place}"),
        "only s3:// has it, in a bucket that was made with it; elsewhere leave object-lock unset",
    ))
}

fn remote_backend(session: &Session, place: &str) -> Result<RemoteBackend> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut options = RemoteOptions::new(environment.collect());
    options.limits = session.bandwidth.limits();
    if let Some(patience) = session.resolved.settings.patience {
        options.patience = patience.0;
    }
    options.retention = Retention {
        mode: match session.resolved.settings.object_lock_mode {
            Some(ObjectLockMode::Governance) => RetentionMode::Governance,
            None | Some(ObjectLockMode::Compliance) => RetentionMode::Compliance,
        },
        period: session.resolved.settings.object_lock.map(|period| period.0),
    };
    let place =
        RemotePlace::parse(place).map_err(|error| CliError::usage(error.to_string(), "see `mover help init`"))?;
    Ok(RemoteBackend::open(&place, options)?)
}

/// The word before a colon that begins a place, such as `sftp:host` or `s3://bucket`: a kind of store, and
/// never silently a directory of that name.
fn scheme_of(place: &str) -> Option<&str> {
    let (word, _) = place.split_once(':')?;
    let is_word = word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "+.-_@".contains(c));
    is_word.then_some(word)
}

/// Whether the place is no directory of this machine.
pub fn is_over_network(place: &str) -> bool {
    scheme_of(place).is_some()
}

/// Where this client remembers which history it has seen: `$XDG_STATE_HOME/mover` or
/// `~/.local/state/mover`.
pub fn memory_directory() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("mover"))
}

/// The store behind the local cache, if it is far and the settings allow a cache.
fn behind_cache(session: &Session, place: &str, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
    let settings = &session.resolved.settings;
    let bytes_max = settings.cache_size.map_or(0, |size| size.0);
    let Some(directory) = settings.cache_dir.clone().filter(|_| bytes_max > 0 && RemotePlace::is_remote(place)) else {
        return backend;
    };
    let output = Arc::clone(&session.output);
    Arc::new(CachedBackend::new(backend, directory, bytes_max, move |text| output.note(text)))
}

/// Opens the repository of the settings. Everything is asked of the store itself.
pub fn open(session: &Session) -> Result<Repository> {
    open_through(session, |_, backend| backend)
}

/// As [`open`], for commands that prove nothing of the store: index and tables of contents come from the local cache
/// where the store is far.
pub fn open_cached(session: &Session) -> Result<Repository> {
    open_through(session, |place, backend| behind_cache(session, place, backend))
}

fn open_through(
    session: &Session,
    wrap: impl FnOnce(&str, Arc<dyn Backend>) -> Arc<dyn Backend>,
) -> Result<Repository> {
    let place = place(session)?;
    let backend = wrap(place, backend(session, place, false)?);
    if session.resolved.credential == CredentialSource::Prompt {
        // whether there is a repository at all is said before a person is asked for its password
        block_on(repository::probe(backend.as_ref()))?;
    }
    let credential = secret::read(&session.resolved.credential, false, &session.output)?;
    let options = OpenOptions { memory_directory: memory_directory() };
    Ok(block_on(Repository::open_with(backend, &credential, options))?)
}

/// As [`open`]; refuses a key that may only add, before anything is done.
pub fn open_as_admin(session: &Session) -> Result<Repository> {
    let repository = open(session)?;
    match repository.secrets().is_admin() {
        true => Ok(repository),
        false => Err(CliError::usage(
            "this key may only add to the repository",
            "use the password or key file of an administrator",
        )),
    }
}

/// The beginning of an id, as listings show it.
pub fn short(id: &ObjectId) -> String {
    id.to_string()[..16].to_owned()
}

/// The name of this host.
pub fn host() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    if name.is_empty() { "localhost".to_owned() } else { name.into_owned() }
}

/// A fresh id for a job.
pub fn new_job_id() -> Result<ObjectId> {
    secret::random_hex()?
        .parse()
        .map_err(|_| CliError::failed("no id could be drawn", "look at /dev/urandom of this machine"))
}

/// What a registration of this process says of itself.
pub fn open_record(role: Role, set: &str) -> Result<OpenRecord> {
    Ok(OpenRecord {
        role,
        host: host(),
        process_id: std::process::id(),
        machine: this_machine(),
        set: set.to_owned(),
        job: new_job_id()?,
        adopts: None,
        depends_on: None,
        started: UnixNanos::now(),
    })
}

/// Registers as a reader. A repository that cannot be written is read all the same: `None`.
pub fn register_reader(session: &Session, repository: &Repository, set: &str) -> Result<Option<Registration>> {
    match block_on(repository.register(open_record(Role::Reader, set)?)) {
        Ok(registration) => Ok(Some(registration)),
        Err(RepositoryError::Storage(error)) if error.kind.takes_no_writes() => {
            session.output.note("the repository cannot be written: reading without a registration");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what killed runs left unfinished, before a new one adds to it. Quiet where nothing is to be said.
pub fn remove_leftovers(session: &Session, repository: &Repository) {
    let removed = block_on(repository.remove_leftovers());
    if removed.files > 0 {
        let size = human_bytes(removed.bytes);
        session.output.note(&format!("removed {} unfinished files of killed runs, {size}", removed.files));
    }
}

/// What is said of unfinished files where nothing is removed.
pub fn unfinished_text(unfinished: &Leftovers) -> String {
    format!(
        "{} unfinished files, {}: of runs that are at work now, or that were killed; \
         a backup removes those that certainly nobody writes any more",
        unfinished.files,
        human_bytes(unfinished.bytes)
    )
}

/// Damaged records that are listed; there are more only where a number was forged.
const DAMAGE_LISTED_MAX: usize = 20;

/// The history for a command that only reads: what is left of it, and how many exceptions there are. They
/// are listed here.
pub fn history(session: &Session, repository: &Repository) -> Result<(History, u64)> {
    let (history, damage) = block_on(repository.history_with_damage())?;
    let exceptions = list_damage(session, &damage);
    tell_refused(session, &history);
    Ok((history, exceptions))
}

/// Records that have no effect, since their signer may not do what they say: somebody tried. They stay in the log, so
/// they are no exceptions.
pub fn tell_refused(session: &Session, history: &History) {
    let refused: Vec<_> = history.refused().collect();
    for (number, reason) in refused.iter().take(DAMAGE_LISTED_MAX) {
        let host = history.entry(*number).and_then(|entry| entry.open.as_ref()).map(|open| open.host.as_str());
        let host = escape(host.unwrap_or_default().as_bytes());
        session.output.warn(&format!("log record {} of host '{host}' has no effect: {reason}", number.0));
    }
    if refused.len() > DAMAGE_LISTED_MAX {
        session.output.warn(&format!("{} more log records have no effect", refused.len() - DAMAGE_LISTED_MAX));
    }
    if !refused.is_empty() {
        session.output.warn("a key may be in wrong hands: `mover key list` shows them all");
    }
}

/// Lists what is wrong with a history that is read all the same. Gives how much it is.
pub fn list_damage(session: &Session, damage: &[RepositoryError]) -> u64 {
    let output = &session.output;
    for error in damage.iter().take(DAMAGE_LISTED_MAX) {
        let cause = match error {
            RepositoryError::Corrupt { reason, .. } => format!("damaged: {reason}"),
            other => other.reason(),
        };
        output.problem(error.object().unwrap_or_default().as_bytes(), &cause);
    }
    if damage.len() > DAMAGE_LISTED_MAX {
        output.note(&format!("{} more damaged records are not listed", damage.len() - DAMAGE_LISTED_MAX));
    }
    if let Some(help) = damage.first().and_then(RepositoryError::guidance) {
        output.warn(&format!("going on with the records that are whole; {help}"));
    }
    damage.len() as u64
}

/// The recovery point that `spec` names.
pub fn find_point(history: &History, spec: &str, set: Option<&str>) -> Result<RecoveryPoint> {
    let mut found = find_points(history, &[spec.to_owned()], set)?;
    let (_, point) = found.pop().expect("one point for each text");
    Ok(point)
}

/// One point for each text, with its number.
pub fn find_points(history: &History, specs: &[String], set: Option<&str>) -> Result<Vec<(LogNumber, RecoveryPoint)>> {
    let points = history.recovery_points();
    let candidate = |point: &RecoveryPoint| Candidate {
        id: point.id.to_string(),
        set: point.set.clone(),
        finished: point.finished,
    };
    let candidates: Vec<Candidate> = points.iter().map(|(_, point)| candidate(point)).collect();
    let mut by_id: Vec<usize> = (0..candidates.len()).collect();
    by_id.sort_unstable_by(|a, b| candidates[*a].id.cmp(&candidates[*b].id));
    // Thousands may be named by their ids: each is found without a look at all others.
    let by_unique_prefix = |spec: &str| {
        let from = by_id.partition_point(|at| candidates[*at].id.as_str() < spec);
        let mut matching = by_id[from..].iter().take_while(|at| candidates[**at].id.starts_with(spec));
        let found = *matching.next().filter(|_| !spec.is_empty())?;
        let is_only = matching.next().is_none() && set.is_none_or(|set| candidates[found].set == set);
        is_only.then_some(found)
    };
    let find = |spec: &String| match by_unique_prefix(spec) {
        Some(found) => Ok(points[found].clone()),
        None => point::resolve(spec, set, &candidates).map(|found| points[found].clone()),
    };
    specs.iter().map(find).collect()
}

/// What reads chunks for the listings; a quarter of the budget is for the index, a quarter for
/// decoded frames.
pub fn chunk_reader(session: &Session, repository: &Repository, history: &History) -> Result<Arc<ChunkReader>> {
    let share = usize::try_from(session.resolved.memory_bytes / 4).unwrap_or(usize::MAX);
    let index = block_on(Index::load_or_rebuild(repository, history, share))?;
    Ok(Arc::new(ChunkReader::new(repository, index, share.min(256 << 20))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bandwidth;
    use crate::cli::exit::Exit;
    use crate::cli::output::Output;
    use crate::cli::units::Size;
    use crate::config::{self, Settings};
    use mover_repository::backend::MemoryBackend;

    /// `init -r sftp:foo` made a directory `sftp:foo` and said that all was well.
    #[test]
    fn a_kind_of_store_is_no_directory() {
        for place in ["sftp:foo", "rest:http://host", "user@host:/srv", "cache://host:1"] {
            let refused = local_backend(place, true).err().map(|error| (error.exit, error.help.unwrap_or_default()));
            let (exit, help) = refused.expect(place);
            assert_eq!(exit, Exit::Usage, "{place}");
            assert!(help.contains(&format!("./{place}")), "{help}");
            assert!(!std::path::Path::new(place).exists());
        }
        for place in ["/srv/a:b", "./sftp:foo", "../x:y", "plain", "a b:c"] {
            assert_eq!(scheme_of(place), None, "{place}");
        }
    }

    #[test]
    fn far_stores_alone_are_cached() {
        let directory = tempfile::tempdir().unwrap();
        let is_cached = |place: &str, cache_size: u64| {
            let cache = directory.path().join("cache");
            let flags =
                Settings { cache_dir: Some(cache.clone()), cache_size: Some(Size(cache_size)), ..Settings::default() };
            let resolved = config::load(flags, None, |_| None).unwrap().resolve(1).unwrap();
            let output = Arc::new(Output::new(false, true));
            let settings = resolved.settings.bandwidth.clone();
            let bandwidth = bandwidth::start(&output, &settings, settings.clone(), None);
            let session = Session { output, resolved, bandwidth };
            let backend = behind_cache(&session, place, Arc::new(MemoryBackend::new()));
            block_on(backend.create("index/a", bytes::Bytes::from_static(b"a"))).unwrap();
            std::fs::remove_dir_all(cache).is_ok()
        };
        for place in ["s3://bucket/prefix", "gs://bucket", "az://container/prefix"] {
            assert!(is_cached(place, 1 << 20), "{place}");
            assert!(!is_cached(place, 0), "{place}");
        }
        for place in ["/srv/backup", "./s3://x", "s3", "/srv/s3://x"] {
            assert!(!is_cached(place, 1 << 20), "{place}");
        }
    }
}

//! A repository: a backend, the secrets of one key slot, and the settings.
//!
//! Cheap to clone, `Send + Sync`, shared by all shards. Opening reads `config` and the key slots,
//! nothing else. Never holds a lock in the store: whoever works registers in the log.

use crate::backend::{Backend, Created, ObjectMeta, StorageErrorKind};
use crate::codec::{DecodeError, Decoder};
use crate::config::{CONFIG_NAME, ChunkerConfig, CompressionConfig, Config};
use crate::crypto::{Header, ObjectKind, Secrets, random_array};
use crate::error::{RepositoryError, Result};
use crate::ids::{LogNumber, ObjectId, UnixNanos};
use crate::io::Pool;
use crate::keys::{self, Credential, KEYS_PREFIX, Opened, Stretching};
use crate::limits::KEY_OBJECT_BYTES_MAX;
use crate::log::{self, ClientMemory, History, OpenRecord, Registration, Seen};
use crate::rotation::{parse_rotation_name, take_rotations};
use bytes::Bytes;
use futures_util::future::try_join;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Later, many numbers may have been taken since.
const FOUND_IS_NEWS: Duration = Duration::from_secs(10);

/// How a new repository is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// How files will be cut.
    pub chunker: ChunkerConfig,
    /// How frames will be compressed.
    pub compression: CompressionConfig,
    /// Cost of stretching the password.
    pub stretching: Stretching,
    /// Recorded as the time of creation.
    pub created: UnixNanos,
    /// Directory for this client's memory of the history; none: it keeps no memory.
    pub memory_directory: Option<PathBuf>,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            chunker: ChunkerConfig::default(),
            compression: CompressionConfig::default(),
            stretching: Stretching::default(),
            created: UnixNanos::now(),
            memory_directory: None,
        }
    }
}

/// How a repository is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Directory for this client's memory of the history; none: it keeps no memory.
    pub memory_directory: Option<PathBuf>,
}

/// What a key slot gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRights {
    /// All that the present key has.
    Full,
    /// Backups and deduplication, no reading of file content, no destructive records.
    PutOnly,
}

impl KeyRights {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Full => 0,
            Self::PutOnly => 1,
        }
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError> {
        match decoder.u8()? {
            0 => Ok(Self::Full),
            1 => Ok(Self::PutOnly),
            _ => Err(DecodeError::Invalid { field: "rights of a key" }),
        }
    }
}

struct Inner {
    backend: Arc<dyn Backend>,
    secrets: Secrets,
    config: Config,
    memory: Option<ClientMemory>,
    /// The key slot that it was opened by, or made with.
    slot: Option<ObjectId>,
    /// For what blocks outside of the backend: password stretching and the client's memory.
    blocking: Arc<Pool>,
    /// The highest log number as it was found when it was opened, and when that was.
    found: Mutex<Option<(LogNumber, Instant)>>,
}

/// An open repository.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("place", &self.inner.backend.describe())
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes a repository in an empty place: a key slot first, `config` last.
    ///
    /// # Errors
    /// [`RepositoryError::AlreadyARepository`], [`RepositoryError::NotEmpty`],
    /// [`RepositoryError::LimitExceeded`] for settings out of bounds, storage errors.
    pub async fn init(backend: Arc<dyn Backend>, credential: &Credential, options: InitOptions) -> Result<Repository> {
        Self::init_with(backend, credential, options, Secrets::generate).await
    }

    /// As [`Repository::init`], with the id and cut secrets, the chunker and the compression of `other`: chunks have
    /// the same ids and boundaries in both, so that what is backed up into one deduplicates against what is copied from
    /// the other. All other secrets are its own: a key of one opens nothing of the other.
    ///
    /// # Errors
    /// As [`Repository::init`].
    pub async fn init_like(
        backend: Arc<dyn Backend>,
        credential: &Credential,
        options: InitOptions,
        other: &Repository,
    ) -> Result<Repository> {
        let Config { chunker, compression, .. } = *other.config();
        let options = InitOptions { chunker, compression, ..options };
        Self::init_with(backend, credential, options, |id| Secrets::like(id, other.secrets())).await
    }

    async fn init_with(
        backend: Arc<dyn Backend>,
        credential: &Credential,
        options: InitOptions,
        draw: impl FnOnce(ObjectId) -> Secrets,
    ) -> Result<Repository> {
        let out_of_bounds =
            |error: crate::codec::DecodeError| RepositoryError::LimitExceeded { what: error.to_string() };
        options.chunker.check().map_err(out_of_bounds)?;
        options.compression.check().map_err(out_of_bounds)?;
        check_place_for_init(backend.as_ref()).await?;

        let blocking = Pool::new("mover-keys", 1);
        let config = Config {
            repository: ObjectId(random_array()),
            created: options.created,
            chunker: options.chunker,
            compression: options.compression,
        };
        let secrets = draw(config.repository);
        let (secrets, slot_name, slot) = seal_slot(&blocking, secrets, credential, options.stretching).await?;
        keys::store_slot(backend.as_ref(), &slot_name, slot).await?;
        let created = backend.create(CONFIG_NAME, config.seal(&secrets)).await?;
        if created == Created::AlreadyExisted && Config::open(&secrets, &read_config(backend.as_ref()).await?).is_err()
        {
            // Another init was faster; our slot opens nothing. Best effort: stores may deny it.
            let _ = backend.delete(&slot_name).await;
            return Err(RepositoryError::AlreadyARepository { place: backend.describe() });
        }
        let memory = options.memory_directory.map(|directory| ClientMemory::new(&directory, &config.repository));
        let slot = keys::parse_slot_name(&slot_name);
        let inner = Inner { backend, secrets, config, memory, slot, blocking, found: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A repository for the simulator: its cut points and chunk ids follow from `seed`, and it has neither
    /// `config` nor key slots to open it by.
    #[cfg(any(test, feature = "simulation"))]
    pub fn seeded(backend: Arc<dyn Backend>, seed: u64, chunker: ChunkerConfig) -> Repository {
        let repository = ObjectId([7; 32]);
        let config = Config { repository, created: UnixNanos(0), chunker, compression: CompressionConfig::default() };
        Self::unopened(backend, Secrets::seeded(repository, seed), config)
    }

    /// The same repository on another store: what a crash has left of it, for instance.
    #[cfg(any(test, feature = "simulation"))]
    pub fn moved_to(&self, backend: Arc<dyn Backend>) -> Repository {
        Self::unopened(backend, self.secrets().duplicate(), *self.config())
    }

    #[cfg(any(test, feature = "simulation"))]
    fn unopened(backend: Arc<dyn Backend>, secrets: Secrets, config: Config) -> Repository {
        let (blocking, found) = (Pool::new("mover-keys", 1), Mutex::default());
        Self { inner: Arc::new(Inner { backend, secrets, config, memory: None, slot: None, blocking, found }) }
    }

    /// Opens a repository without a client memory.
    ///
    /// # Errors
    /// As [`Repository::open_with`].
    pub async fn open(backend: Arc<dyn Backend>, credential: &Credential) -> Result<Repository> {
        Self::open_with(backend, credential, OpenOptions::default()).await
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`] if there is no `config`;
    /// [`RepositoryError::WrongKey`] if no slot opens and none is damaged;
    /// [`RepositoryError::Corrupt`] if none opens and one is damaged, or `config` is;
    /// [`RepositoryError::OtherFormat`]; storage errors.
    pub async fn open_with(
        backend: Arc<dyn Backend>,
        credential: &Credential,
        options: OpenOptions,
    ) -> Result<Repository> {
        let blocking = Pool::new("mover-keys", 1);
        // Side by side: neither needs what the other finds.
        let search = find_early(backend.as_ref(), options.memory_directory.as_deref(), &blocking);
        let unlock = unlock(&backend, credential, &blocking);
        let ((secrets, config, slot), found) = try_join(unlock, async { Ok(search.await) }).await?;
        let memory = options.memory_directory.map(|directory| {
            if found.is_some() {
                note_place(&directory, &backend.describe(), &config.repository);
            }
            ClientMemory::new(&directory, &config.repository)
        });
        let found = Mutex::new(found.map(|number| (number, Instant::now())));
        let inner = Inner { backend, secrets, config, memory, slot: Some(slot), blocking, found };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    /// The secrets that the key gave.
    pub fn secrets(&self) -> &Secrets {
        &self.inner.secrets
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The key slot that it was opened by; none in the simulator.
    pub fn slot(&self) -> Option<ObjectId> {
        self.inner.slot
    }

    /// The name of the repository.
    pub fn id(&self) -> ObjectId {
        self.inner.config.repository
    }

    /// Registers a run: takes the next free log number, then reads the history. A reader gets what is
    /// left of a damaged one, and [`Registration::damage`] lists the rest; others are refused.
    ///
    /// # Errors
    /// As [`Repository::history`]; [`RepositoryError::LimitExceeded`] for names that are too long.
    pub async fn register(&self, open: OpenRecord) -> Result<Registration> {
        log::register(self, open).await
    }

    /// Reads the history and compares it with what its newest outcome and this client have seen.
    ///
    /// # Errors
    /// [`RepositoryError::HistoryGap`], [`RepositoryError::HistoryAltered`],
    /// [`RepositoryError::Corrupt`], storage errors.
    pub async fn history(&self) -> Result<History> {
        let (history, damage) = self.history_with_damage().await?;
        damage.into_iter().next().map_or(Ok(history), Err)
    }

    /// Reads what can be read of a damaged history: for all who only read, so that points whose records
    /// are whole can be restored whatever happened to others. The second part lists what is wrong:
    /// records that are damaged or missing; or, if all are whole, that they are not those which the
    /// newest outcome or this client has seen.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn history_with_damage(&self) -> Result<(History, Vec<RepositoryError>)> {
        self.reading(LogNumber::default()).await
    }

    /// Adds a key slot.
    ///
    /// # Errors
    /// As [`keys::seal_slot`]; storage errors.
    pub async fn add_key(&self, credential: &Credential, rights: KeyRights, stretching: Stretching) -> Result<String> {
        let secrets = match rights {
            KeyRights::PutOnly => self.secrets().put_only(),
            KeyRights::Full => self.secrets().duplicate(),
        };
        let (inner, credential) = (Arc::clone(&self.inner), credential.clone());
        let seal = move || keys::seal_slot_signed(&secrets, &credential, stretching, inner.secrets.signing());
        let (name, slot) = flatten(self.inner.blocking.run(seal).await)?;
        keys::store_slot(self.backend().as_ref(), &name, slot).await?;
        Ok(name)
    }

    /// The highest log number that was found when the repository was opened, if that is news still. Given once.
    pub(crate) fn take_found(&self) -> Option<LogNumber> {
        let (number, since) = self.inner.found.lock().take()?;
        (since.elapsed() < FOUND_IS_NEWS).then_some(number)
    }

    /// The file in which this client remembers what it saw.
    pub(crate) fn memory_file(&self) -> Option<PathBuf> {
        self.inner.memory.as_ref().map(|memory| memory.path().to_owned())
    }

    /// What this client saw last.
    pub(crate) async fn remembered(&self) -> Option<Seen> {
        let memory = self.inner.memory.clone()?;
        self.inner.blocking.run(move || memory.load()).await.ok().flatten()
    }

    /// Remembers what this client saw. Failing to is logged, not an error: it is advice.
    pub(crate) async fn remember(&self, seen: Seen) {
        let Some(memory) = self.inner.memory.clone() else { return };
        if let Ok(Err(error)) = self.inner.blocking.run(move || memory.store(&seen)).await {
            tracing::warn!(%error, "cannot remember the repository's history on this machine");
        }
    }
}

/// Opens the first key slot that the credential fits.
async fn unlock(
    backend: &Arc<dyn Backend>,
    credential: &Credential,
    blocking: &Pool,
) -> Result<(Secrets, Config, ObjectId)> {
    // On its way while `config` is read.
    let slots_listed = backend.list(KEYS_PREFIX);
    let config_object = read_config(backend.as_ref()).await?;
    // Whether a header that names a newer format is one, or damage, shows only under the keys.
    let mut first_damage = match Header::decode(&config_object, ObjectKind::Config, CONFIG_NAME) {
        Ok(_) => None,
        Err(newer @ RepositoryError::OtherFormat { .. }) => Some(newer),
        Err(damage) => return Err(damage),
    };
    let listed = slots_listed.await?;
    let (rotations, listed): (Vec<ObjectMeta>, Vec<ObjectMeta>) =
        listed.into_iter().partition(|meta| parse_rotation_name(&meta.name).is_some());
    let slots = keys::read_slots(backend.as_ref(), listed).await?;

    for slot in slots {
        let slot_id = slot.as_ref().ok().and_then(|slot| keys::parse_slot_name(slot.name()));
        let opened = match slot {
            Ok(slot) => {
                let credential = credential.clone();
                flatten(blocking.run(move || slot.open(&credential)).await)
            }
            Err(error) => Err(error),
        };
        let Opened { mut secrets, renewal } = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => continue,
            Err(error) => {
                first_damage.get_or_insert(error);
                continue;
            }
        };
        // The slot of an init that lost a race opens, but its secrets do not fit `config`.
        match Config::open(&secrets, &config_object) {
            Ok(config) => {
                let id = slot_id.ok_or(RepositoryError::WrongKey)?;
                match take_rotations(backend.as_ref(), &rotations, &mut secrets, &id, &renewal).await {
                    Ok(()) => {}
                    // A slot that was left out; the same credential may have another one.
                    Err(left_out @ RepositoryError::UnknownGeneration { .. }) => {
                        first_damage.get_or_insert(left_out);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                return Ok((secrets, config, id));
            }
            Err(error) => first_damage = Some(error),
        }
    }
    Err(first_damage.unwrap_or(RepositoryError::WrongKey))
}

/// How far the log of a store in a network goes, found while its key is looked for: at first it is asked about the last
/// number that this client saw there. None where that takes no time anyway, or fails: then it is looked for later.
async fn find_early(backend: &dyn Backend, memory_directory: Option<&Path>, blocking: &Pool) -> Option<LogNumber> {
    backend.link()?;
    let (directory, place) = (memory_directory.map(Path::to_owned), backend.describe());
    let recall = move || ClientMemory::at_place(&directory?, &place)?.load();
    let remembered = blocking.run(recall).await.ok().flatten();
    log::find_highest_from(backend, LogNumber::default(), remembered.as_ref()).await.ok()
}

fn note_place(directory: &Path, place: &str, repository: &ObjectId) {
    if let Err(error) = ClientMemory::note_place(directory, place, repository) {
        tracing::warn!(%error, "cannot note on this machine which repository is in {place}");
    }
}

/// Stretches and seals on a thread that may block; gives the secrets back.
async fn seal_slot(
    blocking: &Pool,
    secrets: Secrets,
    credential: &Credential,
    stretching: Stretching,
) -> Result<(Secrets, String, Bytes)> {
    let credential = credential.clone();
    let sealed = blocking.run(move || {
        let (name, object) = keys::seal_slot(&secrets, &credential, stretching)?;
        Ok((secrets, name, object))
    });
    flatten(sealed.await)
}

fn flatten<T>(result: std::result::Result<Result<T>, crate::io::PoolPanicked>) -> Result<T> {
    result.unwrap_or_else(|error| Err(RepositoryError::NotSupported { what: format!("key stretching: {error}") }))
}

/// Only an empty place will do, or one where an earlier init ended before it wrote `config`.
async fn check_place_for_init(backend: &dyn Backend) -> Result<()> {
    let listed = backend.list("").await?;
    if listed.iter().any(|meta| meta.name == CONFIG_NAME) {
        return Err(RepositoryError::AlreadyARepository { place: backend.describe() });
    }
    let is_slot = |name: &str| name.strip_prefix(KEYS_PREFIX).is_some_and(|rest| rest.starts_with('/'));
    match listed.into_iter().find(|meta| !is_slot(&meta.name)) {
        Some(meta) => Err(RepositoryError::NotEmpty { place: backend.describe(), object: meta.name }),
        None => Ok(()),
    }
}

/// Whether there is a repository at all, which can be told without a key.
///
/// # Errors
/// [`RepositoryError::NotARepository`]; [`RepositoryError::MissingObject`] if there was one and only its
/// `config` is gone; storage errors.
pub async fn probe(backend: &dyn Backend) -> Result<()> {
    match backend.size(CONFIG_NAME).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == StorageErrorKind::NotFound => Err(without_config(backend).await?),
        Err(error) => Err(error.into()),
    }
}

/// A place with log records has been a repository: `config` was written before them.
async fn without_config(backend: &dyn Backend) -> Result<RepositoryError> {
    match backend.list(log::LOG_PREFIX).await?.is_empty() {
        true => Ok(RepositoryError::NotARepository { place: backend.describe() }),
        false => Ok(RepositoryError::MissingObject { object: CONFIG_NAME.to_owned() }),
    }
}

async fn read_config(backend: &dyn Backend) -> Result<Bytes> {
    match backend.get(CONFIG_NAME, KEY_OBJECT_BYTES_MAX as u64).await {
        Ok(object) => Ok(object),
        Err(error) if error.kind == StorageErrorKind::NotFound => Err(without_config(backend).await?),
        Err(error) if error.kind == StorageErrorKind::TooLarge => {
            Err(RepositoryError::corrupt(CONFIG_NAME, "it is larger than it can be"))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{FaultyBackend, LocalBackend, MemoryBackend};
    use futures_lite::future::block_on;

    fn password(text: &str) -> Credential {
        Credential::password(text).unwrap()
    }

    fn cheap() -> InitOptions {
        InitOptions { stretching: Stretching::CHEAPEST, ..InitOptions::default() }
    }

    fn init(backend: &MemoryBackend) -> Repository {
        block_on(Repository::init(Arc::new(backend.clone()), &password("right"), cheap())).unwrap()
    }

    fn open(backend: &MemoryBackend, text: &str) -> Result<Repository> {
        block_on(Repository::open(Arc::new(backend.clone()), &password(text)))
    }

    fn slot_name(backend: &MemoryBackend) -> String {
        backend.snapshot().into_keys().find(|name| name.starts_with("keys/")).unwrap()
    }

    #[test]
    fn a_wrong_password_is_told_apart_from_damage() {
        let backend = MemoryBackend::new();
        let made = init(&backend);
        let opened = open(&backend, "right").unwrap();
        assert_eq!((opened.id(), opened.config()), (made.id(), made.config()));
        assert_eq!(opened.secrets().chunk_id(b"x"), made.secrets().chunk_id(b"x"));
        assert!(matches!(open(&backend, "wrong"), Err(RepositoryError::WrongKey)));

        let slot = slot_name(&backend);
        let object = backend.snapshot()[&slot].clone();
        backend.overwrite(&slot, object.slice(..object.len() - 1));
        assert!(matches!(open(&backend, "right"), Err(RepositoryError::Corrupt { object, .. }) if object == slot));
        // Another slot that opens makes up for it.
        block_on(made.add_key(&password("second"), KeyRights::Full, Stretching::CHEAPEST)).unwrap();
        assert!(open(&backend, "second").is_ok());
        assert!(matches!(open(&backend, "wrong"), Err(RepositoryError::Corrupt { .. })));
        backend.remove(&slot);
        assert!(matches!(open(&backend, "right"), Err(RepositoryError::WrongKey)));
    }

    #[test]
    fn f27_every_flip_and_cut_of_config_and_key_slot_is_an_error() {
        let backend = MemoryBackend::new();
        init(&backend);
        let good = backend.snapshot();
        for name in [CONFIG_NAME.to_owned(), slot_name(&backend)] {
            let object = good[&name].clone();
            for at in 0..object.len() {
                let mut changed = object.to_vec();
                changed[at] ^= 0x04;
                backend.overwrite(&name, changed);
                let flipped = open(&backend, "right").expect_err("a flipped byte is noticed");
                // Neither a wrong password nor a newer format: damage, and what helps is a copy of the object.
                assert!(matches!(flipped, RepositoryError::Corrupt { .. }), "{name}: byte {at}: {flipped}");
                assert!(flipped.guidance().unwrap().contains("from a copy"), "{name}: {:?}", flipped.guidance());
                backend.overwrite(&name, object.slice(..at));
                assert!(matches!(open(&backend, "right"), Err(RepositoryError::Corrupt { .. })), "{name}: cut at {at}");
            }
            backend.overwrite(&name, [&object[..], b"x"].concat());
            assert!(open(&backend, "right").is_err(), "{name} grown");
            backend.overwrite(&name, vec![0; KEY_OBJECT_BYTES_MAX + 1]);
            assert!(open(&backend, "right").is_err(), "{name} huge");
            backend.restore(good.clone());
        }
        assert!(open(&backend, "right").is_ok());
        // A repository without its config is not an empty place where `init` would help.
        backend.overwrite("log/0000000000000001/open", &b"a run"[..]);
        backend.remove(CONFIG_NAME);
        let lost = open(&backend, "right").unwrap_err();
        assert!(matches!(&lost, RepositoryError::MissingObject { object } if object == CONFIG_NAME), "{lost}");
        assert!(lost.guidance().unwrap().contains("from a copy"));
    }

    #[test]
    fn init_wants_an_empty_place_and_open_a_repository() {
        let backend = MemoryBackend::new();
        assert!(matches!(open(&backend, "right"), Err(RepositoryError::NotARepository { .. })));
        let init_again = |backend: &MemoryBackend| {
            block_on(Repository::init(Arc::new(backend.clone()), &password("right"), cheap()))
        };
        backend.overwrite("holiday.jpg", &b"x"[..]);
        assert!(
            matches!(init_again(&backend), Err(RepositoryError::NotEmpty { object, .. }) if object == "holiday.jpg")
        );
        backend.remove("holiday.jpg");
        init(&backend);
        let before = backend.snapshot();
        assert!(matches!(init_again(&backend), Err(RepositoryError::AlreadyARepository { .. })));
        assert_eq!(backend.snapshot(), before);
        backend.remove(&slot_name(&backend));
        assert!(matches!(open(&backend, "right"), Err(RepositoryError::MissingObject { .. })));
    }

    #[test]
    fn an_interrupted_init_can_be_repeated() {
        use crate::backend::faulty::{Effect, Fault, Operation};
        let memory = MemoryBackend::new();
        let faulty = FaultyBackend::new(Arc::new(memory.clone()));
        faulty.plan(Fault::at(Operation::Create, 1, Effect::Full).under(CONFIG_NAME));
        assert!(block_on(Repository::init(Arc::new(faulty), &password("right"), cheap())).unwrap_err().is_full());
        assert!(matches!(open(&memory, "right"), Err(RepositoryError::NotARepository { .. })));
        let made = init(&memory);
        assert_eq!(open(&memory, "right").unwrap().id(), made.id());
    }

    #[test]
    fn two_inits_at_once_make_one_repository() {
        for _ in 0..20 {
            let place = tempfile::tempdir().unwrap();
            let made: Vec<_> = std::thread::scope(|scope| {
                let start = |text| {
                    let backend = Arc::new(LocalBackend::open(place.path(), true).unwrap());
                    scope.spawn(move || block_on(Repository::init(backend, &password(text), cheap())))
                };
                [start("a"), start("b")].map(|thread| thread.join().unwrap()).into()
            });
            assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1, "{made:?}");
            let winner = if made[0].is_ok() { "a" } else { "b" };
            let backend = Arc::new(LocalBackend::open(place.path(), false).unwrap());
            assert!(block_on(Repository::open(backend, &password(winner))).is_ok());
        }
    }

    #[test]
    fn settings_out_of_bounds_are_refused() {
        let mut options = cheap();
        options.chunker.bytes_max = u32::MAX;
        let refused = block_on(Repository::init(Arc::new(MemoryBackend::new()), &password("p"), options));
        assert!(matches!(refused, Err(RepositoryError::LimitExceeded { .. })));
        let mut options = cheap();
        options.stretching.memory_kib = u32::MAX;
        let refused = block_on(Repository::init(Arc::new(MemoryBackend::new()), &password("p"), options));
        assert!(matches!(refused, Err(RepositoryError::LimitExceeded { .. })));
    }
}

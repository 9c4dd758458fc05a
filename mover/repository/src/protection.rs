//! Object lock for recovery points: everything that a point needs is kept by the store until a date.
//!
//! What a point needs are the packs that hold its chunks and pages, the log from the newest checkpoint on, `config` and
//! the keys; the index is left out, for it can be rebuilt from the packs. Whoever protects a point asks the store about
//! each object and puts its lock off where it ends too soon; only then `protection/<point>/<until>` says so, which spares
//! listings that work. That record is advice: [`Protector::proven`] asks the store. FORMAT.md section 3.7. A lock is never
//! made shorter. Memory: the index, one name an object. Blocks; never call it on an executor thread.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;

use crate::backend::{Backend, StorageErrorKind, delete_if_there, lock_time};
use crate::blocking::block_on;
use crate::chunk_reader::ChunkReader;
use crate::config::CONFIG_NAME;
use crate::error::{RepositoryError, Result};
use crate::ids::{ObjectId, UnixNanos};
use crate::index::{Index, PackRef};
use crate::io::in_parallel;
use crate::keys::KEYS_PREFIX;
use crate::log::{History, LOG_PREFIX, Outcome, RecoveryPoint, number_below};
use crate::prune::Marker;
use crate::repository::Repository;

/// Prefix of the advisory records.
pub const PROTECTION_PREFIX: &str = "protection";
/// Objects that the store is asked about at a time.
const REQUESTS_IN_FLIGHT: usize = 16;
const SECOND_NS: i128 = 1_000_000_000;

/// Protects recovery points, and proves how far they are.
pub struct Protector {
    repository: Repository,
    chunks: Arc<ChunkReader>,
    condemned: std::collections::HashSet<crate::ids::PackId>,
    /// What every point needs.
    common: Vec<String>,
    /// What the store told, or was told.
    known: HashMap<String, Option<UnixNanos>>,
}

impl Protector {
    /// Loads the index, in half of `memory_bytes`.
    ///
    /// # Errors
    /// [`RepositoryError::NotSupported`] on a kind of store without object lock; as [`Index::load_or_rebuild`].
    pub fn new(repository: &Repository, history: &History, memory_bytes: usize) -> Result<Self> {
        if !repository.backend().can_retain() {
            let what = format!("object lock in {}", repository.backend().describe());
            return Err(RepositoryError::NotSupported { what });
        }
        let index = block_on(Index::load_or_rebuild(repository, history, memory_bytes / 4))?;
        let chunks = Arc::new(ChunkReader::new(repository, index, memory_bytes / 4));
        let common = block_on(common(repository.backend().as_ref(), history))?;
        Ok(Self {
            repository: repository.clone(),
            chunks,
            condemned: history.condemned(),
            common,
            known: HashMap::new(),
        })
    }

    /// The names of all objects that a point needs, sorted.
    ///
    /// # Errors
    /// A page that cannot be read; [`RepositoryError::MissingObject`] for a chunk that no pack holds.
    pub fn needed(&self, point: &RecoveryPoint) -> Result<BTreeSet<String>> {
        let index = self.chunks.index();
        let mut packs: HashSet<PackRef> = HashSet::new();
        let mut marker = Marker::new(&self.chunks, |id| {
            let locations = block_on(index.locations(&id))?;
            let is_kept = |pack: &PackRef| !self.condemned.contains(&index.pack(*pack).id);
            let held: Vec<PackRef> = locations.iter().map(|location| location.pack).collect();
            if held.is_empty() {
                return Err(RepositoryError::MissingObject { object: format!("chunk {id}") });
            }
            // Condemned packs go; where nothing else has the chunk, prune rescues them.
            let stays = held.iter().any(is_kept);
            packs.extend(held.iter().filter(|pack| !stays || is_kept(pack)));
            Ok(())
        });
        marker.point(point)?;
        let names = packs.iter().map(|pack| index.pack(*pack).object_name());
        Ok(names.chain(self.common.iter().cloned()).collect())
    }

    /// Has the store keep all that a point needs at least until then, and records it. Gives the number of objects.
    ///
    /// # Errors
    /// As [`Protector::needed`]; storage errors. What was locked before stays so, and nothing is recorded.
    pub fn protect(&mut self, point: &RecoveryPoint, until: UnixNanos) -> Result<usize> {
        // Times of locks have whole seconds.
        let until = UnixNanos(until.0.div_euclid(SECOND_NS) * SECOND_NS);
        let needed = self.needed(point)?;
        let is_short = |name: &&String| self.known.get(*name).copied().flatten().is_none_or(|known| known < until);
        let short: Vec<&String> = needed.iter().filter(is_short).collect();
        let backend = self.repository.backend();
        let calls = short.iter().map(|name| backend.retain_until(name, until));
        for (name, kept) in short.iter().zip(block_on(in_parallel(REQUESTS_IN_FLIGHT, calls))) {
            self.known.insert((*name).clone(), Some(kept?));
        }
        let record = record_name(&point.id, until);
        block_on(backend.create(&record, Bytes::new()))?;
        block_on(backend.retain_until(&record, until))?;
        Ok(needed.len())
    }

    /// Until when the store keeps all that a point needs, as it tells itself; none if something is not kept or not there.
    ///
    /// # Errors
    /// As [`Protector::needed`]; storage errors.
    pub fn proven(&mut self, point: &RecoveryPoint) -> Result<Option<UnixNanos>> {
        let needed = self.needed(point)?;
        let unknown: Vec<&String> = needed.iter().filter(|name| !self.known.contains_key(*name)).collect();
        let backend = self.repository.backend();
        let calls = unknown.iter().map(|name| backend.retained_until(name));
        for (name, told) in unknown.iter().zip(block_on(in_parallel(REQUESTS_IN_FLIGHT, calls))) {
            let told = match told {
                Err(error) if error.kind == StorageErrorKind::NotFound => None,
                told => told?,
            };
            self.known.insert((*name).clone(), told);
        }
        let all: Option<Vec<UnixNanos>> = needed.iter().map(|name| self.known[name]).collect();
        Ok(all.and_then(|all| all.into_iter().min()))
    }
}

/// What every point of this history needs beside its packs: of the log what is between the checkpoint that it was read
/// from and the last record of a point. Signs of life and sealed filesets matter to runs alone.
async fn common(backend: &dyn Backend, history: &History) -> Result<Vec<String>> {
    let mut names = vec![CONFIG_NAME.to_owned()];
    names.extend(backend.list(KEYS_PREFIX).await?.into_iter().map(|object| object.name));
    let is_point = |outcome: &Outcome| matches!(outcome, Outcome::RecoveryPoint(_) | Outcome::Checkpoint { .. });
    let tells = history.entries().iter().filter(|entry| entry.outcome().is_some_and(is_point));
    let last = tells.map(|entry| entry.number).max().unwrap_or_default();
    let is_needed = |name: &str| {
        let is_recent =
            number_below(name, LOG_PREFIX).is_some_and(|number| (history.summed_below()..=last).contains(&number));
        is_recent && !name.contains("/alive/") && !name.contains("/sealed/")
    };
    let log = backend.list(LOG_PREFIX).await?.into_iter().map(|object| object.name);
    names.extend(log.filter(|name| is_needed(name)));
    Ok(names)
}

fn record_name(point: &ObjectId, until: UnixNanos) -> String {
    format!("{PROTECTION_PREFIX}/{point}/{}", lock_time(until).replace([':', '-'], ""))
}

fn parse_record_name(name: &str) -> Option<(ObjectId, UnixNanos)> {
    let (point, until) = name.strip_prefix(PROTECTION_PREFIX)?.strip_prefix('/')?.split_once('/')?;
    let until = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", until).ok()?;
    let until = until.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some((point.parse().ok()?, UnixNanos(until.as_nanosecond())))
}

/// Until when each point is protected, as the advisory records say. One listing.
///
/// # Errors
/// Storage errors.
pub async fn recorded(backend: &dyn Backend) -> Result<HashMap<ObjectId, UnixNanos>> {
    let mut latest: HashMap<ObjectId, UnixNanos> = HashMap::new();
    for object in backend.list(PROTECTION_PREFIX).await? {
        if let Some((point, until)) = parse_record_name(&object.name) {
            let known = latest.entry(point).or_insert(until);
            *known = until.max(*known);
        }
    }
    Ok(latest)
}

/// Removes records that say nothing any more: of points that are not there, and those whose time is over. Best effort.
pub(crate) async fn remove_spent_records(backend: &dyn Backend, history: &History, now: UnixNanos) {
    let points: HashSet<ObjectId> = history.points().map(|(_, point)| point.id).collect();
    for object in backend.list(PROTECTION_PREFIX).await.unwrap_or_default() {
        let is_spent = |(point, until)| until <= now || !points.contains(&point);
        if parse_record_name(&object.name).is_some_and(is_spent)
            && let Err(error) = delete_if_there(backend, &object.name).await
        {
            tracing::debug!(%error, "a spent record stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, noise};

    const DAY_NS: i128 = 86_400 * SECOND_NS;

    fn far(days: i128) -> UnixNanos {
        UnixNanos((UnixNanos::now().0 + days * DAY_NS).div_euclid(SECOND_NS) * SECOND_NS)
    }

    fn protector(bench: &Bench) -> Protector {
        let history = block_on(bench.repository.history()).unwrap();
        Protector::new(&bench.repository, &history, 64 << 20).unwrap()
    }

    #[test]
    fn lock_is_put_off_for_all_that_a_point_needs_and_never_back() {
        let bench = Bench::new();
        let first = bench.backup(&[("a", noise(1, 5000))]);
        let second = bench.backup(&[("a", noise(1, 5000)), ("b", noise(2, 5000))]);
        assert_eq!(protector(&bench).proven(&second).unwrap(), None);
        let (soon, later) = (far(10), far(30));
        let objects = protector(&bench).protect(&first, later).unwrap();
        assert_eq!(protector(&bench).proven(&first).unwrap(), Some(later));
        assert_eq!(protector(&bench).proven(&second).unwrap(), None, "its own packs are not locked");
        assert_eq!(protector(&bench).protect(&second, soon).unwrap(), objects);
        assert_eq!(protector(&bench).proven(&second).unwrap(), Some(soon));
        assert_eq!(protector(&bench).proven(&first).unwrap(), Some(later), "what both need keeps the later date");
        let told = block_on(recorded(bench.store.as_ref())).unwrap();
        assert_eq!((told[&first.id], told[&second.id]), (later, soon));
    }

    #[test]
    fn lock_of_a_point_with_a_missing_object_is_not_proven() {
        let bench = Bench::new();
        let point = bench.backup(&[("a", noise(1, 5000))]);
        protector(&bench).protect(&point, far(1)).unwrap();
        let keys = block_on(bench.store.list(KEYS_PREFIX)).unwrap();
        bench.store.remove(&keys[0].name);
        let history = block_on(bench.repository.history()).unwrap();
        let names = protector(&bench).needed(&point).unwrap();
        let pack = names.iter().find(|name| name.starts_with("packs/")).unwrap();
        let mut known = Protector::new(&bench.repository, &history, 64 << 20).unwrap();
        bench.store.remove(pack);
        assert!(known.proven(&point).map_or(true, |until| until.is_none()));
    }

    #[test]
    fn lock_records_are_named_by_point_and_time() {
        let (point, until) = (ObjectId([7; 32]), UnixNanos(1_800_000_000 * SECOND_NS));
        let name = record_name(&point, until);
        assert!(name.ends_with("/20270115T080000Z"), "{name}");
        assert_eq!(parse_record_name(&name), Some((point, until)));
        for other in ["protection/x/20270115T080000Z", "protection", "protection/a", "packs/1/a"] {
            assert_eq!(parse_record_name(other), None, "{other}");
        }
    }
}

//! Loads an index: which segments count, whether they fit the memory, and what stands in for those
//! that cannot be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};

use crate::backend::ObjectMeta;
use crate::error::{RepositoryError, Result};
use crate::ids::{ObjectId, PackId};
use crate::index::blocks::{Blocks, location};
use crate::index::nearby::Nearby;
use crate::index::overlay::Overlay;
use crate::index::segment::Segment;
use crate::index::table::{LOCATION_MEMORY_BYTES, Table};
use crate::index::{Absent, Index, PackRef, Packs, Unreadable};
use crate::io::in_parallel;
use crate::log::History;
use crate::pack::{parse_pack_name, read_contents_of};
use crate::repository::Repository;

/// Small segments whose bytes stay in memory between opening and loading.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Segments that are opened side by side, to hide the round trips of an object store.
const OPENED_AT_ONCE: usize = 16;

impl Index {
    /// Loads the index, resident if all locations fit `budget_bytes`, else in block mode. What the
    /// history condemns or reports as hurt is absent. Segments that cannot be read are skipped and
    /// listed by [`Index::unreadable`]: for a backup that costs duplicate uploads and nothing else.
    ///
    /// # Errors
    /// Only if the segments cannot be listed.
    pub async fn load(repository: &Repository, history: &History, budget_bytes: usize) -> Result<Arc<Index>> {
        Self::load_without(repository, absent(history), budget_bytes).await.map(Arc::new)
    }

    /// As [`Index::load`], and then reads the tables of contents of all packs that no readable segment
    /// names, as a restore needs it. A pack whose table cannot be read is listed as unreadable. Condemned packs
    /// are read where nothing else has a chunk: until they are deleted, a point may need them.
    ///
    /// # Errors
    /// If listing fails, or the packs to add do not fit the budget: then the index has to be repaired.
    pub async fn load_or_rebuild(
        repository: &Repository,
        history: &History,
        budget_bytes: usize,
    ) -> Result<Arc<Index>> {
        let mut absent = absent(history);
        let (mut avoided, deleted, hurt) = (history.condemned(), history.deleted(), history.hurt_locations().packs);
        avoided.retain(|pack| !deleted.contains(pack) && !hurt.contains(pack));
        absent.packs.retain(|pack| !avoided.contains(pack));
        // On their way meanwhile, but never before the history is read: a point that is committed while it is read has packs
        // and segments that an earlier listing lacks, and could not be restored.
        let packs = repository.backend().list("packs");
        let mut index = Self::load_without(repository, absent, budget_bytes).await?;
        index.avoided.extend(avoided);
        index.add_packs_without_segment(packs.await?).await?;
        Ok(Arc::new(index))
    }

    /// As [`Index::load_or_rebuild`], for a backup: a pack that segments name and that is not listed counts as absent, so
    /// that nothing new relies on a pack that was lost. Should the listing be short, that costs duplicate uploads alone;
    /// a restore asks for the pack itself.
    ///
    /// # Errors
    /// As [`Index::load_or_rebuild`].
    pub async fn load_for_backup(
        repository: &Repository,
        history: &History,
        budget_bytes: usize,
    ) -> Result<Arc<Index>> {
        // At once, though a pack that another run adds meanwhile may be taken for lost.
        let (segments, packs) = (repository.backend().list("index"), repository.backend().list("packs"));
        let (segments, packs) = (segments.await?, packs.await?);
        let listed = packs.iter().filter_map(|object| parse_pack_name(&object.name)).map(|(_, id)| id).collect();
        let listed = Some(Arc::new(listed));
        let mut index = Self::load_with(repository, absent(history), budget_bytes, segments, listed).await?;
        index.add_packs_without_segment(packs).await?;
        Ok(Arc::new(index))
    }

    /// As [`Index::load`] with an explicit list of what is absent.
    ///
    /// # Errors
    /// Only if the segments cannot be listed.
    pub async fn load_without(repository: &Repository, absent: Absent, budget_bytes: usize) -> Result<Index> {
        let segments = repository.backend().list("index").await?;
        Self::load_with(repository, absent, budget_bytes, segments, None).await
    }

    async fn load_with(
        repository: &Repository,
        absent: Absent,
        budget_bytes: usize,
        objects: Vec<ObjectMeta>,
        listed: Option<Arc<HashSet<PackId>>>,
    ) -> Result<Index> {
        let mut unreadable = Vec::new();
        let mut segments = open_listed(repository, &objects, &mut unreadable).await;
        let mut skipped: HashSet<ObjectId> = HashSet::new();
        loop {
            let mut index = Index::empty(repository, absent.clone(), budget_bytes);
            index.listed = listed.clone();
            let live = live_segments(&segments, &skipped);
            let locations: u64 = live.iter().map(|at| segments[*at].entries).sum();
            let is_resident =
                locations < u64::from(u32::MAX) && locations <= (budget_bytes / LOCATION_MEMORY_BYTES) as u64;
            if is_resident {
                index.resident = Table::with_capacity(locations as usize);
            }
            let failed = if is_resident {
                index.load_resident(&segments, &live).await
            } else {
                let taken = live.into_iter().rev().map(|at| segments.swap_remove(at)).collect();
                index.load_blocks(taken).await
            };
            if failed.is_empty() {
                index.unreadable = unreadable;
                // Packs of this run come later than the listing.
                index.listed = None;
                return Ok(index);
            }
            for (id, failure) in failed {
                report(&failure);
                skipped.insert(id);
                unreadable.push(failure);
            }
            if !is_resident {
                // The directories went into the index that is dropped now.
                segments = open_listed(repository, &objects, &mut Vec::new()).await;
            }
        }
    }

    fn empty(repository: &Repository, absent: Absent, budget_bytes: usize) -> Index {
        Index {
            repository: repository.clone(),
            absent,
            avoided: HashSet::new(),
            listed: None,
            lost_packs: Mutex::default(),
            resident: Table::default(),
            blocks: Blocks::new(budget_bytes),
            nearby: Nearby::new(budget_bytes / 4),
            overlay: Overlay::new(),
            adopted: Mutex::default(),
            packs: RwLock::new(Packs::default()),
            locations: AtomicU64::new(0),
            has_blocks: AtomicBool::new(false),
            unreadable: Vec::new(),
        }
    }

    async fn load_resident(&mut self, segments: &[Segment], live: &[usize]) -> Vec<(ObjectId, Unreadable)> {
        let mut failed = Vec::new();
        for segment in live.iter().map(|at| &segments[*at]) {
            if let Err(cause) = self.load_one(segment).await {
                failed.push((segment.id, Unreadable { object: segment.name.clone(), cause }));
            }
        }
        *self.locations.get_mut() = self.resident.len() as u64;
        failed
    }

    async fn load_one(&mut self, segment: &Segment) -> Result<()> {
        let packs = segment.read_packs().await?;
        let refs: Vec<Option<PackRef>> = packs.iter().map(|pack| self.admit(pack)).collect();
        let Index { resident, absent, .. } = self;
        segment
            .for_each(packs.len(), |entry| {
                let at = entry.pack as usize;
                if let Some(pack) = refs[at]
                    && (absent.frames.is_empty() || !absent.frames.contains(&(packs[at].id, entry.frame)))
                {
                    resident.insert(&entry.id, &location(pack, &entry));
                }
            })
            .await
    }

    fn admit(&self, pack: &crate::pack::PackInfo) -> Option<PackRef> {
        if self.absent.packs.contains(&pack.id) {
            return None;
        }
        if self.listed.as_ref().is_some_and(|listed| !listed.contains(&pack.id)) {
            self.lost_packs.lock().insert(pack.id);
            return None;
        }
        self.packs.write().add(pack.clone())
    }

    async fn load_blocks(&mut self, segments: Vec<Segment>) -> Vec<(ObjectId, Unreadable)> {
        let mut failed = Vec::new();
        for segment in segments {
            let (id, object, entries) = (segment.id, segment.name.clone(), segment.entries);
            let added = match segment.read_packs().await {
                Ok(packs) => {
                    let refs = packs.iter().map(|pack| self.admit(pack)).collect();
                    self.blocks.add(segment, refs).await
                }
                Err(error) => Err(error),
            };
            match added {
                Ok(()) => *self.locations.get_mut() += entries,
                Err(cause) => failed.push((id, Unreadable { object, cause })),
            }
        }
        *self.has_blocks.get_mut() = true;
        failed
    }

    async fn add_packs_without_segment(&mut self, listed: Vec<ObjectMeta>) -> Result<()> {
        for object in listed {
            let Some((_, id)) = parse_pack_name(&object.name) else { continue };
            if self.absent.packs.contains(&id) || self.find_pack(&id).is_some() {
                continue;
            }
            match read_contents_of(&self.repository, &object.name, object.bytes).await {
                Ok(contents) => {
                    self.insert(&contents);
                    self.adopted.get_mut().push(contents);
                }
                Err(cause) => {
                    let failure = Unreadable { object: object.name, cause };
                    report(&failure);
                    self.unreadable.push(failure);
                }
            }
            if self.overlay_is_too_large() {
                return Err(RepositoryError::LimitExceeded {
                    what: "the memory for packs that no index segment names; run `mover repair index` first".into(),
                });
            }
        }
        Ok(())
    }

    fn overlay_is_too_large(&self) -> bool {
        // Growing tables are up to twice what they hold; small ones always pass.
        const SMALL_BYTES: usize = 16 << 20;
        self.packs.read().infos.len().is_multiple_of(64)
            && self.overlay.memory_bytes() > 2 * self.blocks.budget_bytes() + SMALL_BYTES
    }
}

/// What the history says is condemned or hurt.
pub(crate) fn absent(history: &History) -> Absent {
    let hurt = history.hurt_locations();
    let mut absent = Absent::default();
    absent.packs.extend(history.condemned());
    absent.packs.extend(hurt.packs);
    absent.frames.extend(hurt.frames);
    absent
}

fn report(failure: &Unreadable) {
    tracing::warn!(object = %failure.object, cause = %failure.cause, "an index object cannot be read and is skipped");
}

/// Opens every segment that is listed; those that cannot be opened are told and skipped.
pub(crate) async fn open_segments(repository: &Repository, unreadable: &mut Vec<Unreadable>) -> Result<Vec<Segment>> {
    let objects = repository.backend().list("index").await?;
    Ok(open_listed(repository, &objects, unreadable).await)
}

async fn open_listed(
    repository: &Repository,
    objects: &[ObjectMeta],
    unreadable: &mut Vec<Unreadable>,
) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut held_bytes = 0;
    for some in objects.chunks(OPENED_AT_ONCE) {
        let open = |object: &ObjectMeta| {
            let (name, bytes) = (object.name.clone(), object.bytes);
            async move {
                let opened = Segment::open(repository.backend(), repository.secrets(), &name, bytes).await;
                opened.map_err(|cause| Unreadable { object: name, cause })
            }
        };
        for opened in in_parallel(OPENED_AT_ONCE, some.iter().map(open)).await {
            match opened {
                Ok(mut segment) => {
                    held_bytes += segment.held_bytes();
                    if held_bytes > HELD_BYTES_MAX {
                        segment.forget_bytes();
                    }
                    segments.push(segment);
                }
                Err(failure) => {
                    report(&failure);
                    unreadable.push(failure);
                }
            }
        }
    }
    segments
}

/// Positions of the segments that count: readable, and not replaced by a readable one.
pub(crate) fn live_segments(segments: &[Segment], skipped: &HashSet<ObjectId>) -> Vec<usize> {
    let readable: HashMap<ObjectId, usize> = segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| !skipped.contains(&segment.id))
        .map(|(at, segment)| (segment.id, at))
        .collect();
    let replaced: HashSet<ObjectId> = readable.values().flat_map(|at| segments[*at].replaces.iter().copied()).collect();
    let mut live: Vec<usize> = readable.iter().filter(|(id, _)| !replaced.contains(*id)).map(|(_, at)| *at).collect();
    live.sort_unstable();
    live
}

//! Builds index segments, and merges small ones by levels of eight.
//!
//! A segment is written once, by create-if-absent; a merged one names those it replaces, and these
//! stay until prune. Holds 64 bytes a location until [`SegmentBuilder::write`]. Any thread.

use std::collections::BTreeMap;

use crate::backend::{Created, StorageErrorKind, delete_if_there};
use crate::crypto::random_array;
use crate::error::{RepositoryError, Result};
use crate::ids::{ObjectId, PackId};
use crate::index::load::{live_segments, open_segments};
use crate::index::segment::{ENTRY_BYTES, Segment, SegmentEntry, SegmentParts, encode_segment, segment_name};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::pack::{PackContents, PackInfo};
use crate::repository::Repository;

/// This many segments of one level become one of the next.
const MERGE_FAN_IN: usize = 8;
/// Bytes of a location in a segment, its share of filter and directory included.
const SEGMENT_BYTES_PER_LOCATION: usize = ENTRY_BYTES + 2;
const SEGMENT_BYTES_PER_PACK: usize = 144;

/// Collects the contents of packs for one segment.
pub struct SegmentBuilder {
    repository: Repository,
    packs: Vec<PackInfo>,
    entries: Vec<SegmentEntry>,
    level: u8,
    replaces: Vec<ObjectId>,
}

impl SegmentBuilder {
    /// A segment without packs.
    pub fn new(repository: &Repository) -> Self {
        SegmentBuilder {
            repository: repository.clone(),
            packs: Vec::new(),
            entries: Vec::new(),
            level: 0,
            replaces: Vec::new(),
        }
    }

    /// Names segments whose packs this one holds too; readers then skip them.
    pub(crate) fn replacing(mut self, level: u8, replaces: Vec<ObjectId>) -> Self {
        self.level = level;
        self.replaces = replaces;
        self
    }

    /// Adds every chunk of a pack, which must be durable.
    pub fn add(&mut self, contents: &PackContents) {
        let pack = self.packs.len() as u32;
        self.packs.push(contents.info());
        push_entries(&mut self.entries, pack, contents);
    }

    fn add_entries(
        &mut self,
        packs: Vec<PackInfo>,
        keep: impl Fn(&SegmentEntry) -> Option<u32>,
        entries: &[SegmentEntry],
    ) {
        self.packs.extend(packs);
        self.entries.extend(entries.iter().filter_map(|entry| keep(entry).map(|pack| SegmentEntry { pack, ..*entry })));
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.replaces.is_empty()
    }

    /// About how long the object will be. Keep it below [`SEGMENT_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.entries.len() * SEGMENT_BYTES_PER_LOCATION + self.packs.len() * SEGMENT_BYTES_PER_PACK
    }

    /// Sorts, seals and writes the segment; it is durable when this resolves. `None` if nothing was
    /// added.
    ///
    /// # Errors
    /// [`RepositoryError::Storage`].
    pub async fn write(mut self) -> Result<Option<ObjectId>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.entries.sort_unstable();
        let id = ObjectId(random_array());
        let parts =
            SegmentParts { level: self.level, replaces: &self.replaces, packs: &self.packs, entries: &self.entries };
        let object = encode_segment(self.repository.secrets(), &id, &parts);
        drop(std::mem::take(&mut self.entries));
        let name = segment_name(&id);
        match self.repository.backend().create(&name, object.clone()).await? {
            Created::New => Ok(Some(id)),
            // A lost answer: the id is random, so it can only be this very object.
            Created::AlreadyExisted => {
                let stored = self.repository.backend().get(&name, object.len() as u64).await?;
                if stored == object {
                    Ok(Some(id))
                } else {
                    Err(RepositoryError::corrupt(name, "other bytes are there"))
                }
            }
        }
    }
}

/// Appends a location for every chunk of a pack at position `pack` of the pack table.
pub(crate) fn push_entries(entries: &mut Vec<SegmentEntry>, pack: u32, contents: &PackContents) {
    for frame in &contents.frames {
        let mut chunk_offset = 0;
        for (id, bytes) in &frame.chunks {
            entries.push(SegmentEntry {
                id: *id,
                pack,
                frame: frame.number,
                frame_offset: frame.offset,
                frame_bytes: frame.sealed_bytes,
                chunk_offset,
                chunk_bytes: *bytes,
            });
            chunk_offset += bytes;
        }
    }
}

/// Segments that another one has replaced: they count no more, and a run that began before may still read them.
pub(crate) async fn replaced_segments(repository: &Repository) -> Result<Vec<ObjectId>> {
    let segments = open_segments(repository, &mut Vec::new()).await?;
    let live = live_segments(&segments, &hashbrown::HashSet::new());
    Ok((0..segments.len()).filter(|at| live.binary_search(at).is_err()).map(|at| segments[at].id).collect())
}

/// Packs that segments name, those that `is_wanted`. Segments that cannot be read are passed over.
pub(crate) async fn named_packs(
    repository: &Repository,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<std::collections::BTreeSet<String>> {
    let mut names = std::collections::BTreeSet::new();
    for segment in open_segments(repository, &mut Vec::new()).await? {
        let packs = segment.read_packs().await.unwrap_or_default();
        names.extend(packs.iter().map(PackInfo::object_name).filter(|name| is_wanted(name)));
    }
    Ok(names)
}

/// Deletes segments that others replace. Gone already is fine. Those others are made durable first: who wrote them may
/// have been killed before their names were synced.
pub(crate) async fn delete_segments(repository: &Repository, segments: &[ObjectId]) -> Result<()> {
    if let Some(segment) = segments.first() {
        // All segments lie in one place.
        repository.backend().adopt(&segment_name(segment));
        repository.backend().barrier().await?;
    }
    for segment in segments {
        match delete_if_there(repository.backend().as_ref(), &segment_name(segment)).await {
            // Its object lock has to end first; a later prune comes back to it.
            Err(error) if matches!(error.kind, StorageErrorKind::Retained(_)) => {}
            deleted => _ = deleted?,
        }
    }
    Ok(())
}

/// Replaces segments that name a pack in `gone` by ones that do not. Gives how many were written. A segment that cannot
/// be read is left alone.
///
/// # Errors
/// [`RepositoryError::Storage`].
pub(crate) async fn replace_segments(
    repository: &Repository,
    gone: &std::collections::HashSet<PackId>,
) -> Result<usize> {
    let segments = open_segments(repository, &mut Vec::new()).await?;
    let live = live_segments(&segments, &hashbrown::HashSet::new());
    let mut written = 0;
    for segment in live.into_iter().map(|at| &segments[at]) {
        let Ok(packs) = segment.read_packs().await else { continue };
        if !packs.iter().any(|pack| gone.contains(&pack.id)) {
            continue;
        }
        let mut next = 0;
        let mut position = || {
            next += 1;
            next - 1
        };
        let refs: Vec<Option<u32>> = packs.iter().map(|pack| (!gone.contains(&pack.id)).then(&mut position)).collect();
        let mut entries = Vec::with_capacity(segment.entries as usize);
        if segment.for_each(packs.len(), |entry| entries.push(entry)).await.is_err() {
            continue;
        }
        let left = packs.into_iter().filter(|pack| !gone.contains(&pack.id)).collect();
        let mut builder = SegmentBuilder::new(repository).replacing(segment.level, vec![segment.id]);
        builder.add_entries(left, |entry| refs[entry.pack as usize], &entries);
        builder.write().await?;
        written += 1;
    }
    Ok(written)
}

/// Merges segments by levels of eight, as long as the result stays within `bytes_max` (at most
/// [`SEGMENT_BYTES_MAX`]), which also bounds the memory taken: about three times that. Writes new
/// segments, removes none. Returns how many were written.
///
/// # Errors
/// [`RepositoryError::Storage`]. A segment that cannot be read is left alone.
pub async fn compact(repository: &Repository, bytes_max: usize) -> Result<usize> {
    let bytes_max = bytes_max.min(SEGMENT_BYTES_MAX);
    let mut written = 0;
    loop {
        let mut live = Vec::new();
        for object in repository.backend().list("index").await? {
            if let Ok(segment) =
                Segment::open(repository.backend(), repository.secrets(), &object.name, object.bytes).await
            {
                live.push((segment, object.bytes));
            }
        }
        let replaced: Vec<ObjectId> = live.iter().flat_map(|(segment, _)| segment.replaces.clone()).collect();
        live.retain(|(segment, _)| !replaced.contains(&segment.id));
        let mut levels: BTreeMap<u8, Vec<(Segment, u64)>> = BTreeMap::new();
        live.into_iter().for_each(|found| levels.entry(found.0.level).or_default().push(found));
        let group = levels.into_iter().find_map(|(level, mut segments)| {
            segments.sort_by_key(|(_, bytes)| *bytes);
            segments.truncate(MERGE_FAN_IN);
            let bytes: u64 = segments.iter().map(|(_, bytes)| *bytes).sum();
            (segments.len() == MERGE_FAN_IN && bytes <= bytes_max as u64 && level < u8::MAX)
                .then_some((level, segments))
        });
        let Some((level, segments)) = group else { return Ok(written) };
        if !merge(repository, level, segments).await? {
            return Ok(written);
        }
        written += 1;
    }
}

async fn merge(repository: &Repository, level: u8, segments: Vec<(Segment, u64)>) -> Result<bool> {
    let ids = segments.iter().map(|(segment, _)| segment.id).collect();
    let mut builder = SegmentBuilder::new(repository).replacing(level + 1, ids);
    let mut known = hashbrown::HashSet::new();
    for (segment, _) in &segments {
        let read = async {
            let packs = segment.read_packs().await?;
            let mut entries = Vec::with_capacity(segment.entries as usize);
            segment.for_each(packs.len(), |entry| entries.push(entry)).await?;
            Ok::<_, RepositoryError>((packs, entries))
        };
        let Ok((packs, entries)) = read.await else {
            tracing::warn!(segment = %segment.name, "a damaged index segment is not merged; run `mover repair index`");
            return Ok(false);
        };
        let mut next = builder.packs.len() as u32;
        let mut refs = Vec::with_capacity(packs.len());
        let mut fresh = Vec::new();
        for pack in packs {
            let is_new = known.insert(pack.id);
            refs.push(is_new.then_some(next));
            if is_new {
                next += 1;
                fresh.push(pack);
            }
        }
        builder.add_entries(fresh, |entry| refs[entry.pack as usize], &entries);
    }
    builder.write().await?;
    Ok(true)
}

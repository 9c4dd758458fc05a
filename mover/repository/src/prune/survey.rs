//! What each pack holds, and how much of it live recovery points need.
//!
//! Merges the index segments, which are sorted by chunk, with the sorted ids of what is needed. Of several
//! copies of a chunk one is kept; a copy that is condemned, in a damaged frame, or in a pack that is not there
//! is kept only if there is no better one. Memory: one run of blocks a segment, one record a pack. Blocks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::{HashMap, HashSet};

use super::sorted_ids::SortedIds;
use crate::blocking::block_on;
use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, PackId};
use crate::index::{Segment, SegmentEntry, live_segments, open_segments};
use crate::log::{History, HurtLocations};
use crate::pack::{PackInfo, parse_pack_name, read_contents};
use crate::repository::Repository;

/// Bytes of a segment read at a time.
const RUN_BYTES: u64 = 512 << 10;
/// Packs whose tables stand in for a segment; more than these, and the index has to be repaired first.
const UNINDEXED_MAX: usize = 1000;

/// All locations that there are, and what is known of the packs that hold them.
pub(super) struct Sources {
    segments: Vec<Segment>,
    /// For each segment its packs, as positions in `packs`.
    tables: Vec<Vec<u32>>,
    /// Locations of packs that no segment names, sorted; their packs are positions in `packs`.
    unindexed: Vec<SegmentEntry>,
    pub(super) packs: Vec<PackInfo>,
    states: Vec<State>,
    hurt: HurtLocations,
}

/// How far a pack can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Good,
    Condemned,
    /// Not there, or deleted.
    Absent,
}

/// A place of a chunk; the pack is a position in [`Sources::packs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) frame: u32,
    pub(super) chunk_offset: u32,
    pub(super) chunk_bytes: u32,
    pub(super) frame_offset: u64,
    pub(super) frame_bytes: u32,
}

/// All places of one chunk.
pub(super) struct Group<'a> {
    pub(super) id: ChunkId,
    pub(super) is_live: bool,
    pub(super) places: &'a [Place],
    /// The place that is kept if the chunk is live; none if no place can be read.
    pub(super) kept: Option<Place>,
}

/// What one pack holds, in plain bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// All of it.
    pub(super) plain: u64,
    /// What live points need of it.
    pub(super) live: u64,
    /// What they need and another pack keeps.
    pub(super) redundant: u64,
    /// What they need and no pack has in good order, part of `live`: such a pack is left as it is.
    pub(super) hurt: u64,
}

/// What a walk over all places gave.
pub(super) struct Survey {
    /// One for each of [`Sources::packs`].
    pub(super) tallies: Vec<Tally>,
    /// Condemned packs that hold the last copy of something live.
    pub(super) needed: HashSet<PackId>,
    /// Live chunks that no pack holds.
    pub(super) missing: u64,
}

impl Sources {
    /// Opens the index, and reads the tables of packs that it does not name. Frames in `bad` were found damaged or gone.
    ///
    /// # Errors
    /// The store does not answer; more packs lack a segment than memory allows.
    pub(super) fn open(repository: &Repository, history: &History, bad: &HashSet<(PackId, u32)>) -> Result<Self> {
        let mut segments = block_on(open_segments(repository, &mut Vec::new()))?;
        let live: HashSet<usize> = live_segments(&segments, &HashSet::new()).into_iter().collect();
        let mut at = 0;
        segments.retain(|_| {
            at += 1;
            live.contains(&(at - 1))
        });
        let mut sources = Self {
            segments,
            tables: Vec::new(),
            unindexed: Vec::new(),
            packs: Vec::new(),
            states: Vec::new(),
            hurt: history.hurt_locations(),
        };
        let mut known = HashMap::new();
        for at in 0..sources.segments.len() {
            let table = block_on(sources.segments[at].read_packs())?;
            let table = table.into_iter().map(|info| sources.add_pack(&mut known, info)).collect();
            sources.tables.push(table);
        }
        sources.hurt.frames.extend(bad);
        sources.look_at_packs(repository, history, known)?;
        Ok(sources)
    }

    fn add_pack(&mut self, known: &mut HashMap<PackId, u32>, info: PackInfo) -> u32 {
        *known.entry(info.id).or_insert_with(|| {
            self.packs.push(info);
            (self.packs.len() - 1) as u32
        })
    }

    /// Which packs are there. Only what is listed, or answers when asked for, can be relied on.
    fn look_at_packs(
        &mut self,
        repository: &Repository,
        history: &History,
        mut known: HashMap<PackId, u32>,
    ) -> Result<()> {
        let (condemned, deleted) = (history.condemned(), history.deleted());
        let mut listed = HashMap::new();
        let mut unindexed = Vec::new();
        for object in block_on(repository.backend().list("packs"))? {
            let Some((_, id)) = parse_pack_name(&object.name) else { continue };
            listed.insert(id, object.bytes);
            if !known.contains_key(&id) && !deleted.contains(&id) {
                unindexed.push(object.name);
            }
        }
        if unindexed.len() > UNINDEXED_MAX {
            let what = format!("{} packs that no index segment names; run `mover repair index` first", unindexed.len());
            return Err(RepositoryError::LimitExceeded { what });
        }
        for name in unindexed {
            // Who finished it may have been killed before its name was durable.
            repository.backend().adopt(&name);
            // One that cannot be read is not judged: it stays as it is.
            let Ok(contents) = block_on(read_contents(repository, &name)) else { continue };
            let pack = self.add_pack(&mut known, contents.info());
            crate::index::push_entries(&mut self.unindexed, pack, &contents);
        }
        self.unindexed.sort_unstable();
        self.states = Vec::with_capacity(self.packs.len());
        for info in &self.packs {
            let is_there = !deleted.contains(&info.id)
                && match listed.get(&info.id) {
                    Some(bytes) => *bytes == info.bytes,
                    // A listing may be behind: it alone proves no absence.
                    None => is_there(repository, info)?,
                };
            self.states.push(match (is_there, condemned.contains(&info.id)) {
                (false, _) => State::Absent,
                (true, true) => State::Condemned,
                (true, false) => State::Good,
            });
        }
        Ok(())
    }

    /// Packs that are there and not condemned.
    pub(super) fn good(&self) -> impl Iterator<Item = usize> {
        (0..self.packs.len()).filter(|at| self.states[*at] == State::Good)
    }

    /// The frame that a place is in.
    pub(super) fn frame(&self, place: &Place) -> (PackId, u32) {
        (self.packs[place.pack as usize].id, place.frame)
    }

    /// True if the pack of that place is there and not condemned.
    pub(super) fn is_good(&self, place: &Place) -> bool {
        self.states[place.pack as usize] == State::Good
    }

    /// Tells what every pack holds of what is live.
    pub(super) fn survey(&self, live: &SortedIds) -> Result<Survey> {
        let mut survey =
            Survey { tallies: vec![Tally::default(); self.packs.len()], needed: HashSet::new(), missing: 0 };
        self.walk(live, |group| {
            survey.missing += u64::from(group.is_live && group.kept.is_none());
            let kept_pack = group.kept.filter(|_| group.is_live).map(|place| place.pack as usize);
            if let Some(pack) = kept_pack
                && self.states[pack] == State::Condemned
            {
                survey.needed.insert(self.packs[pack].id);
            }
            for place in group.places {
                let tally = &mut survey.tallies[place.pack as usize];
                let bytes = u64::from(place.chunk_bytes);
                tally.plain += bytes;
                if !group.is_live {
                    continue;
                }
                // Of what cannot be read anywhere no copy is given up: somebody may repair it.
                if group.kept.is_none_or(|kept| kept == *place) {
                    tally.live += bytes;
                    tally.hurt += if group.kept.is_none() { bytes } else { 0 };
                } else {
                    tally.redundant += bytes;
                }
            }
            Ok(())
        })?;
        Ok(survey)
    }

    /// Visits all chunks in order, each with all its places; live ones without a place too.
    pub(super) fn walk(&self, live: &SortedIds, mut visit: impl FnMut(Group<'_>) -> Result<()>) -> Result<()> {
        let mut merge = Merge::new(self)?;
        let mut live = live.iter();
        let mut next_live = live.next().map_err(scratch)?;
        let mut places = Vec::new();
        while let Some(id) = merge.next_group(&mut places)? {
            while let Some(lost) = next_live.filter(|live| *live < id) {
                visit(Group { id: lost, is_live: true, places: &[], kept: None })?;
                next_live = live.next().map_err(scratch)?;
            }
            let is_live = next_live == Some(id);
            if is_live {
                next_live = live.next().map_err(scratch)?;
            }
            visit(Group { id, is_live, places: &places, kept: self.choose(&places) })?;
        }
        while let Some(id) = next_live {
            visit(Group { id, is_live: true, places: &[], kept: None })?;
            next_live = live.next().map_err(scratch)?;
        }
        Ok(())
    }

    /// The place to keep: in a good pack if there is one, and always the same one.
    fn choose(&self, places: &[Place]) -> Option<Place> {
        let readable = places.iter().filter(|place| self.is_readable(place));
        readable
            .min_by_key(|place| {
                let pack = place.pack as usize;
                (self.states[pack], self.packs[pack].id, place.frame, place.chunk_offset)
            })
            .copied()
    }

    fn is_readable(&self, place: &Place) -> bool {
        let pack = place.pack as usize;
        self.states[pack] != State::Absent && !self.hurt.contains(&self.packs[pack].id, place.frame)
    }
}

/// True if the pack answers and is as long as the index says.
fn is_there(repository: &Repository, info: &PackInfo) -> Result<bool> {
    match block_on(repository.backend().size(&info.object_name())) {
        Ok(bytes) => Ok(bytes == info.bytes),
        Err(error) if error.kind == crate::backend::StorageErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn scratch(error: std::io::Error) -> RepositoryError {
    RepositoryError::LimitExceeded { what: format!("the room for temporary files: {error}") }
}

/// All sources in one order.
struct Merge<'a> {
    sources: &'a Sources,
    cursors: Vec<Cursor>,
    unindexed: std::slice::Iter<'a, SegmentEntry>,
    /// The next location of each source; the last source is what no segment names.
    heads: BinaryHeap<Reverse<(SegmentEntry, usize)>>,
}

/// How far a segment was read.
#[derive(Default)]
struct Cursor {
    next_block: usize,
    /// Read and not yet given, last first.
    ready: Vec<SegmentEntry>,
}

impl<'a> Merge<'a> {
    fn new(sources: &'a Sources) -> Result<Self> {
        let cursors = sources.segments.iter().map(|_| Cursor::default()).collect();
        let mut merge = Self { sources, cursors, unindexed: sources.unindexed.iter(), heads: BinaryHeap::new() };
        for source in 0..=merge.cursors.len() {
            merge.refill(source)?;
        }
        Ok(merge)
    }

    fn refill(&mut self, source: usize) -> Result<()> {
        let Some(cursor) = self.cursors.get_mut(source) else {
            self.heads.extend(self.unindexed.next().map(|entry| Reverse((*entry, source))));
            return Ok(());
        };
        let segment = &self.sources.segments[source];
        let table = &self.sources.tables[source];
        if cursor.ready.is_empty() && cursor.next_block < segment.blocks.len() {
            let (entries, next) = block_on(segment.read_run(cursor.next_block, RUN_BYTES, table.len()))?;
            cursor.ready = entries;
            cursor.ready.reverse();
            cursor.next_block = next;
        }
        let head = cursor.ready.pop().map(|entry| SegmentEntry { pack: table[entry.pack as usize], ..entry });
        self.heads.extend(head.map(|entry| Reverse((entry, source))));
        Ok(())
    }

    /// Takes all places of the next chunk.
    fn next_group(&mut self, places: &mut Vec<Place>) -> Result<Option<ChunkId>> {
        places.clear();
        let Some(Reverse((first, _))) = self.heads.peek() else { return Ok(None) };
        let id = first.id;
        while let Some(Reverse((entry, source))) =
            self.heads.peek().copied().filter(|Reverse((entry, _))| entry.id == id)
        {
            self.heads.pop();
            self.refill(source)?;
            places.push(Place {
                pack: entry.pack,
                frame: entry.frame,
                chunk_offset: entry.chunk_offset,
                chunk_bytes: entry.chunk_bytes,
                frame_offset: entry.frame_offset,
                frame_bytes: entry.frame_bytes,
            });
        }
        places.sort_unstable();
        places.dedup();
        Ok(Some(id))
    }
}

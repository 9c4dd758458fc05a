//! A window of the plan: chunks of many files, turned into few large reads.
//!
//! Places are sorted by pack, frame and chunk, so that a chunk that is needed in several places is read once, the
//! frames of a pack are read in the order in which they lie there, and neighbours become one request. Pure
//! computation, on the planner's shard. Limits: [`RANGE_BYTES_MAX`], [`RANGE_GAP_BYTES_MAX`] and the memory that one
//! range may cost; one frame is always a range, whatever it costs.

use std::sync::Arc;

use mover_repository::backend::joins_span;
use mover_repository::ids::ChunkId;
use mover_repository::index::{Location, PackRef};
use mover_repository::limits::FRAME_PLAIN_BYTES_TARGET;
use mover_repository::pack::PackInfo;

use crate::restore::messages::{FrameRead, Place, ReadRange, ReadSpan};
use crate::restore::planned_file::PlannedFile;
use crate::runtime::Permit;

/// Sealed bytes of one request: large enough that the round trip to a far store does not count.
pub const RANGE_BYTES_MAX: usize = 8 << 20;
/// Bytes that are read and thrown away rather than paying for another request.
pub const RANGE_GAP_BYTES_MAX: u64 = 256 << 10;
/// Bytes of one request to a far store, however many ranges they are: a whole pack.
pub const SPAN_BYTES_MAX: u64 = 160 << 20;
/// Files up to this size that lie in one range are gathered and written at once.
pub const WHOLE_FILE_BYTES_MAX: u64 = 2 << 20;

/// Memory that one place costs in the plan, in all the forms that it takes on its way.
pub const PLACE_PLAN_BYTES: usize = size_of::<Wanted>() + size_of::<Place>() + 16;
/// Memory that one file costs in the plan, without its path and xattrs.
pub const FILE_PLAN_BYTES: usize = size_of::<PlannedFile>() + 64;

/// One chunk for one place.
struct Wanted {
    location: Location,
    chunk: ChunkId,
    file: u32,
    file_offset: u64,
}

/// A file of the window.
struct WindowFile {
    file: Arc<PlannedFile>,
    /// All its pieces are in this window.
    complete: bool,
    pieces: u64,
    /// The range that its pieces were found in; `SPLIT` if several.
    range: u32,
}

const NO_RANGE: u32 = u32::MAX;
const SPLIT: u32 = u32::MAX - 1;

/// A window that is being filled.
#[derive(Default)]
pub struct Window {
    wanted: Vec<Wanted>,
    files: Vec<WindowFile>,
    content_bytes: u64,
    plan_bytes: usize,
    in_pieces_max: usize,
}

/// A window, ready to be read.
pub struct PlannedWindow {
    /// By pack and offset.
    pub ranges: Vec<ReadRange>,
    /// Files that are written in pieces and are to be opened before the first range is on its way.
    pub to_open: Vec<Arc<PlannedFile>>,
}

impl Window {
    /// Adds a file; its pieces follow. `complete` says that all of them will be in this window.
    pub fn add_file(&mut self, file: Arc<PlannedFile>, complete: bool) {
        let xattrs: usize = file.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        self.plan_bytes += FILE_PLAN_BYTES + file.path.len() + xattrs;
        self.files.push(WindowFile { file, complete, pieces: 0, range: NO_RANGE });
    }

    /// Adds a chunk of the file that was added last.
    pub fn add_place(&mut self, chunk: ChunkId, location: Location, file_offset: u64) {
        let file = self.files.len() - 1;
        let last = &mut self.files[file];
        last.pieces += 1;
        if last.pieces == 2 || (last.pieces == 1 && last.file.size > WHOLE_FILE_BYTES_MAX) {
            self.in_pieces_max += 1;
        }
        self.content_bytes += u64::from(location.chunk_bytes);
        self.plan_bytes += PLACE_PLAN_BYTES;
        self.wanted.push(Wanted { location, chunk, file: file as u32, file_offset });
    }

    /// Says whether all pieces of the file that was added last are in this window.
    pub fn set_last_complete(&mut self, complete: bool) {
        if let Some(last) = self.files.last_mut() {
            last.complete = complete;
        }
    }

    /// Pieces of the file that was added last.
    pub fn last_pieces(&self) -> u64 {
        self.files.last().map_or(0, |last| last.pieces)
    }

    /// Takes the file that was added last out again; it has no pieces.
    pub fn remove_last_file(&mut self) {
        let last = self.files.pop();
        assert!(last.is_some_and(|last| last.pieces == 0), "a file with pieces cannot leave its window");
    }

    /// Plain bytes that the window will write.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Memory that the plan takes.
    pub fn plan_bytes(&self) -> usize {
        self.plan_bytes
    }

    /// Files that may have to be written in pieces, and so be open at the same time.
    pub fn in_pieces_max(&self) -> usize {
        self.in_pieces_max
    }

    /// True if nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Turns the window into reads of at most `range_cost_bytes` of memory each. Every piece is expected by its
    /// file from here on.
    pub fn plan(
        mut self,
        range_cost_bytes: usize,
        plan: &Arc<Permit>,
        pack: impl Fn(PackRef) -> Arc<PackInfo>,
    ) -> PlannedWindow {
        self.wanted.sort_unstable_by_key(|wanted| {
            let at = &wanted.location;
            (at.pack, at.frame_offset, at.chunk_offset, wanted.file, wanted.file_offset)
        });
        let mut ranges: Vec<ReadRange> = Vec::new();
        let mut current: Option<PackRef> = None;
        for wanted in &self.wanted {
            let at = &wanted.location;
            let same_pack = current == Some(at.pack);
            let fits = same_pack && ranges.last_mut().is_some_and(|range| extend(range, at, range_cost_bytes));
            if !fits {
                current = Some(at.pack);
                ranges.push(new_range(pack(at.pack), at, plan));
            }
            let number = ranges.len() as u32 - 1;
            let planned = &mut self.files[wanted.file as usize];
            planned.range = if planned.range == NO_RANGE || planned.range == number { number } else { SPLIT };
            let frame = ranges.last_mut().and_then(|range| range.frames.last_mut());
            frame.expect("a range has a frame").places.push(Place {
                chunk: wanted.chunk,
                chunk_offset: at.chunk_offset,
                chunk_bytes: at.chunk_bytes,
                file: planned.file.clone(),
                file_offset: wanted.file_offset,
            });
        }
        PlannedWindow { ranges, to_open: decide_manner(self.files) }
    }
}

/// Groups ranges for a store that is far (one request a pack) or near (one a range).
pub fn into_spans(ranges: Vec<ReadRange>, is_far: bool) -> Vec<ReadSpan> {
    let mut spans: Vec<ReadSpan> = Vec::new();
    for range in ranges {
        let joined = spans.last_mut().filter(|span| is_far && joins(span, &range));
        match joined {
            Some(span) => span.ranges.push(range),
            None => spans.push(ReadSpan { ranges: vec![range] }),
        }
    }
    spans
}

fn joins(span: &ReadSpan, next: &ReadRange) -> bool {
    let (Some(first), Some(last)) = (span.ranges.first(), span.ranges.last()) else { return false };
    let end = last.start + last.bytes as u64;
    let is_near = joins_span(end, next.start);
    first.pack.id == next.pack.id && is_near && next.start + next.bytes as u64 - first.start <= SPAN_BYTES_MAX
}

/// Plain bytes that a frame is expected to have, of which this place is known.
fn plain_bytes(at: &Location) -> usize {
    (at.chunk_offset as usize + at.chunk_bytes as usize).max(FRAME_PLAIN_BYTES_TARGET)
}

fn new_range(pack: Arc<PackInfo>, at: &Location, plan: &Arc<Permit>) -> ReadRange {
    let frame = FrameRead {
        number: at.frame,
        start: 0,
        sealed_bytes: at.frame_bytes as usize,
        plain_bytes: plain_bytes(at),
        places: Vec::new(),
    };
    ReadRange {
        pack,
        start: u64::from(at.frame_offset),
        bytes: frame.sealed_bytes,
        cost_bytes: frame.sealed_bytes + frame.plain_bytes,
        frames: vec![frame],
        plan: Some(plan.clone()),
    }
}

/// Makes the range cover `at` too. False if it would become too large, or the gap is too wide.
fn extend(range: &mut ReadRange, at: &Location, range_cost_bytes: usize) -> bool {
    let Some(last) = range.frames.last_mut() else { return false };
    let plain_bytes = plain_bytes(at);
    if last.number == at.frame {
        // The same frame: read already, whatever more of it is needed.
        let more_bytes = plain_bytes.saturating_sub(last.plain_bytes);
        last.plain_bytes += more_bytes;
        range.cost_bytes += more_bytes;
        return true;
    }
    let end = range.start + range.bytes as u64;
    let start = u64::from(at.frame_offset);
    if start < end || start - end > RANGE_GAP_BYTES_MAX {
        return false;
    }
    let bytes = (start - range.start) as usize + at.frame_bytes as usize;
    let cost_bytes = range.cost_bytes + (bytes - range.bytes) + plain_bytes;
    if bytes > RANGE_BYTES_MAX || cost_bytes > range_cost_bytes {
        return false;
    }
    let frame = FrameRead {
        number: at.frame,
        start: (start - range.start) as usize,
        sealed_bytes: at.frame_bytes as usize,
        plain_bytes,
        places: Vec::new(),
    };
    range.frames.push(frame);
    range.bytes = bytes;
    range.cost_bytes = cost_bytes;
    true
}

/// Decides for each file whether it is gathered whole, and returns those that are not and are not open yet.
fn decide_manner(files: Vec<WindowFile>) -> Vec<Arc<PlannedFile>> {
    let mut to_open = Vec::new();
    for WindowFile { file, complete, pieces, range } in files {
        file.expect(pieces);
        let is_whole = complete && range != SPLIT && file.size <= WHOLE_FILE_BYTES_MAX && file.is_whole();
        if !is_whole && pieces > 0 && file.open_file().is_none() && file.lost().is_none() {
            file.write_in_pieces();
            to_open.push(file);
        }
    }
    to_open
}

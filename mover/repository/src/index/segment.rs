//! Index segments: immutable, sorted tables of chunk locations. FORMAT.md "Index".
//!
//! Sealed blocks of at most [`INDEX_BLOCK_BYTES`], the pack table, a membership filter and a
//! directory, each a numbered frame under a key of the structure secret; then a trailer. A lookup
//! touches one block. Readers take whatever bytes come and give an error or what was sealed; every
//! length is checked against the object's before memory is taken.

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::Backend;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::crypto::{Aad, FrameOpener, FrameSealer, HEADER_BYTES, Header, KeyBlock, ObjectKind, Secrets, TAG_BYTES};
use crate::error::{RepositoryError, Result};
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId};
use crate::index::filter::{filter_bytes, filter_insert};
use crate::limits::{FRAME_BYTES_MAX, INDEX_BLOCK_BYTES, PACK_BYTES_MAX, PACK_FRAMES_MAX, SEGMENT_BYTES_MAX};
use crate::pack::{PackClass, PackInfo};

/// Bytes of one location in a block.
pub(crate) const ENTRY_BYTES: usize = 60;
/// Most locations of one block.
pub(crate) const BLOCK_ENTRIES_MAX: usize = INDEX_BLOCK_BYTES / ENTRY_BYTES;
const PACK_RECORD_BYTES: usize = 32 + 8 + 1 + 4 + 84 + 8;
const BLOCK_RECORD_BYTES: usize = 32 + 8 + 4;
const TRAILER_BYTES: usize = 16;
pub(super) const TRAILER_MAGIC: [u8; 8] = *b"moveridx";
const TAIL_BYTES: u64 = 64 << 10;
/// Segments up to this length are read in one piece and held until they are loaded.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
/// Blocks are read in runs of up to this many bytes.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// One location as a segment holds it; the pack is a position in the segment's pack table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentEntry {
    pub id: ChunkId,
    pub pack: u32,
    pub frame: u32,
    pub frame_offset: u64,
    pub frame_bytes: u32,
    pub chunk_offset: u32,
    pub chunk_bytes: u32,
}

impl SegmentEntry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.pack.to_le_bytes());
        out.extend_from_slice(&self.frame.to_le_bytes());
        out.extend_from_slice(&self.frame_offset.to_le_bytes());
        out.extend_from_slice(&self.frame_bytes.to_le_bytes());
        out.extend_from_slice(&self.chunk_offset.to_le_bytes());
        out.extend_from_slice(&self.chunk_bytes.to_le_bytes());
    }

    /// Decodes one record and refuses what no pack can hold.
    pub(crate) fn decode(record: &[u8; ENTRY_BYTES], packs: usize) -> std::result::Result<Self, DecodeError> {
        let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let entry = SegmentEntry {
            id: ChunkId(record[..32].try_into().expect("32 bytes")),
            pack: word(32),
            frame: word(36),
            frame_offset: u64::from_le_bytes(record[40..48].try_into().expect("eight bytes")),
            frame_bytes: word(48),
            chunk_offset: word(52),
            chunk_bytes: word(56),
        };
        let refused = entry.pack as usize >= packs
            || entry.frame >= PACK_FRAMES_MAX
            || entry.frame_offset > PACK_BYTES_MAX
            || entry.frame_bytes as usize > FRAME_BYTES_MAX
            || u64::from(entry.chunk_offset) + u64::from(entry.chunk_bytes) > FRAME_BYTES_MAX as u64;
        if refused { Err(DecodeError::Invalid { field: "location" }) } else { Ok(entry) }
    }
}

/// Name of a segment's object.
pub(crate) fn segment_name(id: &ObjectId) -> String {
    format!("index/{id}")
}

/// Id in the name of a segment's object.
pub(crate) fn parse_segment_name(name: &str) -> Option<ObjectId> {
    name.strip_prefix("index/")?.parse().ok()
}

/// What a segment is made of.
pub(crate) struct SegmentParts<'a> {
    pub level: u8,
    pub replaces: &'a [ObjectId],
    pub packs: &'a [PackInfo],
    /// Sorted.
    pub entries: &'a [SegmentEntry],
}

/// Encodes and seals a segment of a fresh random id.
pub(crate) fn encode_segment(secrets: &Secrets, id: &ObjectId, parts: &SegmentParts<'_>) -> Bytes {
    assert!(parts.entries.is_sorted(), "a segment is sorted");
    let generation = secrets.structure_generation();
    let header = Header::new(ObjectKind::IndexSegment, generation);
    let key = secrets
        .structure_key(generation, ObjectKind::IndexSegment, id.as_bytes(), "a new segment")
        .expect("the current generation is known");
    let mut sealer = FrameSealer::new(key, Aad::new(&header, &secrets.repository_id(), id.as_bytes()));

    let mut object = Vec::with_capacity(parts.entries.len() * (ENTRY_BYTES + 2) + parts.packs.len() * 144 + 4096);
    object.extend_from_slice(&header.encode());
    object.extend_from_slice(id.as_bytes());
    let mut directory = Encoder::new();
    directory.u8(parts.level);
    directory.count(parts.replaces.len());
    parts.replaces.iter().for_each(|id| directory.raw(id.as_bytes()));
    directory.u64(parts.entries.len() as u64);
    directory.count(parts.entries.len().div_ceil(BLOCK_ENTRIES_MAX));
    let mut filter = vec![0; filter_bytes(parts.entries.len())];
    for block in parts.entries.chunks(BLOCK_ENTRIES_MAX) {
        directory.raw(block[0].id.as_bytes());
        directory.u64(object.len() as u64);
        directory.count(block.len());
        let from = object.len();
        for entry in block {
            entry.encode(&mut object);
            filter_insert(&mut filter, &entry.id);
        }
        seal_tail(&mut sealer, &mut object, from);
    }
    put_part(&mut directory, &mut sealer, &mut object, &encode_packs(parts.packs));
    put_part(&mut directory, &mut sealer, &mut object, &filter);
    let mut sealed_directory = directory.finish();
    let tag = sealer.seal_toc(&mut sealed_directory);
    object.extend_from_slice(&sealed_directory);
    object.extend_from_slice(&tag);
    object.extend_from_slice(&((sealed_directory.len() + TAG_BYTES) as u32).to_le_bytes());
    object.extend_from_slice(&[0; 4]);
    object.extend_from_slice(&TRAILER_MAGIC);
    Bytes::from(object)
}

fn seal_tail(sealer: &mut FrameSealer, object: &mut Vec<u8>, from: usize) {
    let (_, tag) = sealer.seal(&mut object[from..]);
    object.extend_from_slice(&tag);
}

fn put_part(directory: &mut Encoder, sealer: &mut FrameSealer, object: &mut Vec<u8>, plain: &[u8]) {
    let from = object.len();
    object.extend_from_slice(plain);
    seal_tail(sealer, object, from);
    directory.u64(from as u64);
    directory.u32((object.len() - from) as u32);
}

pub(super) fn encode_packs(packs: &[PackInfo]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.count(packs.len());
    for pack in packs {
        out.raw(pack.id.as_bytes());
        out.u64(pack.writer.0);
        out.u8(match pack.class {
            PackClass::Data => 0,
            PackClass::Structure => 1,
        });
        out.u32(pack.generation);
        out.raw(&pack.key_block.0);
        out.u64(pack.bytes);
    }
    out.finish()
}

pub(super) fn decode_packs(plain: &[u8]) -> std::result::Result<Vec<PackInfo>, DecodeError> {
    let mut input = Decoder::new(plain);
    let count = input.count(PACK_RECORD_BYTES, "packs")?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        packs.push(PackInfo {
            id: PackId(input.array()?),
            writer: LogNumber(input.u64()?),
            class: match input.u8()? {
                0 => PackClass::Data,
                1 => PackClass::Structure,
                _ => return Err(DecodeError::Invalid { field: "pack class" }),
            },
            generation: input.u32()?,
            key_block: KeyBlock(input.array()?),
            bytes: input.u64()?,
        });
    }
    input.finish()?;
    Ok(packs)
}

/// Where a block is, and what it begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRef {
    pub first: ChunkId,
    pub offset: u64,
    pub entries: u32,
}

impl BlockRef {
    fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + (self.entries as usize * ENTRY_BYTES + TAG_BYTES) as u64
    }
}

/// An opened segment: its directory is in memory, all else is read on demand.
pub(crate) struct Segment {
    pub id: ObjectId,
    pub name: String,
    pub level: u8,
    pub replaces: Vec<ObjectId>,
    pub entries: u64,
    pub blocks: Vec<BlockRef>,
    /// Length of the object.
    object_bytes: u64,
    /// Where its directory begins.
    bytes: u64,
    packs: (u64, u32),
    filter: (u64, u32),
    opener: FrameOpener,
    backend: Arc<dyn Backend>,
    /// The whole object, while it is small and being loaded.
    whole: Option<Bytes>,
}

impl Segment {
    /// Reads and opens the directory of the segment `name` of `bytes` bytes.
    pub(crate) async fn open(backend: &Arc<dyn Backend>, secrets: &Secrets, name: &str, bytes: u64) -> Result<Segment> {
        match Self::open_once(backend, secrets, name, bytes).await {
            Err(error) if error.blames_bytes() && backend.distrust_cached(name) => {
                Self::open_once(backend, secrets, name, bytes).await
            }
            outcome => outcome,
        }
    }

    async fn open_once(backend: &Arc<dyn Backend>, secrets: &Secrets, name: &str, bytes: u64) -> Result<Segment> {
        let corrupt = |reason: &str| RepositoryError::corrupt(name, reason);
        let id = parse_segment_name(name).ok_or_else(|| corrupt("its name is not that of a segment"))?;
        let head_bytes = (HEADER_BYTES + 32) as u64;
        if bytes < head_bytes + TRAILER_BYTES as u64 || bytes > 2 * SEGMENT_BYTES_MAX as u64 {
            return Err(corrupt("its length cannot be that of a segment"));
        }
        let whole =
            if bytes <= WHOLE_BYTES_MAX { Some(backend.get_cacheable(name, 0..bytes, bytes).await?) } else { None };
        let read = async |range: std::ops::Range<u64>| -> Result<Bytes> {
            match &whole {
                Some(object) => Ok(object.slice(range.start as usize..range.end as usize)),
                None => Ok(backend.get_cacheable(name, range, bytes).await?),
            }
        };
        let head = read(0..head_bytes).await?;
        let header = Header::decode(&head, ObjectKind::IndexSegment, name)?;
        if head[HEADER_BYTES..] != id.0 {
            return Err(corrupt("the header names another segment"));
        }
        let tail_from = bytes - bytes.min(TAIL_BYTES);
        let tail = read(tail_from..bytes).await?;
        let (sizes, trailer) = tail[tail.len() - TRAILER_BYTES..].split_at(8);
        if trailer != TRAILER_MAGIC || sizes[4..] != [0; 4] {
            return Err(corrupt("it does not end with the trailer of a segment"));
        }
        let length = u64::from(u32::from_le_bytes(sizes[..4].try_into().expect("four bytes")));
        let end = bytes - TRAILER_BYTES as u64;
        if length < TAG_BYTES as u64 || length > end - head_bytes {
            return Err(corrupt("its trailer gives an impossible length"));
        }
        let sealed = if end - length >= tail_from {
            tail.slice((end - length - tail_from) as usize..(end - tail_from) as usize)
        } else {
            read(end - length..end).await?
        };
        let key = secrets.structure_key(header.generation, ObjectKind::IndexSegment, id.as_bytes(), name)?;
        let opener = FrameOpener::new(&key, Aad::new(&header, &secrets.repository_id(), id.as_bytes()));
        let mut buffer = sealed.to_vec();
        let plain = opener.open_toc(&mut buffer).map_err(|error| RepositoryError::corrupt(name, error))?;
        let mut segment = Segment {
            id,
            name: name.to_string(),
            level: 0,
            replaces: Vec::new(),
            entries: 0,
            blocks: Vec::new(),
            object_bytes: bytes,
            bytes: end - length,
            packs: (0, 0),
            filter: (0, 0),
            opener,
            backend: backend.clone(),
            whole: whole.clone(),
        };
        segment.decode_directory(plain).map_err(RepositoryError::decoding(name))?;
        Ok(segment)
    }

    fn decode_directory(&mut self, plain: &[u8]) -> std::result::Result<(), DecodeError> {
        let mut input = Decoder::new(plain);
        self.level = input.u8()?;
        for _ in 0..input.count(32, "replaced segments")? {
            self.replaces.push(ObjectId(input.array()?));
        }
        self.entries = input.u64()?;
        let count = input.count(BLOCK_RECORD_BYTES, "blocks")?;
        let mut total = 0u64;
        self.blocks = Vec::with_capacity(count);
        for _ in 0..count {
            let block = BlockRef { first: ChunkId(input.array()?), offset: input.u64()?, entries: input.u32()? };
            let rises = self.blocks.last().is_none_or(|last| last.first <= block.first);
            let in_bounds = block.entries > 0 && block.entries as usize <= BLOCK_ENTRIES_MAX;
            if !rises || !in_bounds || block.offset > self.bytes || block.range().end > self.bytes {
                return Err(DecodeError::Invalid { field: "block" });
            }
            total += u64::from(block.entries);
            self.blocks.push(block);
        }
        self.packs = (input.u64()?, input.u32()?);
        self.filter = (input.u64()?, input.u32()?);
        for (offset, length) in [self.packs, self.filter] {
            if (length as usize) < TAG_BYTES || offset.saturating_add(u64::from(length)) > self.bytes {
                return Err(DecodeError::Invalid { field: "part" });
            }
        }
        input.finish()?;
        if total != self.entries {
            return Err(DecodeError::Invalid { field: "number of locations" });
        }
        Ok(())
    }

    /// Reads `range` and opens it by `open`; what a cache gave and does not open is read from the store.
    async fn read_and_open<T>(&self, range: std::ops::Range<u64>, open: impl Fn(&Bytes) -> Result<T>) -> Result<T> {
        let read = || self.backend.get_cacheable(&self.name, range.clone(), self.object_bytes);
        let sealed = match &self.whole {
            Some(object) => object.slice(range.start as usize..range.end as usize),
            None => read().await?,
        };
        match open(&sealed) {
            Err(error) if error.blames_bytes() && self.backend.distrust_cached(&self.name) => open(&read().await?),
            outcome => outcome,
        }
    }

    async fn part(&self, number: u32, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.read_and_open(range, |sealed| self.open_part(number, sealed.to_vec())).await
    }

    fn open_part(&self, number: u32, mut buffer: Vec<u8>) -> Result<Vec<u8>> {
        let opened = self.opener.open(number, false, &mut buffer);
        let length = opened.map_err(|error| RepositoryError::corrupt(&self.name, error))?.len();
        buffer.truncate(length);
        Ok(buffer)
    }

    /// The pack table.
    pub(crate) async fn read_packs(&self) -> Result<Vec<PackInfo>> {
        let (offset, length) = self.packs;
        let plain = self.part(self.blocks.len() as u32, offset..offset + u64::from(length)).await?;
        decode_packs(&plain).map_err(RepositoryError::decoding(&self.name))
    }

    /// The membership filter.
    pub(crate) async fn read_filter(&self) -> Result<Vec<u8>> {
        let (offset, length) = self.filter;
        let filter = self.part(self.blocks.len() as u32 + 1, offset..offset + u64::from(length)).await?;
        if filter.len() != filter_bytes(self.entries as usize) {
            return Err(RepositoryError::corrupt(&self.name, "its filter has another length"));
        }
        Ok(filter)
    }

    /// Plain bytes of one block.
    pub(crate) async fn read_block(&self, number: usize) -> Result<Vec<u8>> {
        self.part(number as u32, self.blocks[number].range()).await
    }

    /// Every location in order, a few MiB at a time.
    pub(crate) async fn for_each(&self, packs: usize, mut visit: impl FnMut(SegmentEntry)) -> Result<()> {
        let (mut at, mut last) = (0, None);
        while at < self.blocks.len() {
            let (entries, next) = self.read_run(at, RUN_BYTES_MAX, packs).await?;
            let is_sorted = last.is_none_or(|last| Some(last) <= entries.first().map(|entry| entry.id));
            if !is_sorted {
                return Err(RepositoryError::corrupt(&self.name, "its locations are not sorted"));
            }
            last = entries.last().map(|entry| entry.id);
            entries.into_iter().for_each(&mut visit);
            at = next;
        }
        Ok(())
    }

    /// The locations in block `at` and in as many behind it as lie in one piece of at most `bytes_max`, and
    /// the number of the block after these.
    pub(crate) async fn read_run(&self, at: usize, bytes_max: u64, packs: usize) -> Result<(Vec<SegmentEntry>, usize)> {
        let from = self.blocks[at].offset;
        let mut until = at + 1;
        let follows = |n: usize| self.blocks[n].offset == self.blocks[n - 1].range().end;
        while until < self.blocks.len() && follows(until) && self.blocks[until].range().end - from <= bytes_max {
            until += 1;
        }
        let range = from..self.blocks[until - 1].range().end;
        let entries = self.read_and_open(range, |bytes| self.open_run(at..until, bytes, packs)).await?;
        Ok((entries, until))
    }

    fn open_run(&self, numbers: std::ops::Range<usize>, bytes: &Bytes, packs: usize) -> Result<Vec<SegmentEntry>> {
        let from = self.blocks[numbers.start].offset;
        let mut entries: Vec<SegmentEntry> = Vec::new();
        for number in numbers {
            let range = self.blocks[number].range();
            let sealed = bytes[(range.start - from) as usize..(range.end - from) as usize].to_vec();
            let plain = self.open_part(number as u32, sealed)?;
            for record in plain.as_chunks::<ENTRY_BYTES>().0 {
                let entry = SegmentEntry::decode(record, packs).map_err(RepositoryError::decoding(&self.name))?;
                if entries.last().is_some_and(|last| last.id > entry.id) {
                    return Err(RepositoryError::corrupt(&self.name, "its locations are not sorted"));
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Bytes of the object that are held in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.whole.as_ref().map_or(0, Bytes::len)
    }

    /// Lets go of the object's bytes; they are read again when needed.
    pub(crate) fn forget_bytes(&mut self) {
        self.whole = None;
    }
}

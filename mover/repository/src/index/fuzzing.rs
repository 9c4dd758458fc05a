//! Fuzz targets of index segments: the object as a store gives it, and what its sealed parts hold.

use std::sync::Arc;

use super::segment::{
    ENTRY_BYTES, Segment, SegmentEntry, SegmentParts, TRAILER_MAGIC, decode_packs, encode_packs, encode_segment,
    segment_name,
};
use crate::backend::{Backend, MemoryBackend};
use crate::blocking::block_on;
use crate::crypto::{
    Aad, FrameOpener, FrameSealer, HEADER_BYTES, Header, KEY_BLOCK_BYTES, KeyBlock, ObjectKind, TAG_BYTES, random_array,
};
use crate::error::Result;
use crate::fuzzing::{SECRETS, Target, is_canonical};
use crate::ids::{ChunkId, LogNumber, ObjectId, PackId};
use crate::pack::{PackClass, PackInfo};

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // Beside the decoder, the store in memory that it reads from holds the object.
        Target::new("index_segment", decode_segment, || vec![("segment", encode(&[]))]),
        Target::new("index_directory", decode_directory, directories),
        Target::new(
            "index_packs",
            |bytes| is_canonical(bytes, decode_packs(bytes), |packs| encode_packs(packs)),
            || vec![("none", encode_packs(&[])), ("two", encode_packs(&packs()))],
        ),
        Target::new("index_block", decode_block, || vec![("location", entry_bytes(&entries()[0]))]),
    ]
}

fn packs() -> [PackInfo; 2] {
    [(1, PackClass::Data), (2, PackClass::Structure)].map(|(seed, class)| PackInfo {
        id: PackId([seed; 32]),
        writer: LogNumber(3),
        class,
        generation: 1,
        key_block: KeyBlock([if class == PackClass::Data { 5 } else { 0 }; KEY_BLOCK_BYTES]),
        bytes: 1 << 20,
    })
}

fn entries() -> [SegmentEntry; 2] {
    [0, 1].map(|pack| SegmentEntry {
        id: ChunkId([pack as u8; 32]),
        pack,
        frame: 2,
        frame_offset: 148,
        frame_bytes: 1000,
        chunk_offset: 0,
        chunk_bytes: 900,
    })
}

fn entry_bytes(entry: &SegmentEntry) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    bytes
}

fn encode(replaces: &[ObjectId]) -> Vec<u8> {
    let parts = SegmentParts { level: 1, replaces, packs: &packs(), entries: &entries() };
    encode_segment(&SECRETS, &ObjectId(random_array()), &parts).to_vec()
}

/// The id that the object itself gives, so that seeds of random ids open.
fn id_in(object: &[u8]) -> Option<ObjectId> {
    object.get(HEADER_BYTES..HEADER_BYTES + 32).map(|id| ObjectId(id.try_into().expect("32 bytes")))
}

fn open(object: &[u8]) -> Option<Segment> {
    let name = segment_name(&id_in(object)?);
    let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    block_on(store.create(&name, object.to_vec().into())).expect("memory takes any object");
    block_on(Segment::open(&store, &SECRETS, &name, object.len() as u64)).ok()
}

/// Reads all parts, as a load of the index does.
fn read_all(segment: &Segment) -> Result<()> {
    let packs = block_on(segment.read_packs())?;
    block_on(segment.read_filter())?;
    block_on(segment.for_each(packs.len(), |_| {}))
}

fn decode_segment(bytes: &[u8]) -> bool {
    open(bytes).is_some_and(|segment| read_all(&segment).is_ok())
}

fn aad(header: &Header, id: &ObjectId) -> Aad {
    Aad::new(header, &SECRETS.repository_id(), id.as_bytes())
}

/// Room for the parts that a directory names; nothing in it opens.
const BODY_BYTES: usize = 1 << 10;

/// Seals `bytes` as the directory of a segment whose other parts are zeros.
fn decode_directory(bytes: &[u8]) -> bool {
    let (id, header) = (ObjectId(random_array()), Header::new(ObjectKind::IndexSegment, 1));
    let key = SECRETS.structure_key(1, ObjectKind::IndexSegment, id.as_bytes(), "a segment").expect("a generation");
    let mut directory = bytes.to_vec();
    let tag = FrameSealer::new(key, aad(&header, &id)).seal_toc(&mut directory);
    let length = ((directory.len() + TAG_BYTES) as u32).to_le_bytes();
    let head = [&header.encode()[..], id.as_bytes(), &[0; BODY_BYTES]].concat();
    let object = [&head[..], &directory, &tag, &length, &[0; 4], &TRAILER_MAGIC].concat();
    let Some(segment) = open(&object) else { return false };
    let _ = read_all(&segment);
    for number in 0..segment.blocks.len() {
        let _ = block_on(segment.read_block(number));
    }
    true
}

/// Plain directories of real segments.
fn directories() -> Vec<(&'static str, Vec<u8>)> {
    let directory = |replaces: &[ObjectId]| {
        let object = encode(replaces);
        let id = id_in(&object).expect("a segment has an id");
        let header = Header::decode(&object, ObjectKind::IndexSegment, "a segment").expect("a header");
        let key = SECRETS.structure_key(1, ObjectKind::IndexSegment, id.as_bytes(), "a segment").expect("a generation");
        let end = object.len() - 16;
        let length = u32::from_le_bytes(object[end..end + 4].try_into().expect("four bytes")) as usize;
        let mut sealed = object[end - length..end].to_vec();
        FrameOpener::new(&key, aad(&header, &id)).open_toc(&mut sealed).expect("its own directory").to_vec()
    };
    vec![("plain", directory(&[])), ("merged", directory(&[ObjectId([1; 32]), ObjectId([2; 32])]))]
}

fn decode_block(bytes: &[u8]) -> bool {
    let Ok(record) = <&[u8; ENTRY_BYTES]>::try_from(bytes) else { return false };
    let Ok(entry) = SegmentEntry::decode(record, 2) else { return false };
    assert!(entry_bytes(&entry) == bytes, "another encoding of the same location was accepted");
    true
}

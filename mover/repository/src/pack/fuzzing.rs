//! Fuzz targets of packs: the object as a store gives it, its table of contents, its frames.

use super::contents::{CHUNK_RECORD_BYTES, decode_contents, encode_contents};
use super::frame::{decode_frame, decode_frame_bytes};
use super::{
    CompressedFrame, FrameInfo, PACK_HEADER_BYTES, PackClass, PackOpener, PackSealer, open_contents, pack_name,
};
use crate::crypto::{FrameKey, HEADER_BYTES, random_array};
use crate::fuzzing::{SECRETS, Target, is_canonical};
use crate::ids::{ChunkId, LogNumber, PackId};
use crate::limits::FRAME_BYTES_MAX;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("pack", decode_pack, packs),
        Target::new("pack_contents", decode_table, tables),
        // A frame may unfold to the largest one, by its format; the payload is copied once a reader.
        Target::new("pack_frame", decode_plaintext, frames).within(4, FRAME_BYTES_MAX + (16 << 10)),
    ]
}

const WRITER: LogNumber = LogNumber(1);

fn seal(class: PackClass, key: Option<FrameKey>) -> Vec<u8> {
    let mut sealer = PackSealer::with_parts(&SECRETS, WRITER, class, PackId(random_array()), key);
    let chunks = [(SECRETS.chunk_id(b"hello"), 5), (SECRETS.chunk_id(b"world"), 5)];
    let parts = [sealer.header(), sealer.seal_raw(b"helloworld", &chunks), sealer.seal_raw(b"", &[])];
    let (tail, _) = sealer.finish();
    [&parts.concat()[..], &tail].concat()
}

fn packs() -> Vec<(&'static str, Vec<u8>)> {
    let random = FrameKey::random();
    vec![("data", seal(PackClass::Data, Some(random))), ("structure", seal(PackClass::Structure, None))]
}

/// Under the name that the object itself gives, so that seeds of random ids open.
fn decode_pack(bytes: &[u8]) -> bool {
    let Some(id) = bytes.get(HEADER_BYTES..HEADER_BYTES + 32) else { return false };
    let name = pack_name(WRITER, &PackId(id.try_into().expect("32 bytes")));
    let Ok(contents) = open_contents(&SECRETS, &name, bytes.len() as u64, bytes, bytes) else { return false };
    let Ok(opener) = PackOpener::new(&SECRETS, &contents.info()) else { return false };
    contents.frames.iter().all(|frame| {
        let from = frame.offset as usize;
        let sealed = &bytes[from..from + frame.sealed_bytes as usize];
        opener.open_frame(frame.number, sealed).is_ok()
    })
}

/// Where the frames end, which a reader knows from the object, and the plain table.
fn tables() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |number, offset, chunks: u8| FrameInfo {
        number,
        offset,
        sealed_bytes: 100,
        blake3: [9; 32],
        chunks: (0..chunks).map(|seed| (ChunkId([seed; 32]), 40)).collect(),
    };
    let start = PACK_HEADER_BYTES as u64;
    let table = |end: u64, frames: &[FrameInfo]| [&end.to_le_bytes()[..], &encode_contents(WRITER, frames)].concat();
    let two = [frame(3, start, 2), frame(9, start + 100, 0)];
    vec![("empty", table(start, &[])), ("two-frames", table(start + 200, &two))]
}

fn decode_table(bytes: &[u8]) -> bool {
    let Some((end, plain)) = bytes.split_first_chunk() else { return false };
    let decoded = decode_contents(plain, u64::from_le_bytes(*end));
    if let Ok((_, frames)) = &decoded {
        let chunks: usize = frames.iter().map(|frame| frame.chunks.len()).sum();
        assert!(chunks * CHUNK_RECORD_BYTES <= plain.len());
    }
    is_canonical(plain, decoded, |(writer, frames)| encode_contents(*writer, frames))
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut zstd = zstd::bulk::Compressor::new(1).expect("a compressor");
    let text = b"all work and no play ".repeat(20);
    let compressed = CompressedFrame::of(&mut zstd, &text).expect("text shrinks");
    let raw = CompressedFrame::raw(b"plain bytes");
    vec![("zstd", compressed.into_plaintext()), ("raw", raw.into_plaintext())]
}

/// Both ways to decode a frame say the same.
fn decode_plaintext(bytes: &[u8]) -> bool {
    let _ = CompressedFrame::from_plaintext(bytes.to_vec());
    let by_copy = decode_frame(bytes.to_vec()).map(|plain| *blake3::hash(&plain).as_bytes());
    let in_place = decode_frame_bytes(bytes.to_vec()).map(|plain| *blake3::hash(&plain).as_bytes());
    assert!(by_copy == in_place, "the two decoders of a frame disagree");
    by_copy.is_ok()
}

//! The stages that need no file system, one core each: chunk, hash, compress, seal; and back: open, decompress.
//!
//! Each is the crate call that the data path makes, on the chunks and frames of this data, and nothing around it.

use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::clock::{Spent, measure};
use crate::crowd::speed_in_a_crowd;
use crate::sample::{Sample, frames};
use crate::{Result, during};

/// Plain bytes of a frame of small chunks.
pub const FRAME_BYTES: usize = 256 << 10;
const CHUNK_BYTES: (usize, usize, usize) = (64 << 10, 256 << 10, 1 << 20);
/// A frame that does not shrink by this share is stored raw.
const RAW_ABOVE: f64 = 0.97;
/// Each stage runs over the sample until it took this long, so that a small sample is measured too.
const SECONDS_LEAST: f64 = 0.3;

/// Bytes per CPU second of each stage, on this data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// FastCDC 2020 at 64 KiB, 256 KiB, 1 MiB.
    pub chunk: f64,
    /// Keyed BLAKE3, chunk by chunk.
    pub hash: f64,
    /// zstd at the level asked for, frame by frame, of frames that shrink.
    pub compress: f64,
    /// The same over all frames, as a plain tool would do it.
    pub compress_all: f64,
    /// AES-256-GCM, frame by frame, of what is stored.
    pub seal: f64,
    /// The way back of `seal`.
    pub open: f64,
    /// The way back of `compress`, in plain bytes.
    pub decompress: f64,
    /// The same with the frames that did not shrink, which are only copied.
    pub decompress_all: f64,
    /// Share of plain bytes in frames that shrink.
    pub compressible: f64,
    /// Stored bytes ÷ plain bytes.
    pub ratio: f64,
}

/// What a level comes to on this data, one core.
#[derive(Clone, Copy, Debug)]
pub struct LevelRate {
    /// zstd level.
    pub level: i32,
    /// Bytes per CPU second, over all frames.
    pub compress: f64,
    /// Stored bytes ÷ plain bytes.
    pub ratio: f64,
}

/// Speed of a core while all cores work ÷ its speed alone, at the work of this data. Not from a thread that is pinned.
pub fn in_a_crowd(sample: &Sample, level: i32) -> Result<f64> {
    speed_in_a_crowd(sample, &frames(&Gear::new().chunks(sample)), level)
}

/// Compresses the sample at several levels.
pub fn levels(sample: &Sample, levels: &[i32]) -> Result<Vec<LevelRate>> {
    let frames = frames(&Gear::new().chunks(sample));
    levels
        .iter()
        .map(|level| {
            let packed = compress_each(sample, &frames, *level)?;
            let stored: usize = packed.frames.iter().map(Vec::len).sum();
            Ok(LevelRate { level: *level, compress: packed.rate_all, ratio: stored as f64 / sample.bytes.len() as f64 })
        })
        .collect()
}

/// Measures all of them.
pub fn rates(sample: &Sample, level: i32) -> Result<Rates> {
    let gear = Gear::new();
    let (chunks, chunk) = repeated(sample.bytes.len(), || gear.chunks(sample));
    let ((), hash) = repeated(sample.bytes.len(), || hash_all(sample, &chunks));
    let frames = frames(&chunks);
    let packed = compress_each(sample, &frames, level)?;
    let stored: usize = packed.frames.iter().map(Vec::len).sum();
    let (seal, open) = seal_and_open(&packed.frames)?;
    Ok(Rates {
        chunk,
        hash,
        compress: packed.rate,
        compress_all: packed.rate_all,
        seal,
        open,
        decompress: decompress_rate(&packed, false)?,
        decompress_all: decompress_rate(&packed, true)?,
        compressible: packed.shrunk_bytes as f64 / sample.bytes.len() as f64,
        ratio: stored as f64 / sample.bytes.len() as f64,
    })
}

/// Runs `work` over `bytes` bytes until it took long enough; bytes per CPU second of the best round.
fn repeated<T>(bytes: usize, mut work: impl FnMut() -> T) -> (T, f64) {
    let (mut result, first) = measure(&mut work);
    let (mut best, mut total) = (first.cpu, first.cpu);
    while total < SECONDS_LEAST {
        let (again, spent) = measure(&mut work);
        result = again;
        best = best.min(spent.cpu);
        total += spent.cpu.max(1e-6);
    }
    (result, bytes as f64 / best.max(1e-9))
}

struct Gear {
    table: [u64; 256],
    shifted: [u64; 256],
}

impl Gear {
    fn new() -> Gear {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_derive_key("mover-bench gear").finalize_xof().fill(&mut bytes);
        let mut gear = Gear { table: [0; 256], shifted: [0; 256] };
        for (number, word) in bytes.chunks_exact(8).enumerate() {
            gear.table[number] = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            gear.shifted[number] = gear.table[number] << 1;
        }
        gear
    }

    fn chunks(&self, sample: &Sample) -> Vec<Range<usize>> {
        let (least, average, most) = CHUNK_BYTES;
        let (small, large) = select_masks(average, Normalization::Level1);
        let mut chunks = Vec::with_capacity(sample.files.len() + sample.bytes.len() / average);
        for file in &sample.files {
            let mut start = file.start;
            while start < file.end {
                let rest = &sample.bytes[start..file.end];
                let tables = (&self.table, &self.shifted);
                let cut =
                    cut_gear(rest, least, average, most, small, large, small << 1, large << 1, tables.0, tables.1);
                chunks.push(start..start + cut.1);
                start += cut.1;
            }
        }
        chunks
    }
}

fn hash_all(sample: &Sample, chunks: &[Range<usize>]) {
    let key = [7; 32];
    for chunk in chunks {
        std::hint::black_box(blake3::keyed_hash(&key, &sample.bytes[chunk.clone()]));
    }
}

struct Packed {
    /// What would be stored, sealed apart.
    frames: Vec<Vec<u8>>,
    /// Frames that shrank, with their plain length.
    shrunk: Vec<(usize, usize)>,
    shrunk_bytes: usize,
    rate: f64,
    rate_all: f64,
}

fn compress_each(sample: &Sample, frames: &[Range<usize>], level: i32) -> Result<Packed> {
    let mut compressor = during("make a compressor", zstd::bulk::Compressor::new(level))?;
    let mut buffer = vec![0; zstd::zstd_safe::compress_bound(4 << 20)];
    let mut packed = Packed { frames: Vec::new(), shrunk: Vec::new(), shrunk_bytes: 0, rate: 0.0, rate_all: 0.0 };
    let (mut spent, mut spent_all) = (Spent::default(), Spent::default());
    for frame in frames {
        let plain = &sample.bytes[frame.clone()];
        let (length, took) = measure(|| compressor.compress_to_buffer(plain, &mut buffer[..]));
        let stored = during("compress", length)?;
        spent_all.cpu += took.cpu;
        if stored as f64 > plain.len() as f64 * RAW_ABOVE {
            packed.frames.push(plain.to_vec());
            continue;
        }
        packed.shrunk.push((packed.frames.len(), plain.len()));
        packed.shrunk_bytes += plain.len();
        packed.frames.push(buffer[..stored].to_vec());
        spent.cpu += took.cpu;
    }
    packed.rate = packed.shrunk_bytes as f64 / spent.cpu.max(1e-9);
    packed.rate_all = sample.bytes.len() as f64 / spent_all.cpu.max(1e-9);
    Ok(packed)
}

/// Bytes per CPU second of frames that shrank; with `all`, those that were left raw are copied and counted too.
fn decompress_rate(packed: &Packed, all: bool) -> Result<f64> {
    let mut decompressor = during("make a decompressor", zstd::bulk::Decompressor::new())?;
    let mut buffer = vec![0; 4 << 20];
    let mut failure = None;
    let shrunk: Vec<usize> = packed.shrunk.iter().map(|frame| frame.0).collect();
    let raw: Vec<usize> =
        (0..packed.frames.len()).filter(|number| all && shrunk.binary_search(number).is_err()).collect();
    let bytes = packed.shrunk_bytes + raw.iter().map(|number| packed.frames[*number].len()).sum::<usize>();
    let ((), rate) = repeated(bytes, || {
        for (number, plain) in &packed.shrunk {
            match decompressor.decompress_to_buffer(&packed.frames[*number], &mut buffer[..]) {
                Ok(length) if length == *plain => {}
                other => failure = Some(format!("a frame decompressed to {other:?}")),
            }
        }
        for number in &raw {
            let frame = &packed.frames[*number];
            std::hint::black_box(&mut buffer)[..frame.len()].copy_from_slice(frame);
        }
    });
    failure.map_or(Ok(rate), Err)
}

/// Each frame is worked on where the step before has just left it, in the cache, as in the data path.
fn seal_and_open(frames: &[Vec<u8>]) -> Result<(f64, f64)> {
    let unbound = during("make a key", UnboundKey::new(&AES_256_GCM, &[9; 32]))?;
    let key = LessSafeKey::new(unbound);
    let nonce = |number: usize| {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    };
    let aad = || Aad::from(b"header");
    let total: usize = frames.iter().map(Vec::len).sum();
    let (mut seal, mut open) = (Spent::default(), Spent::default());
    let mut frame = Vec::new();
    for (number, plain) in frames.iter().enumerate() {
        frame.clear();
        frame.extend_from_slice(plain);
        let (tag, spent) = measure(|| key.seal_in_place_separate_tag(nonce(number), aad(), &mut frame));
        seal.cpu += spent.cpu;
        frame.extend_from_slice(during("seal", tag)?.as_ref());
        let (opened, spent) = measure(|| key.open_in_place(nonce(number), aad(), &mut frame).is_ok());
        open.cpu += spent.cpu;
        if !opened {
            return Err("a sealed frame did not open".to_owned());
        }
    }
    Ok((total as f64 / seal.cpu.max(1e-9), total as f64 / open.cpu.max(1e-9)))
}

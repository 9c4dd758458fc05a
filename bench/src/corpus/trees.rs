//! Trees of many files: `source` (text), `mixed` (what lies on a file server), `aged` (where ageing begins), `wide`
//! (a million tiny files).
//!
//! Files are written once, in the order of their numbers; nothing is overwritten.

use std::io::Result;
use std::path::Path;

use super::bytes::{Stream, Text, binary};

const SOURCE_FILES: f64 = 86_000.0;
const SOURCE_FILE_BYTES_MEAN: f64 = 17_500.0;
const MIXED_FILES: f64 = 24_000.0;
const AGED_FILES: f64 = 6_000.0;
const WIDE_FILES: f64 = 1_000_000.0;
const WIDE_FILE_BYTES_MOST: u64 = 200;
/// Tiny files in one directory.
const WIDE_FILES_A_DIRECTORY: u64 = 1000;
/// One file of `mixed` in so many is as large as an archive or a disk of a small machine.
const MIXED_LARGE_EVERY: u64 = 6000;
const MIXED_LARGE_BYTES: usize = 64 << 20;

fn count(files: f64, scale: f64) -> u64 {
    (files * scale).max(1.0) as u64
}

/// Some 86,000 files of text, 1.4 GiB, of the sizes of a large program.
pub fn source(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    let text = Text::new(seed);
    let mut stream = Stream::new(seed, "source");
    let (mut content, mut total) = (Vec::new(), 0);
    let mut place = directory.to_owned();
    for number in 0..count(SOURCE_FILES, scale) {
        if number % 15 == 0 {
            let (outer, middle, inner) = (number / 3000, number / 150 % 20, number / 15 % 10);
            place = directory.join(format!("part{outer:02}/sub{middle:02}/dir{inner}"));
            std::fs::create_dir_all(&place)?;
        }
        let bytes = stream.size(SOURCE_FILE_BYTES_MEAN, 8 << 20);
        text.fill(&mut stream, bytes, &mut content);
        let suffix = ["c", "h", "c", "rst", "dts"][stream.below(5) as usize];
        std::fs::write(place.join(format!("file_{number:06}.{suffix}")), &content)?;
        total += content.len() as u64;
    }
    Ok(total)
}

/// Some 24,000 files, 3 GiB: documents, programs, logs, media that are compressed already, and copies of these.
pub fn mixed(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    shared(directory, seed, "mixed", count(MIXED_FILES, scale))
}

/// 6,000 files like those of `mixed`, 0.8 GiB, to be edited generation after generation.
pub fn aged(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    shared(directory, seed, "aged", count(AGED_FILES, scale))
}

fn shared(directory: &Path, seed: u64, what: &str, files: u64) -> Result<u64> {
    let text = Text::new(seed);
    let mut stream = Stream::new(seed, what);
    let (mut content, mut earlier, mut total) = (Vec::new(), Vec::new(), 0);
    let mut place = directory.to_owned();
    for number in 0..files {
        if number % 40 == 0 {
            place = directory.join(format!("share{:02}/folder{:02}", number / 1200, number / 40 % 30));
            std::fs::create_dir_all(&place)?;
        }
        let suffix = if number % MIXED_LARGE_EVERY == MIXED_LARGE_EVERY - 1 {
            binary(&mut stream, MIXED_LARGE_BYTES, &mut content);
            "bin"
        } else {
            document(&mut stream, &text, &earlier, &mut content)
        };
        // What will be copied: a document of a while ago, as people copy folders.
        if stream.below(20) == 0 && content.len() < 4 << 20 {
            earlier.clone_from(&content);
        }
        std::fs::write(place.join(format!("document_{number:05}.{suffix}")), &content)?;
        total += content.len() as u64;
    }
    Ok(total)
}

/// One file as they lie on a file server; gives the ending of its name.
fn document(stream: &mut Stream, text: &Text, earlier: &[u8], content: &mut Vec<u8>) -> &'static str {
    match stream.below(100) {
        0..40 => {
            let bytes = stream.size(16_000.0, 8 << 20);
            text.fill(stream, bytes, content);
            "txt"
        }
        40..67 => {
            let bytes = stream.size(170_000.0, 32 << 20);
            binary(stream, bytes, content);
            "so"
        }
        67..72 => {
            let bytes = stream.size(250_000.0, 32 << 20);
            text.fill(stream, bytes, content);
            "log"
        }
        72..95 => {
            let bytes = stream.size(260_000.0, 32 << 20);
            // A head as cameras write it, then what no compressor makes smaller.
            content.clear();
            content.extend_from_slice(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x02\x00\x00\x64\x00\x64\x00\x00");
            let head = content.len();
            content.resize(head + bytes, 0);
            stream.fill(&mut content[head..]);
            "jpg"
        }
        _ => {
            content.clear();
            content.extend_from_slice(earlier);
            "copy"
        }
    }
}

/// A million files of up to 200 bytes, a thousand in each directory.
pub fn wide(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    let mut stream = Stream::new(seed, "wide");
    let mut content = [0; WIDE_FILE_BYTES_MOST as usize];
    let mut total = 0;
    let mut place = directory.to_owned();
    for number in 0..count(WIDE_FILES, scale) {
        if number % WIDE_FILES_A_DIRECTORY == 0 {
            place = directory.join(format!("d{:04}", number / WIDE_FILES_A_DIRECTORY));
            std::fs::create_dir_all(&place)?;
        }
        let bytes = stream.below(WIDE_FILE_BYTES_MOST + 1) as usize;
        for word in content[..bytes].chunks_mut(8) {
            let letters = stream.number().to_le_bytes();
            word.iter_mut().zip(letters).for_each(|(byte, letter)| *byte = b'a' + letter % 26);
        }
        std::fs::write(place.join(format!("f{number:07}")), &content[..bytes])?;
        total += bytes as u64;
    }
    Ok(total)
}

//! Few large files: `image` (of a file system, with holes), `random` (does not compress), `huge` (64 GiB, nearly all
//! of it hole).
//!
//! Holes are never written: a file takes the room of its data alone.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bytes::{BLOCK_BYTES, Stream, Text, binary};

const IMAGE_BYTES: f64 = 3.0 * 1_073_741_824.0;
const RANDOM_BYTES: f64 = 2.0 * 1_073_741_824.0;
const HUGE_BYTES: f64 = 64.0 * 1_073_741_824.0;
/// Blocks of data in the huge file, whatever its length.
const HUGE_DATA_BLOCKS: u64 = 64;

fn whole_blocks(bytes: f64, scale: f64) -> u64 {
    (bytes * scale) as u64 / BLOCK_BYTES as u64
}

/// One file of 3 GiB like an image of a file system: text, programs, repeats, and holes.
pub fn image(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    std::fs::create_dir_all(directory)?;
    let text = Text::new(seed);
    let mut stream = Stream::new(seed, "image");
    let bytes = whole_blocks(IMAGE_BYTES, scale) * BLOCK_BYTES as u64;
    let file = File::create(directory.join("disk.img"))?;
    file.set_len(bytes)?;
    let mut earlier: Vec<u8> = Vec::new();
    let mut block = Vec::new();
    let mut offset = 0;
    while offset < bytes {
        // Runs of one kind, as files and free space lie in a file system.
        let run = (1 + stream.below(16)) * BLOCK_BYTES as u64;
        let kind = stream.below(100);
        let end = bytes.min(offset + run);
        while offset < end {
            match kind {
                0..25 => {}
                25..30 => file.write_all_at(&earlier, offset)?,
                30..65 => {
                    text.fill(&mut stream, BLOCK_BYTES, &mut block);
                    file.write_all_at(&block, offset)?;
                }
                65..85 => {
                    binary(&mut stream, BLOCK_BYTES, &mut block);
                    file.write_all_at(&block, offset)?;
                }
                _ => {
                    block.resize(BLOCK_BYTES, 0);
                    stream.fill(&mut block);
                    file.write_all_at(&block, offset)?;
                }
            }
            if kind >= 30 && earlier.is_empty() {
                earlier.clone_from(&block);
            }
            offset += BLOCK_BYTES as u64;
        }
    }
    Ok(bytes)
}

/// Four files, 2 GiB together, that do not compress.
pub fn random(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    std::fs::create_dir_all(directory)?;
    let mut stream = Stream::new(seed, "random");
    let blocks = (whole_blocks(RANDOM_BYTES, scale) / 4).max(1);
    let mut block = vec![0; BLOCK_BYTES];
    for number in 0..4 {
        let mut file = BufWriter::new(File::create(directory.join(format!("random-{number}")))?);
        for _ in 0..blocks {
            stream.fill(&mut block);
            file.write_all(&block)?;
        }
        file.flush()?;
    }
    Ok(blocks * 4 * BLOCK_BYTES as u64)
}

/// One sparse file of 64 GiB that holds 64 MiB of data in single blocks.
pub fn huge(directory: &Path, seed: u64, scale: f64) -> Result<u64> {
    std::fs::create_dir_all(directory)?;
    let text = Text::new(seed);
    let mut stream = Stream::new(seed, "huge");
    let blocks = whole_blocks(HUGE_BYTES, scale).max(HUGE_DATA_BLOCKS);
    let file = File::create(directory.join("sparse.img"))?;
    file.set_len(blocks * BLOCK_BYTES as u64)?;
    let mut block = Vec::new();
    let step = blocks / HUGE_DATA_BLOCKS;
    for number in 0..HUGE_DATA_BLOCKS {
        text.fill(&mut stream, BLOCK_BYTES, &mut block);
        let at = number * step + stream.below(step);
        file.write_all_at(&block, at * BLOCK_BYTES as u64)?;
    }
    Ok(blocks * BLOCK_BYTES as u64)
}

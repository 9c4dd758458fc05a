//! A cheap guess whether compressing a frame is worth its processor time.
//!
//! Looks at a few kilobytes spread over the frame: bytes that are far from evenly distributed
//! compress. Evenly distributed ones may still repeat, so a stretch of them is compressed for real
//! before the frame is given up as incompressible. A wrong "no" costs space, never data.

use zstd::bulk::Compressor;

/// Frames shorter than this are always compressed: the probe would cost as much.
const PROBED_BYTES_MIN: usize = 32 << 10;
/// Stretches looked at, and bytes of each.
const STRETCHES: usize = 16;
const STRETCH_BYTES: usize = 256;
/// Bytes that are compressed for real when the histogram is flat.
const TRIAL_BYTES: usize = 16 << 10;
/// The trial must save at least one part in this many.
const TRIAL_SAVES_ONE_IN: usize = 32;

/// True if `plain` is likely to shrink.
pub fn is_compressible(plain: &[u8], zstd: &mut Compressor<'_>, scratch: &mut Vec<u8>) -> bool {
    if plain.len() < PROBED_BYTES_MIN || !has_flat_histogram(plain) {
        return true;
    }
    let start = (plain.len() - TRIAL_BYTES) / 2;
    scratch.clear();
    scratch.reserve(zstd::zstd_safe::compress_bound(TRIAL_BYTES));
    match zstd.compress_to_buffer(&plain[start..start + TRIAL_BYTES], scratch) {
        Ok(bytes) => bytes < TRIAL_BYTES - TRIAL_BYTES / TRIAL_SAVES_ONE_IN,
        Err(_) => true,
    }
}

/// Compares the collision count of the sample, the sum of squares of its byte counts, with that of
/// random bytes: n + n²/256 on average. Text has several times as many.
fn has_flat_histogram(plain: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    let stride = (plain.len() - STRETCH_BYTES) / (STRETCHES - 1);
    for stretch in 0..STRETCHES {
        for &byte in &plain[stretch * stride..][..STRETCH_BYTES] {
            counts[byte as usize] += 1;
        }
    }
    let sampled = (STRETCHES * STRETCH_BYTES) as u64;
    let collisions: u64 = counts.iter().map(|&count| u64::from(count) * u64::from(count)).sum();
    let random = sampled + sampled * sampled / 256;
    collisions < random + random / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new().finalize_xof();
        let mut noise = vec![0; bytes];
        hasher.fill(&mut noise);
        noise
    }

    #[test]
    fn tells_text_and_repetition_from_noise() {
        let mut zstd = Compressor::new(1).expect("a zstd context");
        let mut scratch = vec![];
        let mut probe = |plain: &[u8]| is_compressible(plain, &mut zstd, &mut scratch);
        assert!(!probe(&noise(256 << 10)));
        assert!(probe("fn main() { println!(\"hello\"); }\n".repeat(8000).as_bytes()));
        assert!(probe(&noise(4096).repeat(64)), "noise that repeats compresses");
        assert!(probe(&vec![0; 256 << 10]));
        assert!(probe(&noise(100)), "too short to be worth a probe");
    }
}

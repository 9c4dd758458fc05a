//! What a core does while all cores work, against what it does alone. Cores share caches, memory, power, and sometimes
//! (two threads a core) the core itself, so that the sum of the cores is less than one core times their number.

use std::ops::Range;
use std::sync::Barrier;

use crate::clock::{Pinned, cores, measure};
use crate::sample::Sample;
use crate::{Result, during};

/// Bytes that each core works on.
const BYTES_MAX: usize = 32 << 20;
/// How often each is measured.
const ROUNDS: usize = 4;

/// Speed of a core among all that work ÷ its speed alone, at compressing and hashing these frames.
pub fn speed_in_a_crowd(sample: &Sample, frames: &[Range<usize>], level: i32) -> Result<f64> {
    let mut bytes = 0;
    let some: Vec<&[u8]> = frames
        .iter()
        .map(|frame| &sample.bytes[frame.clone()])
        .take_while(|frame| {
            bytes += frame.len();
            bytes <= BYTES_MAX
        })
        .collect();
    // In turns, and the best of each: a neighbour on the same host slows both down.
    let (mut alone, mut crowd) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        alone = alone.min(seconds_of(&some, level, 1)?);
        crowd = crowd.min(seconds_of(&some, level, cores())?);
    }
    Ok(alone / crowd)
}

/// CPU seconds a core, with `count` cores at work.
fn seconds_of(frames: &[&[u8]], level: i32, count: usize) -> Result<f64> {
    let start = Barrier::new(count);
    let seconds = std::thread::scope(|scope| {
        let each = |core| {
            let start = &start;
            scope.spawn(move || work(frames, level, core, start))
        };
        let workers: Vec<_> = (0..count).map(each).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<Result<Vec<f64>>>()
    })?;
    Ok(seconds.iter().sum::<f64>() / count as f64)
}

/// CPU seconds of one core.
fn work(frames: &[&[u8]], level: i32, core: usize, start: &Barrier) -> Result<f64> {
    let _pinned = Pinned::to_one(core);
    let mut compressor = during("make a compressor", zstd::bulk::Compressor::new(level))?;
    let mut buffer = vec![0; zstd::zstd_safe::compress_bound(4 << 20)];
    start.wait();
    let (outcome, spent) = measure(|| {
        frames.iter().try_for_each(|frame| {
            std::hint::black_box(blake3::keyed_hash(&[7; 32], frame));
            compressor.compress_to_buffer(frame, &mut buffer[..]).map(drop)
        })
    });
    during("compress", outcome)?;
    Ok(spent.cpu)
}

//! Simulated store, source and target: the outside world of a job under the seeded runtime.
//!
//! All their futures complete on the simulation's scheduler after seeded delays, so a seed decides in which order
//! devices answer; their faults are seeded too. Never in a release build of the binary.
//!
//! Each part lives behind a mutex because the traits demand `Send`; in fact one thread uses it.

pub mod source;
pub mod store;
pub mod target;

#[cfg(test)]
mod tests;

pub use source::{SimBehaviour, SimFile, SimSource, SimTree, SourceRead};
pub use store::{SimStore, StoreCounts, StoreFaults};
pub use target::{SimEntry, SimTarget, TargetFaults};

use std::time::Duration;

/// How long a device takes, at least and at most.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
}

impl Latency {
    /// From `least` to `most` microseconds.
    pub const fn micros(least: u64, most: u64) -> Latency {
        Latency { least: Duration::from_micros(least), most: Duration::from_micros(most) }
    }
}

/// Bytes `offset..offset + buffer.len()` of an endless sequence that `seed` names: cheap, and incompressible.
pub fn fill_seeded(seed: u64, offset: u64, buffer: &mut [u8]) {
    for (place, byte) in buffer.iter_mut().enumerate() {
        let at = offset + place as u64;
        let mut mixed = seed ^ (at >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *byte = ((mixed ^ (mixed >> 31)) >> ((at & 7) * 8)) as u8;
    }
}

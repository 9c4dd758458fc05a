//! How many jobs an agent runs at once.
//!
//! A job keeps its shards busy, so it is given cores; and it has a memory budget. Two jobs at least where memory
//! allows, so that a restore runs beside a backup on the smallest agent (S-057).

/// Cores that one job is given.
const CORES_OF_A_JOB: u32 = 2;
/// Memory of one job: the default budget of a data path with two shards, and 64 MiB around it.
const MEMORY_OF_A_JOB: u64 = (128 + 2 * 16 + 64) << 20;
/// Share of the memory that jobs may have, in percent: the host has other things to do.
const MEMORY_PERCENT: u64 = 50;
/// Jobs at once, whatever the size.
pub const SLOTS_MAX: u32 = 64;

/// Slots of an agent of this size: at least one.
pub fn slots(cores: u32, memory_bytes: u64) -> u32 {
    let by_cores = (cores / CORES_OF_A_JOB).max(2);
    let by_memory = u32::try_from(memory_bytes / 100 * MEMORY_PERCENT / MEMORY_OF_A_JOB).unwrap_or(SLOTS_MAX);
    by_cores.min(by_memory).clamp(1, SLOTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_cores_and_memory() {
        assert_eq!(slots(1, 16 << 30), 2, "s057: a restore beside a backup");
        assert_eq!(slots(8, 16 << 30), 4);
        assert_eq!(slots(64, 1 << 30), 2);
        assert_eq!(slots(0, 0), 1);
        assert_eq!(slots(1000, 1 << 50), SLOTS_MAX);
    }
}

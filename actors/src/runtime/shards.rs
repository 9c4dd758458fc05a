//! How many shards, and how much memory: the two numbers from which every bound follows.

/// Smallest memory that a job may be given, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 128 << 20;
/// Memory that one shard needs at least, in bytes.
pub const SHARD_BYTES_MIN: u64 = 32 << 20;
/// Memory that is added by default for each shard, in bytes.
pub const SHARD_BYTES_DEFAULT: u64 = 16 << 20;
/// More shards than this are never used.
pub const SHARDS_MAX: usize = 256;

const _: () = assert!(MEMORY_BYTES_MIN >= SHARD_BYTES_MIN);

/// Shards for a budget: one a core, lowered until each has 32 MiB, never below one.
pub fn shards_for(memory_bytes: u64, cores: usize) -> usize {
    let affordable = usize::try_from(memory_bytes / SHARD_BYTES_MIN).unwrap_or(SHARDS_MAX);
    cores.min(affordable).clamp(1, SHARDS_MAX)
}

/// The budget of a job when nobody chose one: 128 MiB and 16 MiB a shard.
pub fn memory_bytes_default(shards: usize) -> u64 {
    MEMORY_BYTES_MIN + SHARD_BYTES_DEFAULT * shards as u64
}

/// The cores that this process may run on, in order (`sched_getaffinity`; a container's or `taskset`'s limit counts).
pub fn cores_available() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    let cores: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).take(SHARDS_MAX).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_lowered_until_each_has_its_memory() {
        assert_eq!(shards_for(MEMORY_BYTES_MIN, 64), 4);
        assert_eq!(shards_for(MEMORY_BYTES_MIN, 2), 2);
        assert_eq!(shards_for(1 << 20, 8), 1);
        assert_eq!(shards_for(u64::MAX, 100_000), SHARDS_MAX);
        assert_eq!(shards_for(memory_bytes_default(2), 2), 2);
        assert_eq!(memory_bytes_default(2), 160 << 20);
    }

    #[test]
    fn this_process_may_run_on_some_core() {
        assert!(!cores_available().is_empty());
    }
}

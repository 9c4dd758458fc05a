//! Membership filter of an index segment: a plain Bloom filter. FORMAT.md "Index".
//!
//! Ten bits a chunk and seven probes give about one false "maybe" in 120; there is no false "no".
//! Chunk ids are keyed hashes, so their own bits serve as probes and nobody outside can aim at it.

use crate::ids::ChunkId;

/// Bits of the filter per chunk.
pub(crate) const FILTER_BITS_PER_CHUNK: usize = 10;
const PROBES: u64 = 7;

/// Length of the filter of `chunks` chunks: a multiple of eight bytes, at least eight.
pub(crate) fn filter_bytes(chunks: usize) -> usize {
    (chunks * FILTER_BITS_PER_CHUNK).div_ceil(64).max(1) * 8
}

/// Bit numbers of a chunk: `(h + i·d) mod bits` for i in 0..7, with h and d (made odd) from bytes 8..24.
fn probes(id: &ChunkId, bits: u64) -> impl Iterator<Item = u64> {
    let start = u64::from_le_bytes(id.0[8..16].try_into().expect("eight bytes"));
    let step = u64::from_le_bytes(id.0[16..24].try_into().expect("eight bytes")) | 1;
    (0..PROBES).map(move |i| start.wrapping_add(i.wrapping_mul(step)) % bits)
}

/// Adds a chunk.
pub(crate) fn filter_insert(filter: &mut [u8], id: &ChunkId) {
    let bits = filter.len() as u64 * 8;
    for bit in probes(id, bits) {
        filter[(bit / 8) as usize] |= 1 << (bit % 8);
    }
}

/// False if the chunk was surely not added. An empty filter knows nothing.
pub(crate) fn filter_may_hold(filter: &[u8], id: &ChunkId) -> bool {
    if filter.is_empty() {
        return true;
    }
    probes(id, filter.len() as u64 * 8).all(|bit| filter[(bit / 8) as usize] & (1 << (bit % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_false_no_and_few_false_maybes() {
        let id = |n: u64| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let mut filter = vec![0; filter_bytes(10_000)];
        (0..10_000).for_each(|n| filter_insert(&mut filter, &id(n)));
        assert!((0..10_000).all(|n| filter_may_hold(&filter, &id(n))));
        let maybes = (10_000..110_000).filter(|n| filter_may_hold(&filter, &id(*n))).count();
        assert!(maybes < 1_500, "{maybes}");
    }
}

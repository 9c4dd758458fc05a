//! How much should be on the way to a store: bandwidth × delay, measured.
//!
//! Bandwidth is the most that was delivered in any recent interval, delay the least time that a small request took. Twice
//! their product keeps a link full while answers travel; as more is on the way the measured bandwidth can grow, and with
//! it what may be on the way, until the link is the limit. Never less than a few packs, never more than
//! [`IN_FLIGHT_BYTES_MAX`]. Packs follow the bandwidth too: one should be durable after some seconds, but never be so small
//! that a GiB takes more than 40 requests, however slow the link; a killed job on a slow link sends so much more again.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bytes on the way before anything is known.
const IN_FLIGHT_BYTES_FIRST: u64 = 96 << 20;
/// Bytes on the way at most; they wait in a temporary file, not in memory.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;
/// Bytes of one pack before anything is known: the link should not stay idle until a large one is full.
const PACK_BYTES_FIRST: u64 = 32 << 20;
/// The bounds after.
const PACK_BYTES_MIN: u64 = 64 << 20;
const PACK_BYTES_MAX: u64 = 128 << 20;
/// A pack is a request, and a run has some twenty others.
const _: () = assert!((1 << 30) / PACK_BYTES_MIN <= 16);
/// Time after which a pack should have arrived.
const PACK_TIME: Duration = Duration::from_secs(8);
/// Bandwidth is measured over so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// A maximum that was not seen again is forgotten by so much an interval.
const FADING: f64 = 0.98;

/// What is known of the way to a store.
#[derive(Debug, Default)]
pub(super) struct Flow {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    delay_min: Option<Duration>,
    bytes_per_second_max: f64,
    begun: Option<Instant>,
    bytes: u64,
}

impl Flow {
    /// A small request took so long.
    pub(super) fn answered_after(&self, delay: Duration) {
        let mut state = self.state.lock();
        state.delay_min = Some(state.delay_min.map_or(delay, |least| least.min(delay)));
    }

    /// So many bytes have been handed to the network.
    pub(super) fn sent(&self, bytes: u64) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let begun = *state.begun.get_or_insert(now);
        let taken = now - begun;
        if taken >= INTERVAL {
            let rate = state.bytes as f64 / taken.as_secs_f64();
            state.bytes_per_second_max = rate.max(state.bytes_per_second_max * FADING);
            (state.begun, state.bytes) = (Some(now), 0);
        }
        state.bytes += bytes;
    }

    /// Bytes that should be on the way to the store.
    pub(super) fn in_flight_bytes(&self) -> u64 {
        let state = self.state.lock();
        let delay = state.delay_min.unwrap_or_default().as_secs_f64();
        let product = (state.bytes_per_second_max * delay) as u64;
        (2 * product + 3 * pack_bytes(&state)).clamp(IN_FLIGHT_BYTES_FIRST, IN_FLIGHT_BYTES_MAX)
    }

    /// Bytes that a pack should have.
    pub(super) fn pack_bytes(&self) -> u64 {
        pack_bytes(&self.state.lock())
    }
}

fn pack_bytes(state: &State) -> u64 {
    if state.bytes_per_second_max == 0.0 {
        return PACK_BYTES_FIRST;
    }
    ((state.bytes_per_second_max * PACK_TIME.as_secs_f64()) as u64).clamp(PACK_BYTES_MIN, PACK_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of so many bytes a second, used for ten seconds.
    fn measured(bytes_per_second: u64, delay: Duration) -> (u64, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let flow = Flow::default();
            flow.answered_after(delay * 3);
            flow.answered_after(delay);
            for _ in 0..100 {
                flow.sent(bytes_per_second / 10);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (flow.in_flight_bytes() >> 20, flow.pack_bytes() >> 20)
        })
    }

    #[test]
    fn what_is_on_the_way_follows_bandwidth_and_delay() {
        assert_eq!(measured(125_000, Duration::from_millis(300)), (192, 64));
        assert_eq!(measured(12_500_000, Duration::from_millis(50)), (287, 95));
        let (in_flight, pack) = measured(125_000_000, Duration::from_millis(300));
        assert!((450..=460).contains(&in_flight) && pack == 128, "{in_flight} {pack}");
        assert_eq!(measured(12_500_000_000, Duration::from_millis(300)), (1024, 128));
    }
}

//! What all fuzz targets share: one decoder, its input, and the memory that it may ask for.
//!
//! One target a decoder: the files in `fuzz_targets` are the list of `mover_repository::fuzzing`. The test suite builds
//! them on stable Rust and runs each for a moment from `seeds`. To run one for long, at the top of the checkout:
//!
//! ```text
//! cargo install --locked cargo-fuzz --version =0.13.1
//! mkdir -p tests/fuzz/corpus/pack_frame
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none pack_frame \
//!     tests/fuzz/corpus/pack_frame tests/fuzz/seeds/pack_frame
//! ```
//!
//! A decoder that holds more memory than its input allows fails at once, on an input of any size,
//! where a limit of the whole process would show gigabytes alone. Each target runs on one thread.

mod counting;

use counting::{Counting, peak_bytes};
use mover_repository::fuzzing::{Target, target};

pub use libfuzzer_sys;

#[global_allocator]
static COUNTING: Counting = Counting;

/// The target of that name, with what it makes once already made.
///
/// # Panics
/// If there is none.
pub fn prepare(name: &str) -> Target {
    let target = target(name);
    for (_, seed) in target.seeds() {
        assert!(target.decode(&seed), "what the encoder makes is refused");
    }
    target
}

/// Decodes `data`.
///
/// # Panics
/// If the decoder does, or if it held more memory than it may.
pub fn run(target: &Target, data: &[u8]) {
    let peak = peak_bytes(|| {
        target.decode(data);
    });
    let limit = target.memory_bytes_max(data.len());
    assert!(peak <= limit, "{peak} bytes of memory for {} bytes of input; {limit} are allowed", data.len());
}

/// Defines the entry points of libFuzzer for one decoder.
#[macro_export]
macro_rules! fuzz_decoder {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<mover_repository::fuzzing::Target> =
            std::sync::LazyLock::new(|| $crate::prepare($name));

        $crate::libfuzzer_sys::fuzz_target!(init: { std::sync::LazyLock::force(&TARGET); }, |data: &[u8]| {
            $crate::run(&TARGET, data);
        });
    };
}

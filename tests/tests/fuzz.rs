//! All decoders against hostile bytes: memory within what the input allows, seeds that still decode, and a short run of
//! every fuzz target.
//!
//! The targets are in `tests/fuzz`, which tells how to run one for long. `MOVER_MAKE_SEEDS=1 cargo test -p mover-tests
//! --test fuzz` writes the seeds anew with the encoders of today, after a change of the format.

#[path = "../fuzz/src/counting.rs"]
mod counting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use counting::{Counting, peak_bytes};
use mover_repository::fuzzing::{Target, targets};
use mover_tests::needs;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of all committed seeds.
const SEEDS_BYTES_MAX: u64 = 300 << 10;
/// Inputs that a short run tries on each target; twenty times as many in the nightly form. All targets together take half
/// a minute of two cores.
const RUNS: u64 = 200_000;
/// Longest input in bytes.
const INPUT_BYTES_MAX: usize = 4096;
/// Memory of a whole target in MiB: libFuzzer's tables, and far less for the decoder.
const PROCESS_MIB_MAX: u64 = 512;
/// Seconds for one input: each takes far less than a millisecond.
const INPUT_SECONDS_MAX: u64 = 20;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").canonicalize().expect("tests/fuzz")
}

fn assert_bounded(target: &Target, bytes: &[u8]) {
    let peak = peak_bytes(|| {
        target.decode(bytes);
    });
    let limit = target.memory_bytes_max(bytes.len());
    let name = target.name;
    assert!(peak <= limit, "{name}: {peak} bytes of memory, {limit} are allowed: {}", bytes.escape_ascii());
}

/// Every place of every seed is taken for a length or a count, and says more than there is.
#[test]
fn f27_a_hostile_length_makes_no_decoder_ask_for_more_than_its_input_allows() {
    for target in targets() {
        for (_, seed) in target.seeds() {
            // What is made once for all inputs is no memory of the next one.
            assert!(target.decode(&seed), "{}", target.name);
            assert_bounded(&target, &seed);
            for at in 0..seed.len() {
                for claimed in [u64::MAX, u64::from(u32::MAX), 0x00ff_ffff, 0x000f_ffff, 4096, 1024, 64] {
                    for width in [2, 4, 8] {
                        let mut hostile = seed.clone();
                        let end = (at + width).min(seed.len());
                        hostile[at..end].copy_from_slice(&claimed.to_le_bytes()[..end - at]);
                        assert_bounded(&target, &hostile);
                    }
                }
            }
        }
    }
}

/// A list that is as long as its record allows costs a fixed multiple of the record.
#[test]
fn f27_a_record_full_of_the_smallest_items_is_bounded() {
    for target in targets() {
        for (_, seed) in target.seeds() {
            for at in 0..seed.len().min(400) {
                for (claimed, filler) in [(7_000u32, 0u8), (1000, 1), (250, 0)] {
                    let count = claimed.to_le_bytes();
                    let hostile = [&seed[..at], &count, &vec![filler; 32 << 10]].concat();
                    assert_bounded(&target, &hostile);
                }
            }
        }
    }
}

fn seed_files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(directory().join("seeds").join(target)) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("list the seeds").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("read a seed"))).collect()
}

fn write_seeds() {
    for target in targets() {
        let place = directory().join("seeds").join(target.name);
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).expect("create the directory of seeds");
        for (name, bytes) in target.seeds() {
            std::fs::write(place.join(name), bytes).expect("write a seed");
        }
    }
}

/// Seeds that no longer decode start nothing.
#[test]
fn fuzz_every_decoder_has_a_target_and_seeds_that_decode() {
    if std::env::var_os("MOVER_MAKE_SEEDS").is_some() {
        write_seeds();
    }
    let sources = std::fs::read_dir(directory().join("fuzz_targets")).expect("list the targets");
    let files: BTreeSet<String> = sources
        .map(|entry| {
            entry.expect("list the targets").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    let names: BTreeSet<String> = targets().iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(files, names, "one file in fuzz_targets for each decoder");
    let mut bytes = 0;
    for target in targets() {
        let seeds = seed_files(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (path, seed) in seeds {
            let how = "MOVER_MAKE_SEEDS=1 cargo test -p mover-tests --test fuzz";
            assert!(target.decode(&seed), "{} does not decode any more: {how}", path.display());
            bytes += seed.len() as u64;
        }
    }
    assert!(bytes <= SEEDS_BYTES_MAX, "{bytes} bytes of seeds");
}

/// What `rustc` calls the machine that it runs on: with a target named, build scripts stay without instruments.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("start rustc");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

/// Builds all targets as `cargo fuzz` does, without a sanitizer; gives the directory of the binaries.
fn build() -> PathBuf {
    let flags = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
        "-Cdebug-assertions",
        "-Ccodegen-units=1",
        "--cfg",
        "fuzzing",
    ];
    let (host, built) = (host(), directory().join("target"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--locked", "--release", "--target", &host, "--target-dir"]).arg(&built);
    command.current_dir(directory()).env("RUSTFLAGS", flags.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    let output = command.output().expect("start cargo");
    assert!(
        output.status.success(),
        "the targets do not build: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    built.join(host).join("release")
}

/// Runs one target from its seeds; what it found, or nothing.
fn run(binaries: &Path, target: &str) -> Option<String> {
    let scratch = tempfile::tempdir().expect("a directory");
    let runs = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { RUNS * 20 } else { RUNS };
    let mut command = Command::new(binaries.join(target));
    command.arg("-seed=1").arg(format!("-runs={runs}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-rss_limit_mb={PROCESS_MIB_MAX}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-artifact_prefix={}/", scratch.path().display()));
    // New inputs go to the first directory; the seeds stay as they are.
    let found = scratch.path().join("found");
    std::fs::create_dir(&found).expect("create");
    command.arg(&found).arg(directory().join("seeds").join(target));
    let output = command.output().expect("start a target");
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    // The last lines have the input in base 64.
    let last = lines[lines.len().saturating_sub(25)..].join("\n");
    Some(format!("{target}: {}\n{last}", output.status))
}

/// Two at a time: the machines that run this have two cores.
#[test]
fn f27_fuzz_each_target_survives_a_short_run() {
    needs!("c++");
    let binaries = build();
    let waiting = Mutex::new(targets().iter().map(|target| target.name).collect::<Vec<_>>());
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(target) = waiting.lock().expect("no panic").pop() else { return };
                    found.lock().expect("no panic").extend(run(&binaries, target));
                }
            });
        }
    });
    let found = found.into_inner().expect("no panic");
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

//! The least time in which this machine could do the work, from the limits of the stages:
//! max(Σ stage CPU seconds ÷ cores, bytes read ÷ read rate, bytes written ÷ write-and-sync rate).
//!
//! Only new bytes are compressed, sealed and written. Frames that do not shrink are not compressed. Fixed costs
//! (starting, the key derivation) are not in it: they count against `mover`.

use serde_json::{Value, json};

use crate::clock::cores;
use crate::limits::Limits;

/// What one run of `mover` moved, as its summary says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Bytes of content that were read from the source (or written to the target).
    pub plain: u64,
    /// Plain bytes that were new.
    pub new: u64,
    /// Bytes that were stored in (or read from) the repository.
    pub stored: u64,
    /// Plain bytes of the frames that were compressed; the others are stored as they are.
    pub compressed: u64,
    /// Files.
    pub files: u64,
}

/// The ideal and what it is made of.
#[derive(Clone, Debug)]
pub struct Ideal {
    /// CPU seconds of each stage on this data.
    pub stages: Vec<(&'static str, f64)>,
    /// Seconds that reading alone would take.
    pub read_seconds: f64,
    /// Seconds that writing and syncing alone would take.
    pub write_seconds: f64,
    /// Speed of a core while all cores work ÷ its speed alone.
    pub in_a_crowd: f64,
}

impl Ideal {
    /// For a backup that moved this much.
    pub fn of_backup(limits: &Limits, moved: Moved) -> Ideal {
        let rates = &limits.rates;
        let read_share = moved.plain as f64 / limits.files.bytes.max(1) as f64;
        let stages = vec![
            ("open, stat, read, close", limits.files.spent.cpu * read_share),
            ("chunk", moved.plain as f64 / rates.chunk),
            ("hash", moved.plain as f64 / rates.hash),
            ("compress", seconds(moved.compressed as f64, rates.compress)),
            ("seal", moved.stored as f64 / rates.seal),
            // The table of contents of a pack holds the BLAKE3 of each sealed frame.
            ("hash what is stored", moved.stored as f64 / rates.hash),
            ("write", moved.stored as f64 * cpu_per_byte(&limits.write)),
        ];
        Ideal {
            stages,
            read_seconds: moved.plain as f64 / limits.read.bytes_per_second(),
            write_seconds: moved.stored as f64 / limits.write.bytes_per_second(),
            in_a_crowd: limits.in_a_crowd,
        }
    }

    /// For a restore that moved this much.
    pub fn of_restore(limits: &Limits, moved: Moved) -> Ideal {
        let rates = &limits.rates;
        let stages = vec![
            ("read", moved.stored as f64 * cpu_per_byte(&limits.read)),
            ("open sealed", moved.stored as f64 / rates.open),
            ("decompress", seconds(moved.compressed as f64, rates.decompress)),
            ("hash", moved.plain as f64 / rates.hash),
            ("write", moved.plain as f64 * cpu_per_byte(&limits.write)),
            ("create, attributes, rename", moved.files as f64 * limits.create.ns_per_file() / 1e9),
        ];
        Ideal {
            stages,
            read_seconds: moved.stored as f64 / limits.read.bytes_per_second(),
            write_seconds: moved.plain as f64 / limits.write.bytes_per_second(),
            in_a_crowd: limits.in_a_crowd,
        }
    }

    /// For a second backup of which nothing changed: every entry is listed and looked at.
    pub fn of_unchanged(limits: &Limits) -> Ideal {
        let stages = vec![("list and look at every entry", limits.look.cpu)];
        Ideal { stages, read_seconds: 0.0, write_seconds: 0.0, in_a_crowd: limits.in_a_crowd }
    }

    /// What a first backup of all of it would move.
    pub fn all_of(limits: &Limits) -> Moved {
        let plain = limits.inventory.data_bytes();
        Moved {
            plain,
            new: plain,
            stored: (plain as f64 * limits.rates.ratio) as u64,
            compressed: (plain as f64 * limits.rates.compressible) as u64,
            files: limits.inventory.files.len() as u64,
        }
    }

    /// CPU seconds of all stages.
    pub fn cpu_seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.1).sum()
    }

    /// The ideal itself.
    pub fn seconds(&self) -> f64 {
        (self.cpu_seconds() / cores() as f64).max(self.read_seconds).max(self.write_seconds)
    }

    /// The ideal if each core does what it does while all of them work.
    pub fn seconds_in_a_crowd(&self) -> f64 {
        (self.cpu_seconds() / cores() as f64 / self.in_a_crowd).max(self.read_seconds).max(self.write_seconds)
    }

    /// What bounds it.
    pub fn bound(&self) -> &'static str {
        let seconds = self.seconds();
        if seconds == self.write_seconds {
            "write and sync"
        } else if seconds == self.read_seconds {
            "read"
        } else {
            "CPU"
        }
    }

    /// The parts for a program.
    pub fn json(&self) -> Value {
        let stages: serde_json::Map<String, Value> =
            self.stages.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect();
        json!({
            "seconds": self.seconds(),
            "bound": self.bound(),
            "in_a_crowd": self.in_a_crowd,
            "seconds_in_a_crowd": self.seconds_in_a_crowd(),
            "cores": cores(),
            "cpu_seconds": self.cpu_seconds(),
            "stages_cpu_seconds": stages,
            "read_seconds": self.read_seconds,
            "write_seconds": self.write_seconds,
        })
    }
}

/// No bytes take no time, also where no rate could be measured because there are none.
fn seconds(bytes: f64, rate: f64) -> f64 {
    if bytes > 0.0 { bytes / rate } else { 0.0 }
}

fn cpu_per_byte(work: &crate::files::Work) -> f64 {
    work.spent.cpu / work.bytes.max(1) as f64
}

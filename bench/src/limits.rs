//! `limits PATH`: every stage alone, on one core, on this data, beside its reference.

use std::path::Path;

use serde_json::{Value, json};

use crate::clock::OneCore;
use crate::files::{self, Work};
use crate::inventory::Inventory;
use crate::reference::{self, References};
use crate::report::{Row, print_table};
use crate::sample::Sample;
use crate::stages::{self, Rates};
use crate::{Options, Result, during};

/// A stage may be so much slower than its reference.
const SHARE_OF_REFERENCE: f64 = 0.9;

/// All figures of one machine and one tree.
pub struct Limits {
    /// What is below PATH.
    pub inventory: Inventory,
    /// Stages in memory.
    pub rates: Rates,
    /// Open, stat, read, close of every file, with a warm cache.
    pub files: Work,
    /// Reading alone.
    pub read: Work,
    /// Writing and syncing.
    pub write: Work,
    /// Create, attributes, rename.
    pub create: Work,
}

/// Measures everything.
pub fn measure(options: &Options, scratch: &Path) -> Result<(Limits, Sample)> {
    let path = during(format!("find {}", options.path.display()), options.path.canonicalize())?;
    let inventory = Inventory::of(&path)?;
    let sample = Sample::of(&inventory)?;
    let _pinned = OneCore::pin();
    // Once to fill the cache, once to measure.
    files::open_stat_read_close(&inventory)?;
    let limits = Limits {
        files: files::open_stat_read_close(&inventory)?,
        read: files::read(&inventory)?,
        rates: stages::rates(&sample, options.level)?,
        write: files::write_and_sync(scratch, &sample.bytes, inventory.data_bytes())?,
        create: files::create_attributes_rename(scratch, &inventory)?,
        inventory,
    };
    Ok((limits, sample))
}

/// A directory for what a command writes: given, or beside the data, so that it is on the same file system.
pub fn scratch(options: &Options) -> Result<tempfile::TempDir> {
    let path = during(format!("find {}", options.path.display()), options.path.canonicalize())?;
    let beside = path.parent().unwrap_or(Path::new("/")).to_owned();
    let place = options.scratch.clone().unwrap_or(beside);
    during(
        format!("create a directory in {}", place.display()),
        tempfile::Builder::new().prefix("mover-bench-").tempdir_in(&place),
    )
}

/// Runs the command; `false` where a stage is too far below its reference.
pub fn run(options: &Options) -> Result<bool> {
    let directory = scratch(options)?;
    let (limits, sample) = measure(options, directory.path())?;
    let path = during("find the path", options.path.canonicalize())?;
    let references = {
        let _pinned = OneCore::pin();
        reference::measure(&limits.inventory, &sample, &path, directory.path(), options.level)?
    };
    let rows = rows(&limits, &references);
    let good = rows.iter().all(|row| row.share().is_none_or(|share| share >= SHARE_OF_REFERENCE));
    if options.json {
        println!("{}", summary(&limits, &rows, good));
    } else {
        let files = limits.inventory.files.len();
        println!("{files} files, {} MB of data, level {}", limits.inventory.data_bytes() / 1_000_000, options.level);
        println!("compressible {:.2}, stored ÷ plain {:.2}\n", limits.rates.compressible, limits.rates.ratio);
        print_table(&rows);
        if !good {
            println!("\na stage is below {SHARE_OF_REFERENCE} of its reference");
        }
    }
    Ok(good)
}

fn rows(limits: &Limits, references: &References) -> Vec<Row> {
    let rates = &limits.rates;
    let per_file =
        |name, work: &Work| Row::ns_per_file(name, work.ns_per_file(), work.bytes as f64 / work.spent.cpu.max(1e-9));
    vec![
        per_file("open, stat, read, close", &limits.files),
        Row::rate("read", limits.read.bytes_per_second()),
        Row::rate("chunk", rates.chunk),
        Row::rate("hash", rates.hash).beside("b3sum", references.hash),
        Row::rate("compress", rates.compress_all).beside("zstd -b", references.compress),
        Row::rate("seal", rates.seal).beside("openssl speed", references.seal),
        Row::rate("write and sync", limits.write.bytes_per_second()),
        Row::rate("open sealed", rates.open).beside("openssl speed", references.seal),
        Row::rate("decompress", rates.decompress_all).beside("zstd -b", references.decompress),
        per_file("create, attributes, rename", &limits.create).beside_ns("cp -a", references.copy_ns_per_file),
    ]
}

fn summary(limits: &Limits, rows: &[Row], good: bool) -> Value {
    json!({
        "files": limits.inventory.files.len(),
        "bytes": limits.inventory.data_bytes(),
        "compressible": limits.rates.compressible,
        "ratio": limits.rates.ratio,
        "stages": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "within_reference": good,
    })
}

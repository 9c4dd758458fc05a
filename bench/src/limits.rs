//! `limits PATH`: every stage alone, on one core, on this data, beside its reference.

use std::path::Path;

use serde_json::{Value, json};

use crate::clock::{self, Pinned, Spent};
use crate::files::{self, Work};
use crate::ideal::Ideal;
use crate::inventory::Inventory;
use crate::reference::{self, References};
use crate::report::{Row, print_table};
use crate::sample::Sample;
use crate::stages::{self, LevelRate, Rates};
use crate::{Options, Result, during, reads};

/// zstd levels that are compared.
const LEVELS: [i32; 4] = [1, 3, 6, 9];
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
    /// Listing directories and looking at every entry.
    pub look: Spent,
    /// Reading alone.
    pub read: Work,
    /// Writing and syncing.
    pub write: Work,
    /// Create, attributes, rename.
    pub create: Work,
    /// Speed of a core while all cores work ÷ its speed alone.
    pub in_a_crowd: f64,
}

/// Measures everything.
pub fn measure(options: &Options, scratch: &Path) -> Result<(Limits, Sample)> {
    let path = during(format!("find {}", options.path.display()), options.path.canonicalize())?;
    let sample = Sample::of(&Inventory::of(&path)?)?;
    let in_a_crowd = stages::in_a_crowd(&sample, options.level)?;
    let _pinned = Pinned::to(1);
    let (inventory, look) = clock::measure(|| Inventory::of(&path));
    let inventory = inventory?;
    // Once to fill the cache, once to measure.
    files::open_stat_read_close(&inventory)?;
    let limits = Limits {
        files: files::open_stat_read_close(&inventory)?,
        read: files::read(&inventory)?,
        rates: stages::rates(&sample, options.level)?,
        write: files::write_and_sync(scratch, &sample.bytes, inventory.data_bytes())?,
        create: files::create_attributes_rename(scratch, &inventory)?,
        look,
        in_a_crowd,
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
        let _pinned = Pinned::to(1);
        reference::measure(&limits.inventory, &sample, &path, directory.path(), options.level)?
    };
    let ways = {
        let _pinned = Pinned::to(1);
        (reads::batched(&limits.inventory)?, reads::direct(&limits.inventory)?)
    };
    let levels = stages::levels(&sample, &LEVELS)?;
    let rows = rows(&limits, &references, ways);
    let good = rows.iter().all(|row| row.share().is_none_or(|share| share >= SHARE_OF_REFERENCE));
    if options.json {
        println!("{}", summary(&limits, &rows, &levels, good));
    } else {
        let files = limits.inventory.files.len();
        println!("{files} files, {} MB of data, level {}", limits.inventory.data_bytes() / 1_000_000, options.level);
        println!("compressible {:.2}, stored ÷ plain {:.2}\n", limits.rates.compressible, limits.rates.ratio);
        print_table(&rows);
        println!();
        for each in &levels {
            let (level, rate, ratio) = (each.level, each.compress / 1e6, each.ratio);
            println!("compress, level {level:<12} {rate:>10.0} MB/s, stored ÷ plain {ratio:.3}");
        }
        println!();
        for (name, ideal) in ideals(&limits) {
            let (alone, crowd) = (ideal.seconds(), ideal.seconds_in_a_crowd());
            println!(
                "ideal {name:<22} {alone:>10.3} s bound by {}; with all cores at work {crowd:.3} s",
                ideal.bound()
            );
        }
        if !good {
            println!("\na stage is below {SHARE_OF_REFERENCE} of its reference");
        }
    }
    Ok(good)
}

/// The least time on this machine, with these data, on all cores.
fn ideals(limits: &Limits) -> [(&'static str, Ideal); 3] {
    let all = Ideal::all_of(limits);
    [
        ("first backup", Ideal::of_backup(limits, all)),
        ("unchanged backup", Ideal::of_unchanged(limits)),
        ("restore", Ideal::of_restore(limits, all)),
    ]
}

fn rows(limits: &Limits, references: &References, (batched, direct): (Option<Work>, Option<Work>)) -> Vec<Row> {
    let rates = &limits.rates;
    let per_file =
        |name, work: &Work| Row::ns_per_file(name, work.ns_per_file(), work.bytes as f64 / work.spent.cpu.max(1e-9));
    let mut rows = vec![
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
    ];
    rows.extend(batched.iter().map(|work| per_file("open … close by io_uring", work)));
    rows.extend(direct.iter().map(|work| Row::rate("read, direct", work.bytes_per_second())));
    rows
}

fn summary(limits: &Limits, rows: &[Row], levels: &[LevelRate], good: bool) -> Value {
    json!({
        "files": limits.inventory.files.len(),
        "bytes": limits.inventory.data_bytes(),
        "compressible": limits.rates.compressible,
        "ratio": limits.rates.ratio,
        "in_a_crowd": limits.in_a_crowd,
        "levels": levels
            .iter()
            .map(|each| json!({ "level": each.level, "bytes_per_second": each.compress, "ratio": each.ratio }))
            .collect::<Vec<_>>(),
        "ideal": ideals(limits).iter().map(|(name, ideal)| json!({ "of": name, "ideal": ideal.json() })).collect::<Vec<_>>(),
        "stages": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "within_reference": good,
    })
}

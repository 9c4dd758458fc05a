//! `harm PATH`: what a backup does to a program that reads beside it.
//!
//! fio reads at random, from the page cache and around it; its 99th percentile alone, beside a backup, and beside a
//! backup with `--idle`. The three take turns, `--runs` times; the middle of the ratios counts. And the page cache: how
//! much of a file that was hot before a backup of PATH is hot after it, by mincore.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};

use clap::Args;
use serde_json::{Value, json};

use crate::clock::median;
use crate::subject::Subject;
use crate::{Options, Result, during, files, limits, reference};

/// Beside an idle backup a reader's 99th percentile may rise by this share.
const TOLERANCE: f64 = 0.1;
/// The file that is read: large enough that the disk has to seek in it.
const FILE_BYTES: usize = 512 << 20;

/// Options of `harm`.
#[derive(Args, Clone)]
pub struct Harm {
    /// What it shares with `backup` and `restore`
    #[command(flatten)]
    pub options: Options,
    /// Seconds that each reader runs
    #[arg(long, default_value_t = 5)]
    pub seconds: u32,
}

/// How the reader reads.
#[derive(Clone, Copy)]
enum Reader {
    Cached,
    Direct,
}

/// One reader's 99th percentiles in microseconds: alone, beside a backup, beside an idle one.
struct Found {
    reader: Reader,
    alone: Vec<f64>,
    beside: Vec<f64>,
    beside_idle: Vec<f64>,
}

impl Found {
    fn rise(&self, beside: &[f64]) -> f64 {
        median(beside.iter().zip(&self.alone).map(|(beside, alone)| beside / alone).collect()) - 1.0
    }
}

/// Measures; false if the reader is harmed more than it may be, or the cache was changed.
pub fn run(harm: &Harm) -> Result<bool> {
    if !reference::present("fio") {
        return Err("fio is not on the PATH: by apt it is the package fio".to_owned());
    }
    let options = &harm.options;
    let directory = limits::scratch(options)?;
    let path = during("find the path", options.path.canonicalize())?;
    let hot = directory.path().join("hot");
    let mut content = vec![0; FILE_BYTES];
    blake3::Hasher::new_derive_key("mover-bench hot file").finalize_xof().fill(&mut content);
    during("write a file", std::fs::write(&hot, &content))?;
    drop(content);
    files::sync_file_system(directory.path())?;

    let before = resident_share(&hot)?;
    let subject = Subject::create(options, &directory.path().join("repository"))?;
    subject.backup(&path)?;
    let after = resident_share(&hot)?;

    let mut all = Vec::new();
    for reader in [Reader::Cached, Reader::Direct] {
        let mut found = Found { reader, alone: vec![], beside: vec![], beside_idle: vec![] };
        for _ in 0..options.runs.max(1) {
            found.alone.push(fio(harm, reader, &hot)?);
            found.beside.push(beside(harm, directory.path(), &path, reader, &hot, &[])?);
            found.beside_idle.push(beside(harm, directory.path(), &path, reader, &hot, &["--idle"])?);
        }
        all.push(found);
    }
    Ok(tell(harm, (before, after), &all))
}

/// The reader beside backups, one after the other for as long as it runs.
fn beside(harm: &Harm, place: &Path, path: &Path, reader: Reader, hot: &Path, more: &[&str]) -> Result<f64> {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let backups = scope.spawn(|| -> Result<()> {
            for number in 0.. {
                let repository = place.join(format!("beside-{number}"));
                let subject = Subject::create(&harm.options, &repository)?;
                let mut child = subject.start_backup(path, more)?;
                let ended = until(&mut child, &stop)?;
                during("remove a repository", std::fs::remove_dir_all(&repository))?;
                during("remove a key file", std::fs::remove_file(repository.with_extension("key")))?;
                if !ended {
                    break;
                }
            }
            Ok(())
        });
        // The backup is on its way before the reader begins.
        std::thread::sleep(std::time::Duration::from_millis(700));
        let percentile = fio(harm, reader, hot);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        backups.join().map_err(|_| "the backup beside panicked".to_owned())??;
        percentile
    })
}

/// Waits for the end of a backup (true), or kills it when it is not needed any more.
fn until(child: &mut Child, stop: &std::sync::atomic::AtomicBool) -> Result<bool> {
    loop {
        if let Some(status) = during("wait for a backup", child.try_wait())? {
            return if status.success() { Ok(true) } else { Err(format!("a backup ended with {status}")) };
        }
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            during("kill a backup", child.kill())?;
            during("wait for a backup", child.wait())?;
            return Ok(false);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The 99th percentile of a random reader, in microseconds.
fn fio(harm: &Harm, reader: Reader, file: &Path) -> Result<f64> {
    let mut command = Command::new("fio");
    command.args(["--name=reader", "--rw=randread", "--bs=4k", "--ioengine=psync", "--time_based", "--invalidate=0"]);
    command.arg(format!("--filename={}", file.display())).arg(format!("--runtime={}", harm.seconds));
    command.arg(if matches!(reader, Reader::Direct) { "--direct=1" } else { "--direct=0" });
    // A program that waits for its user between two reads, not one that takes all there is.
    command.args(["--thinktime=500", "--thinktime_spin=0", "--output-format=json", "--readonly"]);
    let (text, _) = reference::run(&mut command)?;
    let start = text.find('{').ok_or_else(|| format!("fio said {text}"))?;
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let said = values.next().and_then(std::result::Result::ok).ok_or_else(|| format!("fio said {text}"))?;
    let percentile = said["jobs"][0]["read"]["clat_ns"]["percentile"]["99.000000"].as_f64();
    percentile.map(|nanos| nanos / 1e3).ok_or_else(|| format!("fio told no percentile: {said}"))
}

/// Share of a file that is in the page cache.
fn resident_share(path: &Path) -> Result<f64> {
    let file = during("open the hot file", File::open(path))?;
    let bytes = during("look at the hot file", file.metadata())?.len() as usize;
    // SAFETY: a new mapping where the kernel chooses, which nobody else knows of; it is not read.
    let start = during("map the hot file", unsafe {
        let (protection, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
        rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, &file, 0)
    })?;
    let mut pages = vec![0u8; bytes.div_ceil(4096)];
    // SAFETY: the range is mapped, and the vector has a byte for each of its pages.
    let result = unsafe { libc::mincore(start, bytes, pages.as_mut_ptr()) };
    // SAFETY: the mapping of above, which is used no more.
    during("unmap the hot file", unsafe { rustix::mm::munmap(start, bytes) })?;
    if result != 0 {
        return Err(format!("cannot ask for the page cache: {}", std::io::Error::last_os_error()));
    }
    Ok(pages.iter().filter(|page| **page & 1 == 1).count() as f64 / pages.len().max(1) as f64)
}

fn tell(harm: &Harm, (before, after): (f64, f64), all: &[Found]) -> bool {
    let name = |reader| if matches!(reader, Reader::Direct) { "from the disk" } else { "from the page cache" };
    let is_cache_kept = after >= before - 0.01;
    let good = is_cache_kept && all.iter().all(|found| found.rise(&found.beside_idle) <= TOLERANCE);
    if harm.options.json {
        let row = |found: &Found| {
            json!({
                "reader": name(found.reader), "p99_us_alone": found.alone, "p99_us_beside": found.beside,
                "p99_us_beside_idle": found.beside_idle, "rise": found.rise(&found.beside),
                "rise_idle": found.rise(&found.beside_idle),
            })
        };
        let readers: Vec<Value> = all.iter().map(row).collect();
        println!("{}", json!({ "hot_before": before, "hot_after": after, "readers": readers, "holds": good }));
        return good;
    }
    println!(
        "a hot file: {:.1} % in the page cache before the backup, {:.1} % after it",
        before * 100.0,
        after * 100.0
    );
    println!("{:<22} {:>11} {:>22} {:>22}", "a reader's p99, µs", "alone", "beside a backup", "beside --idle");
    for found in all {
        let shown = |beside: &[f64]| format!("{:.0} ({:+.0} %)", median(beside.to_vec()), found.rise(beside) * 100.0);
        let (alone, beside, idle) = (median(found.alone.clone()), shown(&found.beside), shown(&found.beside_idle));
        println!("{:<22} {alone:>11.0} {beside:>22} {idle:>22}", name(found.reader));
    }
    good
}

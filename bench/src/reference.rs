//! Plain tools on the same data: `b3sum`, `zstd -b`, `openssl speed`, `cp -a`. Those that are not on the PATH are left
//! out, and said to be.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::clock::{Spent, children_seconds};
use crate::inventory::Inventory;
use crate::sample::Sample;
use crate::{Result, during};

/// Bytes that `b3sum` is given at most.
const HASH_BYTES_MAX: u64 = 512 << 20;
/// Files that `b3sum` is given at most, in one call.
const HASH_FILES_MAX: usize = 2000;

/// What the tools reach; `None` where the tool is missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct References {
    /// `b3sum --num-threads 1`, bytes per CPU second.
    pub hash: Option<f64>,
    /// `zstd -b`, bytes per second.
    pub compress: Option<f64>,
    /// `zstd -b`, bytes per second back.
    pub decompress: Option<f64>,
    /// `openssl speed -evp aes-256-gcm`, bytes per CPU second.
    pub seal: Option<f64>,
    /// `cp -a`: CPU nanoseconds a file.
    pub copy_ns_per_file: Option<f64>,
}

/// Runs each tool.
pub fn measure(inventory: &Inventory, sample: &Sample, path: &Path, scratch: &Path, level: i32) -> Result<References> {
    let file = scratch.join("sample");
    during("write the sample", std::fs::write(&file, &sample.bytes))?;
    let zstd = zstd_bench(&file, level)?;
    let copied = copy(path, &scratch.join("copied"))?;
    let references = References {
        hash: b3sum(inventory)?,
        compress: zstd.map(|both| both.0),
        decompress: zstd.map(|both| both.1),
        seal: openssl()?,
        copy_ns_per_file: copied.map(|spent| spent.cpu * 1e9 / inventory.files.len() as f64),
    };
    during("remove the sample", std::fs::remove_file(&file))?;
    during("remove the copy", remove(&scratch.join("copied")))?;
    Ok(references)
}

/// Removes a file or a tree that may not be there.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(status) if status.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    }
}

/// Whether a tool is on the PATH.
pub fn present(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Runs a child to its end; gives what it printed on both outputs and the time.
pub fn run(command: &mut Command) -> Result<(String, Spent)> {
    let line = format!("{command:?}");
    let (cpu, wall) = (children_seconds(), Instant::now());
    let output = during(format!("start {line}"), command.stdin(Stdio::null()).output())?;
    let spent = Spent { cpu: children_seconds() - cpu, wall: wall.elapsed().as_secs_f64() };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok((text, spent)) } else { Err(format!("{line} failed: {text}")) }
}

fn b3sum(inventory: &Inventory) -> Result<Option<f64>> {
    if !present("b3sum") {
        return Ok(None);
    }
    let step = (inventory.files.len() / HASH_FILES_MAX).max(1);
    let mut command = Command::new("b3sum");
    command.args(["--num-threads", "1"]);
    let mut bytes = 0;
    for file in inventory.files.iter().step_by(step) {
        if bytes < HASH_BYTES_MAX {
            command.arg(&file.path);
            bytes += file.bytes;
        }
    }
    run(&mut command)?;
    let (_, spent) = run(&mut command)?;
    Ok(Some(bytes as f64 / spent.cpu.max(1e-9)))
}

/// Gives the rates of compressing and of decompressing.
fn zstd_bench(file: &Path, level: i32) -> Result<Option<(f64, f64)>> {
    if !present("zstd") {
        return Ok(None);
    }
    let mut command = Command::new("zstd");
    command.args([&format!("-b{level}"), &format!("-e{level}"), "-B256KB", "-i2", "--single-thread"]).arg(file);
    let (text, _) = run(&mut command)?;
    // ` 1#sample  : 209715200 ->  48000000 (x4.369),  450.1 MB/s, 1300.2 MB/s`
    let rates: Vec<f64> = text
        .split("MB/s")
        .filter_map(|part| part.trim_end().rsplit([' ', ',']).next()?.trim().parse::<f64>().ok())
        .collect();
    match rates.as_slice() {
        [.., compress, decompress] => Ok(Some((compress * 1e6, decompress * 1e6))),
        _ => Err(format!("cannot read what zstd -b said: {text}")),
    }
}

fn openssl() -> Result<Option<f64>> {
    if !present("openssl") {
        return Ok(None);
    }
    let mut command = Command::new("openssl");
    command.args(["speed", "-seconds", "1", "-bytes", "262144", "-evp", "aes-256-gcm"]);
    let (text, _) = run(&mut command)?;
    let line = text.lines().find(|line| line.starts_with("AES-256-GCM"));
    let rate = line.and_then(|found| found.split_whitespace().last()?.strip_suffix('k')?.parse::<f64>().ok());
    rate.map(|thousands| Some(thousands * 1000.0)).ok_or_else(|| format!("cannot read what openssl speed said: {text}"))
}

/// Copies `path` by `cp -a`.
pub fn copy(path: &Path, target: &Path) -> Result<Option<Spent>> {
    if !present("cp") {
        return Ok(None);
    }
    let (_, spent) = run(Command::new("cp").arg("-a").arg(path).arg(target))?;
    Ok(Some(spent))
}

//! `lifecycle PATH`: verify and prune of a repository of PATH that is not in the page cache, beside what the device reads
//! and writes in sequence.

use std::path::Path;

use crate::clock::{Spent, median};
use crate::files::{sync_file_system, write_and_sync};
use crate::inventory::Inventory;
use crate::subject::Subject;
use crate::{Options, Result, during, limits, reads, reference};

/// Bytes that tell how fast the device writes, in objects as large as packs.
const WRITE_BYTES: u64 = 1 << 30;

/// Prints both; `false` where one takes longer than `--require` allows beside the device.
pub fn run(options: &Options) -> Result<bool> {
    let directory = limits::scratch(options)?;
    let data = directory.path().join("data");
    let path = during("find the path", options.path.canonicalize())?;
    reference::copy(&path, &data)?;
    let repository = directory.path().join("repository");
    let subject = Subject::create(options, &repository)?;
    let first = subject.backup(&data)?.summary;
    let first = first["point"].as_str().ok_or("backup does not name its point")?.to_owned();

    let mut shares = Vec::new();
    for _ in 0..options.runs {
        let device = Device::measure(&repository.join("packs"), directory.path())?;
        drop_from_cache(&repository)?;
        let verified = subject.run("verify", &["--data".as_ref(), "all".as_ref()])?;
        let bytes = verified.number("bytes_read").ok_or("verify does not say what it read")?;
        shares.push(tell("verify", bytes, &verified.spent, &device, device.read_seconds(bytes)));
    }
    let verify = median(shares);

    for file in Inventory::of(&data)?.files.iter().skip(1).step_by(2) {
        during(format!("remove {}", file.path.display()), std::fs::remove_file(&file.path))?;
    }
    subject.backup(&data)?;
    subject.run("forget", &[first.as_ref()])?;
    let device = Device::measure(&repository.join("packs"), directory.path())?;
    drop_from_cache(&repository)?;
    let pruned = subject.run("prune", &["--max-unused".as_ref(), "0".as_ref()])?;
    let bytes = pruned.summary["written"]["bytes"].as_u64().ok_or("prune does not say what it wrote")?;
    let prune = tell("prune", bytes, &pruned.spent, &device, device.read_seconds(bytes) + device.write_seconds(bytes));
    println!("share of the device: verify {verify:.2}, prune {prune:.2}");
    Ok(options.require.is_none_or(|least| verify >= least && prune >= least))
}

/// What the device does in sequence, in bytes a second.
struct Device {
    read: f64,
    write: f64,
}

impl Device {
    fn measure(packs: &Path, scratch: &Path) -> Result<Device> {
        let work = reads::direct(&Inventory::of(packs)?)?.ok_or("this file system cannot read around its cache")?;
        let mut content = vec![0; 4 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let written = write_and_sync(scratch, &content, WRITE_BYTES)?;
        let rate = |bytes: u64, spent: &Spent| bytes as f64 / spent.wall.max(1e-9);
        Ok(Device { read: rate(work.bytes, &work.spent), write: rate(written.bytes, &written.spent) })
    }

    fn read_seconds(&self, bytes: u64) -> f64 {
        bytes as f64 / self.read
    }

    fn write_seconds(&self, bytes: u64) -> f64 {
        bytes as f64 / self.write
    }
}

/// Has the next reader go to the device.
fn drop_from_cache(tree: &Path) -> Result<()> {
    sync_file_system(tree)?;
    for file in Inventory::of(tree)?.files {
        let open = during(format!("open {}", file.path.display()), std::fs::File::open(&file.path))?;
        during("drop it from the cache", rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed))?;
    }
    Ok(())
}

/// Gives the share of the device's pace.
fn tell(command: &str, bytes: u64, spent: &Spent, device: &Device, device_seconds: f64) -> f64 {
    let share = device_seconds / spent.wall;
    println!(
        "{command}: {:.0} MB in {:.2} s, {:.2} CPU s; the device, at {:.0} MB/s to read and {:.0} to write, takes {device_seconds:.2} s: {share:.2}",
        bytes as f64 / 1e6,
        spent.wall,
        spent.cpu,
        device.read / 1e6,
        device.write / 1e6,
    );
    share
}

//! `mover doctor`: can this machine run mover well, and with `-r`: can that place be trusted with a
//! repository. Each line is ok, warn or fail, with what to do; a fail makes the exit code 1.
//!
//! Only looks and tries; changes nothing but a scratch prefix below the repository's place.

use std::fs;

use futures_lite::future::block_on;
use mover_repository::RepositoryError;
use mover_repository::backend::Backend;
use mover_repository::backend::conformance::{conformance, prove_lock};
use mover_repository::leftovers::count_unfinished;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::Session;
use super::error::Result;
use super::exit::Exit;
use super::repository;
use super::units::{Size, human_bytes};

/// Memory that all rings of a process together may pin.
const RING_BYTES_MAX: u64 = 16 << 20;
/// Below this limit of locked memory no ring can be made.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Open files that a large restore or backup may need.
const OPEN_FILES_GOOD: u64 = 4096;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of the report.
#[derive(Debug)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub help: Option<String>,
}

fn check(name: &str, status: Status, detail: impl Into<String>, help: &str) -> Check {
    let help = (status != Status::Ok).then(|| help.to_owned());
    Check { name: name.to_owned(), status, detail: detail.into(), help }
}

/// Runs the checks and prints them.
pub fn run(session: &Session) -> Result<Exit> {
    let mut checks = machine(session);
    if let Ok(place) = repository::place(session) {
        checks.extend(store(session, place)?);
    }
    report(session, &checks)
}

fn machine(session: &Session) -> Vec<Check> {
    vec![
        kernel(),
        io_uring(),
        locked_memory(),
        dontcache(),
        open_files(),
        cores(session),
        memory(session),
        temporary_space(),
        core_dumps(),
    ]
}

/// Whether the place keeps every promise that a repository builds on. Works below a scratch prefix.
fn store(session: &Session, place: &str) -> Result<Vec<Check>> {
    let backend = match repository::backend(session, place, false) {
        Ok(backend) => backend,
        Err(error) => {
            return Ok(vec![check("place", Status::Fail, error.message, "name an existing directory with -r")]);
        }
    };
    let mut checks = vec![unfinished(backend.as_ref())?];
    let checked = match block_on(conformance(backend.as_ref())) {
        Err(RepositoryError::Storage(error)) if error.kind.takes_no_writes() => {
            let detail = format!("{}: what it guarantees cannot be tried: {error}", backend.describe());
            checks.push(check("place", Status::Fail, detail, &error.guidance().unwrap_or_default()));
            return Ok(checks);
        }
        checked => checked?,
    };
    for held in checked {
        let status = if held.passed { Status::Ok } else { Status::Fail };
        let detail = if held.passed { "yes".to_owned() } else { held.detail };
        checks.push(check(held.name, status, detail, "do not keep a repository in this place: it could lose backups"));
    }
    if session.resolved.settings.object_lock.is_some() {
        checks.push(object_lock(backend.as_ref()));
    }
    let all_held = checks.iter().all(|check| check.status != Status::Fail);
    let (status, detail) = match all_held {
        true => (Status::Ok, format!("{} can be trusted with a repository", backend.describe())),
        false => (Status::Fail, format!("{} cannot be trusted with a repository", backend.describe())),
    };
    checks.push(check("place", status, detail, "use a directory on a local file system such as ext4, xfs or btrfs, or a store that creates an object only if there is none"));
    Ok(checks)
}

/// Whether the bucket locks objects, as the settings want it.
fn object_lock(backend: &dyn Backend) -> Check {
    let name = "a locked object is kept until its time";
    match block_on(prove_lock(backend)) {
        Ok(()) => check(name, Status::Ok, "yes", ""),
        Err(error) => check(name, Status::Fail, error.to_string(), &error.guidance().unwrap_or_default()),
    }
}

/// What killed runs, or runs at work, have begun in the store and not finished.
fn unfinished(backend: &dyn Backend) -> Result<Check> {
    let found = block_on(count_unfinished(backend))?;
    let status = if found.files == 0 { Status::Ok } else { Status::Warn };
    let detail = format!("{} files, {}", found.files, human_bytes(found.bytes));
    let help = "of runs at work or killed: a backup removes those that certainly nobody writes any more";
    Ok(check("unfinished files", status, detail, help))
}

fn report(session: &Session, checks: &[Check]) -> Result<Exit> {
    let output = &session.output;
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        let fields = json!({ "name": check.name, "status": status, "detail": check.detail, "help": check.help });
        output.object("check", fields)?;
        if !output.json {
            output.line(&format!("{status:<5} {}: {}", check.name, check.detail))?;
            if let Some(help) = &check.help {
                output.line(&format!("      help: {help}"))?;
            }
        }
    }
    let failed = checks.iter().filter(|check| check.status == Status::Fail).count();
    let warned = checks.iter().filter(|check| check.status == Status::Warn).count();
    output.object("summary", json!({ "checks": checks.len(), "failed": failed, "warned": warned }))?;
    output.say(&format!("{} checks, {warned} warnings, {failed} failures", checks.len()))?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

/// `6.18` as (6, 18).
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let status = match kernel_version(&release) {
        Some(version) if version >= (5, 10) => Status::Ok,
        Some(version) if version >= (5, 8) => Status::Warn,
        _ => Status::Fail,
    };
    check("kernel", status, format!("Linux {release}"), "mover needs Linux 5.8, and 5.10 or later to run well")
}

fn io_uring() -> Check {
    let result = io_uring::IoUring::new(4).map(drop);
    match result {
        Ok(()) => check("io_uring", Status::Ok, "available", ""),
        Err(error) => check(
            "io_uring",
            Status::Fail,
            error.to_string(),
            "set the sysctl kernel.io_uring_disabled to 0, and let the container's seccomp profile permit io_uring",
        ),
    }
}

fn locked_memory() -> Check {
    let limit = getrlimit(Resource::Memlock).current;
    let detail = limit.map_or_else(|| "unlimited".to_owned(), |bytes| Size(bytes).to_string());
    let status = match limit {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN => Status::Fail,
        Some(bytes) if bytes < RING_BYTES_MAX => Status::Warn,
        _ => Status::Ok,
    };
    check("locked memory", status, detail, "raise it: `ulimit -l 65536`, or LimitMEMLOCK=64M in the systemd unit")
}

/// Whether reads can leave the page cache of this machine as it was.
fn dontcache() -> Check {
    const RWF_DONTCACHE: libc::c_int = 0x80;
    let name = "reading beside the page cache";
    let help = "Linux 6.14 or later on ext4, xfs or btrfs can; elsewhere a backup may push out cached files";
    let Ok(mut file) = tempfile::tempfile() else {
        return check(name, Status::Warn, "no temporary file to try it with", help);
    };
    let _ = std::io::Write::write_all(&mut file, &[1; 4096]);
    let mut buffer = [0u8; 4096];
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: one vector that points to a buffer which outlives the call, and an open descriptor.
    let read = unsafe { libc::preadv2(std::os::fd::AsRawFd::as_raw_fd(&file), &vector, 1, 0, RWF_DONTCACHE) };
    match read {
        4096 => check(name, Status::Ok, "RWF_DONTCACHE works in the temporary directory", help),
        _ => check(name, Status::Warn, "RWF_DONTCACHE is not supported in the temporary directory", help),
    }
}

fn open_files() -> Check {
    let limit = getrlimit(Resource::Nofile).current;
    let detail = limit.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    let status = if limit.is_none_or(|files| files >= OPEN_FILES_GOOD) { Status::Ok } else { Status::Warn };
    check("open files", status, detail, "raise the hard limit: `ulimit -Hn 65536`, or LimitNOFILE in the systemd unit")
}

fn cores(session: &Session) -> Check {
    let available = mover_actors::runtime::cores_available().len();
    let shards = session.resolved.shards;
    let status = if shards > available { Status::Warn } else { Status::Ok };
    let detail = format!("{available} available, {shards} shards in use");
    check("cores", status, detail, "more shards than cores only cost memory: lower --shards")
}

fn memory(session: &Session) -> Check {
    let needed = session.resolved.memory_bytes + (64 << 20);
    let machine = meminfo_available().unwrap_or(u64::MAX);
    let available = machine.min(cgroup_limit().unwrap_or(u64::MAX));
    let status = match available {
        bytes if bytes < needed => Status::Fail,
        bytes if bytes < needed * 2 => Status::Warn,
        _ => Status::Ok,
    };
    let detail = format!("{} available, up to {} used", human_bytes(available), human_bytes(needed));
    check("memory", status, detail, "lower --memory (at least 128MiB), or give the process more")
}

fn meminfo_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// The smallest memory limit of the control groups (version 2) that this process is in.
fn cgroup_limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut smallest = None;
    let mut place = std::path::PathBuf::from(format!("/sys/fs/cgroup{group}"));
    while place.starts_with("/sys/fs/cgroup") {
        let limit = fs::read_to_string(place.join("memory.max")).ok().and_then(|text| text.trim().parse::<u64>().ok());
        smallest = smallest.into_iter().chain(limit).min();
        place.pop();
    }
    smallest
}

fn temporary_space() -> Check {
    let place = std::env::temp_dir();
    let help = "set TMPDIR to a directory with room: what does not fit in memory is kept there, encrypted";
    match rustix::fs::statvfs(&place) {
        Ok(space) => {
            let free = space.f_bavail * space.f_frsize;
            let status = if free < 1 << 30 { Status::Warn } else { Status::Ok };
            check("temporary space", status, format!("{} in {}", human_bytes(free), place.display()), help)
        }
        Err(error) => check("temporary space", Status::Fail, format!("{}: {error}", place.display()), help),
    }
}

fn core_dumps() -> Check {
    let off = getrlimit(Resource::Core).current == Some(0);
    let status = if off { Status::Ok } else { Status::Warn };
    let detail = if off { "off" } else { "on" };
    check("core dumps", status, detail, "they could hold keys: set the limit to 0 (`ulimit -c 0`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(kernel_version("5.10.0-21-amd64"), Some((5, 10)));
        assert_eq!(kernel_version("next"), None);
    }
}

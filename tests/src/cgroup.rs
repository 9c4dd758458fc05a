//! A memory limit for one child: a cgroup of version 1, or of version 2 where that has the memory controller.
//!
//! The child joins before it starts; page cache that it fills counts too, but is reclaimed before the limit kills.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup of our own; removed when dropped.
pub struct MemoryLimit {
    directory: PathBuf,
    version: u8,
}

impl MemoryLimit {
    /// A group limited to `bytes`, or the reason why this machine cannot make one.
    pub fn new(bytes: u64) -> Result<MemoryLimit, String> {
        let name = format!("mover-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let name = name.replace(['(', ')'], "");
        for (root, version, limit_file) in roots() {
            let directory = root.join(&name);
            if std::fs::create_dir(&directory).is_err() {
                continue;
            }
            let group = MemoryLimit { directory, version };
            if std::fs::write(group.directory.join(limit_file), bytes.to_string()).is_ok() {
                return Ok(group);
            }
        }
        Err("needs a cgroup whose memory limit can be written".to_owned())
    }

    /// Makes `command` start inside the group, by a shell that moves itself in first.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.arg("-c").arg("echo $$ > \"$1\" && shift && exec \"$@\"").arg("sh");
        inside.arg(self.directory.join("cgroup.procs")).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(text) => inside.env(name, text),
                None => inside.env_remove(name),
            };
        }
        if let Some(place) = command.get_current_dir() {
            inside.current_dir(place);
        }
        inside
    }

    /// Whether the kernel killed a process of the group for its memory.
    pub fn killed(&self) -> bool {
        let file = if self.version == 1 { "memory.oom_control" } else { "memory.events" };
        let text = std::fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|number| number.trim() != "0")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // The group lingers for a moment after its last process; a leftover empty group does no harm.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn roots() -> Vec<(PathBuf, u8, &'static str)> {
    let first = Path::new("/sys/fs/cgroup/memory");
    let second = Path::new("/sys/fs/cgroup");
    let mut found = Vec::new();
    if first.join("memory.limit_in_bytes").exists() || first.join("cgroup.procs").exists() {
        found.push((first.to_owned(), 1, "memory.limit_in_bytes"));
    }
    if second.join("cgroup.controllers").exists() {
        found.push((second.to_owned(), 2, "memory.max"));
    }
    found
}

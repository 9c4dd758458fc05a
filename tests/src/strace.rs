//! Counts the system calls of a run, through `strace`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::mover::{Run, finish, wait};

/// System calls of one run, line by line as `strace -f` writes them.
pub struct Trace {
    lines: Vec<String>,
}

impl Trace {
    /// How often each of the traced calls was made. A call that was interrupted and resumed counts once.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for line in &self.lines {
            if let Some(name) = call_name(line) {
                *counts.entry(name.to_owned()).or_insert(0) += 1;
            }
        }
        counts
    }

    /// How often `call` was made.
    pub fn count(&self, call: &str) -> u64 {
        self.counts().get(call).copied().unwrap_or(0)
    }

    /// The lines in which `text` occurs.
    pub fn lines_with(&self, text: &str) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.contains(text)).collect()
    }
}

/// Runs `command` under `strace -f -y -e trace=CALLS`; the trace file goes to `directory`.
pub fn traced(command: &Command, calls: &str, directory: &Path) -> (Run, Trace) {
    let record = directory.join("strace.out");
    let run = finish(under_strace(command, &["-y", "-e", &format!("trace={calls}")], &record), None);
    let text = std::fs::read(&record).expect("read the trace");
    let lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    (run, Trace { lines })
}

/// Runs `command` with every look into a directory slowed down, and `meanwhile` once it has opened the file named
/// `opened`: what takes hours on a large server, in seconds.
pub fn slowed<T>(command: &Command, opened: &str, directory: &Path, meanwhile: impl FnOnce() -> T) -> (Run, T) {
    let record = directory.join("strace.out");
    let slow = ["-e", "trace=getdents64,openat", "-e", "inject=getdents64:delay_enter=10000"];
    let mut outer = under_strace(command, &slow, &record);
    outer.stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = format!("{outer:?}");
    let mut child = outer.spawn().expect("start strace");
    let name = format!("\"{opened}\"");
    while !std::fs::read_to_string(&record).unwrap_or_default().contains(&name) {
        let ended = child.try_wait().expect("look at the child");
        assert!(ended.is_none(), "it ended before it opened {opened}: {line}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let result = meanwhile();
    (wait(child, line), result)
}

/// `strace -f OPTIONS` around `command`; what it traces goes to the file `record`.
pub fn under_strace(command: &Command, options: &[&str], record: &Path) -> Command {
    let mut outer = Command::new("strace");
    outer.args(["-f", "-qq", "-s", "256"]).args(options).arg("-o").arg(record);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        set_or_remove(&mut outer, name, value);
    }
    if let Some(place) = command.get_current_dir() {
        outer.current_dir(place);
    }
    outer
}

fn set_or_remove(command: &mut Command, name: &OsStr, value: Option<&OsStr>) {
    match value {
        Some(text) => command.env(name, text),
        None => command.env_remove(name),
    };
}

/// `1234 fsync(5</x>) = 0` gives `fsync`; signals, exits and `<... fsync resumed>` give nothing.
fn call_name(line: &str) -> Option<&str> {
    let rest = line.split_once(' ')?.1.trim_start();
    let name = rest.split_once('(')?.0;
    let plain =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_call_counts_once() {
        let lines =
            ["12 fsync(3</a>) = 0", "13 fsync(4 <unfinished ...>", "13 <... fsync resumed>) = 0", "13 +++ exited"];
        let trace = Trace { lines: lines.map(str::to_owned).to_vec() };
        assert_eq!(trace.count("fsync"), 2);
        assert_eq!(trace.counts().len(), 1);
    }
}

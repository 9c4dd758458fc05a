//! Facts of the machine and of the tools that a reader needs to judge a figure. Reads only; unknown is said.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::record::Machine;
use super::tools::Tool;
use crate::reference;

fn unknown() -> String {
    "unknown".to_owned()
}

/// Looks at this machine.
pub fn look(scratch: &Path, cores: usize) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory_kib = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
    Machine {
        cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
        cores,
        memory_bytes: memory_kib.unwrap_or(0_u64) * 1024,
        kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
            .filter(|text| !text.is_empty())
            .unwrap_or_else(unknown),
        system: read("/etc/os-release")
            .lines()
            .find_map(|line| Some(line.strip_prefix("PRETTY_NAME=")?.trim_matches('"').to_owned()))
            .unwrap_or_else(unknown),
        file_system: said(Command::new("stat").args(["-f", "-c", "%T"]).arg(scratch)).unwrap_or_else(unknown),
        date: said(Command::new("date").args(["-u", "+%F"])).unwrap_or_else(unknown),
    }
}

/// The value behind `name` and a colon.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said(command: &mut Command) -> Option<String> {
    let (text, _) = reference::run(command).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// The binary of a tool: for `mover` the one beside this program comes first.
pub fn find(tool: &Tool) -> Option<PathBuf> {
    let own = std::env::current_exe().ok().map(|path| path.with_file_name(tool.program));
    if let Some(path) = own.filter(|path| tool.program == "mover" && path.is_file()) {
        return Some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(tool.program)).find(|path| path.is_file())
}

/// What a tool says of its version: the first line, without what it was compiled with.
pub fn version(tool: &Tool, program: &Path) -> String {
    let line = said(Command::new(program).args(tool.version)).unwrap_or_else(unknown);
    line.split(" compiled").next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn rivals_field_of_proc_is_found() {
        let text = "processor\t: 0\nmodel name\t: A Processor @ 2.5 GHz\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A Processor @ 2.5 GHz"));
        assert_eq!(field(text, "absent"), None);
    }
}

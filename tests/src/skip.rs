//! How a test says that this machine cannot run it: never silently.
//!
//! The test harness of Rust has no "skipped" outcome, so a skipped test appends one line to the file named by
//! `MOVER_TEST_SKIPPED`; `tests/run` takes these lines off the number of passed tests. With `CI=true` nothing may be
//! skipped: the test fails instead.

use std::io::Write;
use std::process::{Command, Stdio};

/// Records that `test` was skipped for `reason`; panics where `CI=true`.
pub fn skipped(test: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped: {test}: {reason}");
    eprintln!("skipped {test}: {reason}");
    let Some(record) = std::env::var_os("MOVER_TEST_SKIPPED") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(record).expect("open the skip record");
    writeln!(file, "{test}: {reason}").expect("write the skip record");
}

/// Whether this process is root: owners, devices and trusted xattrs need it.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether `tool` is on the PATH (or in the directories of the superuser).
pub fn has_tool(tool: &str) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    path.split(':').any(|directory| std::path::Path::new(directory).join(tool).is_file())
}

/// Whether `program` with these arguments ends with 0; its output is dropped.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What is missing here for a test that needs root and these tools, or `None`.
pub fn missing(root: bool, tools: &[&str]) -> Option<String> {
    if root && !is_root() {
        return Some("needs root".to_owned());
    }
    let absent: Vec<&str> = tools.iter().copied().filter(|tool| !has_tool(tool)).collect();
    if absent.is_empty() { None } else { Some(format!("needs {}", absent.join(", "))) }
}

/// Leaves the test, counted as skipped, unless it runs as root and each of the named tools is there:
/// `needs!(root, "rsync", "getfattr")` or `needs!("strace")`.
#[macro_export]
macro_rules! needs {
    (root $(, $tool:literal)*) => { $crate::needs!(@check true, &[$($tool),*]) };
    ($($tool:literal),+) => { $crate::needs!(@check false, &[$($tool),+]) };
    (@check $root:expr, $tools:expr) => {
        if let Some(reason) = $crate::skip::missing($root, $tools) {
            $crate::skip_test!(reason);
        }
    };
}

/// Leaves the test now, counted as skipped for this reason.
#[macro_export]
macro_rules! skip_test {
    ($reason:expr) => {{
        let thread = std::thread::current();
        $crate::skip::skipped(thread.name().unwrap_or("a test"), &$reason);
        return;
    }};
}

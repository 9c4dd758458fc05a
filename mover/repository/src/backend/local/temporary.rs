//! Names of unfinished files: who writes one, and whether that process is certainly dead.
//!
//! ```text
//! .tmp-<place, 16 digits>-<process, 8 digits>-<random, 16 digits>      all hexadecimal
//! ```
//!
//! A process id means something only to one running kernel and in one pid namespace; the *place* stands
//! for both. A file of another place may belong to a live writer on another host, and one with another
//! kind of name to anybody: of these nothing is known.

use std::sync::OnceLock;

/// How every unfinished file begins.
pub(super) const PREFIX: &str = ".tmp-";

/// Digest of the boot id and the pid namespace; one of its own for a process that cannot read them.
fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let namespace = std::fs::read_link("/proc/self/ns/pid");
        match (boot, namespace) {
            (Ok(boot), Ok(namespace)) => {
                let text = format!("{} {}", boot.trim(), namespace.display());
                blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
            }
            _ => random(),
        }
    })
}

fn random() -> String {
    format!("{:016x}", u64::from_le_bytes(crate::crypto::random_array()))
}

/// The name of an unfinished file of a process of this place.
pub(super) fn file_name_of(process: u32) -> String {
    format!("{PREFIX}{}-{process:08x}-{}", place(), random())
}

/// A fresh name for an unfinished file of this process.
pub(super) fn new_file_name() -> String {
    file_name_of(std::process::id())
}

/// True if the process that writes the file of this name is certainly dead.
pub(super) fn is_of_the_dead(file_name: &str) -> bool {
    let Some(rest) = file_name.strip_prefix(PREFIX) else { return false };
    let fields: Vec<&str> = rest.split('-').collect();
    let [of_place, process, _] = fields[..] else { return false };
    let process = i32::from_str_radix(process, 16).ok().and_then(rustix::process::Pid::from_raw);
    let is_gone = |process| rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH);
    of_place == place() && process.is_some_and(is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_this_place_that_is_gone_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let of_child = file_name_of(child.id());
        assert!(!is_of_the_dead(&of_child), "not reaped yet, so it still counts as there");
        child.wait().unwrap();
        assert!(is_of_the_dead(&of_child));
        assert!(!is_of_the_dead(&new_file_name()));
        let elsewhere = of_child.replace(place(), "0123456789abcdef");
        for unknown in [elsewhere.as_str(), ".tmp-", ".tmp-stale", ".tmp-0123456789abcdef0123456789abcdef", "object"] {
            assert!(!is_of_the_dead(unknown), "{unknown}");
        }
    }
}

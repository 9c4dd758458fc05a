//! What a process has used, as the kernel counts it.

use crate::{Result, during};

/// CPU seconds so far of process `main` and of those that it started and that run; of ended ones if it waited for them.
///
/// # Errors
/// The system does not tell.
pub fn cpu_seconds(main: u32) -> Result<f64> {
    let mut ticks = 0;
    for entry in during("list the processes", std::fs::read_dir("/proc"))?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // Behind the name, which may hold anything: the parent is the second, times are from the twelfth on.
        let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let number = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        if process == main {
            ticks += (11..15).map(number).sum::<u64>();
        } else if number(1) == u64::from(main) {
            ticks += number(11) + number(12);
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory that a process has resident now, in KiB.
///
/// # Errors
/// The system does not tell.
pub fn resident_kib(process: u32) -> Result<f64> {
    let text = during("read the memory of a process", std::fs::read_to_string(format!("/proc/{process}/status")))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    during("read the memory of a process", number.parse())
}

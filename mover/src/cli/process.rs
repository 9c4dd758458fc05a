//! What the process owes its secrets and its user before anything else runs: no core dumps, as many
//! open files as allowed, and a panic that ends in one readable line.
//!
//! Must run on the main thread, before any other thread exists.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::interrupt;

/// Prepares the process. Nothing here can fail in a way that should stop a backup: what cannot be
/// set is left as it is, and `doctor` reports it.
pub fn prepare() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    std::panic::set_hook(Box::new(report_panic));
    interrupt::install();
}

/// Gives this process the lowest claim on cores and disks: it runs where nobody else wants to. Threads that are started
/// later inherit both. The disk class counts only with a scheduler that knows it (bfq; mq-deadline in part).
///
/// # Errors
/// What the system says if it refuses; lowering needs no privilege.
pub fn yield_to_others() -> std::io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    const IOPRIO_CLASS_IDLE_SHIFTED: libc::c_long = 3 << 13;
    let lowest = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure lives for the length of the call; 0 is this thread, the only one so far.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const lowest) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call takes three numbers and touches no memory.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE_SHIFTED) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// One line with what and where, one with what to do. A backtrace only if the usual variable asks.
fn report_panic(info: &std::panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let reason = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown reason".to_owned());
    let place = info.location().map(|location| format!(" ({location})")).unwrap_or_default();
    let one_line = reason.replace('\n', " ");
    eprintln!("mover: internal error: {one_line}{place}");
    eprintln!(
        "help: this is a bug in mover; what was stored before stays valid: run the command again, and report this line"
    );
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
    }
}

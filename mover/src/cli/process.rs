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

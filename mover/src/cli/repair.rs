//! `mover repair index`: new index segments from the tables of contents of all packs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mover_repository::repair::repair_index;
use serde_json::json;

use super::Session;
use super::args::{RepairArgs, RepairCommand};
use super::error::Result;
use super::exit::Exit;
use super::progress_view::{ProgressView, Snapshot};
use super::repository;
use super::units::human_count;

/// Repairs.
pub fn run(session: &Session, args: &RepairArgs) -> Result<Exit> {
    match args.what {
        RepairCommand::Index => index(session),
    }
}

fn index(session: &Session) -> Result<Exit> {
    let opened = repository::open(session)?;
    let done = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&done);
    let interval = session.resolved.settings.progress_interval.map_or(std::time::Duration::from_secs(5), |p| p.0);
    let view = ProgressView::start(&session.output, "repair", interval, move || Snapshot {
        files: seen.load(Ordering::Relaxed),
        unit: "packs",
        ..Snapshot::default()
    });
    let report = repair_index(&opened, false, &|packs, _| done.store(packs, Ordering::Relaxed))?;
    drop(view);
    let output = &session.output;
    for unreadable in &report.unreadable {
        output.problem(unreadable.object.as_bytes(), &unreadable.cause.to_string());
    }
    output.say(&format!(
        "index rebuilt: {} packs, {} chunks, {} segments written, {} replaced",
        human_count(report.packs),
        human_count(report.chunks),
        report.written.len(),
        report.replaced.len(),
    ))?;
    let exit = Exit::from_exceptions(report.unreadable.len() as u64);
    let fields = json!({
        "packs": report.packs,
        "chunks": report.chunks,
        "segments_written": report.written.len(),
        "segments_replaced": report.replaced.len(),
        "packs_unreadable": report.unreadable.len(),
        "exit_code": exit.code(),
    });
    output.object("summary", fields)?;
    if exit != Exit::Done {
        output.note("packs that cannot be read keep what the old segments say of them: run `mover verify`");
    }
    Ok(exit)
}

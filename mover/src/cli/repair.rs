//! `mover repair`: new index segments from the tables of contents of all packs; and a record of what is damaged, so that
//! nothing relies on it and the next backup stores it again. Neither removes anything. `repair rekey` is in `rekey.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mover_repository::heartbeat::registered;
use mover_repository::log::{Outcome, Role};
use mover_repository::repair::repair_index;
use mover_repository::verify::Data;
use serde_json::json;

use super::Session;
use super::args::{RepairArgs, RepairCommand};
use super::error::{CliError, Result};
use super::exit::Exit;
use super::progress_view::{ProgressView, Snapshot};
use super::units::human_count;
use super::{rekey, repository, verify};

/// Repairs.
pub fn run(session: &Session, args: &RepairArgs) -> Result<Exit> {
    match &args.what {
        RepairCommand::Index => index(session),
        RepairCommand::Packs => packs(session),
        RepairCommand::Rekey(args) => rekey::run(session, args),
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

/// Reads everything and records where the damage is.
fn packs(session: &Session) -> Result<Exit> {
    let opened = repository::open(session)?;
    if !opened.secrets().can_read() {
        return Err(CliError::usage("this key may only add to the repository", "use a key that can read"));
    }
    let started = Instant::now();
    let who = repository::open_record(Role::Admin, "")?;
    let report = registered(&opened, &who, |_| -> Result<_> {
        let report = verify::check(session, &opened, &verify::options(session, Data::All))?;
        let outcome = match report.hurt_frames.len() {
            0 => Outcome::Ended { reason: "no frame is damaged".to_owned() },
            _ => Outcome::Damage { frames: report.hurt_frames.clone() },
        };
        Ok((report, outcome))
    })?;
    let marked = report.hurt_frames.len();
    session.output.object("marked", json!({ "frames": marked }))?;
    if marked > 0 {
        session.output.say(&format!(
            "marked {marked} damaged frames: the next backup stores again what its source still has, and `mover verify` tells \
             which files stay hurt"
        ))?;
    }
    verify::print(session, &report, started)
}

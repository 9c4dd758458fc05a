//! `mover repair rekey`: stores anew, under the newest keys, what older packs hold.

use mover_repository::log::Role;
use mover_repository::prune::{Packs, RekeyOptions, rekey};
use serde_json::json;

use super::Session;
use super::args::RekeyArgs;
use super::error::Result;
use super::exit::Exit;
use super::prune::packs;
use super::repository;

/// Rekeys.
pub fn run(session: &Session, args: &RekeyArgs) -> Result<Exit> {
    let opened = repository::open_as_admin(session)?;
    let options = RekeyOptions {
        move_bytes_max: args.budget.map_or(u64::MAX, |budget| budget.0),
        memory_bytes: usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX),
        threads: session.resolved.shards,
        scratch: std::env::temp_dir(),
    };
    let report = rekey(&opened, &repository::open_record(Role::Admin, "")?, &options)?;
    let output = &session.output;
    for (object, reason) in &report.damaged {
        output.problem(object.as_bytes(), &format!("{reason}; its pack stays"));
    }
    output.say(&format!(
        "stored {} anew in {} under key generation {}",
        packs(&report.moved),
        packs(&report.written),
        report.generation
    ))?;
    match report.left.packs {
        0 => output.say("nothing is left under older keys")?,
        _ => output.say(&format!("{} are left under older keys: run it again", packs(&report.left)))?,
    }
    if report.moved.packs > 0 {
        output.note("the older packs are there until `mover prune` deletes them");
    }
    let exit = Exit::from_exceptions(report.damaged.len() as u64);
    let of = |count: &Packs| json!({ "packs": count.packs, "bytes": count.bytes });
    let fields = json!({
        "generation": report.generation,
        "moved": of(&report.moved),
        "written": of(&report.written),
        "left": of(&report.left),
        "damaged": report.damaged.len(),
        "exit_code": exit.code(),
    });
    output.object("summary", fields)?;
    Ok(exit)
}

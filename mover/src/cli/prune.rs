//! `mover prune`: deletes what no recovery point needs, beside running backups.

use mover_repository::log::Role;
use mover_repository::prune::{OpenRun, Packs, PruneOptions, PruneReport, prune};
use serde_json::{Value, json};

use super::Session;
use super::args::PruneArgs;
use super::error::Result;
use super::exit::Exit;
use super::repository;
use super::text::{escape, local_time, rfc3339};
use super::units::{human_bytes, human_count};

/// Prunes.
pub fn run(session: &Session, args: &PruneArgs) -> Result<Exit> {
    let opened = repository::open(session)?;
    let options = PruneOptions {
        dry_run: args.dry_run,
        unused_percent_max: args.max_unused,
        move_bytes_max: args.max_move.0,
        fence_after: args.fence_after.0,
        wait: args.wait.0,
        memory_bytes: usize::try_from(session.resolved.memory_bytes).unwrap_or(usize::MAX),
        threads: session.resolved.shards,
        scratch: std::env::temp_dir(),
    };
    let report = prune(&opened, &repository::open_record(Role::Admin, "")?, &options)?;
    print(session, &report, args.dry_run)
}

fn print(session: &Session, report: &PruneReport, dry_run: bool) -> Result<Exit> {
    let output = &session.output;
    for (run, reason) in &report.fenced {
        output.note(&format!("ended run {}: {reason}", run.number.0));
    }
    for (object, reason) in &report.damaged {
        output.problem(object.as_bytes(), &format!("{reason}; its pack stays"));
    }
    if report.missing_chunks > 0 {
        output.warn(&format!(
            "{} chunks that recovery points need are in no pack: `mover verify` tells which files are hurt",
            human_count(report.missing_chunks)
        ));
    }
    let unused = report.plain_bytes.saturating_sub(report.live_bytes);
    output.say(&format!(
        "{}, {} before compression; {} of it unused",
        packs(&report.before),
        human_bytes(report.plain_bytes),
        human_bytes(unused)
    ))?;
    let (condemned, moved) = (packs(&report.condemned), report.moved.packs);
    output.say(&match dry_run {
        true => format!("would condemn {condemned}; of these {moved} are half dead and would be copied first"),
        false => format!("condemned {condemned}; of these {moved} were half dead and copied first"),
    })?;
    if !dry_run {
        output.say(&format!(
            "wrote {}, deleted {}, rescued {}",
            packs(&report.written),
            packs(&report.deleted),
            report.rescued
        ))?;
    }
    if let Some(until) = report.retained_until {
        let kept = packs(&report.retained);
        output.note(&format!(
            "{kept} are kept by object lock until {} at the latest: prune again then",
            local_time(until)
        ));
    }
    for run in report.waits_for.iter().filter(|_| report.pending.packs > 0) {
        output.note(&format!("{} stay until {} has ended", packs(&report.pending), describe(run)));
    }
    if report.summed_up > 0 {
        output.note(&format!("summed up {} log records in a checkpoint", human_count(report.summed_up)));
    }
    if report.is_partial {
        output.note("there is more to do: run it again, or raise --max-move");
    }
    let exit = Exit::from_exceptions(report.damaged.len() as u64 + report.missing_chunks);
    output.object("summary", summary(report, dry_run, exit))?;
    Ok(exit)
}

/// A number of packs and their size.
pub(super) fn packs(count: &Packs) -> String {
    format!("{} packs, {}", human_count(count.packs), human_bytes(count.bytes))
}

fn describe(run: &OpenRun) -> String {
    match &run.open {
        None => format!("run {}", run.number.0),
        Some(open) => {
            let role = match open.role {
                Role::Writer => "backup",
                Role::Reader => "reader",
                Role::Admin => "admin run",
            };
            let host = escape(open.host.as_bytes());
            format!(
                "{role} {} (process {} of {host}, since {})",
                run.number.0,
                open.process_id,
                local_time(open.started)
            )
        }
    }
}

fn summary(report: &PruneReport, dry_run: bool, exit: Exit) -> Value {
    let run = |run: &OpenRun| {
        let open = run.open.as_ref();
        json!({
            "number": run.number.0,
            "host": open.map(|open| open.host.clone()),
            "process": open.map(|open| open.process_id),
            "started": open.map(|open| rfc3339(open.started)),
        })
    };
    let of = |count: &Packs| json!({ "packs": count.packs, "bytes": count.bytes });
    json!({
        "dry_run": dry_run,
        "before": of(&report.before),
        "bytes_plain": report.plain_bytes,
        "bytes_live": report.live_bytes,
        "condemned": of(&report.condemned),
        "moved": of(&report.moved),
        "written": of(&report.written),
        "deleted": of(&report.deleted),
        "pending": of(&report.pending),
        "retained": of(&report.retained),
        "retained_until": report.retained_until.map(rfc3339),
        "rescued": report.rescued,
        "missing_chunks": report.missing_chunks,
        "damaged": report.damaged.iter().map(|(object, reason)| json!({ "object": object, "reason": reason })).collect::<Vec<_>>(),
        "waits_for": report.waits_for.iter().map(run).collect::<Vec<_>>(),
        "fenced": report.fenced.iter().map(|(open, _)| run(open)).collect::<Vec<_>>(),
        "summed_up": report.summed_up,
        "partial": report.is_partial,
        "exit_code": exit.code(),
    })
}

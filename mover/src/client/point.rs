//! `mover point`: recovery points that jobs have made, what is in them, and restores from them.

use serde_json::{Value, json};

use super::agent::id_of;
use super::api::{Api, cell, place, print_list, time, with_query};
use super::args::{PointArgs, PointBrowseArgs, PointCommand, PointRestoreArgs};
use super::job;
use crate::cli::Session;
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::units::human_bytes;

const POINTS_MAX: usize = 100_000;

/// Does it.
pub fn run(session: &Session, args: &PointArgs) -> Result<Exit> {
    let api = Api::new(&args.client)?;
    match &args.what {
        PointCommand::List(args) => {
            let query = [("set", args.set.clone()), ("repository", args.repository.clone())];
            let points = api.list("/api/v1/points", &query, POINTS_MAX)?;
            print_list(
                session,
                "point",
                &points,
                &["id", "set", "repository", "made", ">new", ">exceptions", "job"],
                |point| {
                    vec![
                        cell(&point["id"]),
                        cell(&point["set"]),
                        cell(&point["repository"]),
                        time(&point["finished_at"]),
                        human_bytes(point["bytes_new"].as_u64().unwrap_or(0)),
                        cell(&point["exceptions"]),
                        cell(&point["job"]),
                    ]
                },
            )?;
            Ok(Exit::Done)
        }
        PointCommand::Browse(args) => browse(session, &api, args),
        PointCommand::Restore(args) => restore(session, &api, args),
    }
}

fn browse(session: &Session, api: &Api, args: &PointBrowseArgs) -> Result<Exit> {
    let query = [
        ("repository", Some(args.repository.clone())),
        ("point", Some(args.point.clone())),
        ("path", Some(args.path.clone())),
    ];
    let mut found = api.get(&with_query("/api/v1/repository/browse", &query))?;
    let items = match found["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    print_list(session, "entry", &items, &["kind", ">bytes", "modified", "path"], |entry| {
        vec![cell(&entry["kind"]), cell(&entry["bytes"]), cell(&entry["mtime"]), cell(&entry["path"])]
    })?;
    Ok(Exit::Done)
}

fn restore(session: &Session, api: &Api, args: &PointRestoreArgs) -> Result<Exit> {
    let goes = match (&args.agent, &args.pool) {
        (Some(agent), _) => json!({ "host": { "agent": id_of(api, agent)? } }),
        (None, pool) => json!({ "pool": { "pool": pool, "reach": args.reach, "preferred": null } }),
    };
    let body = json!({
        "repository": args.repository,
        "set": args.set,
        "workload": args.workload,
        "place": goes,
        "target": args.target,
        "paths": args.paths,
        "overwrite": args.overwrite,
        "verify": args.verify,
    });
    job::show(session, &api.post(&format!("/api/v1/points/{}/restore", place(&args.point)), &body)?)
}

//! `mover dump`: the bytes of one file on standard output, nothing else.

use futures_lite::future::block_on;
use mover_actors::restore::dump::dump_file;
use mover_repository::manifest::Kind;

use super::Session;
use super::args::DumpArgs;
use super::entries;
use super::error::{CliError, Result};
use super::exit::Exit;
use super::repository;
use super::text::escape;

/// Writes the file.
pub fn run(session: &Session, args: &DumpArgs) -> Result<Exit> {
    if session.output.json {
        return Err(CliError::usage("dump prints the bytes of a file, not JSON", "leave --json away"));
    }
    let opened = repository::open_cached(session)?;
    let (history, exceptions) = repository::history(session, &opened)?;
    let point = repository::find_point(&history, &args.point, args.set.as_deref())?;
    let chunks = repository::chunk_reader(session, &opened, &history)?;
    let found = entries::find(&chunks, &point, &args.path)?;
    let Some(first) = found.first() else { return Ok(Exit::from_exceptions(exceptions)) };
    let path = entries::absolute(first.fileset, &first.entry.path);
    let refusal = match &first.entry.kind {
        Kind::File | Kind::HardLink { .. } => None,
        Kind::Directory => Some("a directory"),
        Kind::Symlink { .. } => Some("a symbolic link"),
        _ => Some("a device or fifo"),
    };
    if let Some(kind) = refusal {
        return Err(CliError::failed(
            format!("{} is {kind}: only a file can be dumped", escape(&path)),
            "`mover ls` shows what is below a directory, `mover restore --path` brings it back",
        ));
    }
    let ahead = usize::try_from(session.resolved.memory_bytes / 4).unwrap_or(usize::MAX);
    let output = &session.output;
    let mut closed = None;
    let write = async |bytes: bytes::Bytes| {
        output.raw(&bytes).map_err(|error| {
            let cause = std::io::Error::other(error.message.clone());
            closed = Some(error);
            cause
        })
    };
    let dumped = block_on(dump_file(&chunks, &first.fileset.root, &first.entry.path, ahead, write));
    match (dumped, closed) {
        (Ok(_), _) => Ok(Exit::from_exceptions(exceptions)),
        // a reader that has seen enough is no failure of ours
        (Err(_), Some(error)) => Err(error),
        (Err(failure), None) => Err(failure.into()),
    }
}

//! `mover ls`: one level of a recovery point, or everything below.

use std::sync::Arc;

use futures_lite::future::block_on;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::log::{RecoveryPoint, SealedFileset};
use mover_repository::manifest::{Entry, Kind, ManifestReader, is_within};
use serde_json::json;

use super::Session;
use super::args::LsArgs;
use super::entries::{self, Found};
use super::error::Result;
use super::exit::Exit;
use super::repository;

/// Entries of a subdirectory that are read past before the reader jumps over the rest of it.
const PASSED_MAX: u32 = 64;

/// Lists.
pub fn run(session: &Session, args: &LsArgs) -> Result<Exit> {
    let opened = repository::open_cached(session)?;
    let (history, exceptions) = repository::history(session, &opened)?;
    let point = repository::find_point(&history, &args.point, args.set.as_deref())?;
    let chunks = repository::chunk_reader(session, &opened, &history)?;
    let found = match &args.path {
        Some(path) => entries::find(&chunks, &point, path)?,
        None => roots(&chunks, &point)?,
    };
    let mut count = 0u64;
    for Found { fileset, entry } in &found {
        let is_directory = entry.kind == Kind::Directory;
        // as `ls` does: the content of a directory, not the directory; but a root is shown itself
        if !is_directory || entry.path.is_empty() {
            entries::print(&session.output, fileset, entry)?;
            count += 1;
        }
        if is_directory {
            count += list(session, &chunks, fileset, &entry.path, args.recursive)?;
        }
    }
    let exit = Exit::from_exceptions(exceptions);
    let fields = json!({ "point": point.id.to_string(), "entries": count, "exit_code": exit.code() });
    session.output.object("summary", fields)?;
    Ok(exit)
}

fn roots<'p>(chunks: &Arc<ChunkReader>, point: &'p RecoveryPoint) -> Result<Vec<Found<'p>>> {
    let mut found = Vec::new();
    for fileset in &point.filesets {
        let entry = block_on(ManifestReader::new(Arc::clone(chunks), fileset.root).find(b""))?;
        found.extend(entry.map(|entry| Found { fileset, entry }));
    }
    Ok(found)
}

/// Prints what is below `directory`: its children, or all.
fn list(
    session: &Session,
    chunks: &Arc<ChunkReader>,
    fileset: &SealedFileset,
    directory: &[u8],
    recursive: bool,
) -> Result<u64> {
    let mut reader = ManifestReader::new(Arc::clone(chunks), fileset.root);
    let mut count = 0;
    let mut passed = 0;
    block_on(reader.seek(directory))?;
    while let Some(entry) = block_on(reader.next())? {
        if !is_within(&entry.path, directory) {
            break;
        }
        match depth_below(&entry, directory) {
            0 => continue,
            1 => {}
            _ if recursive => {}
            _ => {
                passed += 1;
                if passed > PASSED_MAX {
                    block_on(reader.seek(&after_child(&entry.path, directory)))?;
                    passed = 0;
                }
                continue;
            }
        }
        passed = 0;
        entries::print(&session.output, fileset, &entry)?;
        count += 1;
    }
    Ok(count)
}

/// 0 for the directory itself, 1 for its children, more below.
fn depth_below(entry: &Entry, directory: &[u8]) -> usize {
    match entry.path.len() - directory.len() {
        0 => 0,
        _ => 1 + rest_below(&entry.path, directory).iter().filter(|byte| **byte == b'/').count(),
    }
}

/// The path below `directory`, without the slash between.
fn rest_below<'e>(path: &'e [u8], directory: &[u8]) -> &'e [u8] {
    if directory.is_empty() { path } else { &path[directory.len() + 1..] }
}

/// The least path that comes after everything in that child of `directory` which holds `path`:
/// in path order only `/` comes before the byte 1.
fn after_child(path: &[u8], directory: &[u8]) -> Vec<u8> {
    let rest = rest_below(path, directory);
    let name_bytes = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let child_end = path.len() - rest.len() + name_bytes;
    [&path[..child_end], &[1]].concat()
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use mover_repository::manifest::path_cmp;

    use super::*;

    #[test]
    fn the_jump_lands_right_behind_a_subtree() {
        for (path, directory) in [(&b"a/b/c"[..], &b""[..]), (b"x/a/b", b"x"), (b"a", b"")] {
            let after = after_child(path, directory);
            assert_eq!(path_cmp(path, &after), Ordering::Less);
            assert_eq!(path_cmp(&[path, b"/\xff\xff"].concat(), &after), Ordering::Less);
        }
        assert_eq!(after_child(b"a/b/c", b""), b"a\x01");
        assert_eq!(after_child(b"x/a/b", b"x"), b"x/a\x01");
        assert_eq!(path_cmp(b"a\x01", b"a-b"), Ordering::Less, "siblings with the same beginning come after");
    }
}

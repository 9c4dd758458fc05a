//! Entries of manifests as lines and JSON, and finding them by the paths that people type.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use futures_lite::future::block_on;
use mover_actors::restore::selection::below_root;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::log::{Grade, RecoveryPoint, SealedFileset};
use mover_repository::manifest::{Entry, Kind, ManifestReader};
use serde_json::{Map, Value};

use super::error::{CliError, Result};
use super::output::Output;
use super::text::{escape, json_path, local_time, mode_text, rfc3339};

/// An entry and the fileset that it was found in.
pub struct Found<'p> {
    /// The fileset.
    pub fileset: &'p SealedFileset,
    /// The entry.
    pub entry: Entry,
}

/// All entries that `path` names: an absolute source path, a path below a fileset's root, or the
/// name of a stream. A path above the roots names all of them.
pub fn find<'p>(chunks: &Arc<ChunkReader>, point: &'p RecoveryPoint, path: &Path) -> Result<Vec<Found<'p>>> {
    let mut wanted = vec![path.as_os_str().as_bytes().to_vec()];
    if let Ok(real) = path.canonicalize() {
        wanted.push(real.as_os_str().as_bytes().to_vec());
    }
    for wanted in wanted {
        let mut found = Vec::new();
        for fileset in &point.filesets {
            let Some(below) = below_root(&wanted, &fileset.root_path) else { continue };
            let reader = ManifestReader::new(Arc::clone(chunks), fileset.root);
            let entry = block_on(reader.find(&below))?;
            found.extend(entry.map(|entry| Found { fileset, entry }));
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(CliError::failed(
        format!(
            "there is no {} in recovery point {}",
            escape(path.as_os_str().as_bytes()),
            super::repository::short(&point.id)
        ),
        "`mover ls` without a path shows the roots",
    ))
}

/// The absolute path of an entry, as `restore --path` takes it.
pub fn absolute(fileset: &SealedFileset, path: &[u8]) -> Vec<u8> {
    below(&fileset.root_path, path)
}

/// `path` below `root`.
pub fn below(root: &[u8], path: &[u8]) -> Vec<u8> {
    match (root, path) {
        (root, b"") => root.to_vec(),
        (b"/", path) => [b"/", path].concat(),
        (root, path) => [root, b"/", path].concat(),
    }
}

/// The letter of `ls -l`; `h` for a further name of a file.
fn type_letter(kind: &Kind) -> char {
    match kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink { .. } => 'l',
        Kind::Fifo => 'p',
        Kind::CharDevice { .. } => 'c',
        Kind::BlockDevice { .. } => 'b',
        Kind::HardLink { .. } => 'h',
    }
}

/// The name of a kind for JSON.
fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink { .. } => "symlink",
        Kind::Fifo => "fifo",
        Kind::CharDevice { .. } => "char-device",
        Kind::BlockDevice { .. } => "block-device",
        Kind::HardLink { .. } => "hard-link",
    }
}

/// Prints one entry like a line of `ls -l`. Before the mode: `!` was not read, `~` is torn.
pub fn print(output: &Output, fileset: &SealedFileset, entry: &Entry) -> Result<()> {
    let path = absolute(fileset, &entry.path);
    if output.json {
        return output.object("entry", Value::Object(entry_json(&path, entry)));
    }
    let flag = match (entry.error, entry.grade) {
        (true, _) => '!',
        (false, Grade::Torn) => '~',
        _ => ' ',
    };
    let size = match entry.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => format!("{major},{minor}"),
        _ => entry.meta.size.to_string(),
    };
    let columns = format!(
        "{flag}{} {:>6} {:>6} {size:>13} {} ",
        mode_text(type_letter(&entry.kind), entry.meta.mode),
        entry.meta.uid,
        entry.meta.gid,
        local_time(entry.meta.mtime),
    );
    let (arrow, target) = match &entry.kind {
        Kind::Symlink { target } => (" -> ", output.name(target)),
        Kind::HardLink { first } => (" = ", output.name(&absolute(fileset, first))),
        _ => ("", Vec::new()),
    };
    output.line_of(&[columns.as_bytes(), &output.name(&path), arrow.as_bytes(), &target])
}

fn entry_json(path: &[u8], entry: &Entry) -> Map<String, Value> {
    let mut object = Map::new();
    json_path(&mut object, path);
    let meta = &entry.meta;
    object.insert("kind".to_owned(), kind_name(&entry.kind).into());
    object.insert("mode".to_owned(), format!("{:04o}", meta.mode).into());
    object.insert("uid".to_owned(), meta.uid.into());
    object.insert("gid".to_owned(), meta.gid.into());
    object.insert("bytes".to_owned(), meta.size.into());
    object.insert("mtime".to_owned(), rfc3339(meta.mtime).into());
    object.insert("torn".to_owned(), (entry.grade == Grade::Torn).into());
    object.insert("unread".to_owned(), entry.error.into());
    match &entry.kind {
        Kind::Symlink { target } => {
            object.insert("target".to_owned(), String::from_utf8_lossy(target).into());
        }
        Kind::HardLink { first } => {
            object.insert("first".to_owned(), String::from_utf8_lossy(first).into());
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            object.insert("device".to_owned(), format!("{major}:{minor}").into());
        }
        _ => {}
    }
    object
}

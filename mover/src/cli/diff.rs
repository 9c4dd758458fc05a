//! `mover diff`: two recovery points merged in path order.
//!
//! `+` added, `-` removed, `M` content differs, `T` another type, `m` attributes alone differ.
//! Filesets are matched by their root paths; equal manifests are not read.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures_lite::future::block_on;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::log::{RecoveryPoint, SealedFileset};
use mover_repository::manifest::{Entry, Kind, ManifestReader, path_cmp};
use serde_json::{Map, Value, json};

use super::Session;
use super::args::DiffArgs;
use super::entries::absolute;
use super::error::Result;
use super::exit::Exit;
use super::repository;
use super::text::json_path;

/// How many of each kind of difference.
#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    content: u64,
    types: u64,
    attributes: u64,
}

/// Compares.
pub fn run(session: &Session, args: &DiffArgs) -> Result<Exit> {
    let opened = repository::open_cached(session)?;
    let (history, exceptions) = repository::history(session, &opened)?;
    let older = repository::find_point(&history, &args.older, args.set.as_deref())?;
    let newer = repository::find_point(&history, &args.newer, args.set.as_deref())?;
    let chunks = repository::chunk_reader(session, &opened, &history)?;
    let mut counts = Counts::default();
    let roots: BTreeSet<&[u8]> = older.filesets.iter().chain(&newer.filesets).map(|f| f.root_path.as_slice()).collect();
    for root in roots {
        let of = |point: &RecoveryPoint| point.filesets.iter().find(|fileset| fileset.root_path == root).cloned();
        let (before, after) = (of(&older), of(&newer));
        if let (Some(before), Some(after)) = (&before, &after)
            && before.root == after.root
        {
            continue;
        }
        merge(session, &chunks, before.as_ref(), after.as_ref(), &mut counts)?;
    }
    let exit = Exit::from_exceptions(exceptions);
    let fields = json!({
        "added": counts.added,
        "removed": counts.removed,
        "content_changed": counts.content,
        "type_changed": counts.types,
        "attributes_changed": counts.attributes,
        "exit_code": exit.code(),
    });
    session.output.object("summary", fields)?;
    Ok(exit)
}

/// A manifest with its next entry at hand.
struct Side<'f> {
    fileset: Option<&'f SealedFileset>,
    reader: Option<ManifestReader>,
    next: Option<Entry>,
}

impl<'f> Side<'f> {
    fn open(chunks: &Arc<ChunkReader>, fileset: Option<&'f SealedFileset>) -> Result<Side<'f>> {
        let reader = fileset.map(|fileset| ManifestReader::new(Arc::clone(chunks), fileset.root));
        let mut side = Side { fileset, reader, next: None };
        side.take()?;
        Ok(side)
    }

    /// The entry at hand; the one after it comes in its place.
    fn take(&mut self) -> Result<Option<Entry>> {
        let following = match &mut self.reader {
            Some(reader) => block_on(reader.next())?,
            None => None,
        };
        Ok(std::mem::replace(&mut self.next, following))
    }
}

fn merge(
    session: &Session,
    chunks: &Arc<ChunkReader>,
    before: Option<&SealedFileset>,
    after: Option<&SealedFileset>,
    counts: &mut Counts,
) -> Result<()> {
    let mut older = Side::open(chunks, before)?;
    let mut newer = Side::open(chunks, after)?;
    loop {
        let order = match (&older.next, &newer.next) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => path_cmp(&old.path, &new.path),
        };
        let old = if order == Ordering::Greater { None } else { older.take()? };
        let new = if order == Ordering::Less { None } else { newer.take()? };
        let (mark, entry, counter) = match (&old, &new) {
            (Some(old), None) => ('-', old, &mut counts.removed),
            (None, Some(new)) => ('+', new, &mut counts.added),
            (Some(old), Some(new)) => match difference(old, new) {
                None => continue,
                Some(mark @ 'T') => (mark, new, &mut counts.types),
                Some(mark @ 'M') => (mark, new, &mut counts.content),
                Some(mark) => (mark, new, &mut counts.attributes),
            },
            (None, None) => return Ok(()),
        };
        *counter += 1;
        let fileset = if new.is_some() { newer.fileset } else { older.fileset };
        let Some(fileset) = fileset else { continue };
        print(session, mark, &absolute(fileset, &entry.path))?;
    }
}

fn print(session: &Session, mark: char, path: &[u8]) -> Result<()> {
    let output = &session.output;
    if output.json {
        let mut object = Map::new();
        object.insert("change".to_owned(), mark.to_string().into());
        json_path(&mut object, path);
        return output.object("difference", Value::Object(object));
    }
    output.line_of(&[mark.to_string().as_bytes(), b" ", &output.name(path)])
}

/// `T`, `M` or `m`, or `None` if a restore of both would give the same.
fn difference(old: &Entry, new: &Entry) -> Option<char> {
    let is_name = |kind: &Kind| matches!(kind, Kind::File | Kind::HardLink { .. });
    let same_type = std::mem::discriminant(&old.kind) == std::mem::discriminant(&new.kind);
    let both_names = is_name(&old.kind) && is_name(&new.kind);
    if !(same_type || both_names) {
        return Some('T');
    }
    if old.kind == Kind::File
        && new.kind == Kind::File
        && (old.content != new.content || old.meta.size != new.meta.size)
    {
        return Some('M');
    }
    // of a file whose first name changed, the content hangs on another entry now: the size tells
    if is_name(&old.kind) && old.meta.size != new.meta.size {
        return Some('M');
    }
    let attributes = |entry: &Entry| {
        let meta = &entry.meta;
        (meta.mode, meta.uid, meta.gid, meta.mtime, meta.xattrs.clone(), entry.error)
    };
    if old.kind != new.kind || attributes(old) != attributes(new) {
        return Some('m');
    }
    None
}

#[cfg(test)]
mod tests {
    use mover_repository::ids::{ChunkId, UnixNanos};
    use mover_repository::log::Grade;
    use mover_repository::manifest::{Content, Metadata, Piece};

    use super::*;

    fn file(fill: u8, bytes: u32) -> Entry {
        Entry {
            path: b"a".to_vec(),
            kind: Kind::File,
            meta: Metadata { mode: 0o644, size: bytes.into(), ..Metadata::default() },
            content: Content::Inline(vec![Piece::Chunk { id: ChunkId([fill; 32]), bytes }]),
            grade: Grade::Stable,
            error: false,
        }
    }

    #[test]
    fn each_kind_of_difference_has_its_mark() {
        let old = file(1, 10);
        assert_eq!(difference(&old, &old), None);
        assert_eq!(difference(&old, &file(2, 10)), Some('M'));
        assert_eq!(difference(&old, &Entry { kind: Kind::Directory, ..old.clone() }), Some('T'));
        let mut other = old.clone();
        other.meta.mtime = UnixNanos(1);
        assert_eq!(difference(&old, &other), Some('m'));
        let mut moved = old.clone();
        (moved.meta.inode, moved.meta.ctime) = (7, UnixNanos(9));
        assert_eq!(difference(&old, &moved), None, "what a restore does not bring back is no difference");
        let link = Entry { kind: Kind::HardLink { first: b"b".to_vec() }, content: Content::EMPTY, ..old.clone() };
        assert_eq!(difference(&old, &link), Some('m'));
    }
}

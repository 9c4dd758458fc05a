//! The state of one fileset while it is planned: the entries to come, with their directories made, and what further
//! names of files are linked to.
//!
//! Limits: one batch of entries, one file that is longer than its window, and one name for each hard-linked file whose
//! first name is not this restore's (not selected, or something else stays there). On the planner's shard. Must never
//! link a name of the recovery point to content that is not from it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mover_repository::Result;
use mover_repository::chunk_reader::ChunkReader;
use mover_repository::ids::ChunkId;
use mover_repository::index::{Index, Location};
use mover_repository::log::Grade;
use mover_repository::manifest::{Content, ContentReader, Entry, Kind, ManifestReader, ManifestRoot, Piece, is_within};

use crate::error::Failure;
use crate::restore::closing::ClosingList;
use crate::restore::items::{Item, judge, looks_restored, next_items};
use crate::restore::planned_file::PlannedFile;
use crate::restore::report::LeftOut;
use crate::restore::selection::{Scope, parent_of, target_path};
use crate::restore::site::{Site, target_failure};
use crate::restore::target::{Overwrite, TargetError, TargetErrorKind};
use crate::restore::walk::Walk;

/// A fileset on its way.
pub struct FilesetRun {
    /// The entries to come.
    pub walk: Walk,
    /// Where the fileset lands below the target.
    pub root: Vec<u8>,
    /// Entries that were read and are not planned.
    pub items: VecDeque<Item>,
    /// A part of the manifest could not be read.
    pub is_damaged: bool,
    /// A file that goes on in the next window.
    pub carry: Option<Carry>,
    /// Files without bytes to be read.
    pub empty: Vec<Arc<PlannedFile>>,
    /// What is done after the last file.
    pub closing: ClosingList,
    /// Entries that are not of this restore.
    pub left_out: LeftOut,
    chunks: Arc<ChunkReader>,
    finder: ManifestReader,
    scope: Scope,
    /// First name that this restore does not write → the name that has the content instead, once there is one.
    stand_ins: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// The outermost directory that could not be made, of those that were read last: nothing can land below it.
    refused: Option<Vec<u8>>,
}

/// What becomes of a further name of a file.
pub enum Planned {
    /// It is linked to this name below the target.
    Link(Vec<u8>),
    /// It is restored with the content: the first name is not this restore's.
    InsteadOfFirst(Entry),
}

impl FilesetRun {
    /// The run of a fileset that lands at `root`.
    pub fn new(
        chunks: &Arc<ChunkReader>,
        manifest: &ManifestRoot,
        scope: Scope,
        root: Vec<u8>,
        closing: ClosingList,
    ) -> Self {
        FilesetRun {
            walk: Walk::new(chunks, manifest, &scope),
            root,
            items: VecDeque::new(),
            is_damaged: false,
            carry: None,
            empty: Vec::new(),
            closing,
            left_out: LeftOut::default(),
            chunks: chunks.clone(),
            finder: ManifestReader::new(chunks.clone(), *manifest),
            scope,
            stand_ins: HashMap::new(),
            refused: None,
        }
    }

    /// Reads on in the manifest, makes the directories that come next, and judges what the target has in them. False at
    /// the end of the fileset.
    ///
    /// # Errors
    /// What ends the whole restore.
    pub async fn read_on(&mut self, site: &Site, rule: Overwrite) -> std::result::Result<bool, Failure> {
        let next = next_items(&mut self.walk, &self.root).await;
        if next.is_end() {
            return Ok(false);
        }
        for error in &next.damage {
            self.is_damaged = true;
            self.left_out.set_unknown();
            let cause = format!("a part of the list of files cannot be read, what it names is left out: {error}");
            if let Some(gone) = site.repository_gone(&cause).await {
                return Err(gone);
            }
            site.problem(&self.root, cause);
        }
        let mut items = next.items;
        if self.is_damaged {
            make_missing_parents(site, &items).await?;
        }
        let mut made = make_directories(site, rule, &mut items).await?.into_iter();
        for mut item in items {
            let is_directory = item.entry.kind == Kind::Directory;
            let made = if is_directory { made.next() } else { None };
            if self.refused.as_ref().is_some_and(|refused| is_within(&item.path, refused)) {
                site.problem(&item.path, "the directory that it belongs in could not be made");
                self.displace(&item.entry);
                self.left_out.insert(item.number);
                continue;
            }
            match made {
                // Of a directory that could not be read not all attributes are known.
                Some(Ok(is_new)) => {
                    item.kept = !is_new && (item.on_the_way || rule == Overwrite::Never || item.entry.error);
                }
                Some(Err(error)) => {
                    refuse_directory(site, &item, &error)?;
                    self.refused = Some(item.path);
                    continue;
                }
                None if is_directory => {
                    return Err(Failure::internal("make directories", "", "a result is missing"));
                }
                None => {}
            }
            self.items.push_back(item);
        }
        if rule != Overwrite::Always {
            // Not before the directories are made: one that was closed is open now.
            let others = self.items.iter_mut().filter(|item| item.entry.kind != Kind::Directory);
            judge(others, &*site.target, rule).await?;
        }
        Ok(true)
    }

    /// Something that is not of this restore stays under the first name of a file: its further names must not be linked
    /// to that.
    fn displace(&mut self, first: &Entry) {
        let is_first = !matches!(first.kind, Kind::Directory | Kind::HardLink { .. }) && first.meta.links > 1;
        if is_first {
            self.stand_ins.insert(first.path.clone(), None);
        }
    }

    /// The overwrite rule keeps what lies where `item` would land: decides what further names of the file are linked to.
    ///
    /// # Errors
    /// A sentence, if the first name is not in the manifest.
    pub async fn keep(&mut self, item: &Item) -> std::result::Result<(), String> {
        self.left_out.insert(item.number);
        let Some(existing) = &item.existing else { return Ok(()) };
        let Kind::HardLink { first } = &item.entry.kind else {
            if !looks_restored(existing, &item.entry) {
                self.displace(&item.entry);
            }
            return Ok(());
        };
        let needs_stand_in = match self.stand_ins.get(first) {
            Some(stand_in) => stand_in.is_none(),
            None => !self.scope.contains(first),
        };
        if needs_stand_in && looks_restored(existing, &self.first_entry(first).await?) {
            self.stand_ins.insert(first.clone(), Some(item.entry.path.clone()));
        }
        Ok(())
    }

    /// What becomes of the name `path` of the file whose first name is `first` (both inside the fileset).
    ///
    /// # Errors
    /// A sentence, if the first name is not in the manifest.
    pub async fn first_name(&mut self, first: &[u8], path: &[u8]) -> std::result::Result<Planned, String> {
        let stand_in = self.stand_ins.get(first);
        if let Some(Some(stand_in)) = stand_in {
            return Ok(Planned::Link(target_path(&self.root, stand_in)));
        }
        if stand_in.is_none() && self.scope.contains(first) {
            if self.is_damaged {
                // The first name may be on a page that was passed over; what lies there now is something else.
                self.first_entry(first).await?;
            }
            return Ok(Planned::Link(target_path(&self.root, first)));
        }
        let entry = self.first_entry(first).await?;
        self.stand_ins.insert(first.to_vec(), Some(path.to_vec()));
        Ok(Planned::InsteadOfFirst(entry))
    }

    async fn first_entry(&self, first: &[u8]) -> std::result::Result<Entry, String> {
        let entry = self.finder.find(first).await.map_err(|error| error.to_string())?;
        entry.ok_or_else(|| format!("its first name {} is not in the recovery point", String::from_utf8_lossy(first)))
    }

    /// The pieces of a file, and its size.
    ///
    /// # Errors
    /// If the list of its chunks cannot be read.
    pub async fn content_of(&self, entry: &Entry) -> Result<(Pieces, u64)> {
        let recorded_bytes = entry.meta.size;
        match &entry.content {
            Content::Inline(pieces) => {
                let bytes: u64 = pieces.iter().map(Piece::bytes).sum();
                // What a torn file holds need not be as long as its last stat said.
                let size = if entry.grade == Grade::Torn { bytes } else { recorded_bytes };
                Ok((Pieces::Inline(pieces.clone().into()), size))
            }
            tree => {
                let mut size = recorded_bytes;
                if entry.grade == Grade::Torn {
                    let mut reader = ContentReader::new(self.chunks.clone(), tree);
                    size = 0;
                    while let Some(piece) = reader.next().await? {
                        size += piece.bytes();
                    }
                }
                let mut reader = ContentReader::new(self.chunks.clone(), tree);
                let next = reader.next().await?;
                Ok((Pieces::Tree { reader: Box::new(reader), next }, size))
            }
        }
    }
}

/// The entries of directories may have been on a damaged page: what lies in them is restored all the same.
async fn make_missing_parents(site: &Site, items: &[Item]) -> std::result::Result<(), Failure> {
    let mut before: &[u8] = b"";
    for item in items {
        let parent = parent_of(&item.path);
        if parent != before {
            site.target.make_parents(parent).await.map_err(|error| target_failure(&error))?;
            before = parent;
        }
    }
    Ok(())
}

/// Makes the directories among `items`, one result each. What is no directory and stands where one goes is judged by
/// the rule as it would be in the place of a file.
async fn make_directories(
    site: &Site,
    rule: Overwrite,
    items: &mut [Item],
) -> std::result::Result<Vec<std::result::Result<bool, TargetError>>, Failure> {
    let mut directories: Vec<&mut Item> = items.iter_mut().filter(|item| item.entry.kind == Kind::Directory).collect();
    if directories.is_empty() {
        return Ok(Vec::new());
    }
    let make = async |paths: Vec<Vec<u8>>, replaces: bool| {
        site.target.make_directories(paths, replaces).await.map_err(|error| target_failure(&error))
    };
    // Neither rule keeps anything but a directory where a directory goes.
    let replaces = matches!(rule, Overwrite::Always | Overwrite::IfChanged);
    let mut made = make(directories.iter().map(|item| item.path.clone()).collect(), replaces).await?;
    let is_blocked = |result: &std::result::Result<bool, TargetError>| matches!(result, Err(error) if error.kind == TargetErrorKind::Exists);
    if rule != Overwrite::IfNewer || !made.iter().any(is_blocked) {
        return Ok(made);
    }
    let blocked = directories.iter_mut().zip(&made).filter(|(_, result)| is_blocked(result));
    judge(blocked.map(|(item, _)| &mut **item), &*site.target, rule).await?;
    // One by one, in path order: what failed for lack of its parent may succeed after it.
    for (item, result) in directories.iter().zip(&mut made) {
        if result.is_err() && !item.kept {
            let again = make(vec![item.path.clone()], item.existing.is_some()).await?;
            *result = again.into_iter().next().expect("one result a path");
        }
    }
    Ok(made)
}

/// Lists a directory that could not be made, or ends the restore if the target refuses everything.
fn refuse_directory(site: &Site, item: &Item, error: &TargetError) -> std::result::Result<(), Failure> {
    if error.kind != TargetErrorKind::Exists {
        return site.refused(&item.path, error);
    }
    site.problem(
        &item.path,
        "what stands where this directory goes is kept by the overwrite rule: move it away, or restore with \
         --overwrite always",
    );
    Ok(())
}

/// The pieces of one file, in order.
pub enum Pieces {
    /// All of them.
    Inline(VecDeque<Piece>),
    /// Read page by page, one piece ahead.
    Tree {
        /// The pages.
        reader: Box<ContentReader>,
        /// The piece that comes next.
        next: Option<Piece>,
    },
}

/// A file whose pieces are being planned.
pub struct Carry {
    /// The file.
    pub file: Arc<PlannedFile>,
    /// Its pieces from here on.
    pub pieces: Pieces,
    /// Where the next piece goes.
    pub offset: u64,
    /// One of the pieces that the file waits for is the end of its plan.
    pub has_token: bool,
}

impl Carry {
    /// True if pieces are left.
    pub fn has_more(&self) -> bool {
        match &self.pieces {
            Pieces::Inline(pieces) => !pieces.is_empty(),
            Pieces::Tree { next, .. } => next.is_some(),
        }
    }

    async fn next_piece(&mut self) -> Result<Option<Piece>> {
        match &mut self.pieces {
            Pieces::Inline(pieces) => Ok(pieces.pop_front()),
            Pieces::Tree { reader, next } => {
                let piece = next.take();
                if piece.is_some() {
                    *next = reader.next().await?;
                }
                Ok(piece)
            }
        }
    }

    /// The next chunk with its place in the repository and in the file; holes are passed over. `None` at the end.
    ///
    /// # Errors
    /// A sentence why the file cannot be restored.
    pub async fn next_place(&mut self, index: &Index) -> std::result::Result<Option<(ChunkId, Location, u64)>, String> {
        loop {
            let piece =
                self.next_piece().await.map_err(|error| format!("the list of its chunks cannot be read: {error}"))?;
            let Some(piece) = piece else {
                let (offset, size) = (self.offset, self.file.size);
                let cause = || format!("its chunks hold {offset} bytes, its entry says {size}");
                return if offset == size { Ok(None) } else { Err(cause()) };
            };
            let offset = self.offset;
            self.offset += piece.bytes();
            let Piece::Chunk { id, bytes } = piece else { continue };
            let location =
                index.lookup(&id).await.map_err(|error| format!("chunk {id} cannot be looked up: {error}"))?;
            let location = location.ok_or_else(|| format!("chunk {id} is in no pack that the index knows"))?;
            if location.chunk_bytes != bytes {
                return Err(format!(
                    "chunk {id} has {} bytes in the index and {bytes} in the manifest",
                    location.chunk_bytes
                ));
            }
            return Ok(Some((id, location, offset)));
        }
    }
}

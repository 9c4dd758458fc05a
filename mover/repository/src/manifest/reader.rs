//! Reads a manifest: one path, or all entries in order, one page a level at a time.
//!
//! Holds the inner pages on the way down, one decoded leaf, and the next leaf while it is being read.
//! Order is checked across leaves, levels strictly fall. Needs the read key. Runs on the caller's
//! thread and does I/O through the chunk reader alone.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use crate::chunk_reader::ChunkReader;
use crate::codec::DecodeError;
use crate::crypto::Secrets;
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::limits::{PAGE_LEVELS_MAX, PAGE_PATH_BYTES_MAX};
use crate::manifest::entry::{Content, Entry, Kind, decode_names, take_path};
use crate::manifest::page::{Child, InnerPage, PageKind, open_leaf_page};
use crate::manifest::path::{check_path, is_within, path_cmp};
use crate::manifest::structure::{decode_structure, skim_structure};
use crate::manifest::{Identity, ManifestRoot};

type Reading<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Streams the entries of one manifest.
pub struct ManifestReader {
    chunks: Arc<ChunkReader>,
    root: ManifestRoot,
    cursor: Cursor,
    leaf: VecDeque<Entry>,
    prefetched: Option<Prefetch<Vec<Entry>>>,
    last_path: Option<Vec<u8>>,
    bound: Option<Vec<u8>>,
}

impl ManifestReader {
    /// A reader before the first entry. Nothing is read yet.
    pub fn new(chunks: Arc<ChunkReader>, root: ManifestRoot) -> Self {
        ManifestReader {
            cursor: Cursor::new(chunks.clone(), root),
            chunks,
            root,
            leaf: VecDeque::new(),
            prefetched: None,
            last_path: None,
            bound: None,
        }
    }

    /// The root that is read.
    pub fn root(&self) -> &ManifestRoot {
        &self.root
    }

    /// The entry at exactly `path`. Reads one page a level; does not move the reader.
    ///
    /// # Errors
    /// If a page cannot be read or is not as a builder makes it.
    pub async fn find(&self, path: &[u8]) -> Result<Option<Entry>> {
        let mut cursor = Cursor::new(self.chunks.clone(), self.root);
        cursor.seek(path).await?;
        let Some(child) = cursor.next_leaf().await? else { return Ok(None) };
        let entries = read_leaf(self.chunks.clone(), child).await?;
        Ok(entries.into_iter().find(|entry| entry.path == path))
    }

    /// Moves to the first entry at or after `path`. Reads one page a level.
    ///
    /// # Errors
    /// As [`ManifestReader::find`].
    pub async fn seek(&mut self, path: &[u8]) -> Result<()> {
        self.cursor = Cursor::new(self.chunks.clone(), self.root);
        self.leaf.clear();
        self.prefetched = None;
        self.last_path = None;
        self.bound = None;
        self.cursor.seek(path).await?;
        while self.fill().await? {
            while self.leaf.front().is_some_and(|entry| path_cmp(&entry.path, path) == Ordering::Less) {
                self.leaf.pop_front();
            }
            if !self.leaf.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Moves to `path`, so that [`ManifestReader::next`] gives it and what lies below, and then `None`.
    ///
    /// # Errors
    /// As [`ManifestReader::find`].
    pub async fn subtree(&mut self, path: &[u8]) -> Result<()> {
        self.seek(path).await?;
        self.bound = Some(path.to_vec());
        Ok(())
    }

    /// The next entry in path order, `None` at the end.
    ///
    /// # Errors
    /// As [`ManifestReader::find`].
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        if self.leaf.is_empty() && !self.fill().await? {
            return Ok(None);
        }
        let Some(front) = self.leaf.front() else { return Ok(None) };
        if self.bound.as_ref().is_some_and(|bound| !is_within(&front.path, bound)) {
            return Ok(None);
        }
        Ok(self.leaf.pop_front())
    }

    /// Takes the next leaf; false at the end. Starts to read the one after it.
    async fn fill(&mut self) -> Result<bool> {
        let entries = match self.prefetched.take() {
            Some(prefetch) => prefetch.finish().await?,
            None => match self.cursor.next_leaf().await? {
                Some(child) => read_leaf(self.chunks.clone(), child).await?,
                None => return Ok(false),
            },
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(RepositoryError::corrupt("manifest leaf", "it is empty"));
        };
        if self.last_path.as_ref().is_some_and(|path| path_cmp(path, &first.path) != Ordering::Less) {
            return Err(RepositoryError::corrupt("manifest leaf", "its paths are not after those before"));
        }
        self.last_path = Some(last.path.clone());
        self.leaf = entries.into();
        if let Some(child) = self.cursor.next_leaf().await? {
            let mut prefetch = Prefetch::Running(Box::pin(read_leaf(self.chunks.clone(), child)));
            prefetch.start().await;
            self.prefetched = Some(prefetch);
        }
        Ok(true)
    }
}

/// A future that was polled once, so that its I/O is under way.
pub(super) enum Prefetch<T> {
    Running(Reading<T>),
    Done(Result<T>),
}

impl<T> Prefetch<T> {
    pub(super) async fn start(&mut self) {
        poll_fn(|context| {
            if let Prefetch::Running(future) = self
                && let Poll::Ready(result) = future.as_mut().poll(context)
            {
                *self = Prefetch::Done(result);
            }
            Poll::Ready(())
        })
        .await;
    }

    pub(super) async fn finish(self) -> Result<T> {
        match self {
            Prefetch::Running(future) => future.await,
            Prefetch::Done(result) => result,
        }
    }
}

/// The way through the inner pages: gives leaves in order.
pub(super) struct Cursor {
    chunks: Arc<ChunkReader>,
    root: ManifestRoot,
    /// Pages on the way down with the child that comes next.
    stack: Vec<(InnerPage, usize)>,
    is_started: bool,
}

impl Cursor {
    pub(super) fn new(chunks: Arc<ChunkReader>, root: ManifestRoot) -> Self {
        Cursor { chunks, root, stack: Vec::new(), is_started: false }
    }

    /// Makes the leaf that would hold `path` the next one.
    pub(super) async fn seek(&mut self, path: &[u8]) -> Result<()> {
        self.stack.clear();
        self.is_started = true;
        let mut page = read_inner(&self.chunks, &self.root.structure, self.root.levels).await?;
        loop {
            let at = page.child_for(path).unwrap_or(0);
            let level = page.level;
            let down = page.children.get(at).map(|child| child.structure);
            let next = if level > 1 { at + 1 } else { at };
            self.stack.push((page, next));
            match down {
                Some(id) if level > 1 => page = read_inner(&self.chunks, &id, level - 1).await?,
                _ => return Ok(()),
            }
        }
    }

    /// The next leaf in order.
    pub(super) async fn next_leaf(&mut self) -> Result<Option<Child>> {
        if !self.is_started {
            self.is_started = true;
            let page = read_inner(&self.chunks, &self.root.structure, self.root.levels).await?;
            self.stack.push((page, 0));
        }
        while let Some((page, next)) = self.stack.last_mut() {
            let Some(child) = page.children.get(*next).cloned() else {
                self.stack.pop();
                continue;
            };
            *next += 1;
            let level = page.level;
            if level == 1 {
                return Ok(Some(child));
            }
            let below = read_inner(&self.chunks, &child.structure, level - 1).await?;
            self.stack.push((below, 0));
        }
        Ok(None)
    }

    /// Separator of the leaf that [`Cursor::next_leaf`] would give, if it is known without reading.
    pub(super) fn next_separator(&self) -> Option<&[u8]> {
        self.stack.iter().rev().find_map(|(page, next)| page.children.get(*next)).map(|child| &child.separator[..])
    }
}

/// Streams the contents of all entries of one manifest, in order, for whoever cannot read their names.
pub(crate) struct StructureReader {
    chunks: Arc<ChunkReader>,
    cursor: Cursor,
    leaf: VecDeque<Content>,
}

impl StructureReader {
    /// A reader before the first entry. Nothing is read yet.
    pub(crate) fn new(chunks: Arc<ChunkReader>, root: ManifestRoot) -> Self {
        StructureReader { cursor: Cursor::new(chunks.clone(), root), chunks, leaf: VecDeque::new() }
    }

    /// The content of the next entry, `None` at the end.
    ///
    /// # Errors
    /// As [`ManifestReader::find`].
    pub(crate) async fn next(&mut self) -> Result<Option<Content>> {
        while self.leaf.is_empty() {
            let Some(child) = self.cursor.next_leaf().await? else { return Ok(None) };
            let page = self.chunks.read(&child.structure).await?;
            let object = || format!("manifest page {}", child.structure);
            self.leaf = decode_structure_page(&page).map_err(RepositoryError::decoding(&object()))?.into();
        }
        Ok(self.leaf.pop_front())
    }
}

/// Reads one inner page that must be of `level`.
pub(crate) async fn read_inner(chunks: &ChunkReader, id: &ChunkId, level: u8) -> Result<InnerPage> {
    let object = || format!("manifest page {id}");
    if level == 0 || level > PAGE_LEVELS_MAX {
        return Err(RepositoryError::corrupt(object(), "its level is out of bounds"));
    }
    let bytes = chunks.read(id).await?;
    InnerPage::decode(&bytes, level).map_err(|error| RepositoryError::corrupt(object(), error))
}

async fn read_leaf(chunks: Arc<ChunkReader>, child: Child) -> Result<Vec<Entry>> {
    let structure = chunks.read(&child.structure).await?;
    let names = chunks.read(&child.names).await?;
    let entries = decode_leaf(&names, &structure)
        .map_err(|error| RepositoryError::corrupt(format!("manifest leaf {}", child.names), error))?;
    if entries.len() as u64 != child.entries {
        return Err(RepositoryError::corrupt(format!("manifest leaf {}", child.names), "its count is another"));
    }
    Ok(entries)
}

/// Decodes a leaf from its two pages.
pub(crate) fn decode_leaf(names: &[u8], structure: &[u8]) -> std::result::Result<Vec<Entry>, DecodeError> {
    let (mut names, count) = open_leaf_page(names, PageKind::Names)?;
    let (mut structure, structure_count) = open_leaf_page(structure, PageKind::Structure)?;
    if count != structure_count {
        return Err(DecodeError::Invalid { field: "count of a leaf's pages" });
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let mut path = Vec::new();
    let mut path_bytes = 0;
    for _ in 0..count {
        take_path(&mut names, &mut path)?;
        check_path(&path)?;
        path_bytes += path.len();
        if path_bytes > PAGE_PATH_BYTES_MAX {
            return Err(DecodeError::Invalid { field: "sum of paths" });
        }
        if entries.last().is_some_and(|last| path_cmp(&last.path, &path) != Ordering::Less) {
            return Err(DecodeError::Invalid { field: "path order" });
        }
        let (kind, meta) = decode_names(&mut names, &path)?;
        let record = decode_structure(&mut structure)?;
        if record.hard_link != matches!(kind, Kind::HardLink { .. }) || record.size != meta.size {
            return Err(DecodeError::Invalid { field: "pair of records" });
        }
        entries.push(Entry {
            path: path.clone(),
            kind,
            meta,
            content: record.content,
            grade: record.grade,
            error: record.error,
        });
    }
    names.finish()?;
    structure.finish()?;
    Ok(entries)
}

/// Contents of the entries of a structure page, for whoever cannot read names.
pub(crate) fn decode_structure_page(structure: &[u8]) -> std::result::Result<Vec<Content>, DecodeError> {
    let (mut input, count) = open_leaf_page(structure, PageKind::Structure)?;
    let mut contents = Vec::with_capacity(count);
    for _ in 0..count {
        contents.push(decode_structure(&mut input)?.content);
    }
    input.finish()?;
    Ok(contents)
}

/// True if the digests of a structure page are those of `entries`.
pub(crate) fn leaf_digests_match(
    secrets: &Secrets,
    entries: &[Entry],
    structure: &[u8],
) -> std::result::Result<bool, DecodeError> {
    let (mut input, _) = open_leaf_page(structure, PageKind::Structure)?;
    let mut buffer = Vec::new();
    for entry in entries {
        let digest = skim_structure(&mut input)?;
        Identity::of(&entry.meta).digest_input(&entry.path, &mut buffer);
        if secrets.identity_digest(&buffer) != digest {
            return Ok(false);
        }
    }
    Ok(true)
}

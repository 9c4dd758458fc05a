//! Matches a scan against the manifest of the run before, by keyed digests of identity.
//!
//! Called in path order, it walks leaf by leaf and holds two. A digest covers path, size, mtime,
//! ctime, inode and mode, so a hit means that all are equal. Needs no read key; with one it gives
//! xattrs too. Must never match a further hard link, for that has no content of its own.
//! One shard's; decoding runs on the caller's thread.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;

use crate::chunk_reader::ChunkReader;
use crate::codec::{DecodeError, Decoder};
use crate::error::{RepositoryError, Result};
use crate::limits::PATH_BYTES_MAX;
use crate::log::Grade;
use crate::manifest::ManifestRoot;
use crate::manifest::entry::{Content, Identity, decode_xattrs, skim_names, skip_xattrs};
use crate::manifest::page::{Child, PAGE_HEADER_BYTES, PageKind, open_leaf_page};
use crate::manifest::path::path_cmp;
use crate::manifest::reader::{Cursor, Prefetch};
use crate::manifest::structure::{decode_structure, skim_structure};

/// What the run before recorded of an entry with the same identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentMatch {
    /// Where its bytes are. Every chunk has still to be looked up in this run's index.
    pub content: Content,
    /// How sure the run before was.
    pub grade: Grade,
    /// It could not be read then.
    pub error: bool,
    /// Size in bytes.
    pub size: u64,
    /// Extended attributes; `None` without the read key.
    pub xattrs: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// The manifest of the run before, walked beside a scan.
pub struct Parent {
    chunks: Arc<ChunkReader>,
    root: ManifestRoot,
    cursor: Cursor,
    leaf: Option<Leaf>,
    /// Separator of the leaf that is held; paths before it need a new start.
    from: Vec<u8>,
    prefetched: Option<(Child, Prefetch<Leaf>)>,
    buffer: Vec<u8>,
    can_read: bool,
}

struct Leaf {
    structure: Bytes,
    /// Where each structure record begins.
    offsets: Vec<u32>,
    by_digest: HashTable<u32>,
    names: Option<Names>,
}

struct Names {
    page: Bytes,
    /// Where the xattrs of each entry begin.
    xattrs: Vec<u32>,
}

impl Parent {
    /// A walk before the first entry. Nothing is read yet.
    pub fn new(chunks: Arc<ChunkReader>, root: ManifestRoot) -> Self {
        Parent {
            can_read: chunks.repository().secrets().can_read(),
            cursor: Cursor::new(chunks.clone(), root),
            chunks,
            root,
            leaf: None,
            from: Vec::new(),
            prefetched: None,
            buffer: Vec::new(),
        }
    }

    /// What the parent recorded at `path`, if identity is equal and it was not a further hard link.
    /// Calls in path order are cheap: under a microsecond beside the pages. Others start over.
    ///
    /// # Errors
    /// If a page cannot be read. The parent is advice: the caller may read the file instead.
    pub async fn match_entry(&mut self, path: &[u8], identity: &Identity) -> Result<Option<ParentMatch>> {
        self.advance(path).await?;
        let Some(leaf) = &self.leaf else { return Ok(None) };
        identity.digest_input(path, &mut self.buffer);
        let digest = self.chunks.repository().secrets().identity_digest(&self.buffer);
        leaf.find(&digest).map_err(|error| RepositoryError::corrupt("parent manifest leaf", error))
    }

    /// Makes the leaf that would hold `path` the current one.
    async fn advance(&mut self, path: &[u8]) -> Result<()> {
        if self.leaf.is_some() && path_cmp(path, &self.from) == Ordering::Less {
            self.cursor = Cursor::new(self.chunks.clone(), self.root);
            self.leaf = None;
            self.prefetched = None;
        }
        if self.leaf.is_none() && self.prefetched.is_none() {
            self.cursor.seek(path).await?;
            self.take_next().await?;
        }
        while self.next_starts_at_or_before(path) {
            // Far ahead: go there by the inner pages and not by every leaf between.
            if self.leaf_after_next_starts_at_or_before(path) {
                self.prefetched = None;
                self.cursor.seek(path).await?;
            }
            self.take_next().await?;
        }
        Ok(())
    }

    fn next_starts_at_or_before(&self, path: &[u8]) -> bool {
        let next = self.prefetched.as_ref().map(|(child, _)| &child.separator[..]);
        next.is_some_and(|separator| path_cmp(separator, path) != Ordering::Greater)
    }

    fn leaf_after_next_starts_at_or_before(&self, path: &[u8]) -> bool {
        self.cursor.next_separator().is_some_and(|separator| path_cmp(separator, path) != Ordering::Greater)
    }

    /// Takes the next leaf and starts to read the one after it.
    async fn take_next(&mut self) -> Result<()> {
        let taken = match self.prefetched.take() {
            Some((child, prefetch)) => Some((child, prefetch.finish().await?)),
            None => match self.cursor.next_leaf().await? {
                Some(child) => {
                    let leaf = read_leaf(self.chunks.clone(), child.clone(), self.can_read).await?;
                    Some((child, leaf))
                }
                None => None,
            },
        };
        let Some((child, leaf)) = taken else { return Ok(()) };
        self.from = child.separator;
        self.leaf = Some(leaf);
        if let Some(next) = self.cursor.next_leaf().await? {
            let reading = read_leaf(self.chunks.clone(), next.clone(), self.can_read);
            let mut prefetch = Prefetch::Running(Box::pin(reading));
            prefetch.start().await;
            self.prefetched = Some((next, prefetch));
        }
        Ok(())
    }
}

async fn read_leaf(chunks: Arc<ChunkReader>, child: Child, can_read: bool) -> Result<Leaf> {
    let structure = chunks.read(&child.structure).await?;
    // Names are sealed for readers; damage there costs the xattrs and nothing else.
    let names = if can_read { chunks.read(&child.names).await.ok() } else { None };
    Leaf::open(structure, names)
        .map_err(|error| RepositoryError::corrupt(format!("manifest leaf {}", child.structure), error))
}

impl Leaf {
    fn open(structure: Bytes, names: Option<Bytes>) -> std::result::Result<Self, DecodeError> {
        let (mut input, count) = open_leaf_page(&structure, PageKind::Structure)?;
        let mut offsets = Vec::with_capacity(count);
        let mut by_digest: HashTable<u32> = HashTable::with_capacity(count);
        for at in 0..count as u32 {
            offsets.push((structure.len() - input.remaining()) as u32);
            let digest = skim_structure(&mut input)?;
            by_digest.insert_unique(hash(&digest), at, |_| unreachable!("the table has room for all"));
        }
        input.finish()?;
        let names = names.map(|page| Names::open(page, count)).transpose()?;
        Ok(Leaf { structure, offsets, by_digest, names })
    }

    fn find(&self, digest: &[u8; 16]) -> std::result::Result<Option<ParentMatch>, DecodeError> {
        let record_at = |at: u32| self.offsets[at as usize] as usize;
        let is_equal = |at: &u32| self.structure[record_at(*at)..record_at(*at) + 16] == digest[..];
        let Some(at) = self.by_digest.find(hash(digest), is_equal) else { return Ok(None) };
        let record = decode_structure(&mut Decoder::new(&self.structure[record_at(*at)..]))?;
        if record.hard_link {
            return Ok(None);
        }
        let xattrs = match &self.names {
            Some(names) => {
                let from = names.xattrs[*at as usize] as usize;
                Some(decode_xattrs(&mut Decoder::new(&names.page[from..]))?)
            }
            None => None,
        };
        Ok(Some(ParentMatch {
            content: record.content,
            grade: record.grade,
            error: record.error,
            size: record.size,
            xattrs,
        }))
    }
}

impl Names {
    fn open(page: Bytes, expected: usize) -> std::result::Result<Self, DecodeError> {
        let (mut input, count) = open_leaf_page(&page, PageKind::Names)?;
        if count != expected {
            return Err(DecodeError::Invalid { field: "count of a leaf's pages" });
        }
        let mut xattrs = Vec::with_capacity(count);
        for _ in 0..count {
            input.u32()?;
            input.string(PATH_BYTES_MAX, "path")?;
            skim_names(&mut input)?;
            xattrs.push((page.len() - input.remaining()) as u32);
            skip_xattrs(&mut input)?;
        }
        input.finish()?;
        debug_assert!(xattrs.first().is_none_or(|first| *first as usize > PAGE_HEADER_BYTES));
        Ok(Names { page, xattrs })
    }
}

/// Opens a leaf and finds each of its entries; their number, further names of files included.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_test_leaf(structure: &[u8], names: &[u8]) -> std::result::Result<usize, DecodeError> {
    let leaf = Leaf::open(Bytes::copy_from_slice(structure), Some(Bytes::copy_from_slice(names)))?;
    for from in &leaf.offsets {
        let digest = structure[*from as usize..][..16].try_into().expect("a record begins with its digest");
        leaf.find(&digest)?;
    }
    Ok(leaf.offsets.len())
}

#[inline]
fn hash(digest: &[u8; 16]) -> u64 {
    u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"))
}

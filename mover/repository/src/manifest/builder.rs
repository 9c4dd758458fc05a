//! Builds the page tree of a manifest from entries in path order.
//!
//! A leaf ends after an entry whose keyed path hash says so: with probability 1/256, or in proportion
//! to the entry's own size so that pages aim at [`PAGE_BYTES_TARGET`]. The decision depends on the
//! entry alone, so a change elsewhere moves no cut; only leaves under [`CUT_ENTRIES_MIN`] entries and
//! pages over [`PAGE_BYTES_CUT`] break that rule, and the next cut heals it. Holds one open page a
//! level. Runs on the caller's thread.

use std::cmp::Ordering;

use crate::codec::Encoder;
use crate::error::{RepositoryError, Result};
use crate::ids::ChunkId;
use crate::limits::{
    LEAF_ENTRIES_MAX, PAGE_BYTES_CUT, PAGE_BYTES_MAX, PAGE_BYTES_TARGET, PAGE_CHILDREN_MAX, PAGE_LEVELS_MAX,
    PAGE_PATH_BYTES_MAX,
};
use crate::manifest::ManifestRoot;
use crate::manifest::entry::{Content, Entry, Identity, Kind, check_entry, encode_names, names_bytes_max};
use crate::manifest::page::{Child, PAGE_HEADER_BYTES, PIECE_RECORD_BYTES_MAX, Page, PageKind};
use crate::manifest::page::{finish_page, put_child, start_page};
use crate::manifest::path::{common_prefix, path_cmp, separator};
use crate::manifest::structure::encode_structure;
use crate::pack::PackClass;
use crate::repository::Repository;

/// A leaf or inner page is not cut by hash before it has this many records.
const CUT_ENTRIES_MIN: usize = 16;
/// Expected number of entries between two cuts of leaves whose entries are small.
const LEAF_ENTRIES_EXPECTED: u64 = 256;
/// Expected number of children between two cuts of inner pages.
const CHILDREN_EXPECTED: u64 = 128;

/// Upper bound of a child's record beside its separator.
const CHILD_RECORD_BYTES: usize = 128;

/// Takes the entries of one fileset in path order and gives pages as they are complete.
pub struct ManifestBuilder {
    repository: Repository,
    leaf: Leaf,
    /// Open inner pages, level 1 first.
    levels: Vec<Inner>,
    last_path: Option<Vec<u8>>,
    scratch: Vec<u8>,
}

struct Leaf {
    names: Encoder,
    structure: Encoder,
    /// Separator from the leaf before.
    separator: Vec<u8>,
    path_bytes: usize,
    count: usize,
    files: u64,
    bytes: u64,
}

impl Leaf {
    fn new() -> Self {
        Leaf {
            names: start_page(PageKind::Names, 0),
            structure: start_page(PageKind::Structure, 0),
            separator: Vec::new(),
            path_bytes: 0,
            count: 0,
            files: 0,
            bytes: 0,
        }
    }
}

struct Inner {
    page: Encoder,
    last_separator: Vec<u8>,
    first: Option<Child>,
    path_bytes: usize,
    count: usize,
    totals: (u64, u64, u64),
}

impl Inner {
    fn new(level: u8) -> Self {
        Inner {
            page: start_page(PageKind::Inner, level),
            last_separator: Vec::new(),
            first: None,
            path_bytes: 0,
            count: 0,
            totals: (0, 0, 0),
        }
    }
}

impl ManifestBuilder {
    /// A manifest without entries.
    pub fn new(repository: &Repository) -> Self {
        ManifestBuilder {
            repository: repository.clone(),
            leaf: Leaf::new(),
            levels: Vec::new(),
            last_path: None,
            scratch: Vec::new(),
        }
    }

    /// Adds an entry; pages that are complete go to `pages`.
    ///
    /// # Errors
    /// [`RepositoryError::LimitExceeded`] if the entry breaks a limit of the format, or if its path is
    /// not after the one before. The builder stays as it was.
    pub fn push(&mut self, entry: Entry, pages: &mut Vec<Page>) -> Result<()> {
        self.check(&entry)?;
        let names_bytes = names_bytes_max(&entry);
        let structure_bytes = structure_bytes_max(&entry);
        let leaf = &self.leaf;
        let shared = self.last_path.as_ref().map_or(0, |last| common_prefix(last, &entry.path));
        let full = leaf.count == LEAF_ENTRIES_MAX
            || leaf.path_bytes + entry.path.len() > PAGE_PATH_BYTES_MAX
            || leaf.names.len() + names_bytes - shared > PAGE_BYTES_CUT
            || leaf.structure.len() + structure_bytes > PAGE_BYTES_CUT;
        if full && leaf.count > 0 {
            self.close_leaf(pages)?;
        }
        let secrets = self.repository.secrets();
        Identity::of(&entry.meta).digest_input(&entry.path, &mut self.scratch);
        let digest = secrets.identity_digest(&self.scratch);
        let leaf = &mut self.leaf;
        if leaf.count == 0 {
            let from = self.last_path.as_ref().map_or(&[][..], |last| separator(last, &entry.path));
            leaf.separator = from.to_vec();
        }
        let previous: &[u8] = if leaf.count == 0 { &[] } else { self.last_path.as_deref().unwrap_or_default() };
        encode_names(&mut leaf.names, previous, &entry);
        encode_structure(&mut leaf.structure, &digest, &entry);
        leaf.count += 1;
        leaf.path_bytes += entry.path.len();
        if entry.kind == Kind::File {
            leaf.files += 1;
            leaf.bytes = leaf.bytes.saturating_add(entry.meta.size);
        }
        let weight = (names_bytes + structure_bytes) as u64;
        let cut = leaf.count >= CUT_ENTRIES_MIN && secrets.path_hash(&entry.path) <= leaf_threshold(weight);
        self.last_path = Some(entry.path);
        if cut { self.close_leaf(pages) } else { Ok(()) }
    }

    /// Ends the manifest; the last pages go to `pages`.
    ///
    /// # Errors
    /// [`RepositoryError::LimitExceeded`] if the tree would be deeper than [`PAGE_LEVELS_MAX`].
    pub fn finish(mut self, pages: &mut Vec<Page>) -> Result<ManifestRoot> {
        if self.leaf.count > 0 {
            self.close_leaf(pages)?;
        }
        if self.levels.is_empty() {
            let structure = self.emit(finish_page(start_page(PageKind::Inner, 1), 0), PackClass::Structure, pages);
            return Ok(ManifestRoot { structure, levels: 1, entries: 0, files: 0, bytes: 0 });
        }
        let mut at = 0;
        loop {
            let top = at + 1 == self.levels.len();
            let inner = &self.levels[at];
            if top {
                let (entries, files, bytes) = inner.totals;
                let only_child = if at > 0 && inner.count == 1 { inner.first.as_ref() } else { None };
                let (structure, levels) = match only_child {
                    Some(child) => (child.structure, at as u8),
                    None => {
                        let inner = self.levels.pop().expect("the top level is open");
                        let bytes = finish_page(inner.page, inner.count);
                        (self.emit(bytes, PackClass::Structure, pages), at as u8 + 1)
                    }
                };
                return Ok(ManifestRoot { structure, levels, entries, files, bytes });
            }
            if inner.count > 0 {
                self.close_inner(at, pages)?;
            }
            at += 1;
        }
    }

    fn check(&self, entry: &Entry) -> Result<()> {
        let name = || String::from_utf8_lossy(&entry.path).into_owned();
        if let Err(error) = check_entry(entry) {
            return Err(RepositoryError::LimitExceeded { what: format!("the entry {}: {error}", name()) });
        }
        if PAGE_HEADER_BYTES + names_bytes_max(entry) > PAGE_BYTES_MAX {
            return Err(RepositoryError::LimitExceeded { what: format!("the names of the entry {}", name()) });
        }
        if self.last_path.as_ref().is_some_and(|last| path_cmp(last, &entry.path) != Ordering::Less) {
            return Err(RepositoryError::LimitExceeded { what: format!("path order at the entry {}", name()) });
        }
        Ok(())
    }

    fn close_leaf(&mut self, pages: &mut Vec<Page>) -> Result<()> {
        let leaf = std::mem::replace(&mut self.leaf, Leaf::new());
        let names = self.emit(finish_page(leaf.names, leaf.count), PackClass::Data, pages);
        let structure = self.emit(finish_page(leaf.structure, leaf.count), PackClass::Structure, pages);
        let child = Child {
            separator: leaf.separator,
            names,
            structure,
            entries: leaf.count as u64,
            files: leaf.files,
            bytes: leaf.bytes,
        };
        self.add_child(0, child, pages)
    }

    fn add_child(&mut self, at: usize, child: Child, pages: &mut Vec<Page>) -> Result<()> {
        let level = at as u8 + 1;
        if self.levels.len() == at {
            if level > PAGE_LEVELS_MAX {
                return Err(RepositoryError::LimitExceeded { what: "the depth of a manifest".to_string() });
            }
            self.levels.push(Inner::new(level));
        }
        let inner = &self.levels[at];
        let suffix = child.separator.len() - common_prefix(&inner.last_separator, &child.separator);
        let page_bytes = inner.page.len() + suffix + CHILD_RECORD_BYTES;
        // Two children at least, or the levels would not end.
        let full = inner.count == PAGE_CHILDREN_MAX
            || inner.path_bytes + child.separator.len() > PAGE_PATH_BYTES_MAX
            || (inner.count >= 2 && page_bytes > PAGE_BYTES_CUT)
            || page_bytes > PAGE_BYTES_MAX;
        if full && inner.count > 0 {
            self.close_inner(at, pages)?;
        }
        let inner = &mut self.levels[at];
        put_child(&mut inner.page, level, &inner.last_separator, &child);
        inner.count += 1;
        inner.path_bytes += child.separator.len();
        inner.totals.0 += child.entries;
        inner.totals.1 += child.files;
        inner.totals.2 = inner.totals.2.saturating_add(child.bytes);
        inner.last_separator.clone_from(&child.separator);
        self.scratch.clear();
        self.scratch.extend_from_slice(&child.separator);
        self.scratch.extend_from_slice(&[0, level]);
        if inner.first.is_none() {
            inner.first = Some(child);
        }
        let cut = inner.count >= CUT_ENTRIES_MIN
            && self.repository.secrets().path_hash(&self.scratch) <= u64::MAX / CHILDREN_EXPECTED;
        if cut { self.close_inner(at, pages) } else { Ok(()) }
    }

    fn close_inner(&mut self, at: usize, pages: &mut Vec<Page>) -> Result<()> {
        let inner = std::mem::replace(&mut self.levels[at], Inner::new(at as u8 + 1));
        let structure = self.emit(finish_page(inner.page, inner.count), PackClass::Structure, pages);
        let child = Child {
            separator: inner.first.expect("a page that is closed has a child").separator,
            names: ChunkId([0; 32]),
            structure,
            entries: inner.totals.0,
            files: inner.totals.1,
            bytes: inner.totals.2,
        };
        self.add_child(at + 1, child, pages)
    }

    fn emit(&self, bytes: Vec<u8>, class: PackClass, pages: &mut Vec<Page>) -> ChunkId {
        let id = self.repository.secrets().chunk_id(&bytes);
        pages.push(Page { id, class, bytes });
        id
    }
}

/// The hash at or below which a leaf ends after an entry of `weight` bytes.
fn leaf_threshold(weight: u64) -> u64 {
    let by_bytes = (u64::MAX / PAGE_BYTES_TARGET as u64).saturating_mul(weight);
    by_bytes.max(u64::MAX / LEAF_ENTRIES_EXPECTED)
}

fn structure_bytes_max(entry: &Entry) -> usize {
    let content_bytes = match &entry.content {
        Content::Inline(pieces) => 2 + pieces.len() * PIECE_RECORD_BYTES_MAX,
        Content::Tree { .. } => 41,
    };
    16 + 1 + 8 + content_bytes
}

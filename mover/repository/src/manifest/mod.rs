//! Manifests: the entries of one fileset in path order, a tree of pages stored as chunks.
//!
//! A leaf is a pair of pages: names and metadata (class Data, sealed for readers), and one record an
//! entry with a keyed digest of its identity and its content (class Structure), so that an
//! incremental run and the marking of live chunks need no read key. Leaves are cut by a keyed hash of
//! the path, so an unchanged region gives identical pages. Inner pages carry separators.
//!
//! Limits: a builder holds one open page a level, a reader one page a level and the next leaf; page
//! sizes, levels, paths and lists are bounded by [`crate::limits`]. Must never trust a page for being
//! authentic: what a path may look like, that order is strict and that levels fall is checked on
//! every read. Runs on the caller's thread.

mod builder;
mod content;
mod entry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod page;
mod parent;
mod path;
mod reader;
mod root;
mod structure;

pub use builder::ManifestBuilder;
pub use content::{ContentBuilder, ContentReader};
pub use entry::{Content, Entry, Identity, Kind, Metadata, Piece};
pub use page::Page;
pub(crate) use page::{Child, ListPage};
pub use parent::{Parent, ParentMatch};
pub use path::{check_path, is_within, path_cmp};
pub use reader::ManifestReader;
pub(crate) use reader::{StructureReader, decode_leaf, decode_structure_page, leaf_digests_match, read_inner};
pub use root::ManifestRoot;

#[cfg(test)]
mod tests;

/// Names, structure and inner page of a manifest of one entry, for the test vectors.
#[cfg(test)]
pub(crate) fn encode_test_pages(secrets: &crate::crypto::Secrets, entry: &Entry) -> [Vec<u8>; 3] {
    use page::{PageKind, finish_page, put_child, start_page};
    let mut names = start_page(PageKind::Names, 0);
    entry::encode_names(&mut names, b"", entry);
    let mut input = Vec::new();
    Identity::of(&entry.meta).digest_input(&entry.path, &mut input);
    let mut structure = start_page(PageKind::Structure, 0);
    structure::encode_structure(&mut structure, &secrets.identity_digest(&input), entry);
    let (names, structure) = (finish_page(names, 1), finish_page(structure, 1));
    let child = Child {
        separator: Vec::new(),
        names: secrets.chunk_id(&names),
        structure: secrets.chunk_id(&structure),
        entries: 1,
        files: 1,
        bytes: entry.meta.size,
    };
    let mut inner = start_page(PageKind::Inner, 1);
    put_child(&mut inner, 1, b"", &child);
    [names, structure, finish_page(inner, 1)]
}

//! Fuzz targets of manifest pages: the two pages of a leaf together, inner pages, list pages.

use super::entry::{Content, Entry, Identity, Kind, Metadata, Piece, encode_names};
use super::page::{
    Child, InnerPage, ListChild, ListPage, PAGE_HEADER_BYTES, PageKind, finish_page, put_child, start_page,
};
use super::parent::read_test_leaf;
use super::structure::encode_structure;
use super::{decode_leaf, decode_structure_page, leaf_digests_match};
use crate::codec::{Decoder, Encoder};
use crate::fuzzing::{SECRETS, Target, is_canonical};
use crate::ids::{ChunkId, UnixNanos};
use crate::limits::{LEAF_ENTRIES_MAX, PAGE_CHILDREN_MAX, PAGE_PATH_BYTES_MAX};
use crate::log::Grade;

/// A page says how many records it has before it has them.
const LEAF_BYTES: usize = LEAF_ENTRIES_MAX * size_of::<Entry>();
const INNER_BYTES: usize = PAGE_CHILDREN_MAX * size_of::<Child>();

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("manifest_leaf", decode_both_pages, leaves).within(32, PAGE_PATH_BYTES_MAX + LEAF_BYTES),
        Target::new("manifest_inner", decode_inner, inner_pages).within(16, PAGE_PATH_BYTES_MAX + INNER_BYTES),
        Target::new("manifest_list", decode_list, list_pages).within(16, INNER_BYTES),
    ]
}

/// Length of the names page, names page, structure page.
fn leaf(entries: &[Entry]) -> Vec<u8> {
    let (mut names, mut structure) = (start_page(PageKind::Names, 0), start_page(PageKind::Structure, 0));
    let (mut previous, mut input) = (&[][..], Vec::new());
    for entry in entries {
        encode_names(&mut names, previous, entry);
        previous = &entry.path;
        Identity::of(&entry.meta).digest_input(&entry.path, &mut input);
        encode_structure(&mut structure, &SECRETS.identity_digest(&input), entry);
    }
    let mut out = Encoder::new();
    out.string(&finish_page(names, entries.len()));
    out.raw(&finish_page(structure, entries.len()));
    out.finish()
}

fn leaves() -> Vec<(&'static str, Vec<u8>)> {
    let entry = |path: &str, kind: Kind, size: u64, content: Content| Entry {
        path: path.as_bytes().to_vec(),
        kind,
        meta: Metadata { mode: 0o4755, uid: 1000, mtime: UnixNanos(-1), links: 1, size, ..Metadata::default() },
        content,
        grade: Grade::Stable,
        error: false,
    };
    let pieces = vec![Piece::Chunk { id: ChunkId([7; 32]), bytes: 5 }, Piece::Hole { bytes: 65_536 }];
    let tree = Content::Tree { root: ChunkId([8; 32]), levels: 2, pieces: 1000 };
    let mut with_xattrs = entry("a/b", Kind::File, 65_541, Content::Inline(pieces));
    with_xattrs.meta.xattrs = vec![(b"user.a".to_vec(), b"v".to_vec()), (b"user.b".to_vec(), Vec::new())];
    let all = [
        entry("", Kind::Directory, 0, Content::EMPTY),
        with_xattrs,
        entry("a/c", Kind::HardLink { first: b"a/b".to_vec() }, 65_541, Content::EMPTY),
        entry("device", Kind::CharDevice { major: 1, minor: 3 }, 0, Content::EMPTY),
        entry("large", Kind::File, 1 << 40, tree),
        entry("link", Kind::Symlink { target: b"a/b".to_vec() }, 3, Content::EMPTY),
        entry("pipe", Kind::Fifo, 0, Content::EMPTY),
    ];
    vec![("empty", leaf(&[])), ("one", leaf(&all[1..2])), ("every-kind", leaf(&all))]
}

/// Whatever a full decoder takes, those that skim a page for a few fields take too.
fn decode_both_pages(bytes: &[u8]) -> bool {
    let mut input = Decoder::new(bytes);
    let Ok(names) = input.string(bytes.len(), "names page") else { return false };
    let structure = &bytes[bytes.len() - input.remaining()..];
    let contents = decode_structure_page(structure).map(|contents| contents.len());
    let by_parent = read_test_leaf(structure, names);
    let Ok(entries) = decode_leaf(names, structure) else { return false };
    assert_eq!(contents, Ok(entries.len()), "the structure page alone is refused");
    assert_eq!(by_parent, Ok(entries.len()), "a parent's leaf is refused");
    let _ = leaf_digests_match(&SECRETS, &entries, structure).expect("the page was decoded");
    true
}

fn level_of(page: &[u8]) -> u8 {
    page.get(2).copied().unwrap_or(0)
}

fn inner_pages() -> Vec<(&'static str, Vec<u8>)> {
    let child = |separator: &str| Child {
        separator: separator.as_bytes().to_vec(),
        names: ChunkId([1; 32]),
        structure: ChunkId([2; 32]),
        entries: 40,
        files: 30,
        bytes: 1 << 33,
    };
    let page = |level: u8, children: &[Child]| {
        let (mut out, mut previous) = (start_page(PageKind::Inner, level), &[][..]);
        for child in children {
            put_child(&mut out, level, previous, child);
            previous = &child.separator;
        }
        finish_page(out, children.len())
    };
    let children = [child(""), child("src/a"), child("src/b")];
    vec![("empty", page(1, &[])), ("leaves", page(1, &children)), ("pages", page(2, &children))]
}

fn decode_inner(bytes: &[u8]) -> bool {
    let Ok(page) = InnerPage::decode(bytes, level_of(bytes)) else { return false };
    // The separators rise, so each is found where it stands.
    for (at, child) in page.children.iter().enumerate() {
        assert_eq!(page.child_for(&child.separator), Some(at));
    }
    true
}

fn list_pages() -> Vec<(&'static str, Vec<u8>)> {
    let pieces = [Piece::Chunk { id: ChunkId([1; 32]), bytes: 65_536 }, Piece::Hole { bytes: 1 << 20 }];
    let child = ListChild { id: ChunkId([2; 32]), pieces: 100, bytes: 64 << 20 };
    vec![("pieces", ListPage::encode_pieces(&pieces)), ("children", ListPage::encode_children(2, &[child; 2]))]
}

fn decode_list(bytes: &[u8]) -> bool {
    let level = level_of(bytes);
    let encode = |page: &ListPage| match page {
        ListPage::Pieces(pieces) => ListPage::encode_pieces(pieces),
        ListPage::Children(children) => ListPage::encode_children(level, children),
    };
    bytes.len() >= PAGE_HEADER_BYTES && is_canonical(bytes, ListPage::decode(bytes, level), encode)
}

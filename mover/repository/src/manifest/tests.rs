//! Manifests as built and read: against a plain map, under damage, and how stable pages are.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use crate::codec::Decoder;
use crate::ids::{ChunkId, UnixNanos};
use crate::limits::{EXTENT_BYTES, INLINE_PIECES_MAX};
use crate::log::Grade;
use crate::manifest::entry::{decode_names, encode_names, take_path};
use crate::manifest::page::{InnerPage, ListPage};
use crate::manifest::reader::decode_leaf;
use crate::manifest::structure::{decode_structure, encode_structure};
use crate::manifest::{
    Content, ContentBuilder, ContentReader, Entry, Identity, Kind, ManifestBuilder, ManifestReader, Metadata, Page,
    Parent, Piece, path_cmp,
};
use crate::pack::PackClass;
use crate::testing::{Bench, block_on, chunk_id, file};

fn read_all(reader: &mut ManifestReader) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(entry) = block_on(reader.next()).unwrap() {
        entries.push(entry);
    }
    entries
}

fn tree(files: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..files).map(|n| file(&format!("d{}/f{n}", n / 100), n as u64)).collect();
    entries.sort_by(|a, b| path_cmp(&a.path, &b.path));
    entries
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        (any::<u64>(), 1..=crate::limits::CHUNK_BYTES_MAX)
            .prop_map(|(seed, bytes)| Piece::Chunk { id: chunk_id(seed), bytes }),
        (1u64..1 << 40).prop_map(|bytes| Piece::Hole { bytes }),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        prop::collection::vec(piece(), 0..=INLINE_PIECES_MAX).prop_map(Content::Inline),
        (any::<u64>(), 1u8..=12, any::<u64>()).prop_map(|(seed, levels, pieces)| Content::Tree {
            root: chunk_id(seed),
            levels,
            pieces
        }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::File),
        1 => Just(Kind::Directory),
        1 => Just(Kind::Fifo),
        1 => prop::collection::vec(1u8.., 1..300).prop_map(|target| Kind::Symlink { target }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
        1 => Just(Kind::HardLink { first: Vec::new() }),
    ]
}

prop_compose! {
    fn metadata()(
        mode in 0u32..=0o7777, uid: u32, gid: u32, mtime: i64, ctime: i64, inode: u64, links: u64, size: u64,
        xattrs in prop::collection::btree_map(prop::collection::vec(1u8.., 1..20), prop::collection::vec(any::<u8>(), 0..50), 0..3),
    ) -> Metadata {
        Metadata {
            mode, uid, gid, inode, links, size,
            mtime: UnixNanos(i128::from(mtime) * 1000), ctime: UnixNanos(i128::from(ctime) * 1_000_000_000 - 1),
            xattrs: xattrs.into_iter().collect(),
        }
    }
}

prop_compose! {
    fn entry()(
        kind in kind(), meta in metadata(), content in content(), grade in 0..3, error: bool,
    ) -> Entry {
        let grade = [Grade::Torn, Grade::Stable, Grade::Snapshot][grade as usize];
        Entry { path: b"x".to_vec(), kind, meta, content, grade, error }
    }
}

/// Paths over a small alphabet in which the order of components and of bytes differ.
fn path() -> impl Strategy<Value = Vec<u8>> {
    "([ab.x-]{1,3}/){0,3}[abx-]{1,2}"
        .prop_filter("names", |path| path.split('/').all(|name| name != "." && name != ".."))
        .prop_map(String::into_bytes)
}

proptest! {
    #[test]
    fn an_entry_survives_its_two_records(entry in entry(), digest: [u8; 16]) {
        let mut names = crate::codec::Encoder::new();
        encode_names(&mut names, b"previous", &entry);
        let mut structure = crate::codec::Encoder::new();
        encode_structure(&mut structure, &digest, &entry);
        let (names, structure) = (names.finish(), structure.finish());
        let mut input = Decoder::new(&names);
        let mut path = b"previous".to_vec();
        take_path(&mut input, &mut path).unwrap();
        let (kind, meta) = decode_names(&mut input, &path).unwrap();
        input.finish().unwrap();
        let mut input = Decoder::new(&structure);
        let record = decode_structure(&mut input).unwrap();
        input.finish().unwrap();
        prop_assert_eq!(record.digest, digest);
        let again = Entry { path, kind, meta, content: record.content, grade: record.grade, error: record.error };
        prop_assert_eq!(again, entry);
    }

    #[test]
    fn f27_random_bytes_never_panic_a_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300), level in 0u8..4) {
        let _ = InnerPage::decode(&bytes, level);
        let _ = ListPage::decode(&bytes, level);
        let _ = decode_leaf(&bytes, &bytes);
        let mut framed = vec![1 + level % 4, 0, level, 0, 3, 0, 0, 0];
        framed.extend(&bytes);
        let _ = InnerPage::decode(&framed, level);
        let _ = ListPage::decode(&framed, level);
        let _ = decode_leaf(&framed, &framed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_manifest_agrees_with_a_plain_map(
        files in prop::collection::btree_map(path(), entry(), 0..400),
        starts in prop::collection::vec(path(), 5),
    ) {
        let bench = Bench::new();
        let mut model: Vec<Entry> = files.into_iter().map(|(path, entry)| Entry { path, ..entry }).collect();
        model.sort_by(|a, b| path_cmp(&a.path, &b.path));
        let (root, _) = bench.manifest(1, &model);
        prop_assert_eq!(root.entries, model.len() as u64);
        let chunks = bench.reader();
        let mut reader = ManifestReader::new(chunks, root);
        prop_assert_eq!(&read_all(&mut reader), &model);
        for start in starts {
            block_on(reader.seek(&start)).unwrap();
            let after: Vec<Entry> = model.iter().filter(|entry| path_cmp(&entry.path, &start).is_ge()).cloned().collect();
            prop_assert_eq!(read_all(&mut reader), after);
            block_on(reader.subtree(&start)).unwrap();
            let below: Vec<Entry> =
                model.iter().filter(|entry| crate::manifest::is_within(&entry.path, &start)).cloned().collect();
            prop_assert_eq!(read_all(&mut reader), below);
            let exact = model.iter().find(|entry| entry.path == start).cloned();
            prop_assert_eq!(block_on(reader.find(&start)).unwrap(), exact);
        }
    }
}

#[test]
fn a_large_manifest_has_small_pages() {
    let bench = Bench::new();
    let entries = tree(60_000);
    let (root, pages) = bench.manifest(1, &entries);
    assert!(root.entries == 60_000 && root.files == 60_000, "{root:?}");
    assert_eq!(root.bytes, (0..60_000u64).sum::<u64>());
    let leaves: Vec<&Page> = pages.iter().filter(|page| page.class == PackClass::Data).collect();
    assert!((120..500).contains(&leaves.len()), "{} leaves", leaves.len());
    assert!(pages.iter().all(|page| page.bytes.len() <= crate::limits::PAGE_BYTES_CUT));
    let mut reader = ManifestReader::new(bench.reader(), root);
    assert_eq!(read_all(&mut reader), entries);
    let found = block_on(reader.find(&entries[31_234].path)).unwrap();
    assert_eq!(found.as_ref(), Some(&entries[31_234]));
}

#[test]
fn one_changed_file_changes_one_leaf_and_its_way_up() {
    let bench = Bench::new();
    let mut entries = tree(30_000);
    let (_, before) = bench.manifest(1, &entries);
    let known: HashSet<ChunkId> = before.iter().map(|page| page.id).collect();
    let fresh = |entries: &[Entry]| {
        let (root, pages) = bench.manifest(1, entries);
        (root.levels, pages.iter().filter(|page| !known.contains(&page.id)).count())
    };
    entries[12_345].meta.size += 1;
    let (levels, pages) = fresh(&entries);
    assert!(pages <= 2 + usize::from(levels), "{pages} new pages for a changed file");
    entries.insert(5_000, Entry { path: [&entries[4_999].path[..], b"0"].concat(), ..entries[4_999].clone() });
    let (levels, pages) = fresh(&entries);
    assert!(pages <= 2 * (4 + 2 * usize::from(levels)), "{pages} new pages for a changed and an added file");
    entries.remove(20_000);
    let (levels, pages) = fresh(&entries);
    assert!(pages <= 3 * (4 + 2 * usize::from(levels)), "{pages} new pages after a removal too");
}

#[test]
fn large_entries_make_pages_of_few_entries() {
    let bench = Bench::new();
    let entries: Vec<Entry> = (0..400)
        .map(|n| {
            let mut entry = file(&format!("f{n:05}"), 1);
            entry.meta.xattrs = vec![(b"user.big".to_vec(), crate::testing::noise(n, 60_000))];
            entry
        })
        .collect();
    let (root, pages) = bench.manifest(1, &entries);
    assert!(pages.iter().all(|page| page.bytes.len() <= crate::limits::PAGE_BYTES_CUT));
    assert_eq!(read_all(&mut ManifestReader::new(bench.reader(), root)), entries);
}

#[test]
fn an_empty_manifest_and_one_of_a_single_file_are_read() {
    let bench = Bench::new();
    let (root, _) = bench.manifest(1, &[]);
    assert_eq!(read_all(&mut ManifestReader::new(bench.reader(), root)), []);
    assert_eq!(block_on(ManifestReader::new(bench.reader(), root).find(b"x")).unwrap(), None);
    let only = [file("", 3)];
    let (root, _) = bench.manifest(1, &only);
    assert_eq!(read_all(&mut ManifestReader::new(bench.reader(), root)), only);
}

#[test]
fn what_no_reader_takes_is_not_written() {
    let bench = Bench::new();
    let mut builder = ManifestBuilder::new(&bench.repository);
    let mut pages = Vec::new();
    builder.push(file("m", 1), &mut pages).unwrap();
    for path in ["a", "m", "/x", "../x", "x/..", "x//y", "x/"] {
        assert!(builder.push(file(path, 1), &mut pages).is_err(), "{path}");
    }
    let mut link = file("z", 1);
    link.kind = Kind::HardLink { first: b"zz".to_vec() };
    assert!(builder.push(link, &mut pages).is_err());
    let mut crowded = file("z", 1);
    crowded.content = Content::Inline(vec![Piece::Hole { bytes: 1 }; INLINE_PIECES_MAX + 1]);
    assert!(builder.push(crowded, &mut pages).is_err());
    builder.push(file("z", 1), &mut pages).unwrap();
    assert_eq!(builder.finish(&mut pages).unwrap().entries, 2);
}

/// Crafts a leaf of `paths` without the builder's checks.
fn crafted_leaf(paths: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
    use crate::manifest::page::{PageKind, finish_page, start_page};
    let mut names = start_page(PageKind::Names, 0);
    let mut structure = start_page(PageKind::Structure, 0);
    let mut previous: &[u8] = b"";
    for path in paths {
        let entry = Entry { path: path.to_vec(), ..file("", 1) };
        encode_names(&mut names, previous, &entry);
        encode_structure(&mut structure, &[0; 16], &entry);
        previous = path;
    }
    (finish_page(names, paths.len()), finish_page(structure, paths.len()))
}

#[test]
fn crafted_paths_are_refused_by_the_reader() {
    let good = crafted_leaf(&[b"", b"a", b"a/b", b"a-b", b"a.b"]);
    assert_eq!(decode_leaf(&good.0, &good.1).unwrap().len(), 5);
    let long = [b'x'; 256];
    let cases: [&[&[u8]]; 11] = [
        &[b"/etc/passwd"],
        &[b"../x"],
        &[b"a/../../x"],
        &[b"."],
        &[b"a//b"],
        &[b"a/"],
        &[b"a\0b"],
        &[b"b", b"a"],
        &[b"a", b"a"],
        &[b"a-b", b"a/b"],
        &[&long],
    ];
    for paths in cases {
        let (names, structure) = crafted_leaf(paths);
        assert!(decode_leaf(&names, &structure).is_err(), "{paths:?}");
    }
    let (names, _) = crafted_leaf(&[b"a", b"b"]);
    let (_, structure) = crafted_leaf(&[b"a"]);
    assert!(decode_leaf(&names, &structure).is_err());
}

#[test]
fn a_page_cannot_unfold_without_bound() {
    let deep = b"0123456789abcde/".repeat(60_000);
    let stem = &deep[..deep.len() - 1];
    let paths: Vec<Vec<u8>> = (0..20).map(|n| [stem, format!("{n:02}").as_bytes()].concat()).collect();
    let refs: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
    let (names, structure) = crafted_leaf(&refs);
    assert!(decode_leaf(&names, &structure).is_err());
    let bench = Bench::new();
    let entries: Vec<Entry> = paths.iter().map(|path| Entry { path: path.clone(), ..file("", 1) }).collect();
    let (root, _) = bench.manifest(1, &entries);
    assert!(root.levels >= 2, "long separators make short inner pages");
    assert_eq!(read_all(&mut ManifestReader::new(bench.reader(), root)), entries);
}

#[test]
fn f27_every_flip_and_cut_of_a_page_is_an_error_or_another_page() {
    let bench = Bench::new();
    let mut entries = tree(20);
    entries[3].content = Content::Inline(vec![Piece::Chunk { id: chunk_id(1), bytes: 5 }, Piece::Hole { bytes: 9 }]);
    let (root, pages) = bench.manifest(1, &entries);
    let names = pages.iter().find(|page| page.class == PackClass::Data).unwrap();
    let structure = pages.iter().find(|page| page.class == PackClass::Structure && page.bytes[0] == 2).unwrap();
    let inner = pages.iter().find(|page| page.id == root.structure).unwrap();
    let decode = |names: &[u8], structure: &[u8]| decode_leaf(names, structure).map(|entries| entries.len());
    for (page, is_inner) in [(names, false), (structure, false), (inner, true)] {
        let run = |bytes: &[u8]| match page.bytes[0] {
            _ if is_inner => InnerPage::decode(bytes, 1).map(|page| page.children.len()),
            1 => decode(bytes, &structure.bytes),
            _ => decode(&names.bytes, bytes),
        };
        assert!(run(&page.bytes).is_ok());
        for at in 0..page.bytes.len() {
            assert!(run(&page.bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = page.bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = run(&flipped);
            }
        }
        let mut grown = page.bytes.clone();
        grown.push(0);
        assert!(run(&grown).is_err());
    }
}

#[test]
fn a_tree_whose_levels_do_not_fall_is_refused() {
    let bench = Bench::new();
    let (mut root, _) = bench.manifest(1, &tree(30));
    for levels in [0, 2, 3, 13, 255] {
        root.levels = levels;
        let mut reader = ManifestReader::new(bench.reader(), root);
        assert!(block_on(reader.next()).is_err(), "{levels}");
        assert!(block_on(reader.find(b"d0/f1")).is_err(), "{levels}");
    }
}

#[test]
fn contents_stay_inline_up_to_64_pieces_and_become_a_tree_beyond() {
    let bench = Bench::new();
    let extent = |first: u64, pieces: u64| -> Vec<Piece> {
        (first..first + pieces).map(|n| Piece::Chunk { id: chunk_id(n), bytes: 1 + n as u32 % 1000 }).collect()
    };
    for extents in [vec![], vec![64], vec![60, 4], vec![65], vec![40, 40], vec![300; 5], vec![3; 3000]] {
        let mut builder = ContentBuilder::new(&bench.repository);
        let (mut pages, mut expected) = (Vec::new(), Vec::new());
        for pieces in &extents {
            let pieces = extent(expected.len() as u64, *pieces);
            expected.extend(pieces.clone());
            builder.push_extent(pieces, &mut pages);
        }
        let content = builder.finish(&mut pages);
        assert_eq!(matches!(content, Content::Inline(_)), expected.len() <= INLINE_PIECES_MAX);
        assert_eq!(pages.is_empty(), expected.len() <= INLINE_PIECES_MAX);
        let packs = bench.store_pages(1, &pages);
        bench.segment(&packs);
        let chunks = bench.reader();
        let mut reader = ContentReader::new(chunks.clone(), &content);
        let mut found = Vec::new();
        while let Some(piece) = block_on(reader.next()).unwrap() {
            found.push(piece);
        }
        assert!(found == expected, "{extents:?}");
        let total: u64 = expected.iter().map(Piece::bytes).sum();
        for offset in [0, 1.min(total), total / 3, total.saturating_sub(1), total] {
            let mut reader = ContentReader::new(chunks.clone(), &content);
            let mut at = block_on(reader.seek(offset)).unwrap();
            assert!(at <= offset);
            let first = block_on(reader.next()).unwrap();
            assert_eq!(first.is_some(), offset < total);
            at += first.map_or(0, |piece| piece.bytes());
            assert!(at > offset || offset == total);
            while let Some(piece) = block_on(reader.next()).unwrap() {
                at += piece.bytes();
            }
            assert_eq!(at, total);
        }
    }
}

#[test]
fn f21_sizes_beyond_32_bits_survive() {
    let bench = Bench::new();
    for size in [(1u64 << 32) - 1, 1 << 32, (1 << 32) + 1, i64::MAX as u64] {
        let mut entry = file("big", size);
        entry.content = Content::Inline(vec![Piece::Hole { bytes: size }]);
        let (root, _) = bench.manifest(1, std::slice::from_ref(&entry));
        assert_eq!(block_on(ManifestReader::new(bench.reader(), root).next()).unwrap(), Some(entry));
        assert_eq!(root.bytes, size);
        let mut builder = ContentBuilder::new(&bench.repository);
        let mut pages = Vec::new();
        for _ in 0..70 {
            builder.push_extent(vec![Piece::Hole { bytes: EXTENT_BYTES }], &mut pages);
        }
        let content = builder.finish(&mut pages);
        bench.segment(&bench.store_pages(1, &pages));
        let mut reader = ContentReader::new(bench.reader(), &content);
        assert_eq!(block_on(reader.seek(1 << 32)).unwrap(), 1 << 32);
        assert!(matches!(content, Content::Tree { pieces: 70, .. }));
    }
}

#[test]
fn the_parent_matches_equal_identities_in_path_order() {
    let bench = Bench::new();
    let mut entries = tree(5_000);
    entries[77].meta.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec())];
    entries[78].kind = Kind::HardLink { first: entries[2].path.clone() };
    entries[79].error = true;
    let (root, _) = bench.manifest(1, &entries);
    let chunks = bench.reader();
    let mut parent = Parent::new(chunks.clone(), root);
    let reads: BTreeMap<usize, bool> = (0..entries.len()).map(|at| (at, at % 3 != 1)).collect();
    for (at, is_equal) in reads {
        let mut identity = Identity::of(&entries[at].meta);
        identity.mode |= 0o100000;
        if !is_equal {
            match at % 5 {
                0 => identity.size += 1,
                1 => identity.mtime.0 += 1,
                2 => identity.ctime.0 -= 1,
                3 => identity.inode += 1,
                _ => identity.mode ^= 0o001,
            }
        }
        let found = block_on(parent.match_entry(&entries[at].path, &identity)).unwrap();
        assert_eq!(found.is_some(), is_equal && at != 78, "{at}");
        if let Some(found) = found {
            assert_eq!(found.xattrs.as_ref(), Some(&entries[at].meta.xattrs));
            assert_eq!((found.size, found.error), (entries[at].meta.size, entries[at].error));
        }
    }
    // Any order works: far ahead, far back, and paths that are not there.
    let mut parent = Parent::new(chunks, root);
    for at in [4_000, 10, 4_999, 0, 2_500, 2_501] {
        let identity = Identity::of(&entries[at].meta);
        assert!(block_on(parent.match_entry(&entries[at].path, &identity)).unwrap().is_some(), "{at}");
        assert_eq!(block_on(parent.match_entry(b"zzz", &identity)).unwrap(), None);
    }
}

#[test]
fn a_renamed_file_does_not_match() {
    let bench = Bench::new();
    let entries = [file("a", 1), file("a/b", 1), file("a-b", 1), file("a.b", 1)];
    let (root, _) = bench.manifest(1, &entries);
    let mut parent = Parent::new(bench.reader(), root);
    for entry in &entries {
        assert!(block_on(parent.match_entry(&entry.path, &Identity::of(&entry.meta))).unwrap().is_some());
    }
    let mut parent = Parent::new(bench.reader(), root);
    assert_eq!(block_on(parent.match_entry(b"a-c", &Identity::of(&entries[2].meta))).unwrap(), None);
}

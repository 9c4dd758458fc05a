//! Data sets and their edits at a tiny scale: same seed, same bytes; the counts of what an edit concerns.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Kind, edit, edit_to, generation_file};

fn make(kind: Kind, seed: u64, scale: f64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join(kind.name());
    kind.make(&place, seed, scale).expect("make it");
    (directory, place)
}

fn digests(tree: &Path) -> BTreeMap<PathBuf, String> {
    let files = edit::files(tree).expect("walk");
    let relative = |path: &PathBuf| path.strip_prefix(tree).expect("below").to_owned();
    files
        .iter()
        .map(|path| (relative(path), blake3::hash(&std::fs::read(path).expect("read")).to_hex().to_string()))
        .collect()
}

#[test]
fn corpus_is_the_same_for_the_same_seed() {
    for (kind, scale, files) in [
        (Kind::Source, 0.0005, 43),
        (Kind::Mixed, 0.001, 24),
        (Kind::Aged, 0.003, 18),
        (Kind::Wide, 0.0005, 500),
        (Kind::Image, 0.002, 1),
    ] {
        let ((_first, one), (_second, two), (_third, other)) =
            (make(kind, 1, scale), make(kind, 1, scale), make(kind, 2, scale));
        let digests_one = digests(&one);
        assert_eq!(digests_one.len(), files, "{kind:?}");
        assert_eq!(digests_one, digests(&two), "{kind:?}");
        assert_ne!(digests_one, digests(&other), "{kind:?}");
    }
}

#[test]
fn corpus_source_is_what_it_has_always_been() {
    // Published figures name this data: another content under the same name would make them incomparable.
    let (_directory, place) = make(Kind::Source, 1, 0.0001);
    let all: Vec<String> = digests(&place).into_values().collect();
    assert_eq!(blake3::hash(all.concat().as_bytes()).to_hex()[..16], *"d312ca9656cb226e");
}

#[test]
fn corpus_huge_takes_the_room_of_its_data_alone() {
    let (_directory, place) = make(Kind::Huge, 1, 0.01);
    let status = std::fs::metadata(place.join("sparse.img")).expect("stat");
    assert_eq!(status.len(), 655 << 20);
    assert!(status.blocks() * 512 <= 65 << 20, "{} blocks", status.blocks());
}

#[test]
fn corpus_image_changes_a_hundredth_in_place() {
    let (_directory, place) = make(Kind::Image, 1, 0.01);
    let before = std::fs::read(place.join("disk.img")).expect("read");
    let after = std::fs::read(place.with_file_name("image-changed").join("disk.img")).expect("read");
    assert_eq!(before.len(), after.len());
    let pages = before.len() / 4096;
    let differ = before.chunks(4096).zip(after.chunks(4096)).filter(|(old, new)| old != new).count();
    assert!(differ > pages / 400 && differ <= pages / 100, "{differ} of {pages} pages differ");
}

#[test]
fn corpus_edits_are_the_same_and_concern_a_hundredth() {
    let ((_first, one), (_second, two)) = (make(Kind::Source, 1, 0.01), make(Kind::Source, 1, 0.01));
    let before = digests(&one);
    let edited = edit::apply(&one, 1, 1, edit::INCREMENTAL).expect("edit");
    assert_eq!(edited, edit::Edited { changed: 5, added: 1, removed: 1, renamed: 1 });
    assert_eq!(edit::apply(&two, 1, 1, edit::INCREMENTAL).expect("edit"), edited);
    let after = digests(&one);
    assert_eq!(after, digests(&two));
    assert_eq!(after.len(), before.len() + 1 - 1);
    let kept = before.iter().filter(|(path, digest)| after.get(*path) == Some(digest)).count();
    assert_eq!(before.len() - kept, 5 + 1 + 1);
}

#[test]
fn corpus_touch_changes_times_alone() {
    let (_directory, place) = make(Kind::Mixed, 1, 0.001);
    let times = || -> Vec<i64> {
        edit::files(&place).expect("walk").iter().map(|path| std::fs::metadata(path).expect("stat").mtime()).collect()
    };
    let (before, times_before) = (digests(&place), times());
    assert_eq!(edit::touch(&place).expect("touch"), 24);
    assert_eq!(digests(&place), before);
    assert!(times_before.iter().zip(times()).all(|(old, new)| *old == new + 3600));
}

#[test]
fn corpus_generations_come_one_after_another() {
    let (_directory, place) = make(Kind::Aged, 1, 0.004);
    assert!(edit_to(&place, Kind::Aged, 1, 2).expect_err("too early").contains("the next one is 1"));
    for number in 1..=3 {
        edit_to(&place, Kind::Aged, 1, number).expect("edit");
    }
    assert!(edit_to(&place, Kind::Aged, 1, 3).is_err());
    assert_eq!(std::fs::read_to_string(generation_file(&place)).expect("read"), "3\n");
}

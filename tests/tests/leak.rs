//! What an observer of the repository's objects learns from their sizes, and what not (FAILURES F22).
//!
//! Published attacks recognise a known file by the lengths of its chunks, where chunks are objects or the cut follows a
//! table that everybody knows. Here the observer sees packs alone. What is left is said, and asserted, in the last test.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_lite::future::block_on;
use mover_repository::backend::LocalBackend;
use mover_repository::keys::Credential;
use mover_repository::pack::{PackClass, PackContents, read_contents};
use mover_repository::repository::Repository;
use mover_tests::Repo;
use mover_tests::tree::{KIB, MIB, files_below, small_files, write_random};

/// The tables of contents of all data packs, as only who holds the keys can read them.
fn data_packs(repo: &Repo) -> Vec<PackContents> {
    let backend = LocalBackend::open(repo.place(), false).expect("the store");
    let password = std::fs::read_to_string(repo.password_file()).expect("the password");
    let credential = Credential::password(password.trim_end()).expect("a password");
    let opened = block_on(Repository::open(Arc::new(backend), &credential)).expect("the repository");
    let listed = block_on(opened.backend().list("packs")).expect("the packs");
    let all = listed.iter().map(|object| block_on(read_contents(&opened, &object.name)).expect("a table of contents"));
    all.filter(|pack| pack.class == PackClass::Data).collect()
}

/// What an observer sees of it: the lengths of all packs.
fn pack_lengths(repo: &Repo) -> Vec<u64> {
    repo.objects().into_iter().filter(|(path, _)| path.starts_with("packs")).map(|(_, bytes)| bytes).collect()
}

fn chunk_lengths(packs: &[PackContents]) -> BTreeSet<u32> {
    packs.iter().flat_map(|pack| &pack.frames).flat_map(|frame| &frame.chunks).map(|(_, bytes)| *bytes).collect()
}

#[test]
fn f22_two_repositories_cut_the_same_file_differently() {
    let cut = |repo: &Repo| {
        let source = repo.directory("source");
        write_random(&source.join("known"), 24 * MIB, 1);
        repo.backup(&source);
        chunk_lengths(&data_packs(repo))
    };
    let (one, other) = (cut(&Repo::new()), cut(&Repo::new()));
    assert!(one.len() > 30 && other.len() > 30, "{} and {} chunks", one.len(), other.len());
    let common = one.intersection(&other).count();
    // Lengths vary by a million; one in ten by chance would be a wonder.
    assert!(common * 10 < one.len(), "{common} of {} chunk lengths are the same in both", one.len());
}

#[test]
fn f22_no_chunk_length_of_a_small_file_can_be_read_from_an_object() {
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 400, 500, 9000, 1);
    repo.backup(&source);
    let lengths: BTreeSet<u64> = files_below(&source).into_iter().map(|(_, bytes)| bytes).collect();
    let packs = data_packs(&repo);
    let frames: Vec<_> = packs.iter().flat_map(|pack| &pack.frames).collect();
    let holding_files =
        frames.iter().filter(|frame| frame.chunks.iter().any(|(_, bytes)| lengths.contains(&(*bytes).into())));
    let holding_files = holding_files.count() as u64;
    let content: u64 = files_below(&source).into_iter().map(|(_, bytes)| bytes).sum();
    assert!(holding_files <= content / (128 * KIB) + 8, "400 files lie in {holding_files} frames");
    // Objects are packs of many frames; there is none for a file, a chunk or a frame.
    let seen = pack_lengths(&repo);
    assert!(seen.len() <= 8, "{} packs for 400 files", seen.len());
    assert!(seen.iter().all(|bytes| !lengths.contains(bytes)));
}

/// What is left: how much new, incompressible data a run stored, to within a few dozen KiB. Who backs up one file and
/// nothing else tells its length. Padding of packs is to hide that one day; nothing does so now.
#[test]
fn f22_what_is_left_is_the_amount_of_new_data_a_run() {
    let repo = Repo::new();
    let source = repo.directory("source");
    let added = |name: &str, bytes: u64| {
        let before: u64 = pack_lengths(&repo).iter().sum();
        write_random(&source.join(name), bytes, bytes);
        repo.backup(&source);
        pack_lengths(&repo).iter().sum::<u64>() - before
    };
    for (name, bytes) in [("first", 3 * MIB), ("second", 5 * MIB)] {
        let stored = added(name, bytes);
        let overhead = stored.checked_sub(bytes).expect("nothing of it can be compressed");
        assert!(overhead < 64 * KIB, "{name}: {overhead} bytes more than the file");
    }
}

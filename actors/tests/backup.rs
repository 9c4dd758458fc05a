//! The backup pipeline on the real runtime, a real tree and a repository in memory.

mod lab;

use std::collections::BTreeMap;

use lab::{Lab, noise};
use mover_repository::log::Grade;

#[test]
fn a_tree_comes_back_and_an_unchanged_one_is_not_read_again() {
    let lab = Lab::new();
    let tree = tempfile::tempdir().expect("a directory");
    let mut expected = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| {
        let path = tree.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        std::fs::write(path, &bytes).expect("write");
        expected.insert(name.as_bytes().to_vec(), bytes);
    };
    for number in 0..600u64 {
        put(&format!("d{}/f{number}", number % 7), noise(number, (number * 97 % 9000) as usize));
    }
    put("empty", vec![]);
    put("large", noise(1000, 70 << 20));
    put("text", b"all work and no play\n".repeat(300_000));
    put("twin", noise(1000, 70 << 20));

    std::thread::sleep(std::time::Duration::from_millis(2100));
    let first = lab.backup(tree.path());
    let point = first.point.expect("a recovery point");
    assert_eq!(point.grade, Grade::Stable);
    assert_eq!((point.totals.files, point.errors), (expected.len() as u64, 0), "{:?}", first.lists.problems);
    let logical: u64 = expected.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!((point.totals.bytes, point.totals.bytes_read), (logical, logical));
    assert!(point.totals.bytes_new < logical - (69 << 20), "the twin is stored once: {}", point.totals.bytes_new);
    assert_eq!(lab.files(), expected);

    let second = lab.backup(tree.path());
    let totals = second.point.expect("a recovery point").totals;
    assert_eq!((totals.bytes_read, totals.bytes_new), (0, 0));
    assert_eq!(second.counts.files_reused, expected.len() as u64);
    assert_eq!(lab.files(), expected);
}

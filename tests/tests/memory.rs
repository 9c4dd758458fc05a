//! Peak memory stays within `--memory` and 64 MiB, under a cgroup that kills what takes more (FAILURES F30).

use std::path::Path;

use mover_tests::cgroup::MemoryLimit;
use mover_tests::mover::finish;
use mover_tests::tree::{KIB, MIB, small_files, sparse_file, write_random};
use mover_tests::{Repo, exit, needs, skip_test};

const BUDGET: u64 = 128 * MIB;

/// Backs `source` up and restores it, both at the smallest budget under the limit.
fn both_ways_within_the_budget(repo: &Repo, source: &Path) {
    let limit = match MemoryLimit::new(BUDGET + 64 * MIB) {
        Ok(limit) => limit,
        Err(reason) => skip_test!(reason),
    };
    let backup =
        repo.command("backup", &["--json".as_ref(), "--memory".as_ref(), "128MiB".as_ref(), source.as_os_str()]);
    let run = finish(limit.wrap(&backup), None);
    assert!(!limit.killed(), "backup took more than its budget and 64 MiB: {run}");
    let summary = run.expect(exit::DONE).summary();
    let target = repo.directory("target");
    let point = summary.point();
    let arguments = [
        "--json".as_ref(),
        "--memory".as_ref(),
        "128MiB".as_ref(),
        point.as_ref(),
        "--target".as_ref(),
        target.as_os_str(),
    ];
    let restored = finish(limit.wrap(&repo.command("restore", &arguments)), None);
    assert!(!limit.killed(), "restore took more than its budget and 64 MiB: {restored}");
    restored.expect(exit::DONE);
    copies_within_the_budget(repo, &limit);
    let again = finish(limit.wrap(&backup), None);
    assert!(!limit.killed(), "the second backup took more than its budget and 64 MiB: {again}");
    again.expect(exit::DONE);
    repo.run("forget", &["--keep-last", "1"]).expect(exit::DONE);
    let prune = repo.command("prune", &["--memory", "128MiB", "--max-unused", "0"]);
    let pruned = finish(limit.wrap(&prune), None);
    assert!(!limit.killed(), "prune took more than its budget and 64 MiB: {pruned}");
    pruned.expect(exit::DONE);
}

/// Copies all points to a repository with the same ids, and to one with others.
fn copies_within_the_budget(repo: &Repo, limit: &MemoryLimit) {
    for name in ["like", "other"] {
        let place = repo.scratch().join(name);
        let to = Repo::at(mover_tests::mover::scratch(), place.clone());
        let mut init = to.command("init", &[] as &[&str]);
        if name == "like" {
            init.arg("--like").arg(repo.place()).arg("--like-password-file").arg(repo.password_file());
        }
        finish(init, None).expect(exit::DONE);
        let mut copy = repo.command("copy", &["--memory", "128MiB", "--all"]);
        copy.arg(&place).arg("--to-password-file").arg(to.password_file());
        let copied = finish(limit.wrap(&copy), None);
        assert!(!limit.killed(), "a copy took more than its budget and 64 MiB: {copied}");
        copied.expect(exit::DONE);
        std::fs::remove_dir_all(&place).expect("remove a repository");
    }
}

#[test]
fn f30_memory_large_files() {
    needs!(root);
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("random"), 400 * MIB, 1);
    let text = mover_tests::random::Random::new(2).text(32 * MIB as usize);
    std::fs::write(source.join("text"), text.repeat(8)).expect("write");
    sparse_file(&source.join("sparse"), 4096 * MIB, &[(MIB, 8 * MIB), (4000 * MIB, 8 * MIB)], 3);
    both_ways_within_the_budget(&repo, &source);
}

#[test]
fn f30_memory_many_small_files() {
    needs!(root);
    let repo = Repo::new();
    let source = repo.directory("source");
    let count = if std::env::var_os("MOVER_TEST_NIGHTLY").is_some() { 1_000_000 } else { 60_000 };
    small_files(&source, count, 0, 3 * KIB, 1);
    both_ways_within_the_budget(&repo, &source);
}

#[test]
fn f30_memory_one_directory_of_many_names_and_links() {
    needs!(root);
    let repo = Repo::new();
    let source = repo.directory("source");
    let wide = repo.directory("source/wide");
    for number in 0..40_000 {
        std::fs::write(wide.join(format!("{number:0200}")), b"").expect("write");
    }
    let linked = repo.directory("source/zlinked");
    for number in 0..20_000 {
        std::fs::hard_link(wide.join(format!("{number:0200}")), linked.join(format!("{number:0200}"))).expect("link");
    }
    both_ways_within_the_budget(&repo, &source);
}

#[test]
fn f30_memory_one_huge_file_first_and_many_small_ones_after_it() {
    needs!(root);
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("0-huge"), 600 * MIB, 1);
    small_files(&source.join("small"), 10_000, 0, 2 * KIB, 2);
    both_ways_within_the_budget(&repo, &source);
}

/// The maintenance commands of other tools ran out of memory. Those that exist keep to the budget too.
#[test]
fn f30_verify_and_repair_keep_to_the_budget() {
    needs!(root);
    let repo = Repo::new();
    let source = repo.directory("source");
    write_random(&source.join("large"), 300 * MIB, 1);
    small_files(&source.join("small"), 30_000, 0, 3 * KIB, 2);
    repo.backup(&source);
    let limit = match MemoryLimit::new(BUDGET + 64 * MIB) {
        Ok(limit) => limit,
        Err(reason) => skip_test!(reason),
    };
    for arguments in
        [&["verify", "--memory", "128MiB", "--data", "all"][..], &["repair", "index", "--memory", "128MiB"]]
    {
        let run = finish(limit.wrap(&repo.command(arguments[0], &arguments[1..])), None);
        assert!(!limit.killed(), "{arguments:?} took more than its budget and 64 MiB: {run}");
        run.expect(exit::DONE);
    }
}

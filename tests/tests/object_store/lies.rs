//! A store, or a proxy before it, that cuts answers short, mixes objects up, or lists late: a command either does what is
//! right or fails with an error, and nothing that it did has to be undone.

use std::path::Path;

use mover_tests::s3::{Fault, Rule, S3Server};
use mover_tests::tree::{files_below, write_random};
use mover_tests::{Repo, Run, differences, exit, needs};

use super::fixture::{PREFIX, assert_restores, repository, tree};

/// A lie that is told again and again is believed to be one soon.
const SHORT: [&str; 2] = ["--patience", "500ms"];

fn run(repo: &Repo, subcommand: &str, arguments: &[&str]) -> Run {
    let all: Vec<&str> = SHORT.into_iter().chain(arguments.iter().copied()).collect();
    let run = repo.run(subcommand, &all);
    assert!(!run.panicked(), "{run}");
    assert!(
        run.code == exit::DONE || run.stderr.contains("mover: ") || !run.stdout.is_empty(),
        "a silent failure: {run}"
    );
    run
}

/// All commands while the lie is told, and then the truth: nothing came to harm.
fn survives(name: &str, server: &S3Server, repo: &Repo, source: &Path, point: &str, lie: Rule) {
    let rule = server.faults().add(lie);
    let listed = run(repo, "points", &["--json"]);
    if listed.code == exit::DONE {
        assert!(listed.text().contains(point), "{name}: the point is not listed: {listed}");
    }
    let target = repo.directory(&format!("{name}-lied"));
    let restored = run(repo, "restore", &["--json", point, "--target", target.to_str().expect("a path of a test")]);
    if restored.code == exit::DONE {
        let found = differences(source, &mover_tests::mover::landed(&target, source));
        assert!(found.is_empty(), "{name}: restore was content with {found:?}");
    }
    // What is there under its own name is right, whatever became of the run.
    for (path, _) in files_below(&target) {
        let Ok(original) = std::fs::read(Path::new("/").join(&path)) else { continue };
        assert!(std::fs::read(target.join(&path)).expect("read") == original, "{name}: {} is wrong", path.display());
    }
    run(repo, "verify", &["--data", "all"]);
    let other = repo.directory("other");
    write_random(&other.join("changed"), 100_000, name.len() as u64);
    let again = run(repo, "backup", &["--json", other.to_str().expect("a path of a test")]);
    run(repo, "prune", &[]);
    assert!(server.faults().applied(rule) > 0, "{name}: nothing was lied about");
    server.faults().remove(rule);

    repo.verify_all();
    if again.code == exit::DONE {
        assert_restores(repo, &again.summary().point(), &other, &format!("{name}-again"));
    }
    assert_restores(repo, point, source, &format!("{name}-true"));
    for kind in ["lied", "again", "true"] {
        let _ = std::fs::remove_dir_all(repo.scratch().join(format!("{name}-{kind}")));
    }
}

fn lied_to(lies: impl Fn(&S3Server) -> Vec<(String, Rule)>) {
    let server = S3Server::start();
    let repo = repository(&server);
    let source = tree(&repo, 4);
    let point = repo.backup(&source).point();
    // More than one pack, segment and record.
    write_random(&source.join("more"), 1 << 20, 12);
    let point_of_all = repo.backup(&source).point();
    assert_ne!(point, point_of_all);
    for (name, lie) in lies(&server) {
        survives(&name, &server, &repo, &source, &point_of_all, lie);
    }
}

#[test]
fn answers_that_are_cut_short_restore_nothing_wrong() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    lied_to(|_| {
        let cut = |bytes: u64| (format!("cut-{bytes}"), Rule::new(Fault::CutAfter { bytes }).method("GET"));
        vec![cut(0), cut(1000), cut(100_000)]
    });
}

#[test]
fn answers_that_are_short_and_say_so_restore_nothing_wrong() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    lied_to(|_| {
        let shorten = |bytes: u64| (format!("short-{bytes}"), Rule::new(Fault::ShortenTo { bytes }).method("GET"));
        vec![shorten(0), shorten(300), shorten(100_000)]
    });
}

#[test]
fn bytes_of_another_object_restore_nothing_wrong() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    lied_to(|server| {
        let mut lies = Vec::new();
        let objects = files_below(&server.object_file(PREFIX));
        for kind in ["packs", "index", "log", "config"] {
            // The first one instead of any of its kind; for the only one of its kind, the first object of all.
            let of_kind = objects.iter().filter(|(path, _)| path.starts_with(kind)).count();
            let first = objects.iter().find(|(path, _)| of_kind == 1 || path.starts_with(kind)).expect("an object");
            let key = format!("{PREFIX}/{}", first.0.display());
            let lie = Rule::new(Fault::OtherObject { key }).method("GET").key_prefix(&format!("{PREFIX}/{kind}"));
            lies.push((format!("other-{kind}"), lie));
        }
        lies
    });
}

#[test]
fn listings_that_come_late_lose_nothing() {
    needs!("rsync", "getfattr", "getfacl", "filefrag");
    lied_to(|_| {
        [1, 3, 100].map(|creations| (format!("late-{creations}"), Rule::new(Fault::ListLate { creations }))).into()
    });
}

//! The shape of the source tree, checked: arrows between the crates, sizes, and what must not be left in it.
//!
//! These tests read text alone and need nothing but the checkout.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Lines that no source file may exceed.
const LINES_MAX: usize = 700;
/// Lines that nine of ten source files stay under.
const LINES_AIM: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

/// Every text file of the checkout: relative path and content.
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root(), &root(), &mut found);
    assert!(found.len() > 20, "only {} files found", found.len());
    found.sort();
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).expect("read a directory") {
        let path = entry.expect("read a directory").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != ".git" {
            collect(root, &path, found);
        } else if path.is_file()
            && !["Cargo.lock", ".git"].contains(&name.as_str())
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            found.push((path.strip_prefix(root).expect("below").to_string_lossy().into_owned(), text));
        }
    }
}

fn sources() -> Vec<(String, String)> {
    texts().into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

fn is_this_file(path: &str) -> bool {
    path == "tests/tests/tidy.rs"
}

/// Fails with all findings at once.
fn assert_none(findings: Vec<String>, rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

/// Names of the dependencies that a crate builds with, tests aside.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(manifest)).expect("read a manifest");
    let mut names = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies") && !line.contains("dev-dependencies");
        } else if inside && let Some(name) = line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty()) {
            names.push(name.to_owned());
        }
    }
    assert!(!names.is_empty(), "{manifest} has no dependencies");
    names
}

#[test]
fn tidy_crates_point_one_way() {
    let rules: [(&str, &[&str]); 3] = [
        ("mover/repository/Cargo.toml", &["mover", "mover-actors", "glommio", "actix", "actix-web", "clap"]),
        ("mover/control/Cargo.toml", &["mover", "mover-actors", "glommio", "actix-web", "clap"]),
        ("actors/Cargo.toml", &["mover", "mover-control", "actix", "actix-web", "clap", "rusqlite", "sqlx"]),
    ];
    let mut findings = Vec::new();
    for (manifest, forbidden) in rules {
        let wrong = dependencies(manifest).into_iter().filter(|name| forbidden.contains(&name.as_str()));
        findings.extend(wrong.map(|name| format!("{manifest} depends on {name}")));
    }
    assert_none(findings, "a lower crate knows an upper one");
}

#[test]
fn tidy_executor_is_named_in_the_runtime_alone() {
    let named = sources().into_iter().filter(|(path, text)| {
        !is_this_file(path) && !path.starts_with("actors/src/runtime") && text.to_lowercase().contains("glommio")
    });
    assert_none(named.map(|(path, _)| path).collect(), "glommio is named outside actors/src/runtime");
}

#[test]
fn tidy_network_runtime_is_named_where_the_network_is() {
    let network = ["mover/repository/src/bandwidth/", "mover/repository/src/backend/remote/"];
    let named = sources().into_iter().filter(|(path, text)| {
        path.starts_with("mover/repository/")
            && !network.iter().any(|place| path.starts_with(place))
            && text.contains("tokio")
    });
    assert_none(named.map(|(path, _)| path).collect(), "tokio is named outside the network parts of the repository");
}

#[test]
fn tidy_control_plane_framework_stays_in_command() {
    let named = sources().into_iter().filter(|(path, text)| {
        (path.starts_with("actors/") || path.starts_with("mover/repository/")) && text.contains("actix")
    });
    assert_none(named.map(|(path, _)| path).collect(), "actix is named in a library");
}

/// A local cache may hold what the store has lost: whoever proves, repairs or deletes asks the store alone.
#[test]
fn tidy_commands_that_prove_the_store_use_no_cache() {
    const READERS: [&str; 7] = ["backup", "diff", "dump", "ls", "points", "protect", "restore"];
    let opens_cached = |text: &str| text.contains("open_cached") || text.contains("CachedBackend");
    let users: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| {
            path.starts_with("mover/src/") && !path.ends_with("/repository.rs") && opens_cached(text)
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(users, READERS.map(|name| format!("mover/src/cli/{name}.rs")), "who reads through the cache");
}

#[test]
fn tidy_files_stay_small() {
    let lengths: Vec<(String, usize)> =
        sources().into_iter().map(|(path, text)| (path, text.lines().count())).collect();
    let too_long = lengths.iter().filter(|(_, lines)| *lines > LINES_MAX);
    assert_none(too_long.map(|(path, lines)| format!("{path}: {lines} lines")).collect(), "files over the limit");
    let long: Vec<String> = lengths
        .iter()
        .filter(|(_, lines)| *lines > LINES_AIM)
        .map(|(path, lines)| format!("{path}: {lines}"))
        .collect();
    assert!(long.len() * 10 <= lengths.len(), "more than a tenth of the files is over the aim: {long:?}");
    let main = lengths.iter().find(|(path, _)| path == "mover/src/main.rs").expect("main.rs");
    assert!(main.1 <= 150, "main.rs has {} lines", main.1);
}

#[test]
fn tidy_modules_open_with_their_purpose() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    assert_none(silent.map(|(path, _)| path).collect(), "modules that do not open with //!");
}

#[test]
fn tidy_nothing_is_left_to_do() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "TODO", "placeholder"];
    let mut findings = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_this_file(path)) {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                findings.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(findings, "left in the code");
}

#[test]
fn tidy_no_path_of_a_developers_machine() {
    let places = ["/work/", "/root/", "/home/"];
    let mut findings = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| !is_this_file(path)) {
        for (number, line) in text.lines().enumerate() {
            // In tests and docs /home/… is a fine example of a source path; in code it is not.
            let found =
                places.iter().any(|place| line.contains(place) && (*place != "/home/" || path.ends_with(".toml")));
            if found {
                findings.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(findings, "paths of one machine");
}

#[test]
fn tidy_unsafe_blocks_say_why() {
    let mut findings = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_this_file(path)) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains("unsafe {") {
                continue;
            }
            let above = &lines[number.saturating_sub(8)..number];
            if !above.iter().any(|before| before.contains("SAFETY")) {
                findings.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none(findings, "unsafe without SAFETY");
}

/// Rows of the acceptance table: the sentence, and the names of its tests.
fn acceptance() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("tests/ACCEPTANCE.md")).expect("tests/ACCEPTANCE.md");
    let rows = text.lines().filter(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let names = cells.last().expect("a cell").split('`').skip(1).step_by(2);
        (cells[0].to_owned(), names.map(str::to_owned).collect())
    });
    // The first two lines are the head of the table.
    rows.filter(|(sentence, _): &(String, Vec<String>)| {
        sentence != "what the issue says" && !sentence.starts_with("---")
    })
    .collect()
}

#[test]
fn tidy_every_acceptance_row_names_a_test_that_exists() {
    let all = sources();
    let scripts = texts();
    let exists = |name: &str| {
        let function = name.rsplit("::").next().expect("a name");
        all.iter().any(|(_, text)| text.contains(&format!("fn {function}(")))
            || scripts.iter().any(|(path, text)| path == "tests/run" && text.contains(&format!("\"{name}\"")))
    };
    let mut findings = Vec::new();
    let rows = acceptance();
    assert!(rows.len() > 50, "only {} rows", rows.len());
    for (sentence, names) in rows {
        if names.is_empty() {
            findings.push(format!("no test: {sentence}"));
        }
        findings
            .extend(names.iter().filter(|name| !exists(name)).map(|name| format!("{name} does not exist: {sentence}")));
    }
    assert_none(findings, "acceptance");
}

/// The test command with a `cargo` that only says how tests ended: the last line it prints, and whether it succeeds.
fn test_command_with(cargo: &str, is_ci: bool) -> (String, bool) {
    let bin = tempfile::tempdir().expect("a directory");
    let stand_in = bin.path().join("cargo");
    std::fs::write(&stand_in, format!("#!/bin/sh\n{cargo}\n")).expect("write");
    std::fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").expect("a PATH"));
    let mut command = std::process::Command::new(root().join(if is_ci { ".ci/run" } else { "tests/run" }));
    let output = command.env("PATH", path).env_remove("CI").output().expect("start");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (said.lines().next_back().unwrap_or_default().to_owned(), output.status.success())
}

#[test]
fn tidy_test_command_counts_what_failed_and_what_was_skipped() {
    let entries =
        std::fs::read_dir(root().join("tests/tests")).expect("list").map(|entry| entry.expect("entry").path());
    let names: HashSet<_> = entries.map(|path| path.file_stem().expect("a name").to_owned()).collect();
    // Those of the files, the unit tests, the helpers, and the suite of the control plane once more on PostgreSQL.
    let suites = names.len() + 3;
    let (checks, ok) = (3, "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'");
    let all = format!("{} passed, 0 failed, 0 skipped", checks + 2 * suites);
    assert_eq!(test_command_with(ok, true), (all, true));

    let skipping = format!("[ \"$1\" = test ] && echo 'a tool is missing' >>\"$MOVER_TEST_SKIPPED\"\n{ok}");
    let (skipped, ok_where_it_is_no_ci) = test_command_with(&skipping, false);
    assert_eq!(skipped, format!("{} passed, 0 failed, {suites} skipped", checks + suites));
    assert!(ok_where_it_is_no_ci);
    let (skipped, is_ok) = test_command_with(&skipping, true);
    assert!(skipped.ends_with(&format!("1 failed, {suites} skipped")) && !is_ok, "{skipped}");

    let failing = "[ \"$1\" = test ] || exit 0\necho 'test result: FAILED. 1 passed; 1 failed; 0 ignored;'; exit 1";
    let (failed, is_ok) = test_command_with(failing, false);
    assert_eq!((failed, is_ok), (format!("{} passed, {suites} failed, 0 skipped", checks + suites), false));
    // A suite that ran nothing, and one that does not build.
    assert!(!test_command_with("exit 0", false).1);
    assert!(!test_command_with("[ \"$1\" = test ] && exit 1", false).1);
}

/// The stem of a file, or the name of its directory for what stands for that.
fn module_name(path: &Path) -> String {
    let named =
        if path.file_name().is_some_and(|name| name == "mod.rs") { path.parent().expect("a directory") } else { path };
    named.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// A suite of four tests was counted as proof for a while and never compiled: no `mod` line named its file.
#[test]
fn tidy_every_file_of_a_suite_is_compiled() {
    let suites: Vec<(String, String)> =
        sources().into_iter().filter(|(path, _)| path.starts_with("tests/tests/")).collect();
    let mut findings = Vec::new();
    for (path, _) in &suites {
        let place = Path::new(path);
        let is_root = place.components().count() == 3 || place.file_name().is_some_and(|name| name == "main.rs");
        if is_root {
            continue;
        }
        let suite = place.components().nth(2).expect("a suite").as_os_str().to_string_lossy().into_owned();
        let line = format!("mod {};", module_name(place));
        let of_suite = [format!("tests/tests/{suite}/"), format!("tests/tests/{suite}.rs")];
        let mut others =
            suites.iter().filter(|(other, _)| other != path && of_suite.iter().any(|of| other.starts_with(of)));
        if !others.any(|(_, text)| text.lines().any(|known| known.trim().trim_start_matches("pub ") == line)) {
            findings.push(format!("{path}: no `{line}`"));
        }
    }
    assert_none(findings, "files of suites that nothing compiles");
}

#[test]
fn tidy_test_command_can_be_run() {
    for script in ["tests/run", ".ci/run"] {
        let status = std::fs::metadata(root().join(script)).expect(script);
        let mode = std::os::unix::fs::PermissionsExt::mode(&status.permissions());
        assert!(mode & 0o111 == 0o111, "{script} has no run bit");
    }
}

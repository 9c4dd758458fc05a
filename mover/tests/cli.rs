//! The binary from outside, without a repository: usage, help, settings, credentials.
//!
//! Runs the built binary with an environment of its own, so that no setting of the machine counts.

use std::path::Path;
use std::process::{Command, Output};

fn mover(directory: &Path, arguments: &[&str]) -> Output {
    mover_with(directory, arguments, &[])
}

fn mover_with(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mover"));
    command.args(arguments).env_clear().env("HOME", directory).current_dir(directory);
    // a session of its own has no terminal to ask for a password on
    command.envs(variables.iter().copied()).stdin(std::process::Stdio::null());
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wrong_usage_exits_2() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [&[&str]; 12] = [
        &[],
        &["frobnicate"],
        &["points", "--no-such-flag"],
        &["backup", "--memory", "lots", "/x"],
        &["backup", "--level", "40", "/x"],
        &["backup", "--level", "3", "--level-min", "1", "/x"],
        &["backup", "--reread", "2/3", "/x"],
        &["backup", "--stdin", "name", "/x"],
        &["restore", "latest"],
        &["restore", "latest", "--target", "a", "--in-place"],
        &["points", "--password-file", "a", "--key-file", "b"],
        &["config", "show", "--memory", "1MiB"],
    ];
    for arguments in cases {
        let output = mover(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn usage_errors_are_objects_with_json() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["points", "--json", "--nonsense"][..], &["config", "show", "--json", "--shards", "0"]] {
        let output = mover(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2));
        let last: serde_json::Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
        assert_eq!((last["type"].as_str(), last["exit_code"].as_u64()), (Some("error"), Some(2)));
    }
}

#[test]
fn the_help_lists_the_commands_that_work_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let output = mover(directory.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let commands: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = [
        "try", "init", "backup", "points", "ls", "diff", "dump", "restore", "copy", "verify", "repair", "forget",
        "prune", "protect", "serve", "agent", "job", "policy", "point", "token", "doctor", "key", "config", "help",
    ];
    assert_eq!(commands, expected, "{text}");
    for name in ["MOVER_REPO", "MOVER_PASSWORD_FILE", "MOVER_KEY_FILE", "--json", "--memory", "--shards"] {
        assert!(text.contains(name), "{name} is not in the help");
    }
}

#[test]
fn config_show_tells_where_each_value_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join(".config/mover");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("mover.toml"), "repo = '/from/file'\n[backup]\nset = 'web'\n").unwrap();
    let variables = [("MOVER_REPO", "/from/environment"), ("MOVER_PASSWORD", "hunter2")];
    let output = mover_with(directory.path(), &["config", "show", "--memory", "256MiB"], &variables);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let line_of = |key: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        line.unwrap_or_else(|| panic!("{key} is not in {text}")).to_owned()
    };
    assert!(line_of("repo").contains("/from/environment") && line_of("repo").ends_with("environment"));
    assert!(line_of("backup.set").contains("web") && line_of("backup.set").contains("mover.toml"));
    assert!(line_of("memory").contains("256MiB") && line_of("memory").ends_with("flag"));
    assert!(line_of("restore.overwrite").ends_with("default"));
    assert!(!text.contains("hunter2"), "a password was printed");
}

#[test]
fn bandwidth_limits_are_settings_and_a_wrong_calendar_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join(".config/mover");
    std::fs::create_dir_all(&config).unwrap();
    let text = "[bandwidth]\nupload = '1MiB/s'\ndownload = 'daily 00:00-24:00 = 8Mbit/s'\n";
    std::fs::write(config.join("mover.toml"), text).unwrap();
    let output = mover_with(directory.path(), &["config", "show", "--limit-upload", "mon-fri = 2MiB/s"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    let line_of = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    let upload = line_of("bandwidth.upload");
    assert!(upload.contains("mon-fri = 2MiB/s, else unlimited") && upload.ends_with("flag"), "{upload}");
    assert!(line_of("bandwidth.download").contains("mover.toml"), "{shown}");
    assert!(stderr(&output).contains("download from a network repository: 8Mbit/s"), "{}", stderr(&output));

    let output = mover_with(directory.path(), &["config", "show", "--limit-download", "mon = 1MiB/s, tus = 0"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("position 15") && said.contains("'tus' is no day") && said.contains("20MiB/s"), "{said}");
}

#[test]
fn an_unknown_key_in_the_config_file_exits_2_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("c.toml");
    std::fs::write(&config, "repo = '/a'\nshard = 3\n").unwrap();
    let output = mover(directory.path(), &["config", "show", "--config", "c.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2") && stderr(&output).contains("`shard`"), "{}", stderr(&output));
    let missing = mover(directory.path(), &["config", "show", "--config", "none.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("none.toml") && stderr(&missing).contains("help: "));
}

#[test]
fn doctor_reports_each_line_with_a_status() {
    let directory = tempfile::tempdir().unwrap();
    let output = mover(directory.path(), &["doctor", "--json"]);
    let text = stdout(&output);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    for name in ["kernel", "io_uring", "locked memory", "open files", "cores", "memory"] {
        assert!(names.contains(&name), "{name} is not in {text}");
    }
    assert_eq!(lines.last().unwrap()["type"], "summary");
    let failed = lines.last().unwrap()["failed"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(failed > 0)));
}

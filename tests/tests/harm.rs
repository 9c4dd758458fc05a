//! Little harm to the host: the page cache stays as it was, and `--idle` yields.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mover_tests::cache::{drop_from_cache, resident_pages};
use mover_tests::cgroup::MemoryLimit;
use mover_tests::mover::{finish, wait};
use mover_tests::tree::{KIB, MIB, small_files, write_random};
use mover_tests::{Repo, exit, needs, skip_test};

/// Memory of the group in which everything happens: less than the data.
const MEMORY: u64 = 512 * MIB;
const HOT: u64 = 96 * MIB;

fn pages_below(directory: &Path) -> (usize, usize) {
    let mut sum = (0, 0);
    for (name, _) in mover_tests::tree::files_below(directory) {
        let (resident, all) = resident_pages(&directory.join(name));
        sum = (sum.0 + resident, sum.1 + all);
    }
    sum
}

/// A backup of more data than there is memory, beside a file that is hot: it stays hot, and nothing of the data or of
/// the packs stays in the cache in its place.
#[test]
fn harm_a_backup_larger_than_memory_leaves_the_page_cache_as_it_found_it() {
    needs!(root);
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..3 {
        write_random(&source.join(format!("large-{number}")), 230 * MIB, number);
    }
    small_files(&source.join("small"), 2000, 0, 60 * KIB, 9);
    let hot = repo.directory("hot").join("file");
    write_random(&hot, HOT, 77);
    drop_from_cache(&hot);
    for (name, _) in mover_tests::tree::files_below(&source) {
        drop_from_cache(&source.join(name));
    }
    let (resident, pages) = pages_below(&source);
    if resident > pages / 100 {
        // Files here live in memory: there is no cache that a backup could fill.
        return;
    }
    let limit = match MemoryLimit::new(MEMORY) {
        Ok(limit) => limit,
        Err(reason) => skip_test!(reason),
    };
    let mut read = Command::new("cat");
    read.arg(&hot).arg(&hot).stdout(Stdio::null());
    assert_eq!(finish(limit.wrap(&read), None).code, 0);
    let before = resident_pages(&hot);
    assert!(before.0 > before.1 * 99 / 100, "it is not hot to begin with: {before:?}");

    let arguments = ["--memory".as_ref(), "128MiB".as_ref(), source.as_os_str()];
    finish(limit.wrap(&repo.command("backup", &arguments)), None).expect(exit::DONE);

    let after = resident_pages(&hot);
    assert!(after.0 >= before.0 * 99 / 100, "{} of {} hot pages are left", after.0, before.0);
    let (of_source, of_packs) = (pages_below(&source), pages_below(&repo.place().join("packs")));
    assert!(of_source.0 <= of_source.1 / 50, "{of_source:?} pages of the source were left in the cache");
    assert!(of_packs.0 <= of_packs.1 / 50, "{of_packs:?} pages of the packs were left in the cache");
}

/// The scheduling policy of a thread, the 41st field of its `stat`; 5 is SCHED_IDLE.
fn policy(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(38)?.parse().ok()
}

#[test]
fn harm_an_idle_backup_runs_in_the_lowest_class_on_every_thread() {
    const SCHED_IDLE: u32 = 5;
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    const IOPRIO_CLASS_IDLE: libc::c_long = 3;
    let repo = Repo::new();
    let source = repo.directory("source");
    for number in 0..8 {
        write_random(&source.join(format!("file-{number}")), 64 * MIB, number);
    }
    let mut command = repo.command("backup", &["--idle".as_ref(), source.as_os_str()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let mut names = std::collections::BTreeSet::new();
    let patience = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("look").is_none() && Instant::now() < patience {
        let tasks = format!("/proc/{}/task", child.id());
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let name = read("comm").trim_end().to_owned();
            let Some(policy) = policy(&read("stat")) else { continue };
            // The first thread is seen before it has read its options.
            if name.starts_with("shard-") || name.starts_with("source-") || name.starts_with("mover-") {
                assert_eq!(policy, SCHED_IDLE, "thread {name}");
                let id: libc::c_long = task.file_name().to_string_lossy().parse().expect("a thread number");
                // SAFETY: the call takes two numbers and touches no memory.
                let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, id) };
                assert!(priority < 0 || priority >> 13 == IOPRIO_CLASS_IDLE, "thread {name}: {priority:#x}");
                names.insert(name);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    wait(child, "backup --idle".to_owned()).expect(exit::DONE);
    assert!(names.iter().any(|name| name.starts_with("shard-")), "no shard was seen: {names:?}");
    assert!(names.iter().any(|name| name.starts_with("source-")), "no thread of the source was seen: {names:?}");
    let shown = repo.run("config", &["show", "--idle"]).expect(exit::DONE);
    assert!(shown.text().contains("idle"), "{shown}");
}

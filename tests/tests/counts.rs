//! Work that can be counted: syncs, looks at files, reads. Through `strace`, never through a clock.

use mover_tests::strace::traced;
use mover_tests::tree::{KIB, MIB, settle, small_files, write_random};
use mover_tests::{Repo, exit, needs};

const SYNCS: &str = "fsync,fdatasync,sync_file_range,syncfs";

#[test]
fn counts_syncs_are_packs_and_directories_and_a_constant() {
    needs!("strace");
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source.join("small"), 2000, 1000, 4000, 1);
    write_random(&source.join("large"), 300 * MIB, 2);
    let before = repo.objects();
    let command = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
    let (run, trace) = traced(&command, SYNCS, repo.scratch());
    run.expect(exit::DONE);
    let after = repo.objects();
    let fresh: Vec<_> = after.iter().filter(|object| !before.contains(object)).collect();
    let packs = fresh.iter().filter(|(path, _)| path.starts_with("packs")).count() as u64;
    let directories = {
        let mut parents: Vec<_> = fresh.iter().filter_map(|(path, _)| path.parent()).collect();
        parents.sort();
        parents.dedup();
        parents.len() as u64
    };
    let syncs = trace.count("fsync") + trace.count("fdatasync");
    assert!(packs >= 5, "only {packs} packs");
    // The constant: open, sealed, index segments, done and their directories, and directories that were new.
    let most = packs + 2 * directories + 24;
    assert!(syncs <= most, "{syncs} syncs for {packs} packs in {directories} directories");
    assert!(syncs >= packs + 3, "{syncs} syncs cannot have made {packs} packs durable");
}

#[test]
fn counts_unchanged_second_backup_looks_once_at_each_file_and_opens_none() {
    needs!("strace");
    let repo = Repo::new();
    let source = repo.directory("source");
    let files = 1500;
    small_files(&source, files, 1000, 4000, 1);
    settle(&source);
    repo.backup(&source);
    let command = repo.command("backup", &["--json".as_ref(), source.as_os_str()]);
    let calls = "statx,stat,lstat,newfstatat,open,openat,openat2,read,pread64,lgetxattr,llistxattr";
    let (run, trace) = traced(&command, calls, repo.scratch());
    assert_eq!(run.expect(exit::DONE).summary().bytes_read(), 0);
    let opened = trace.lines_with("file-").into_iter().filter(|line| line.contains(" open")).count();
    assert_eq!(opened, 0, "unchanged files were opened");
    // Looks through io_uring do not show in strace; looks by system call may not be more than one a file.
    let looks = trace.lines_with("file-").into_iter().filter(|line| line.contains("stat")).count() as u64;
    assert!(looks <= files, "{looks} looks at {files} files");
}

#[test]
fn counts_restore_syncs_the_target_once_and_not_each_file() {
    needs!("strace");
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source, 800, 0, 3000, 1);
    write_random(&source.join("large"), 20 * MIB, 2);
    let point = repo.backup(&source).point();
    let target = repo.directory("target");
    let command = repo.command("restore", &[point.as_ref(), "--target".as_ref(), target.as_os_str()]);
    let (run, trace) = traced(&command, SYNCS, repo.scratch());
    run.expect(exit::DONE);
    assert!(trace.count("syncfs") >= 1, "success was reported before the target was synced");
    let syncs = trace.count("fsync") + trace.count("fdatasync");
    assert!(syncs <= 32, "{syncs} syncs for 801 files");
}

#[test]
fn counts_listing_reads_a_page_a_level_and_not_the_data() {
    needs!("strace");
    let repo = Repo::new();
    let source = repo.directory("source");
    small_files(&source.join("small"), 3000, 0, 2 * KIB, 1);
    write_random(&source.join("large"), 100 * MIB, 2);
    let point = repo.backup(&source).point();
    let inner = source.join("small/d007");
    let command = repo.command("ls", &[point.as_ref(), inner.as_os_str()]);
    let (run, trace) = traced(&command, "pread64,preadv2,read,readv,preadv", repo.scratch());
    run.expect(exit::DONE);
    let read: u64 =
        trace.lines_with("/repository/").iter().filter_map(|line| line.rsplit("= ").next()?.parse::<u64>().ok()).sum();
    assert!(read < 8 * MIB, "ls read {read} bytes of the repository");
}

//! Backup to and restore from an object store behind a link of a set rate and delay, as a share of that link.
//!
//! `cargo bench -p mover-bench --bench far -- [--rtt MS,…] [--rate MBIT,…] [--memory SIZE,…] [--bytes MIB]`
//!
//! The store is an S3 server in this process, the link a proxy in front of it that delays and paces what goes through; so
//! server, link and what is measured share the cores of this machine. Random bytes, one large file and many of 1 MiB,
//! half of each. Shares are of the bytes of the files, over the whole run of the command from its start to its end; CPU is
//! that of the command alone, beside the same with a repository in a directory right before. Source, store and target
//! lie in the directory for temporary files: with `TMPDIR` in memory no disk limits what the link carries.

#[allow(dead_code, reason = "one function of it is called here")]
#[path = "../src/clock.rs"]
mod clock;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clock::children_seconds;
use mover_tests::s3::{Link, S3Server};

const MIB: u64 = 1 << 20;

struct Options {
    rtt_ms: Vec<u64>,
    rate_mbit: Vec<u64>,
    memory: Vec<String>,
    /// Files together; by default what the link carries in a minute.
    mib: Option<u64>,
}

struct Ran {
    wall: f64,
    cpu: f64,
}

fn main() {
    let options = options();
    println!("| rtt ms | Mbit/s | memory | MiB | backup of link | restore of link | requests/GiB | CPU s/GiB, local |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for rate in &options.rate_mbit {
        let mib = options.mib.unwrap_or((rate * 60 / 8).clamp(256, 4096));
        let scratch = tempfile::tempdir().expect("a directory");
        let source = scratch.path().join("source");
        make_files(&source, mib);
        for rtt in &options.rtt_ms {
            for memory in &options.memory {
                // Right before, not once for all: what a GiB costs here is another figure an hour later.
                let place = scratch.path().join("local");
                let local = measure(&source, scratch.path(), &place.display().to_string(), &[], memory);
                std::fs::remove_dir_all(place).expect("remove the local repository");
                let server = S3Server::start();
                let link = Link::to(server.address());
                link.set_rate(Some(rate * 1_000_000));
                link.set_delay(Duration::from_micros(rtt * 500));
                let environment = server.environment_at(link.address());
                let (backup, restore) = measure(&source, scratch.path(), &server.url("far"), &environment, memory);
                if std::env::var_os("FAR_REQUESTS").is_some() {
                    let requests = server.requests();
                    let first = requests.all[0].arrived;
                    for request in &requests.all {
                        eprintln!(
                            "{:7.2} {:?} {} {:?} {:?} {}",
                            (request.arrived - first).as_secs_f64(),
                            request.kind,
                            request.key,
                            request.range,
                            request.status,
                            request.answer_bytes
                        );
                    }
                }
                let share = |ran: &Ran| (mib * MIB) as f64 * 8.0 / 1e6 / ran.wall / *rate as f64;
                let per_gib = |figure: f64| figure * 1024.0 / mib as f64;
                println!(
                    "| {rtt} | {rate} | {memory} | {mib} | {:.2} | {:.2} | {:.0} | {:.2}+{:.2}, {:.2}+{:.2} |",
                    share(&backup),
                    share(&restore),
                    per_gib(server.requests().total() as f64),
                    per_gib(backup.cpu),
                    per_gib(restore.cpu),
                    per_gib(local.0.cpu),
                    per_gib(local.1.cpu),
                );
            }
        }
    }
}

fn options() -> Options {
    let mut options = Options {
        rtt_ms: vec![1, 50, 150, 300],
        rate_mbit: vec![100, 1000],
        memory: vec!["256MiB".to_owned(), "128MiB".to_owned()],
        mib: None,
    };
    let numbers = |text: &str| text.split(',').map(|number| number.parse().expect("a number")).collect::<Vec<u64>>();
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().expect("each option has a value");
        match name.as_str() {
            "--rtt" => options.rtt_ms = numbers(&value),
            "--rate" => options.rate_mbit = numbers(&value),
            "--memory" => options.memory = value.split(',').map(str::to_owned).collect(),
            "--bytes" => options.mib = numbers(&value).pop(),
            _ => panic!("unknown option {name}"),
        }
    }
    options
}

/// Random files: one of half the bytes, the rest of 1 MiB each.
fn make_files(source: &Path, mib: u64) {
    std::fs::create_dir(source).expect("make the source");
    let mut noise = blake3::Hasher::new().update(b"far").finalize_xof();
    let mut write = |name: String, mib: u64| {
        let mut file = std::fs::File::create(source.join(name)).expect("make a file");
        let mut content = vec![0; MIB as usize];
        for _ in 0..mib {
            noise.fill(&mut content);
            std::io::Write::write_all(&mut file, &content).expect("write a file");
        }
    };
    write("large".to_owned(), mib / 2);
    for number in 0..mib - mib / 2 {
        write(format!("small-{number}"), 1);
    }
}

/// A first backup into a new repository, and a restore of it.
fn measure(source: &Path, scratch: &Path, place: &str, environment: &[(String, String)], memory: &str) -> (Ran, Ran) {
    let target = scratch.join("target");
    let key = scratch.join("key");
    let _ = std::fs::remove_file(&key);
    let run = |arguments: &[&str]| mover(arguments, place, &key, scratch, environment);
    run(&["init", "--new-key-file", &key.display().to_string()]);
    let backup = run(&["backup", "--memory", memory, &source.display().to_string()]);
    let restore = run(&["restore", "latest", "--memory", memory, "--target", &target.display().to_string()]);
    let restored = target.join(source.strip_prefix("/").expect("an absolute path")).join("large");
    let same = Command::new("cmp").arg(source.join("large")).arg(restored).status().expect("run cmp");
    assert!(same.success(), "the restored file differs");
    std::fs::remove_dir_all(&target).expect("remove the target");
    (backup, restore)
}

fn mover(arguments: &[&str], place: &str, key: &Path, scratch: &Path, environment: &[(String, String)]) -> Ran {
    let program = std::env::var_os("MOVER_BIN")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/mover")), PathBuf::from);
    let mut command = Command::new(program);
    command.args(arguments).args(["-r", place, "--quiet"]).envs(environment.iter().cloned());
    command.env("XDG_STATE_HOME", scratch.join("state")).env("XDG_CACHE_HOME", scratch.join("cache"));
    if arguments[0] != "init" {
        command.env("MOVER_KEY_FILE", key);
    }
    let (cpu, begun) = (children_seconds(), Instant::now());
    let status = command.stdin(Stdio::null()).status().expect("start mover");
    let ran = Ran { wall: begun.elapsed().as_secs_f64(), cpu: children_seconds() - cpu };
    assert!(status.success(), "mover {arguments:?} failed");
    ran
}

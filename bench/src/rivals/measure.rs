//! One run of one command under the limits of the cage: time, CPU, memory every 50 ms, bytes read.
//!
//! The command and its children share a process group and the cage's control groups; when the time is over or the user
//! interrupts, all of them are killed. Output goes to files, so that no reader of pipes takes part in the run. The
//! environment is empty but for what the tool needs: a setting of the user must not change a figure.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::thread::CpuSet;

use super::cage::{Cage, Groups};
use super::processes;
use crate::{Result, during};

/// How often memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// Samples that a report keeps of one run.
const SAMPLES_MAX: usize = 240;
/// Bytes of a failed command's words that a report keeps.
const SAID_MAX: usize = 600;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What to run.
pub struct Order {
    /// The binary, by its path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Where it runs.
    pub directory: PathBuf,
    /// A network namespace to run in.
    pub namespace: Option<PathBuf>,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Measured {
    /// Seconds from start to end.
    pub wall_seconds: f64,
    /// User and system seconds.
    pub cpu_seconds: f64,
    /// Most resident memory.
    pub memory_bytes_peak: u64,
    /// From the disk.
    pub read_physical_bytes: u64,
    /// By system calls.
    pub read_syscall_bytes: u64,
    /// Seconds and resident bytes.
    pub memory_samples: Vec<(f64, u64)>,
    /// Standard output.
    pub output: String,
    /// Why it failed.
    pub failed: Option<String>,
}

extern "C" fn on_signal(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From here on Ctrl-C ends the session in good order: the command is killed and what was made is removed.
pub fn end_cleanly_when_interrupted() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = on_signal;
        // SAFETY: the handler stores into an atomic and does nothing else, which is allowed in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// An error once the user has interrupted.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// Runs `order` to its end. A command that fails is a measured failure; an error is one of this program.
pub fn run(order: &Order, cage: &Cage, logs: &Path, time_max: Duration) -> Result<Measured> {
    check_interrupted()?;
    let groups = cage.groups()?;
    let (out, err) = (logs.join("stdout"), logs.join("stderr"));
    let mut command = command(order, cage.cores(), groups.doors()?)?;
    command.stdout(during("create a log", File::create(&out))?).stderr(during("create a log", File::create(&err))?);
    let started = Instant::now();
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ok(Measured { failed: Some(format!("it does not start: {error}")), ..Measured::default() });
        }
    };
    drop(command);
    let pid = Pid::from_raw(child.id() as i32).expect("a process id is not zero");
    let watch = Watch { pid, groups: &groups, started, time_max };
    let mut measured = watch.to_its_end()?;
    measured.output = read_lossy(&out);
    if let Some(failed) = &mut measured.failed {
        let said = format!("{}\n{}", measured.output.trim(), read_lossy(&err).trim());
        failed.push_str(": ");
        failed.push_str(tail(said.trim(), SAID_MAX));
    }
    Ok(measured)
}

fn read_lossy(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of `text`, of at most `most` bytes.
pub fn tail(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn command(order: &Order, cores: CpuSet, doors: Vec<OwnedFd>) -> Result<Command> {
    let mut command = Command::new(&order.program);
    command.args(&order.arguments).current_dir(&order.directory).stdin(Stdio::null()).process_group(0);
    command.env_clear().envs(order.environment.iter().map(|(name, value)| (name, value)));
    let namespace = match &order.namespace {
        Some(path) => Some(during(format!("open {}", path.display()), File::open(path))?),
        None => None,
    };
    // SAFETY: between fork and exec the closure makes system calls alone: it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            for door in &doors {
                rustix::io::write(door, b"0")?;
            }
            if let Some(file) = &namespace
                && libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(rustix::thread::sched_setaffinity(None, &cores)?)
        });
    }
    Ok(command)
}

struct Watch<'w> {
    pid: Pid,
    groups: &'w Groups,
    started: Instant,
    time_max: Duration,
}

impl Watch<'_> {
    fn to_its_end(&self) -> Result<Measured> {
        let done = AtomicBool::new(false);
        let (ended, samples) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| self.sample(&done));
            let sampler_thread = sampler.thread().clone();
            // The process stays a zombie for a moment, so that its counters can still be read.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let waited = loop {
                match rustix::process::waitid(WaitId::Pid(self.pid), options) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other.map(drop),
                }
            };
            let ended = self.started.elapsed();
            done.store(true, Ordering::Relaxed);
            sampler_thread.unpark();
            (waited.map(|()| ended), sampler.join().expect("the sampler does not panic"))
        });
        let wall = during("wait for the command", ended)?;
        let read = processes::read_bytes(self.pid.as_raw_nonzero().get() as u32);
        let cpu_of_group = self.groups.cpu_seconds().unwrap_or(0.0);
        let (status, cpu_of_tree) = self.reap()?;
        let peak_of_samples = samples.iter().map(|sample| sample.1).max().unwrap_or(0);
        Ok(Measured {
            wall_seconds: wall.as_secs_f64(),
            // A child that nobody waited for is counted in the group alone.
            cpu_seconds: cpu_of_group.max(cpu_of_tree),
            memory_bytes_peak: peak_of_samples,
            read_physical_bytes: read.physical,
            read_syscall_bytes: read.syscall,
            memory_samples: thin(samples),
            output: String::new(),
            failed: self.failure(status, wall),
        })
    }

    fn failure(&self, status: i32, wall: Duration) -> Option<String> {
        if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
            return None;
        }
        Some(if wall >= self.time_max {
            format!("ended after {} s without an end", self.time_max.as_secs())
        } else if libc::WIFSIGNALED(status) {
            format!("ended by signal {}", libc::WTERMSIG(status))
        } else {
            format!("exit code {}", libc::WEXITSTATUS(status))
        })
    }

    fn sample(&self, done: &AtomicBool) -> Vec<(f64, u64)> {
        let root = self.pid.as_raw_nonzero().get() as u32;
        let mut samples = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let inside = self.groups.processes().unwrap_or_else(|| processes::tree(root));
            let bytes = inside.iter().map(|process| processes::resident_bytes(*process)).sum();
            samples.push((self.started.elapsed().as_secs_f64(), bytes));
            if INTERRUPTED.load(Ordering::Relaxed) || self.started.elapsed() > self.time_max {
                // The rest of its control group is killed when the groups are dropped.
                let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            }
            std::thread::park_timeout(SAMPLE_EVERY);
        }
        samples
    }

    /// Reaps the process; gives its status, and CPU seconds of it and its children. The resident size that the kernel
    /// tells here is not asked for: it counts the harness before the tool was loaded into its copy, and that holds a list of
    /// the whole data set.
    fn reap(&self) -> Result<(i32, f64)> {
        let mut status = 0;
        // SAFETY: `rusage` is plain data for which all zero bytes are valid; both pointers live through the call.
        let (reaped, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(self.pid.as_raw_nonzero().get(), &mut status, 0, &mut usage), usage)
        };
        if reaped < 0 {
            return Err(format!("cannot reap the command: {}", std::io::Error::last_os_error()));
        }
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok((status, seconds(usage.ru_utime) + seconds(usage.ru_stime)))
    }
}

/// Keeps the highest sample of each of a bounded number of stretches.
fn thin(samples: Vec<(f64, u64)>) -> Vec<(f64, u64)> {
    let stretch = samples.len().div_ceil(SAMPLES_MAX).max(1);
    samples.chunks(stretch).filter_map(|part| part.iter().copied().max_by_key(|sample| sample.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Cage, Duration, Order, SAMPLES_MAX, run, tail, thin};

    fn shell(script: &str) -> super::Measured {
        let directory = tempfile::tempdir().expect("a directory");
        let order = Order {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GIVEN".into(), "yes".into())],
            directory: directory.path().to_owned(),
            namespace: None,
        };
        let cage = Cage::create(1, None).expect("a cage");
        run(&order, &cage, directory.path(), Duration::from_secs(20)).expect("run it")
    }

    #[test]
    fn rivals_run_tells_output_and_environment() {
        let measured = shell("echo $GIVEN; env | wc -l; cat /proc/self/status | grep Cpus_allowed_list");
        assert_eq!(measured.failed, None);
        let lines: Vec<&str> = measured.output.lines().collect();
        assert_eq!(lines[0], "yes");
        assert!(!lines[2].contains([',', '-']) || lines[2].ends_with("0-0"), "one core: {}", lines[2]);
        assert!(measured.memory_bytes_peak > 0 && measured.read_syscall_bytes > 0);
    }

    #[test]
    fn rivals_failure_is_told_with_the_words_of_the_tool() {
        let failed = shell("echo cannot open the box >&2; exit 3").failed.expect("a failure");
        assert_eq!(failed, "exit code 3: cannot open the box");
        assert!(shell("kill -9 $$").failed.expect("a failure").starts_with("ended by signal 9"));
    }

    #[test]
    fn rivals_samples_are_thinned_to_their_peaks() {
        let samples: Vec<(f64, u64)> = (0..1000).map(|number| (f64::from(number), number as u64 % 77)).collect();
        let thinned = thin(samples);
        assert!(thinned.len() <= SAMPLES_MAX && thinned.iter().any(|sample| sample.1 == 76), "{}", thinned.len());
        assert_eq!(tail("äöü", 3), "ü");
    }
}

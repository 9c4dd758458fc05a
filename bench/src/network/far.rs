//! The far end: an ssh server of its own in the far namespace, the way in from the near one, and a mount over it.
//!
//! Keys and settings are made for one session in its scratch directory; no user's keys, settings or known hosts are
//! read or changed. On drop the mount and the server go. The server runs outside the limits of the tools.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::wire::{self, FAR, Wire};
use crate::rivals::processes;
use crate::{Result, during, reference};

const SERVER: &str = "/usr/sbin/sshd";
/// How long a server or a mount may take to be there.
const START_SECONDS_MAX: u64 = 20;
const PROBE_PORT: u16 = 7077;
/// The probe sends for about so long.
const PROBE_TIME: Duration = Duration::from_secs(3);

/// Names of what must be on the PATH.
pub const NEEDED: [&str; 5] = ["ip", "nsenter", "ssh", "ssh-keygen", "sshfs"];

/// The server, the mount, and a directory with an `ssh` that knows the way.
pub struct Far {
    server: Child,
    mounter: Option<Child>,
    /// Where the far directory is seen from the near end.
    pub mount: PathBuf,
    /// To be put first on the PATH of the tools.
    pub programs: PathBuf,
}

impl Far {
    /// Starts the server and mounts `directory` over the link.
    pub fn create(wire: &Wire, scratch: &Path, directory: &Path) -> Result<Far> {
        let (own, mount) = (scratch.join("ssh"), scratch.join("mount"));
        let programs = own.join("bin");
        for each in [&own, &mount, &programs, &PathBuf::from("/run/sshd")] {
            during(format!("create {}", each.display()), std::fs::create_dir_all(each))?;
        }
        settings(&own, &programs)?;
        let server = inside(&wire.far(), Path::new(SERVER))
            .args(["-D", "-e", "-f"])
            .arg(own.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = during("start sshd", server)?;
        let mut far = Far { server, mounter: None, mount, programs };
        let shell = far.programs.join("ssh");
        wait_for("the ssh server", || {
            inside(&wire.near(), &shell)
                .args(["far", "true"])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|it| it.success())
        })?;
        let mounter = inside(&wire.near(), Path::new("sshfs"))
            .arg("-f")
            .arg(format!("far:{}", directory.display()))
            .arg(&far.mount)
            .args(["-o", &format!("ssh_command={}", shell.display())])
            .stdin(Stdio::null())
            .spawn();
        far.mounter = Some(during("start sshfs", mounter)?);
        let parent = during("look at a directory", std::fs::metadata(scratch))?;
        use std::os::unix::fs::MetadataExt;
        let mount = far.mount.clone();
        wait_for("the mount", || std::fs::metadata(&mount).is_ok_and(|status| status.dev() != parent.dev()))?;
        Ok(far)
    }
}

impl Far {
    /// The processes that serve the tools.
    pub fn helpers(&self) -> Vec<u32> {
        let mounter = self.mounter.as_ref().map(Child::id);
        mounter.into_iter().chain([self.server.id()]).collect()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(mounter) = &mut self.mounter {
            let _ = Command::new("fusermount3").arg("-u").arg(&self.mount).status();
            if wait_for("the end of the mount", || matches!(mounter.try_wait(), Ok(Some(_)))).is_err() {
                let _ = Command::new("fusermount3").arg("-uz").arg(&self.mount).status();
                let _ = mounter.kill();
                let _ = mounter.wait();
            }
        }
        // Sessions end when their connections do; while the link stands they still hear of it.
        let server = self.server.id();
        let _ = wait_for("the end of the sessions", || processes::tree(server).len() == 1);
        for process in processes::tree(server).into_iter().rev() {
            if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.server.wait();
    }
}

fn inside(namespace: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg(program);
    command
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !there() {
        if started.elapsed() > Duration::from_secs(START_SECONDS_MAX) {
            return Err(format!("{what} is not there after {START_SECONDS_MAX} s"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn settings(own: &Path, programs: &Path) -> Result<()> {
    let place = own.display();
    for key in ["host", "user"] {
        let file = own.join(key);
        reference::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file))?;
    }
    let write = |name: &str, text: String| during(format!("write {name}"), std::fs::write(own.join(name), text));
    let path = std::env::var("PATH").unwrap_or_default();
    write(
        "sshd_config",
        format!(
            "ListenAddress {FAR}\nHostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
             Subsystem sftp internal-sftp\nSetEnv PATH={path}\nMaxStartups 100\n"
        ),
    )?;
    let user = during("ask for the user", reference::run(Command::new("id").arg("-un")))?.0;
    write(
        "ssh_config",
        format!(
            "Host far\nHostName {FAR}\nUser {}\nIdentityFile {place}/user\nIdentitiesOnly yes\nCompression no\n\
             StrictHostKeyChecking no\nUserKnownHostsFile {place}/known_hosts\nLogLevel ERROR\n",
            user.trim()
        ),
    )?;
    // Every tool calls `ssh`, each with options of its own: one that knows this session serves all of them.
    let shell = programs.join("ssh");
    let script = format!("#!/bin/sh\nexec /usr/bin/ssh -F {place}/ssh_config \"$@\"\n");
    during("write ssh", std::fs::write(&shell, script))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    during("make ssh executable", std::fs::set_permissions(&shell, mode))
}

/// What a plain transfer reaches: bytes a second, and milliseconds there and back.
pub fn probe(wire: &Wire) -> Result<(f64, f64)> {
    let (near, far) = (wire.near(), wire.far());
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || -> Result<f64> {
        wire::enter(&far)?;
        let listener = during("listen", TcpListener::bind((FAR, PROBE_PORT)))?;
        let _ = ready.send(());
        let (mut stream, _) = during("accept", listener.accept())?;
        receive(&mut stream)
    });
    during("wait for the probe", is_ready.recv())?;
    let client = std::thread::spawn(move || -> Result<f64> {
        wire::enter(&near)?;
        let mut stream = during("connect", TcpStream::connect((FAR, PROBE_PORT)))?;
        during("set up", stream.set_nodelay(true))?;
        let mut trips = Vec::new();
        for _ in 0..10 {
            let sent = Instant::now();
            during("send", stream.write_all(&[1]))?;
            during("receive", stream.read_exact(&mut [0]))?;
            trips.push(sent.elapsed().as_secs_f64() * 1000.0);
        }
        let (block, started) = (vec![0; 64 << 10], Instant::now());
        while started.elapsed() < PROBE_TIME {
            during("send", stream.write_all(&block))?;
        }
        Ok(crate::clock::median(trips))
    });
    let join = |thread: std::thread::JoinHandle<Result<f64>>| {
        thread.join().map_err(|_| "the probe panicked".to_owned()).and_then(|inner| inner)
    };
    let trip = join(client)?;
    Ok((join(server)?, trip))
}

/// Answers ten bytes one by one, then counts what comes, from the first block on.
fn receive(stream: &mut TcpStream) -> Result<f64> {
    for _ in 0..10 {
        during("receive", stream.read_exact(&mut [0]))?;
        during("answer", stream.write_all(&[1]))?;
    }
    let mut block = vec![0; 256 << 10];
    let (mut bytes, mut started) = (0_u64, None);
    loop {
        let count = during("receive", stream.read(&mut block))?;
        if count == 0 {
            break;
        }
        match started {
            None => started = Some(Instant::now()),
            Some(_) => bytes += count as u64,
        }
    }
    Ok(started.map_or(0.0, |first| bytes as f64 / first.elapsed().as_secs_f64().max(1e-9)))
}

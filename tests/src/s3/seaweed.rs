//! A second S3 server that shares no code with the first: SeaweedFS as a process, with object lock and versions.
//!
//! `tests/run` installs the pinned version and names it by `MOVER_TEST_WEED`; a test without it is skipped. It listens
//! on 127.0.0.1 alone, reports nothing to anyone, and is killed and removed when it is dropped.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::server::{ACCESS_KEY, REGION, SECRET_KEY};

/// How often it is started anew, as a port may be taken between the choice and the start.
const STARTS_MAX: usize = 3;
/// Time that one start may take on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(100);

/// A running server.
#[derive(Debug)]
pub struct SeaweedFs {
    weed: PathBuf,
    ports: Ports,
    process: Child,
    bucket: String,
    _directory: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    s3: u16,
    master: u16,
    filer: u16,
    others: [u16; 5],
}

impl SeaweedFs {
    /// Why there is none here, or `None`.
    pub fn missing() -> Option<String> {
        binary().is_none().then(|| "needs SeaweedFS: MOVER_TEST_WEED names no file".to_owned())
    }

    /// Starts one with the bucket `backups`; panics where that fails.
    pub fn start() -> SeaweedFs {
        SeaweedFs::start_with("backups", false)
    }

    /// Starts one whose bucket `locked` has object lock and so keeps versions; panics where that fails.
    pub fn start_locked() -> SeaweedFs {
        SeaweedFs::start_with("locked", true)
    }

    fn start_with(bucket: &str, has_lock: bool) -> SeaweedFs {
        let weed = binary().expect("a test asks SeaweedFs::missing() first");
        let mut failures = Vec::new();
        for _ in 0..STARTS_MAX {
            match SeaweedFs::try_start(&weed, bucket) {
                Ok(server) => {
                    server.create_bucket(bucket, has_lock);
                    return server;
                }
                Err(failure) => failures.push(failure),
            }
        }
        panic!("SeaweedFS did not start: {}", failures.join("\n"));
    }

    fn try_start(weed: &Path, bucket: &str) -> Result<SeaweedFs, String> {
        let directory = tempfile::tempdir().expect("a directory for SeaweedFS");
        let (data, config) = (directory.path().join("data"), directory.path().join("s3.json"));
        let log = directory.path().join("log");
        std::fs::create_dir(&data).expect("create the directory of the data");
        let identities = serde_json::json!({"identities": [{
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(&config, identities.to_string()).expect("write the identities");
        let ports = Ports::free();
        let output = std::fs::File::create(&log).expect("create the log of SeaweedFS");
        let mut command = Command::new(weed);
        command.args(arguments(&ports, &data, &config)).current_dir(directory.path()).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("clone the log")).stderr(output);
        let process = command.spawn().map_err(|error| format!("start {}: {error}", weed.display()))?;
        let bucket = bucket.to_owned();
        let mut server = SeaweedFs { weed: weed.to_owned(), ports, process, bucket, _directory: directory };
        server.wait_until_ready().map_err(|failure| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            format!("{failure}\n{}", said.lines().rev().take(10).collect::<Vec<_>>().join("\n"))
        })?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < START_TIMEOUT {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("SeaweedFS ended with {status}"));
            }
            if self.answers() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Err(format!("SeaweedFS does not answer on port {}", self.ports.s3))
    }

    /// Whether its S3 port speaks HTTP.
    fn answers(&self) -> bool {
        let Ok(mut connection) = TcpStream::connect(self.address()) else { return false };
        let mut head = [0; 8];
        connection.set_read_timeout(Some(POLL * 50)).is_ok()
            && connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
            && connection.read_exact(&mut head).is_ok()
            && head == *b"HTTP/1.1"
    }

    /// Creates one more bucket, by the server's own shell, so that nothing here has to sign requests.
    pub fn create_bucket(&self, bucket: &str, has_lock: bool) {
        let lock = if has_lock { " -withLock" } else { "" };
        let Ports { master, filer, others: [master_rpc, filer_rpc, ..], .. } = self.ports;
        let mut shell = Command::new(&self.weed);
        shell.arg("shell").arg(format!("-master=127.0.0.1:{master}.{master_rpc}"));
        shell.arg(format!("-filer=127.0.0.1:{filer}.{filer_rpc}"));
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn().expect("start the shell of SeaweedFS");
        let mut input = shell.stdin.take().expect("its input");
        writeln!(input, "s3.bucket.create -name {bucket}{lock}").expect("write to the shell of SeaweedFS");
        drop(input);
        let output = shell.wait_with_output().expect("wait for the shell of SeaweedFS");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("created bucket {bucket}")), "SeaweedFS created no bucket {bucket}: {said}");
    }

    /// Where its S3 interface listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.s3))
    }

    /// The bucket that it was started with.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// The environment that lets a client in.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_at(self.address())
    }

    /// The same for a client that reaches it at another address, as through a [`super::Link`].
    pub fn environment_at(&self, address: SocketAddr) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ];
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> Option<PathBuf> {
    std::env::var_os("MOVER_TEST_WEED").map(PathBuf::from).filter(|path| path.is_file())
}

impl Ports {
    /// All are held until the last is known, so that they differ.
    fn free() -> Ports {
        let listeners: [TcpListener; 8] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [s3, master, filer, others @ ..] =
            listeners.each_ref().map(|listener| listener.local_addr().expect("its address").port());
        Ports { s3, master, filer, others }
    }
}

fn arguments(ports: &Ports, data: &Path, config: &Path) -> Vec<String> {
    let [master_rpc, filer_rpc, volume, volume_rpc, s3_rpc] = ports.others;
    let Ports { s3, master, filer, .. } = ports;
    let data = data.display();
    vec![
        "server".to_owned(),
        format!("-dir={data}"),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        "-master.telemetry=false".to_owned(),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_rpc}"),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_rpc}"),
        // As many volumes as the disk holds, and small ones: each bucket takes several, also of a small disk.
        "-volume.max=0".to_owned(),
        "-master.volumeSizeLimitMB=1000".to_owned(),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_rpc}"),
        format!("-filer.localSocket={data}/filer.socket"),
        "-s3".to_owned(),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_rpc}"),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        format!("-s3.config={}", config.display()),
        format!("-s3.localSocket={data}/s3.socket"),
    ]
}

//! An Azure Blob Storage that is not ours: Azurite as a process, with the signatures and conditions of the service.
//!
//! `tests/run` installs the pinned version and names it by `MOVER_TEST_AZURITE`; a test without it is skipped. It listens
//! on 127.0.0.1 at a port that it chooses, reports nothing to anyone, and is killed and removed when it is dropped.
//! It is Microsoft's emulator, so it proves requests, signatures and conditions, and nothing about load or the network of
//! the service. Nothing here knows `mover`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The account and key that every Azurite has, as its documentation prints them.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The container of tests.
const CONTAINER: &str = "backups";
/// It says at which address it listens once it does.
const READY: &str = "successfully listens on http://";

/// A running server.
#[derive(Debug)]
pub struct Azurite {
    address: SocketAddr,
    process: Child,
    _directory: tempfile::TempDir,
}

impl Azurite {
    /// Why there is none here, or `None`.
    pub fn missing() -> Option<String> {
        program().is_none().then(|| "needs Azurite: MOVER_TEST_AZURITE names no file".to_owned())
    }

    /// Starts one with the container `backups`; panics where that fails.
    pub fn start() -> Azurite {
        let program = program().expect("a test asks Azurite::missing() first");
        let directory = tempfile::tempdir().expect("a directory for Azurite");
        let mut command = Command::new(&program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--disableTelemetry", "--silent", "--location"]);
        command.arg(directory.path()).current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        let mut said = BufReader::new(process.stdout.take().expect("its output"));
        let address = address(&mut said);
        // It must never wait for someone who reads what it says.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let Some(address) = address else {
            let _ = process.kill();
            panic!("Azurite did not start: {:?}", process.wait());
        };
        let server = Azurite { address, process, _directory: directory };
        server.create_container();
        server
    }

    /// `az://backups/prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("az://{CONTAINER}/{prefix}")
    }

    /// The environment that lets a client in.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
            ("AZURE_STORAGE_ENDPOINT", format!("http://{}/{ACCOUNT}", self.address)),
        ];
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// By a request that is signed as the service describes (`SharedKey`); the emulator takes any date.
    fn create_container(&self) {
        let headers = "x-ms-date:Thu, 01 Jan 2026 00:00:00 GMT\nx-ms-version:2021-08-06";
        let to_sign = format!("PUT{}{headers}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container", "\n".repeat(12));
        let key = BASE64_STANDARD.decode(KEY).expect("a key in base 64");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), to_sign.as_bytes());
        let signature = BASE64_STANDARD.encode(tag);
        let request = format!(
            "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\nHost: {}\r\n{}\r\n\
             Authorization: SharedKey {ACCOUNT}:{signature}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address,
            headers.replace('\n', "\r\n"),
        );
        let mut connection = TcpStream::connect(self.address).expect("connect to Azurite");
        connection.write_all(request.as_bytes()).expect("send a request");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("read the answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "Azurite created no container: {answer}");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> Option<PathBuf> {
    std::env::var_os("MOVER_TEST_AZURITE").map(PathBuf::from).filter(|path| path.is_file())
}

/// The address at which it says it listens; `None` if it ends before.
fn address(said: &mut impl BufRead) -> Option<SocketAddr> {
    let line = said.lines().map_while(Result::ok).find(|line| line.contains(READY))?;
    line.split_once(READY)?.1.trim().parse().ok()
}

//! A real S3 server in this process: `s3s-fs` over a temporary directory, with signatures checked.
//!
//! It listens on 127.0.0.1 at a free port, runs on two threads of its own, and stops and leaves nothing when it is
//! dropped. It has two keys; anyone else gets 403. No object lock and no versions: [`super::SeaweedFs`] has them.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

use super::faults::Faults;
use super::google;
use super::record::{Record, Requests};
use super::service::{Dialect, Service};
use super::store::Store;
use super::tls;

/// The access key of the environment.
pub(super) const ACCESS_KEY: &str = "MOVERTESTKEY";
/// A second one, with the same secret.
const OTHER_ACCESS_KEY: &str = "MOVERTESTOTHERKEY";
/// The secret of both.
pub(super) const SECRET_KEY: &str = "the/secret+of/every/test/server";
/// The region that the server says it is in.
pub(super) const REGION: &str = "eu-central-1";

/// How a server shall be.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Buckets to create; [`S3Server::bucket`] is the first.
    pub buckets: Vec<String>,
    /// Whether it speaks TLS, by a certificate for 127.0.0.1 and localhost from a private authority.
    pub is_tls: bool,
    /// What it speaks.
    pub dialect: Dialect,
}

impl Default for S3Options {
    fn default() -> S3Options {
        S3Options { buckets: vec!["backups".to_owned()], is_tls: false, dialect: Dialect::S3 }
    }
}

/// A running server.
pub struct S3Server {
    address: SocketAddr,
    buckets: Vec<String>,
    ca_file: Option<PathBuf>,
    dialect: Dialect,
    faults: Arc<Faults>,
    record: Arc<Record>,
    runtime: Option<Runtime>,
    directory: tempfile::TempDir,
}

impl S3Server {
    /// Starts one with the bucket `backups`, without TLS.
    pub fn start() -> S3Server {
        S3Server::start_with(S3Options::default())
    }

    /// Starts one with the bucket `backups` and TLS.
    pub fn start_tls() -> S3Server {
        S3Server::start_with(S3Options { is_tls: true, ..S3Options::default() })
    }

    /// Starts one with the bucket `backups` that speaks as Google Cloud Storage does, without TLS.
    pub fn start_google() -> S3Server {
        S3Server::start_with(S3Options { dialect: Dialect::Google, ..S3Options::default() })
    }

    /// Starts one; panics where that fails, as a test cannot go on.
    pub fn start_with(options: S3Options) -> S3Server {
        let directory = tempfile::tempdir().expect("a directory for the object store");
        let root = directory.path().join("objects");
        for bucket in &options.buckets {
            std::fs::create_dir_all(root.join(bucket)).expect("create a bucket");
        }
        let (ca_file, acceptor) = match options.is_tls {
            true => Some(tls::acceptor(directory.path())).unzip(),
            false => (None, None),
        };
        let mut builder = S3ServiceBuilder::new(Store::new(root));
        if options.dialect == Dialect::S3 {
            let mut keys = SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
            keys.register(OTHER_ACCESS_KEY.to_owned(), SECRET_KEY.into());
            builder.set_auth(keys);
        }
        let (faults, record) = (Arc::new(Faults::default()), Arc::new(Record::default()));
        let (shared_faults, shared_record) = (Arc::clone(&faults), Arc::clone(&record));
        let dialect = options.dialect;
        let service = Service { store: builder.build(), faults: shared_faults, record: shared_record, dialect };

        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_name("s3-server").enable_all().build().expect("a runtime");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on 127.0.0.1");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("the address of the server");
        runtime.spawn(accept(listener, acceptor, service));
        S3Server {
            address,
            buckets: options.buckets,
            ca_file,
            dialect,
            faults,
            record,
            runtime: Some(runtime),
            directory,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first bucket.
    pub fn bucket(&self) -> &str {
        &self.buckets[0]
    }

    /// `s3://bucket/prefix`, or `gs://bucket/prefix`, in the first bucket.
    pub fn url(&self, prefix: &str) -> String {
        let scheme = match self.dialect {
            Dialect::S3 => "s3",
            Dialect::Google => "gs",
        };
        format!("{scheme}://{}/{prefix}", self.bucket())
    }

    /// `http://127.0.0.1:PORT` or `https://…`.
    pub fn endpoint(&self) -> String {
        self.endpoint_at(self.address)
    }

    /// The environment that lets a client in.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_at(self.address)
    }

    /// The same for a client that reaches it at another address, as through a [`super::Link`].
    pub fn environment_at(&self, address: SocketAddr) -> Vec<(String, String)> {
        let ca = self.ca_file.as_ref().map(|file| ("AWS_CA_BUNDLE", file.to_string_lossy().into_owned()));
        let endpoint = self.endpoint_at(address);
        let common = match self.dialect {
            Dialect::S3 => vec![
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
                ("AWS_REGION", REGION.to_owned()),
                ("AWS_ENDPOINT_URL", endpoint),
            ],
            Dialect::Google => {
                vec![("GOOGLE_BASE_URL", endpoint), ("GOOGLE_BEARER_TOKEN", google::TOKEN.to_owned())]
            }
        };
        common.into_iter().chain(ca).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Both keys that it lets in: the one of the environment, and another with the same secret.
    pub fn access_keys() -> [&'static str; 2] {
        [ACCESS_KEY, OTHER_ACCESS_KEY]
    }

    /// The certificate of the private authority, where there is TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The file that holds an object of the first bucket, for tests that spoil it.
    pub fn object_file(&self, key: &str) -> PathBuf {
        self.directory.path().join("objects").join(self.bucket()).join(key)
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What it was asked since its start or the last [`S3Server::forget_requests`].
    pub fn requests(&self) -> Requests {
        self.record.copy()
    }

    /// Counts from here.
    pub fn forget_requests(&self) {
        self.record.forget();
    }

    fn endpoint_at(&self, address: SocketAddr) -> String {
        let scheme = if self.ca_file.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, service: Service) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener in the runtime");
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        // Small answers must not wait for the acknowledgement of the one before.
        let _ = connection.set_nodelay(true);
        let (acceptor, service) = (acceptor.clone(), service.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve(connection, service).await,
                // A client that does not trust the authority ends here.
                Some(acceptor) => {
                    if let Ok(secured) = acceptor.accept(connection).await {
                        serve(secured, service).await;
                    }
                }
            }
        });
    }
}

async fn serve(connection: impl AsyncRead + AsyncWrite + Unpin, service: Service) {
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { service.answer(request).await }
    });
    let mut http = http1::Builder::new();
    // A connection that breaks is the client's to report.
    let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), answer).await;
}

//! Objects in S3, Google Cloud Storage or Azure Blob Storage.
//!
//! Write-once by conditional requests: a name is taken by the first who asks, and an object is durable, by bytes and by
//! name, when its request is answered; so a barrier has nothing to do. All network work runs on a small runtime of its
//! own ([`runtime`]), so callers need no reactor and are never blocked. What fails is made again as [`retry`] says; what is
//! stuck is found by [`transport`]; how much is on the way follows [`flow`].
//!
//! Must never take an answer that is not the store's for one, nor send anything where TLS was asked for and is not proved.

mod client;
mod credentials;
mod error;
mod flow;
mod lock;
mod place;
mod retry;
mod runtime;
mod span;
mod spill;
mod transport;
mod writer;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use self::client::Client;
pub(crate) use self::error::RemoteCause;
use self::lock::{Held, Lock, is_scratch};
pub use self::lock::{Retention, RetentionMode};
pub use self::place::{Environment, RemotePlace};
use self::retry::Patience;
use self::runtime::{runtime, start};
use self::span::{RefusedSpan, RemoteSpan, read_range};
use self::spill::Spills;
pub use self::transport::RemoteCounters;
use self::transport::{Transport, Wire};
use self::writer::RemoteWriter;
use super::{
    Backend, Created, IoFuture, Link, ObjectMeta, ObjectWriter, SpanReader, StorageError, StorageErrorKind, check_name,
    no_lock, ready, retained_error,
};
use crate::bandwidth::BandwidthLimits;
use crate::ids::UnixNanos;

/// Bytes of a part of an object that needs several; packs of the usual sizes go whole.
const PART_BYTES: u64 = 160 << 20;
/// A store that does not take a connection by then is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept for the next request.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// How a store is reached.
#[derive(Clone)]
pub struct RemoteOptions {
    /// How long one request is made again while the store cannot be reached or is busy.
    pub patience: Duration,
    /// Variables of the environment: credentials, region, endpoint, and a private certificate authority.
    pub environment: Environment,
    /// How objects are locked, where the store can.
    pub retention: Retention,
    /// Larger objects are sent in parts of so many bytes, at least 5 MiB.
    pub part_bytes: u64,
    /// What may be sent and received, by all jobs of the process together.
    pub limits: Arc<BandwidthLimits>,
}

impl RemoteOptions {
    /// What suits everybody: a patience of 15 minutes, no lock on uploads, and all the bandwidth there is.
    pub fn new(environment: Environment) -> Self {
        let (patience, limits) = (Duration::from_secs(15 * 60), BandwidthLimits::unlimited());
        let retention = Retention { mode: RetentionMode::Compliance, period: None };
        Self { patience, environment, retention, part_bytes: PART_BYTES, limits }
    }
}

/// See the module. Clones share connections.
#[derive(Clone)]
pub struct RemoteBackend {
    client: Arc<Client>,
}

impl RemoteBackend {
    /// A client of the store at `place`. Makes no request yet.
    ///
    /// # Errors
    /// [`StorageErrorKind::Refused`] for settings that cannot work, such as a certificate file that is none.
    pub fn open(place: &RemotePlace, options: RemoteOptions) -> Result<Self, StorageError> {
        let shown: Arc<str> = place.url().into();
        let refused = |cause: String| StorageError::of_kind("use", "", StorageErrorKind::Refused, cause).at(&shown);
        let wire = Arc::new(Wire::new(Patience::new(options.patience), options.limits));
        let http = http_client(&options.environment).map_err(refused)?;
        let transport = Transport::new(http, Arc::clone(&wire));
        let _inside = runtime().enter();
        let connected = place.connect(&options.environment, transport.clone());
        let (store, s3) = connected.map_err(|error| error::no_client(&error).into_error("use", "").at(&shown))?;
        let lock = s3.map(|s3| Lock { s3, transport, retention: options.retention });
        let prefix = match place.prefix() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let spills = Spills::default();
        Ok(Self {
            client: Arc::new(Client { store, wire, lock, part_bytes: options.part_bytes, spills, prefix, shown }),
        })
    }

    /// Requests and bytes so far.
    pub fn counters(&self) -> &RemoteCounters {
        &self.client.wire.counters
    }

    fn path(&self, operation: &'static str, name: &str) -> Result<Path, StorageError> {
        check_name(operation, name).map_err(|error| error.at(&self.client.shown))?;
        Ok(Path::from(format!("{}{name}", self.client.prefix)))
    }

    /// Starts a call on an object.
    fn call<T, W>(
        &self,
        operation: &'static str,
        name: &str,
        work: impl FnOnce(Arc<Client>, String, Path) -> W,
    ) -> IoFuture<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, StorageError>> + Send + 'static,
    {
        match self.path(operation, name) {
            Ok(path) => start(operation, work(Arc::clone(&self.client), name.to_owned(), path)),
            Err(error) => ready(Err(error)),
        }
    }
}

fn http_client(environment: &Environment) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .user_agent(concat!("mover/", env!("CARGO_PKG_VERSION")));
    let names = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"];
    if let Some(file) = names.into_iter().find_map(|name| place::variable(environment, name)) {
        let unusable = |error: &dyn std::fmt::Display| format!("certificates of {file}: {error}");
        let text = std::fs::read(&file).map_err(|error| unusable(&error))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&text).map_err(|error| unusable(&error))?;
        if certificates.is_empty() {
            return Err(unusable(&"there is none in it"));
        }
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().map_err(|error| error::innermost(&error))
}

impl Backend for RemoteBackend {
    fn describe(&self) -> String {
        self.client.shown.to_string()
    }

    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        self.call("read", name, |client, name, path| async move { client.get(&name, &path, limit_bytes).await })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        self.call("read", name, |client, name, path| read_range(client, name, path, range))
    }

    fn size(&self, name: &str) -> IoFuture<u64> {
        self.call("look at", name, |client, name, path| async move { client.size(&name, &path).await })
    }

    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        if !prefix.is_empty()
            && let Err(error) = check_name("list", prefix)
        {
            return ready(Err(error.at(&self.client.shown)));
        }
        let (client, prefix) = (Arc::clone(&self.client), prefix.to_owned());
        start("list", async move { client.list(&prefix).await })
    }

    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        self.call("create", name, |client, name, path| async move {
            let payload = PutPayload::from_bytes(body);
            let put = || async {
                client.lock_next(&name).await?;
                client.store.put_opts(&path, payload.clone(), PutMode::Create.into()).await
            };
            match client.persist("create", &name, put).await {
                Ok(_) => Ok(Created::New),
                Err(error) if error.kind == StorageErrorKind::AlreadyExists => Ok(Created::AlreadyExisted),
                Err(error) => Err(error),
            }
        })
    }

    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        RemoteWriter::begin(Arc::clone(&self.client), name, self.path("write", name))
    }

    fn barrier(&self) -> IoFuture<()> {
        ready(Ok(()))
    }

    fn link(&self) -> Option<Link> {
        let flow = &self.client.wire.flow;
        Some(Link { pack_bytes: flow.pack_bytes(), in_flight_bytes: flow.in_flight_bytes() })
    }

    fn span(&self, name: &str, span: Range<u64>) -> Option<Box<dyn SpanReader>> {
        Some(match self.path("read", name) {
            Ok(path) => Box::new(RemoteSpan::new(Arc::clone(&self.client), name, path, span)),
            Err(error) => Box::new(RefusedSpan(error)),
        })
    }

    /// Stores do not say whether what they delete was there, and hide what is locked as if it were gone: so they are
    /// asked first.
    fn delete(&self, name: &str) -> IoFuture<()> {
        self.call("delete", name, |client, name, path| async move {
            let (_, held) = client.look("delete", &name, &path).await?;
            if let Some(held) = held.filter(Held::lasts).filter(|_| !is_scratch(&name)) {
                return Err(retained_error(&name, held.until).at(&client.shown));
            }
            client.persist("delete", &name, || client.store.delete(&path)).await
        })
    }

    fn can_retain(&self) -> bool {
        self.client.lock.is_some()
    }

    fn retained_until(&self, name: &str) -> IoFuture<Option<UnixNanos>> {
        self.call("look at", name, |client, name, path| async move {
            let (_, held) = client.look("look at", &name, &path).await?;
            Ok(held.map(|held| held.until))
        })
    }

    fn retain_until(&self, name: &str, until: UnixNanos) -> IoFuture<UnixNanos> {
        self.call("lock", name, move |client, name, path| async move {
            let lock = client.lock.as_ref().ok_or_else(|| no_lock(&name).at(&client.shown))?;
            let (_, held) = client.look("lock", &name, &path).await?;
            if let Some(held) = held.filter(|held| held.until >= until) {
                return Ok(held.until);
            }
            client.persist("lock", &name, || lock.put_off(&path, held, until)).await.map(|()| until)
        })
    }
}

//! What every request handler shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use metrics_exporter_prometheus::PrometheusHandle;
use mover_control::browse::{self, OpenQuestion};
use mover_control::clock::SettledClock;
use mover_control::database::Database;
use mover_control::service::Service;
use mover_control::service::queue::Wake;
use tokio::sync::{Semaphore, watch};

use super::authority::Authority;
use super::endpoint::Access;
use super::limit::Limiter;

/// Streams of events at once.
pub const STREAMS_MAX: usize = 256;
/// How often it is looked for new questions.
const LOOK: Duration = Duration::from_millis(500);

/// Which addresses serve whom.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// For people, and for agents too if there is no other.
    pub people: SocketAddr,
    /// For agents alone.
    pub agents: Option<SocketAddr>,
    /// Whether people come through a proxy, in plain text.
    pub is_plain: bool,
}

/// A server.
pub struct App {
    /// The database.
    pub database: Database,
    /// The time that decisions are made by.
    pub clock: Arc<SettledClock>,
    /// The actors.
    pub service: Service,
    /// Who signs.
    pub authority: Authority,
    /// How often who may ask.
    pub limiter: Limiter,
    /// Questions that no agent has taken.
    pub questions: watch::Receiver<Arc<Vec<OpenQuestion>>>,
    /// True from the moment when the server is to stop.
    pub stopping: watch::Receiver<bool>,
    /// Free places for streams of events.
    pub streams: Arc<Semaphore>,
    /// Counters and gauges.
    pub metrics: PrometheusHandle,
    /// Where it listens.
    pub listeners: Listeners,
    /// How agents reach it: `https://NAME:PORT`.
    pub agents_url: String,
}

impl App {
    /// There may be work for agents that wait.
    pub fn wake(&self) {
        self.service.queue.do_send(Wake);
    }

    /// The address of who asks. Behind a proxy of our own, what that one says.
    pub fn address(&self, request: &HttpRequest) -> String {
        let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
        if self.listeners.is_plain
            && let Some(last) = forwarded.and_then(|list| list.rsplit(',').next())
        {
            return last.trim().to_owned();
        }
        request.peer_addr().map_or_else(String::new, |address| address.ip().to_string())
    }

    /// With a listener of their own, agents are served there, and nobody else is.
    pub fn is_wrong_listener(&self, request: &HttpRequest, access: Access) -> bool {
        let Some(agents) = self.listeners.agents else { return false };
        let local = request.conn_data::<super::server::LocalAddress>().map(|local| local.0.port());
        let is_at_agents = local == Some(agents.port());
        let is_for_agents = access == Access::Agent || request.path().starts_with("/agent/");
        is_at_agents != is_for_agents && !["/healthz", "/readyz"].contains(&request.path())
    }
}

/// Looks for new questions for ever, and tells those that wait.
pub async fn follow_questions(
    database: Database,
    clock: Arc<SettledClock>,
    tell: watch::Sender<Arc<Vec<OpenQuestion>>>,
) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A database that is away has no questions.
        let open = browse::open(&database, clock.now()).await.unwrap_or_default();
        tell.send_if_modified(|known| {
            let is_new = **known != open;
            if is_new {
                *known = Arc::new(open);
            }
            is_new
        });
    }
}

//! What every request handler shares.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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
use super::limit::{Limiter, Proven};

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

impl Listeners {
    /// Who asks at `local` from `peer`, where a proxy may name another in `forwarded`.
    fn stranger(&self, local: Option<SocketAddr>, peer: Option<SocketAddr>, forwarded: Option<&str>) -> String {
        let is_at_proxy = self.is_plain && local.map(|local| local.port()) == Some(self.people.port());
        if is_at_proxy && let Some(last) = forwarded.and_then(|list| list.rsplit(',').next()) {
            let last = last.trim();
            return last.parse().map_or_else(|_| last.to_owned(), network);
        }
        peer.map_or_else(String::new, |address| network(address.ip()))
    }
}

/// What one subscriber has: an address, or 64 bits of an IPv6 address and all that follow.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
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
    /// How often agents are to be heard.
    pub heartbeat: Duration,
    /// Who needs no suspicion.
    pub proven: Proven,
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

    /// The address of who asks, as far as it tells one from another. Behind a proxy of our own, what that one says: only
    /// at the listener that it has for itself.
    pub fn address(&self, request: &HttpRequest) -> String {
        let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let local = request.conn_data::<super::server::LocalAddress>().map(|local| local.0);
        self.listeners.stranger(local, request.peer_addr(), forwarded)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_address_counts_at_the_listener_of_the_proxy_alone() {
        let at = |text: &str| -> Option<SocketAddr> { Some(text.parse().unwrap()) };
        let (people, agents) = (at("127.0.0.1:80"), at("192.0.2.1:7443"));
        let listeners = Listeners { people: people.unwrap(), agents, is_plain: true };
        let peer = at("198.51.100.7:9");
        let claims = Some("203.0.113.1, 203.0.113.2");
        assert_eq!(listeners.stranger(people, peer, claims), "203.0.113.2");
        assert_eq!(listeners.stranger(agents, peer, claims), "198.51.100.7");
        let sealed = Listeners { is_plain: false, ..listeners };
        assert_eq!(sealed.stranger(people, peer, claims), "198.51.100.7");
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_stranger() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}

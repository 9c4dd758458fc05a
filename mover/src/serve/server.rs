//! The listeners, and which handler each path has.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::{Extensions, Server};
use actix_web::http::StatusCode;
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, ServiceConfig};
use actix_web::{App as WebApp, HttpRequest, HttpResponse, HttpServer};
use mover_control::access::Role::Viewer;
use rustls::ServerConfig;

use super::app::App;
use super::call::{Call, Reply};
use super::connections::Connections;
use super::endpoint::{Access, Endpoint, get};
use super::problem::Problem;
use super::tls::Judge;
use super::{agents, api, console, dispatch, figures};
use crate::cli::error::{CliError, Result};

/// Threads that answer requests: they wait for the database, most of the time.
const WORKERS: usize = 2;
/// Connections at once on one thread, of both listeners: ten thousand agents poll, the rest is people.
const CONNECTIONS: usize = 12_000;
/// TLS handshakes at once on one thread.
const HANDSHAKES: usize = 256;
/// How long a client may take for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a connection may do nothing between two requests.
const IDLE: Duration = Duration::from_secs(75);
/// How long answers may take once the server is to stop.
const STOP: u64 = 10;

/// How long the database may take to show that it is there.
const READY_TIME: Duration = Duration::from_secs(3);

/// The local address of a connection.
pub struct LocalAddress(pub SocketAddr);

/// Begins to serve. Without `tls`, people are served in plain text; agents never are.
///
/// # Errors
/// The system refuses a listener.
pub fn start(
    app: Arc<App>,
    people: TcpListener,
    agents: Option<TcpListener>,
    tls: ServerConfig,
    judge: Judge,
    connections: Connections,
) -> Result<Server> {
    let is_plain = app.listeners.is_plain;
    let shared = Arc::clone(&app);
    let server = HttpServer::new(move || {
        let app = Arc::clone(&shared);
        WebApp::new().configure(move |config| routes(config, &app))
    })
    .on_connect(move |connection, data| {
        let plain = connection.downcast_ref::<TcpStream>();
        let sealed = connection.downcast_ref::<TlsStream<TcpStream>>().map(|stream| stream.get_ref().0);
        if let Some(stream) = plain.or(sealed) {
            note(stream, data);
            // Plain text is for a proxy, which has one address for all.
            if sealed.is_some() {
                count(&connections, stream, data);
            }
        }
        judge.note(connection, data);
    })
    .workers(WORKERS)
    .max_connections(CONNECTIONS)
    .max_connection_rate(HANDSHAKES)
    .client_request_timeout(HEAD_TIME)
    .client_disconnect_timeout(Duration::from_secs(5))
    .tls_handshake_timeout(HANDSHAKE_TIME)
    .keep_alive(IDLE)
    .shutdown_timeout(STOP)
    .disable_signals();
    let failed = |error: std::io::Error| CliError::system("serve at", "the address", error);
    let server = if is_plain { server.listen(people) } else { server.listen_rustls_0_23(people, tls.clone()) };
    let mut server = server.map_err(failed)?;
    if let Some(agents) = agents {
        server = server.listen_rustls_0_23(agents, tls).map_err(failed)?;
    }
    Ok(server.run())
}

fn note(stream: &TcpStream, data: &mut Extensions) {
    if let Ok(local) = stream.local_addr() {
        data.insert(LocalAddress(local));
    }
}

/// The place stays with the connection; without one, the connection ends.
fn count(connections: &Connections, stream: &TcpStream, data: &mut Extensions) {
    match stream.peer_addr().ok().and_then(|peer| connections.take(peer.ip())) {
        Some(place) => _ = data.insert(place),
        None => _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Both),
    }
}

/// All routes of a server, those of the OpenAPI document among them.
fn endpoints() -> Vec<Endpoint> {
    let mut all = api::endpoints();
    all.extend(agents::endpoints());
    all.push(Endpoint::new(actix_web::http::Method::GET, "/healthz", Access::Anybody, healthy));
    all.push(Endpoint::new(actix_web::http::Method::GET, "/readyz", Access::Anybody, ready));
    all.push(get("/metrics", Viewer, metrics));
    all
}

fn routes(config: &mut ServiceConfig, app: &Arc<App>) {
    let mut paths: Vec<(&'static str, Vec<Arc<Endpoint>>)> = Vec::new();
    for endpoint in endpoints() {
        let endpoint = Arc::new(endpoint);
        match paths.iter_mut().find(|(path, _)| *path == endpoint.path) {
            Some((_, known)) => known.push(endpoint),
            None => paths.push((endpoint.path, vec![endpoint])),
        }
    }
    // What is named stands before what is a place.
    paths.sort_by_key(|(path, _)| path.contains('{'));
    for (path, endpoints) in paths {
        let allowed: Vec<String> = endpoints.iter().map(|endpoint| endpoint.method.to_string()).collect();
        let mut resource = web::resource(path);
        for endpoint in endpoints {
            let app = Arc::clone(app);
            let method = endpoint.method.clone();
            let handler = move |request: HttpRequest, payload: web::Payload| {
                dispatch::dispatch(Arc::clone(&app), Arc::clone(&endpoint), request, payload)
            };
            resource = resource.route(web::method(method).to(handler));
        }
        let allowed = allowed.join(", ");
        config.service(resource.default_service(web::to(move || refuse_method(allowed.clone()))));
    }
    config.configure(console::routes);
    config.default_service(web::to(nothing));
}

async fn refuse_method(allowed: String) -> HttpResponse {
    let detail = format!("this path has the methods {allowed}");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail).respond();
    if let Ok(value) = allowed.parse() {
        response.headers_mut().insert(actix_web::http::header::ALLOW, value);
    }
    response
}

async fn nothing() -> HttpResponse {
    Problem::not_found("there is nothing at this path").respond()
}

async fn healthy(_: Call) -> std::result::Result<Reply, Problem> {
    Ok(Reply::json(&serde_json::json!({ "alive": true })))
}

async fn ready(call: Call) -> std::result::Result<Reply, Problem> {
    if *call.app.stopping.borrow() {
        let detail = "the server is stopping";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail));
    }
    // Whoever asks decides by the answer, and wants it now: not after all attempts.
    match tokio::time::timeout(READY_TIME, call.database().ping()).await {
        Ok(answer) => answer?,
        Err(_) => {
            let detail = format!("the database did not answer within {} s", READY_TIME.as_secs());
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database-away", detail);
            return Err(problem.retry_after(2));
        }
    }
    Ok(Reply::json(&serde_json::json!({ "ready": true })))
}

async fn metrics(call: Call) -> std::result::Result<Reply, Problem> {
    let text = figures::render(&call.app).await?;
    let response = HttpResponse::Ok().insert_header(("content-type", "text/plain; version=0.0.4")).body(text);
    Ok(Reply::made(response))
}

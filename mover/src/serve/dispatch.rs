//! What happens to every request, in this order and in this one place: who is it, how often may they ask, may they do
//! this, is the body within bounds, was it answered before; then its handler; then the audit log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::StreamExt;
use mover_control::ControlError;
use mover_control::access::audit::{self, AuditRecord};
use mover_control::access::idempotency::{self, Answer, Begun};
use mover_control::access::{Role, tokens};
use mover_control::agents;
use mover_control::ids::RecordId;
use mover_control::protocol::problem;
use mover_control::service::registry::Heard;
use tracing::Instrument;

use super::app::App;
use super::call::{Call, Caller, Content, Reply};
use super::endpoint::{Access, Endpoint};
use super::limit::{self, Rate};
use super::problem::Problem;
use super::tls::Peer;

/// The cookie of a session of the console.
pub const COOKIE: &str = "mover_session";
/// A request with the cookie that changes something must carry this header: no other site can send it.
pub const CONSOLE_HEADER: &str = "x-mover-console";
/// How long the body of a request may take.
const BODY_TIME: Duration = Duration::from_secs(20);

/// Answers a request to `endpoint`.
pub async fn dispatch(app: Arc<App>, endpoint: Arc<Endpoint>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let id = RecordId::new(app.clock.now());
    let span = tracing::info_span!("request", %id, method = %endpoint.method, path = request.path());
    async move {
        let began = Instant::now();
        let result = answer(&app, &endpoint, &request, payload).await;
        let response = match result {
            Ok(reply) => reply.respond(),
            Err(problem) => problem.respond(),
        };
        let status = response.status().as_u16();
        metrics::counter!("mover_http_requests_total", "status" => status.to_string()).increment(1);
        tracing::debug!(status, milliseconds = began.elapsed().as_millis() as u64, "answered");
        response
    }
    .instrument(span)
    .await
}

async fn answer(
    app: &Arc<App>,
    endpoint: &Endpoint,
    request: &HttpRequest,
    payload: Payload,
) -> Result<Reply, Problem> {
    let who = identify(app, endpoint, request).await?;
    if let Err(problem) = permit(endpoint, &who, request) {
        let object = request.match_info().iter().next().map_or("", |(_, value)| value);
        note(app, endpoint, &who, (who.name(), who.role()), object, &problem.for_audit()).await;
        return Err(problem);
    }
    let body = read(endpoint, request, payload).await?;
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let places: Vec<String> = request.match_info().iter().map(|(_, value)| value.to_owned()).collect();
    if request.uri().to_string().contains("%00") {
        return Err(Problem::malformed("a NUL character has no place in a path or query"));
    }
    let key = if endpoint.method == Method::POST { text("idempotency-key") } else { None };
    let mut call = Call {
        app: Arc::clone(app),
        who: who.clone(),
        places,
        query: request.query_string().to_owned(),
        body,
        if_match: text("if-match"),
        last_event: text("last-event-id"),
        since: app.clock.now(),
        seed: None,
    };
    // Agents say the same again by nature; who is nobody has no keys of its own.
    let Some(key) = key.filter(|_| matches!(endpoint.access, Access::Token(_))) else {
        return run(endpoint, call).await;
    };
    let owner = match &who {
        Caller::Holder(token) => token.parent.as_ref().unwrap_or(&token.id).to_string(),
        _ => "anybody".to_owned(),
    };
    let sent = [endpoint.method.as_str().as_bytes(), request.uri().to_string().as_bytes(), &call.body].join(&b'\n');
    match idempotency::begin(&app.database, &owner, &key, &sent, call.since).await? {
        Begun::Answered(answer) => return repeat(endpoint, answer),
        Begun::Since(since) => call.since = since,
    }
    call.seed = Some(format!("{owner}\n{key}").into_bytes());
    let result = run(endpoint, call).await;
    // What was done is done: without its answer kept, the same request makes the same thing once more, under the same id.
    if let Err(problem) = keep(app, endpoint, &owner, &key, &result).await {
        tracing::warn!(detail = problem.detail, "the answer to an idempotency key was not kept");
    }
    result
}

/// Who asks, and whether they may ask again already.
async fn identify(app: &Arc<App>, endpoint: &Endpoint, request: &HttpRequest) -> Result<Caller, Problem> {
    let address = app.address(request);
    let stranger = || slow_down(app, &format!("address {address}"), limit::STRANGER);
    if app.is_wrong_listener(request, endpoint.access) {
        return Err(Problem::not_found("this is not served at this address"));
    }
    match endpoint.access {
        Access::Anybody => stranger().map(|()| Caller::Anybody),
        Access::Agent => match agent(app, request).await {
            Ok(agent) => {
                slow_down(app, &format!("agent {}", agent.id), limit::AGENT)?;
                app.service.registry.do_send(Heard(agent.id.clone()));
                Ok(Caller::Agent(Box::new(agent)))
            }
            Err(problem) => stranger().and(Err(problem)),
        },
        Access::Token(_) => {
            let Some(secret) = secret_of(request) else {
                let detail = "send a token in the header Authorization: Bearer …, or log in at the console";
                return stranger().and(Err(Problem::unauthenticated(detail)));
            };
            // Guesses cost no look into the database: not those of the wrong form, and not too many of the right one.
            if !tokens::is_well_formed(&secret) {
                return stranger().and(Err(Problem::unauthenticated("the token is unknown, ended or revoked")));
            }
            // What else comes from the same address does not count against who holds a token.
            let guesses = format!("guesses {address}");
            if !app.proven.has(&secret) {
                app.limiter.peek(&guesses, limit::STRANGER, Instant::now()).map_err(too_many)?;
            }
            match tokens::authenticate(&app.database, &secret, app.clock.now()).await {
                Ok(token) => {
                    app.proven.note(&secret);
                    slow_down(app, &format!("token {}", token.id), limit::TOKEN)?;
                    Ok(Caller::Holder(token))
                }
                Err(ControlError::Forbidden(why)) => {
                    slow_down(app, &guesses, limit::STRANGER).and(Err(Problem::unauthenticated(why)))
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

fn slow_down(app: &App, who: &str, rate: Rate) -> Result<(), Problem> {
    app.limiter.take(who, rate, Instant::now()).map_err(too_many)
}

fn too_many(wait: Duration) -> Problem {
    let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3600.0) as u32;
    let detail = format!("too many requests; ask again in {seconds} s");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, problem::TOO_MANY, detail).retry_after(seconds)
}

/// The agent at the other end of the connection.
async fn agent(app: &App, request: &HttpRequest) -> Result<agents::Agent, Problem> {
    let unauthorized = |name: &str, detail: String| Problem::new(StatusCode::UNAUTHORIZED, name, detail);
    let missing = || {
        let detail = "agents show a client certificate; enrol to get one";
        unauthorized(problem::CERTIFICATE_MISSING, detail.to_owned())
    };
    let (fingerprint, name, ends) = match request.conn_data::<Peer>() {
        None | Some(Peer::Anybody) => return Err(missing()),
        Some(Peer::Refused(name, why)) => return Err(unauthorized(name, why.clone())),
        Some(Peer::Agent { fingerprint, name, ends }) => (fingerprint, name, *ends),
    };
    // A connection may live longer than the certificate that it began with.
    if ends <= app.clock.now().0 / 1000 {
        let detail = "the certificate ended while it was used; enrol anew".to_owned();
        return Err(unauthorized(problem::CERTIFICATE_EXPIRED, detail));
    }
    match agents::store::by_fingerprint(&app.database, fingerprint).await {
        Ok(agent) if agent.id.as_str() == name => Ok(agent),
        Ok(agent) => {
            let detail = format!("the certificate names {name:?}, its key is that of agent {}", agent.id);
            Err(unauthorized(problem::CERTIFICATE_NAME, detail))
        }
        Err(ControlError::Forbidden(why)) => Err(unauthorized(problem::CERTIFICATE_UNKNOWN, why)),
        Err(error) => Err(error.into()),
    }
}

fn secret_of(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match value {
        Some(value) => {
            let (scheme, secret) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim().to_owned())
        }
        None => request.cookie(COOKIE).map(|cookie| cookie.value().to_owned()),
    }
}

/// Roles, and that a request with a cookie comes from the console itself.
fn permit(endpoint: &Endpoint, who: &Caller, request: &HttpRequest) -> Result<(), Problem> {
    let (Access::Token(needed), Caller::Holder(token)) = (endpoint.access, who) else { return Ok(()) };
    if !token.role.covers(needed) {
        return Err(Problem::forbidden(format!("this needs the role {needed}, and the token has {}", token.role)));
    }
    let is_bearer = request.headers().contains_key(header::AUTHORIZATION);
    let is_change = !matches!(endpoint.method, Method::GET | Method::HEAD);
    if is_bearer || !is_change {
        return Ok(());
    }
    let site = request.headers().get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let is_own = request.headers().contains_key(CONSOLE_HEADER) && site.is_none_or(|site| site == "same-origin");
    if is_own {
        Ok(())
    } else {
        Err(Problem::forbidden(format!("a session needs the header {CONSOLE_HEADER} to change things")))
    }
}

/// The body, within its bounds and its time.
async fn read(endpoint: &Endpoint, request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is over {} bytes", endpoint.body_bytes);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: usize| bytes > endpoint.body_bytes) {
        return Err(too_large());
    }
    let body = match tokio::time::timeout(BODY_TIME, collect(payload, endpoint.body_bytes)).await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return Err(too_large()),
        Ok(Err(error)) => return Err(Problem::malformed(format!("the body broke off: {error}"))),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail));
        }
    };
    if endpoint.takes.is_none() && endpoint.access != Access::Agent {
        return Ok(body);
    }
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if media.split(';').next().is_none_or(|media| !media.trim().eq_ignore_ascii_case("application/json")) {
        let detail = "the body is application/json".to_owned();
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", detail));
    }
    // No database column takes it, and nobody means it.
    if has_nul(&body) {
        return Err(Problem::malformed("a NUL character has no place in a request"));
    }
    Ok(body)
}

/// Whether a string of this document holds a NUL character. It is looked at closely only where it may: the name of a file
/// may well be `a\u0000b`, with a backslash, which is `a\\u0000b` in JSON.
fn has_nul(body: &[u8]) -> bool {
    fn holds(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text.contains('\0'),
            serde_json::Value::Array(values) => values.iter().any(holds),
            serde_json::Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || holds(value)),
            _ => false,
        }
    }
    let may_hold = body.windows(6).any(|window| window == br"\u0000");
    // What is no JSON is refused by whoever reads it.
    may_hold && serde_json::from_slice(body).is_ok_and(|value| holds(&value))
}

async fn collect(mut payload: Payload, limit: usize) -> Result<Option<Bytes>, actix_web::error::PayloadError> {
    let mut body = BytesMut::new();
    while let Some(part) = payload.next().await {
        let part = part?;
        if body.len() + part.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&part);
    }
    Ok(Some(body.freeze()))
}

/// The handler, and what it did in the audit log.
async fn run(endpoint: &Endpoint, call: Call) -> Result<Reply, Problem> {
    let (app, who) = (Arc::clone(&call.app), call.who.clone());
    let place = call.places.first().cloned().unwrap_or_default();
    let result = endpoint.run(call).await;
    let (object, outcome, by) = match &result {
        Ok(reply) => (reply.object.clone().unwrap_or(place), "done".to_owned(), &reply.by),
        Err(problem) => (place, problem.for_audit(), &problem.by),
    };
    let by = by.as_ref().map_or((who.name(), who.role()), |(name, role)| (name, *role));
    note(&app, endpoint, &who, by, &object, &outcome).await;
    result
}

/// Writes an act down. It is done, or was refused, whether or not this succeeds: who asked is told what came of it, and
/// the log of the server has the line that the audit log lacks.
async fn note(app: &App, endpoint: &Endpoint, who: &Caller, by: (&str, Role), object: &str, outcome: &str) {
    let Some(action) = endpoint.action else { return };
    let now = app.clock.now();
    let bounded = |text: &str| text.replace('\0', "").chars().take(1024).collect::<String>();
    let act = AuditRecord {
        id: RecordId::new(now),
        at: now,
        who: bounded(by.0),
        role: by.1,
        action: action.to_owned(),
        object: bounded(object),
        outcome: bounded(outcome),
        detail: match who {
            // Names are anybody's choice, ids are not.
            Caller::Holder(token) => {
                Some(serde_json::json!({ "token": token.id, "opened_with": token.parent }).to_string())
            }
            Caller::Agent(agent) => Some(serde_json::json!({ "agent": agent.id }).to_string()),
            Caller::Anybody => None,
        },
    };
    if let Err(error) = audit::record(&app.database, &act).await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(
            who = act.who,
            action,
            object = act.object,
            outcome = act.outcome,
            error,
            "the audit log lacks this"
        );
    }
}

/// Keeps what can be said again: successes, and refusals that stay refusals.
async fn keep(
    app: &App,
    endpoint: &Endpoint,
    owner: &str,
    key: &str,
    result: &Result<Reply, Problem>,
) -> Result<(), Problem> {
    let answer = match result {
        Ok(reply) => match &reply.content {
            _ if endpoint.is_secret => Answer { status: reply.status.as_u16(), body: String::new() },
            Content::Json(body) => Answer { status: reply.status.as_u16(), body: body.clone() },
            Content::Empty => Answer { status: reply.status.as_u16(), body: String::new() },
            Content::Made(_) => return Ok(()),
        },
        // Refused now may be allowed later, and another request may have the key: nothing was done under this one.
        Err(problem) if (400..500).contains(&problem.status) => {
            return Ok(idempotency::free(&app.database, owner, key).await?);
        }
        // It may have been done: the same request makes the same thing.
        Err(_) => return Ok(()),
    };
    Ok(idempotency::end(&app.database, owner, key, &answer).await?)
}

fn repeat(endpoint: &Endpoint, answer: Answer) -> Result<Reply, Problem> {
    if endpoint.is_secret {
        let detail = "this was made already under this idempotency key, and its secret is shown once; revoke it and make another";
        return Err(Problem::new(StatusCode::CONFLICT, "secret-shown-once", detail));
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let content = if answer.body.is_empty() { Content::Empty } else { Content::Json(answer.body) };
    Ok(Reply { status, content, headers: vec![("idempotency-replayed", "true".to_owned())], object: None, by: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A result with the name of such a file was once refused for ever.
    #[test]
    fn nul_characters_are_refused_and_names_that_look_like_one_are_not() {
        for body in [r#"{"a":"x\u0000"}"#, r#"["\u0000"]"#, r#"{"a\u0000":1}"#, r#"{"a":"\\\u0000"}"#] {
            assert!(has_nul(body.as_bytes()), "{body}");
        }
        let name = serde_json::json!({ "path": "/srv/a\\u0000b" }).to_string();
        assert!(name.contains(r"\u0000"), "it has the six bytes: {name}");
        for body in [name.as_str(), "{}", "no JSON \\u0000"] {
            assert!(!has_nul(body.as_bytes()), "{body}");
        }
    }
}

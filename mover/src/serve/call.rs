//! One request as a handler sees it, and its answer.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use mover_control::access::Role;
use mover_control::access::tokens::Token;
use mover_control::agents::Agent;
use mover_control::database::Database;
use mover_control::ids::{RecordId, UnixMillis};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::app::App;
use super::problem::Problem;

/// Entries of a page when nobody says otherwise.
pub const PAGE: u32 = 100;
/// Entries of a page at most.
pub const PAGE_MAX: u32 = 1000;

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Somebody who needs to be nobody.
    Anybody,
    /// A person or a script with a token.
    Holder(Token),
    /// An agent with its certificate.
    Agent(Box<Agent>),
}

impl Caller {
    /// As the audit log and jobs name it.
    pub fn name(&self) -> &str {
        match self {
            Caller::Anybody => "anybody",
            Caller::Holder(token) => &token.name,
            Caller::Agent(agent) => &agent.name,
        }
    }

    /// In which role; nobody has the least.
    pub fn role(&self) -> Role {
        match self {
            Caller::Anybody => Role::Viewer,
            Caller::Holder(token) => token.role,
            Caller::Agent(_) => Role::Agent,
        }
    }

    /// Whether they may see and set what only admins do.
    pub fn is_admin(&self) -> bool {
        matches!(self, Caller::Holder(token) if token.role.covers(Role::Admin))
    }
}

/// One request.
pub struct Call {
    /// The server.
    pub app: Arc<App>,
    /// Who asks.
    pub who: Caller,
    /// Values of the places in the path, in order.
    pub places: Vec<String>,
    /// After the question mark.
    pub query: String,
    /// The body.
    pub body: Bytes,
    /// Header `If-Match`.
    pub if_match: Option<String>,
    /// Header `Last-Event-ID`.
    pub last_event: Option<String>,
    /// When the request began; with an idempotency key, its first attempt.
    pub since: UnixMillis,
    /// Who asks and its idempotency key: what ids of new things are made from.
    pub seed: Option<Vec<u8>>,
}

impl Call {
    /// The database.
    pub fn database(&self) -> &Database {
        &self.app.database
    }

    /// The time that decisions are made by.
    pub fn now(&self) -> UnixMillis {
        self.app.clock.now()
    }

    /// The place of the path with this number.
    pub fn place(&self, number: usize) -> &str {
        self.places.get(number).map_or("", String::as_str)
    }

    /// The agent that asks; only for routes that demand one.
    pub fn agent(&self) -> &Agent {
        match &self.who {
            Caller::Agent(agent) => agent,
            _ => unreachable!("the route demands an agent"),
        }
    }

    /// The token of who asks; only for routes that demand one.
    pub fn token(&self) -> &Token {
        match &self.who {
            Caller::Holder(token) => token,
            _ => unreachable!("the route demands a token"),
        }
    }

    /// The body as what it should be.
    ///
    /// # Errors
    /// It is something else.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let value: T = serde_json::from_slice(&self.body)
            .map_err(|error| Problem::malformed(format!("the body is not what it should be: {error}")))?;
        Ok(value)
    }

    /// The query as what it should be.
    ///
    /// # Errors
    /// It is something else.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_urlencoded::from_str(&self.query)
            .map_err(|error| Problem::malformed(format!("the query is not what it should be: {error}")))
    }

    /// The id of a new thing: the same for the same idempotency key.
    pub fn new_id<I: From<String>>(&self) -> I {
        let id = match &self.seed {
            Some(seed) => RecordId::derived(self.since, seed),
            None => RecordId::new(self.since),
        };
        I::from(id.to_string())
    }
}

/// How many entries a page has.
///
/// # Errors
/// None, or too many.
pub fn page_limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => Err(Problem::malformed(format!("limit is 1 to {PAGE_MAX}"))),
    }
}

/// One page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// The cursor of the next page; null after the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The first `limit` of `items`, which are one more if there is a next page.
    pub fn of(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
        let is_more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = if is_more { items.last().map(cursor) } else { None };
        Page { items, next }
    }
}

/// What a reply carries.
pub enum Content {
    /// JSON text.
    Json(String),
    /// Nothing.
    Empty,
    /// Something that was made elsewhere: a stream, a page.
    Made(HttpResponse),
}

/// The answer to a request.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// What it carries.
    pub content: Content,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// What was changed, for the audit log, where the path does not say it.
    pub object: Option<String>,
    /// Who did it, as what, for the audit log, where they prove it by this request.
    pub by: Option<(String, Role)>,
}

impl Reply {
    fn new(status: StatusCode, content: Content) -> Reply {
        Reply { status, content, headers: Vec::new(), object: None, by: None }
    }

    /// A value as JSON.
    pub fn json<T: Serialize>(value: &T) -> Reply {
        Reply::new(StatusCode::OK, Content::Json(serde_json::to_string(value).expect("plain data has a JSON form")))
    }

    /// A new thing.
    pub fn created<T: Serialize>(value: &T, object: impl ToString) -> Reply {
        Reply { status: StatusCode::CREATED, object: Some(object.to_string()), ..Reply::json(value) }
    }

    /// Done, and nothing to say.
    pub fn empty() -> Reply {
        Reply::new(StatusCode::NO_CONTENT, Content::Empty)
    }

    /// Something that was made elsewhere.
    pub fn made(response: HttpResponse) -> Reply {
        Reply::new(response.status(), Content::Made(response))
    }

    /// Done by whom the audit log is to name.
    pub fn by(mut self, who: impl Into<String>, role: Role) -> Reply {
        self.by = Some((who.into(), role));
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }

    /// As a response.
    pub fn respond(self) -> HttpResponse {
        let mut builder = HttpResponse::build(self.status);
        for (name, value) in self.headers {
            builder.insert_header((name, value));
        }
        match self.content {
            Content::Json(text) => builder
                .insert_header(("content-type", "application/json"))
                .insert_header(("cache-control", "no-store"))
                .body(text),
            Content::Empty => builder.finish(),
            Content::Made(response) => response,
        }
    }
}

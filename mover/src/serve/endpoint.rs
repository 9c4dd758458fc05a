//! A route as data: method, path, who may, what comes in and goes out. From this one table come the routes of the
//! server, the check of roles, the audit log and the OpenAPI document, so none can lack what another has.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::http::Method;
use mover_control::access::Role;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use super::call::{Call, Reply};
use super::problem::Problem;

/// Largest body of a request of a person.
pub const BODY_BYTES: usize = 1 << 20;
/// Largest body of a request of somebody who has not shown who they are.
pub const STRANGER_BODY_BYTES: usize = 64 << 10;
/// Largest body of a request of an agent: an outcome with its exceptions, a reply with a directory.
pub const AGENT_BODY_BYTES: usize = 8 << 20;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anybody,
    /// Who has a token of at least this role.
    Token(Role),
    /// Agents, by their certificate.
    Agent,
}

type Handler = dyn Fn(Call) -> Pin<Box<dyn Future<Output = Result<Reply, Problem>>>> + Send + Sync;

/// A type in the document: its name, its schema, and those of what it is made of.
pub struct Described {
    /// Name among the schemas of the document.
    pub name: String,
    /// Its schema.
    pub schema: RefOr<Schema>,
    /// What it refers to.
    pub others: Vec<(String, RefOr<Schema>)>,
}

impl Described {
    fn of<T: ToSchema>() -> Described {
        let mut others = Vec::new();
        T::schemas(&mut others);
        Described { name: T::name().into_owned(), schema: T::schema(), others }
    }
}

/// One route.
pub struct Endpoint {
    /// Its method.
    pub method: Method,
    /// Its path, with places in braces.
    pub path: &'static str,
    /// Who may.
    pub access: Access,
    /// In the audit log; routes without one change nothing.
    pub action: Option<&'static str>,
    /// One line for people.
    pub summary: &'static str,
    /// Parameters after the question mark.
    pub query: Vec<Parameter>,
    /// What comes in.
    pub takes: Option<Described>,
    /// What goes out.
    pub answers: Option<Described>,
    /// Status of success.
    pub status: u16,
    /// Media type of what goes out.
    pub media: &'static str,
    /// Its answer has a secret, which is never kept.
    pub is_secret: bool,
    /// It demands `If-Match`.
    pub is_conditional: bool,
    /// Largest body.
    pub body_bytes: usize,
    handler: Arc<Handler>,
}

impl Endpoint {
    /// A route with the method `method`.
    pub fn new<F>(
        method: Method,
        path: &'static str,
        access: Access,
        handler: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Endpoint
    where
        F: Future<Output = Result<Reply, Problem>> + 'static,
    {
        Endpoint {
            method,
            path,
            access,
            action: None,
            summary: "",
            query: Vec::new(),
            takes: None,
            answers: None,
            status: 200,
            media: "application/json",
            is_secret: false,
            is_conditional: false,
            body_bytes: match access {
                Access::Anybody => STRANGER_BODY_BYTES,
                Access::Token(_) => BODY_BYTES,
                Access::Agent => AGENT_BODY_BYTES,
            },
            handler: Arc::new(move |call| Box::pin(handler(call))),
        }
    }

    /// Runs it.
    pub fn run(&self, call: Call) -> Pin<Box<dyn Future<Output = Result<Reply, Problem>>>> {
        (self.handler)(call)
    }

    /// What it does, in one line.
    pub fn says(mut self, summary: &'static str) -> Endpoint {
        self.summary = summary;
        self
    }

    /// It changes something: its name in the audit log.
    pub fn acts(mut self, action: &'static str) -> Endpoint {
        self.action = Some(action);
        self
    }

    /// Its body is at most so large.
    pub fn body_at_most(mut self, bytes: usize) -> Endpoint {
        self.body_bytes = bytes;
        self
    }

    /// It only looks, although it takes a body.
    pub fn changes_nothing(mut self) -> Endpoint {
        self.action = None;
        self
    }

    /// It has these parameters.
    pub fn query<T: IntoParams>(mut self) -> Endpoint {
        self.query = T::into_params(|| Some(utoipa::openapi::path::ParameterIn::Query));
        self
    }

    /// It takes a body.
    pub fn takes<T: ToSchema>(mut self) -> Endpoint {
        self.takes = Some(Described::of::<T>());
        self
    }

    /// It answers so.
    pub fn answers<T: ToSchema>(mut self, status: u16) -> Endpoint {
        self.answers = Some(Described::of::<T>());
        self.status = status;
        self
    }

    /// It answers with a page of these.
    pub fn pages<T: ToSchema>(mut self) -> Endpoint {
        let item = Described::of::<T>();
        let name = format!("PageOf{}", item.name);
        let reference = RefOr::Ref(Ref::from_schema_name(item.name.clone()));
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("The cursor of the next page; null after the last."));
        let page = ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(reference))
            .property("next", next)
            .required("items")
            .required("next");
        let mut others = item.others;
        others.push((item.name, item.schema));
        self.answers = Some(Described { name, schema: RefOr::T(Schema::Object(page.build())), others });
        self
    }

    /// It answers with nothing.
    pub fn answers_nothing(mut self) -> Endpoint {
        self.status = 204;
        self
    }

    /// It answers with something else than JSON.
    pub fn answers_as(mut self, media: &'static str) -> Endpoint {
        self.media = media;
        self
    }

    /// Its answer has a secret.
    pub fn secret(mut self) -> Endpoint {
        self.is_secret = true;
        self
    }

    /// It demands `If-Match`.
    pub fn conditional(mut self) -> Endpoint {
        self.is_conditional = true;
        self
    }

    /// Names of the places in its path.
    pub fn places(&self) -> Vec<&'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
    }
}

/// A route that looks.
pub fn get<F>(path: &'static str, role: Role, handler: impl Fn(Call) -> F + Send + Sync + 'static) -> Endpoint
where
    F: Future<Output = Result<Reply, Problem>> + 'static,
{
    Endpoint::new(Method::GET, path, Access::Token(role), handler)
}

/// A route that changes something.
pub fn post<F>(
    path: &'static str,
    role: Role,
    action: &'static str,
    handler: impl Fn(Call) -> F + Send + Sync + 'static,
) -> Endpoint
where
    F: Future<Output = Result<Reply, Problem>> + 'static,
{
    Endpoint::new(Method::POST, path, Access::Token(role), handler).acts(action)
}

//! The OpenAPI document, made from the table of routes.

use std::sync::OnceLock;

use actix_web::http::Method;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApiBuilder, PathItem, Ref, RefOr, Required,
    ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

use super::dispatch::COOKIE;
use super::endpoint::{Access, Described, Endpoint};
use super::problem::{self, Problem};

/// The document.
pub fn document() -> &'static serde_json::Value {
    static DOCUMENT: OnceLock<serde_json::Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| build(&super::api::endpoints()))
}

fn build(endpoints: &[Endpoint]) -> serde_json::Value {
    let mut components = ComponentsBuilder::new()
        .schema(Problem::name(), Problem::schema())
        .security_scheme("token", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()))
        .security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(COOKIE))))
        .build();
    let mut paths = PathsBuilder::new().build();
    for endpoint in endpoints {
        for described in endpoint.takes.iter().chain(&endpoint.answers) {
            add(&mut components, described);
        }
        let item = PathItem::new(method(&endpoint.method), operation(endpoint));
        match paths.paths.get_mut(endpoint.path) {
            Some(known) => known.merge_operations(item),
            None => _ = paths.paths.insert(endpoint.path.to_owned(), item),
        }
    }
    let info = InfoBuilder::new()
        .title("mover control plane")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Jobs, policies, agents, recovery points. Errors are problem details (RFC 9457)."))
        .build();
    let document = OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).build();
    serde_json::to_value(document).expect("plain data has a JSON form")
}

fn add(components: &mut Components, described: &Described) {
    components.schemas.insert(described.name.clone(), described.schema.clone());
    for (name, schema) in &described.others {
        components.schemas.insert(name.clone(), schema.clone());
    }
}

fn method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "GET" => HttpMethod::Get,
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        other => unreachable!("no route has the method {other}"),
    }
}

fn reference(described: &Described) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(described.name.clone()))
}

fn text(max_bytes: usize) -> Schema {
    Schema::from(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(max_bytes)).build())
}

fn header(name: &str, says: &str, required: Required) -> Parameter {
    let builder = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).required(required);
    builder.description(Some(says)).schema(Some(text(256))).build()
}

fn operation(endpoint: &Endpoint) -> OperationBuilder {
    let mut operation = OperationBuilder::new()
        .summary(Some(endpoint.summary))
        .operation_id(Some(name_of(endpoint)))
        .tag(endpoint.path.split('/').nth(3).unwrap_or("other"));
    for place in endpoint.places() {
        let builder = ParameterBuilder::new().name(place).parameter_in(ParameterIn::Path).required(Required::True);
        operation = operation.parameter(builder.schema(Some(text(128))).build());
    }
    for parameter in &endpoint.query {
        operation = operation.parameter(parameter.clone());
    }
    if endpoint.method == Method::POST && endpoint.access != Access::Anybody {
        let says = "The same key again gets the same answer for a day, and nothing is done twice";
        operation = operation.parameter(header("Idempotency-Key", says, Required::False));
    }
    if endpoint.is_conditional {
        operation = operation.parameter(header("If-Match", "The ETag of what is replaced", Required::False));
    }
    if let Some(takes) = &endpoint.takes {
        let content = ContentBuilder::new().schema(Some(reference(takes))).build();
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
        operation = operation.request_body(Some(body.build()));
    }
    if let Access::Token(role) = endpoint.access {
        operation = operation
            .description(Some(format!("Needs the role {role}.")))
            .security(SecurityRequirement::new("token", Vec::<String>::new()))
            .security(SecurityRequirement::new("session", Vec::<String>::new()));
    } else {
        operation = operation.description(Some("Needs no token.")).securities(Some([SecurityRequirement::default()]));
    }
    let mut success = ResponseBuilder::new().description("Done");
    if let Some(answers) = &endpoint.answers {
        success = success.content(endpoint.media, ContentBuilder::new().schema(Some(reference(answers))).build());
    } else if endpoint.status != 204 {
        success = success.content(endpoint.media, ContentBuilder::new().build());
    }
    let failure = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name(Problem::name())))).build();
    let failure = ResponseBuilder::new().description("A problem").content(problem::MEDIA_TYPE, failure);
    operation.response(endpoint.status.to_string(), success.build()).response("default", failure.build())
}

/// `listJobs` from `GET /api/v1/jobs`: unique, for generated clients.
fn name_of(endpoint: &Endpoint) -> String {
    let mut name = endpoint.method.as_str().to_lowercase();
    for part in endpoint.path.trim_start_matches(super::api::ROOT).split(['/', '.']).filter(|part| !part.is_empty()) {
        let part = part.trim_matches(['{', '}']);
        name.extend(part.chars().take(1).flat_map(char::to_uppercase));
        name.push_str(&part[1.min(part.len())..]);
    }
    name
}

#[cfg(test)]
mod tests {
    use mover_control::access::Role;

    use super::*;

    #[test]
    fn document_has_every_route_of_the_api_and_each_schema_that_it_names() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        let mut operations = std::collections::BTreeSet::new();
        for endpoint in super::super::api::endpoints() {
            let method = endpoint.method.as_str().to_lowercase();
            let operation = &document["paths"][endpoint.path][&method];
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {}", endpoint.path));
            assert!(operations.insert(id.to_owned()), "{id} twice");
            assert!(!endpoint.summary.is_empty(), "{id} says nothing");
            assert!(operation["responses"][endpoint.status.to_string()].is_object(), "{id}");
            let is_open = matches!(endpoint.access, Access::Anybody);
            assert!(is_open || operation["security"].is_array(), "{id} has no security");
            let changes = endpoint.method != Method::GET && !endpoint.path.ends_with("/validate");
            assert_eq!(endpoint.action.is_some(), changes, "{id} and the audit log");
        }
        let count: usize =
            document["paths"].as_object().unwrap().values().map(|item| item.as_object().unwrap().len()).sum();
        assert_eq!(count, operations.len());
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "no schema {name}");
        }
    }

    #[test]
    fn no_route_that_changes_something_is_open_to_a_viewer() {
        for endpoint in super::super::api::endpoints().iter().filter(|endpoint| endpoint.action.is_some()) {
            let is_session = endpoint.path.ends_with("/session");
            assert!(is_session || endpoint.access != Access::Token(Role::Viewer), "{}", endpoint.path);
        }
    }
}

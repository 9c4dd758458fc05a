//! What a request ends with instead of an answer: problem details (RFC 9457) with stable types.
//!
//! A `type` is `urn:mover:problem:NAME`; programs decide by it, never by the words. What failed inside is logged and
//! not told.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use mover_control::ControlError;
use mover_control::access::Role;
use mover_control::error::Refusal;
use mover_control::protocol::problem;
use serde::{Deserialize, Serialize};

/// Media type of problem details.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:mover:problem:NAME`: what programs decide by.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same in words, the same for all problems of the type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong with this request, and what to do.
    pub detail: String,
    /// When the same request may succeed.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after_seconds: Option<u32>,
    /// For the audit log: who tried, as what, where nobody has proven who they are.
    #[serde(skip)]
    #[schema(ignore)]
    pub by: Option<(String, Role)>,
}

impl Problem {
    /// A problem of the type `name`.
    pub fn new(status: StatusCode, name: &str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:mover:problem:{name}"),
            title: name.replace('-', " "),
            status: status.as_u16(),
            detail: detail.into(),
            retry_after_seconds: None,
            by: None,
        }
    }

    /// The same, with a time after which it may be asked again.
    pub fn retry_after(mut self, seconds: u32) -> Problem {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The same, tried by whom the audit log is to name.
    pub fn by(mut self, who: impl Into<String>, role: Role) -> Problem {
        self.by = Some((who.into(), role));
        self
    }

    /// The request makes no sense as it is written.
    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// What the audit log says of it. What was wrong with a document may repeat a part of it, a secret too, so only the
    /// type is told; all else names no more than ids, roles and states.
    pub fn for_audit(&self) -> String {
        match self.status {
            400 | 422 => format!("{}: {}", self.status, self.title),
            _ => self.detail.clone(),
        }
    }

    /// Who asks is not known.
    pub fn unauthenticated(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// Who asks may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// Nothing is served at this address. Another type than that of a thing that does not exist: an agent that asks at the
    /// wrong address must not take this for news of its job.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no-such-path", detail)
    }

    /// Something here does not work.
    pub fn internal() -> Problem {
        let detail = "the server failed; its log says why";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// As a response.
    pub fn respond(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response: HttpResponseBuilder = HttpResponse::build(status);
        response.insert_header(("content-type", MEDIA_TYPE)).insert_header(("cache-control", "no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            response.insert_header(("retry-after", seconds.to_string()));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header(("www-authenticate", "Bearer realm=\"mover\""));
        }
        response.body(serde_json::to_string(self).expect("plain data has a JSON form"))
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Problem {
        let text = error.to_string();
        let conflict = |name: &str, detail: String| Problem::new(StatusCode::CONFLICT, name, detail);
        match &error {
            _ if error.is_transient() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the database did not answer");
                let detail = "the database of the control plane does not answer; nothing was changed, ask again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database-away", detail).retry_after(2)
            }
            ControlError::NotFound { .. } => Problem::new(StatusCode::NOT_FOUND, problem::NOT_FOUND, text),
            ControlError::Conflict(_) => conflict("conflict", text),
            ControlError::StaleFence { .. } => conflict(problem::STALE_FENCE, text),
            ControlError::Ended { .. } => conflict(problem::ENDED, text),
            ControlError::IllegalMove { .. } => conflict("illegal-move", text),
            ControlError::Invalid(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", text),
            ControlError::AgentRefused { refusal, .. } => {
                let name = match refusal {
                    Refusal::Revoked => problem::AGENT_REVOKED,
                    Refusal::Version => problem::AGENT_VERSION,
                };
                Problem::new(StatusCode::FORBIDDEN, name, text)
            }
            ControlError::Forbidden(_) => Problem::forbidden(text),
            ControlError::Busy(_) => Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", text).retry_after(2),
            _ => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
                Problem::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_stable_types_and_tell_nothing_of_the_inside() {
        let stale = Problem::from(ControlError::StaleFence { job: "j".into(), given: 1, current: 2 });
        assert_eq!((stale.status, stale.kind.as_str()), (409, "urn:mover:problem:stale-fence"));
        let damaged = ControlError::Damaged { object: "secret column".to_owned(), reason: "x".to_owned() };
        let inside = Problem::from(damaged);
        assert_eq!((inside.status, inside.kind.as_str()), (500, "urn:mover:problem:internal"));
        assert!(!serde_json::to_string(&inside).unwrap().contains("secret column"));
    }

    /// An agent took the answer of the people's listener for news of its job, and threw its result away.
    #[test]
    fn address_that_serves_nothing_is_told_apart_from_a_thing_that_does_not_exist() {
        let missing = Problem::from(ControlError::NotFound { kind: "job", name: "j".to_owned() });
        let nowhere = Problem::not_found("this is not served at this address");
        assert_eq!((missing.status, missing.kind.as_str()), (404, "urn:mover:problem:not-found"));
        assert_eq!((nowhere.status, nowhere.kind.as_str()), (404, "urn:mover:problem:no-such-path"));
    }

    /// A body that was no policy was repeated in the audit log, with the secret address of its webhook.
    #[test]
    fn audit_log_repeats_nothing_of_a_body_that_was_refused() {
        let malformed = Problem::malformed("the body is not what it should be: unknown field `https://h/s3cret`");
        let invalid = Problem::from(ControlError::Invalid("notify: \"ftp://h/s3cret\" is no address".to_owned()));
        assert_eq!(
            (malformed.for_audit(), invalid.for_audit()),
            ("400: malformed".to_owned(), "422: invalid".to_owned())
        );
        let forbidden = Problem::forbidden("it needs the role operator");
        assert_eq!(forbidden.for_audit(), "it needs the role operator");
    }

    #[test]
    fn revoked_agents_and_those_of_another_version_are_told_apart() {
        use mover_control::error::Refusal::{Revoked, Version};
        for (refusal, name) in [(Revoked, problem::AGENT_REVOKED), (Version, problem::AGENT_VERSION)] {
            let told = Problem::from(ControlError::AgentRefused { agent: "a".into(), refusal, reason: String::new() });
            assert_eq!((told.status, told.kind), (403, format!("urn:mover:problem:{name}")));
        }
    }
}

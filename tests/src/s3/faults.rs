//! What may go wrong at a server, as rules that can be added and removed while it runs.
//!
//! The first rule that matches a request and is not used up decides; a request meets one fault at most. Rules count what
//! they saw and what they spoilt, so that a test can assert that its fault really happened.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::record::{Kind, Request};

/// An answer given in place of the store's.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers of the answer.
    pub headers: Vec<(String, String)>,
    /// The body, XML where it is an S3 error.
    pub body: String,
}

impl Answer {
    /// An error as S3 writes it.
    pub fn error(status: u16, code: &str, message: &str) -> Answer {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <RequestId>4442587FB7D0A2F9</RequestId><HostId>bm8gaG9zdA==</HostId></Error>"
        );
        let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
        Answer { status, headers, body }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// 503 `SlowDown`, with `Retry-After` where seconds are given.
    pub fn slow_down(retry_after_seconds: Option<u64>) -> Answer {
        let answer = Answer::error(503, "SlowDown", "Please reduce your request rate.");
        match retry_after_seconds {
            Some(seconds) => answer.header("retry-after", &seconds.to_string()),
            None => answer,
        }
    }

    /// 500 `InternalError`.
    pub fn internal_error() -> Answer {
        Answer::error(500, "InternalError", "We encountered an internal error. Please try again.")
    }

    /// 403 `AccessDenied`.
    pub fn access_denied() -> Answer {
        Answer::error(403, "AccessDenied", "Access Denied")
    }

    /// 400 `ExpiredToken`: temporary credentials that ended.
    pub fn expired_token() -> Answer {
        Answer::error(400, "ExpiredToken", "The provided token has expired.")
    }

    /// 403 `RequestTimeTooSkewed` with the two clocks, 20 years apart.
    pub fn clock_skew() -> Answer {
        let mut answer = Answer::error(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        );
        let clocks = "<RequestTime>20060327T224316Z</RequestTime><ServerTime>2026-03-27T22:43:16Z</ServerTime>\
                      <MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds></Error>";
        answer.body = answer.body.replace("</Error>", clocks);
        answer
    }

    /// 301 `PermanentRedirect`: the bucket is in this other region.
    pub fn wrong_region(region: &str) -> Answer {
        let message = "The bucket you are attempting to access must be addressed using the specified endpoint.";
        Answer::error(301, "PermanentRedirect", message).header("x-amz-bucket-region", region)
    }
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer comes; the store is not asked.
    Answer(Answer),
    /// The store is asked after this time.
    Delay(Duration),
    /// No answer ever; the store is not asked.
    StallBefore,
    /// The answer's body stops for ever after so many bytes.
    StallAfter {
        /// Bytes of the body that arrive.
        bytes: u64,
    },
    /// The connection ends after so many bytes of the body, though `Content-Length` says more.
    CutAfter {
        /// Bytes of the body that arrive.
        bytes: u64,
    },
    /// The body ends early and `Content-Length` agrees, as behind a bad proxy.
    ShortenTo {
        /// Bytes of the body that are left.
        bytes: u64,
    },
    /// The store does what it is asked, and the connection ends without an answer.
    LoseAnswer,
    /// A read of what is there gets the bytes of another object.
    OtherObject {
        /// The key whose bytes come.
        key: String,
    },
    /// A write takes place whatever its condition says, as at a store that does not know conditions.
    IgnoreConditions,
    /// A listing lacks the objects of the last creations that the server recorded.
    ListLate {
        /// So many creations are missing.
        creations: usize,
    },
}

/// A fault and the requests that meet it.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    kind: Option<Kind>,
    method: Option<String>,
    key_prefix: String,
    access_key: Option<String>,
    skip: u64,
    times: u64,
}

impl Rule {
    /// All requests meet this fault, for ever, until told otherwise.
    pub fn new(fault: Fault) -> Rule {
        Rule { fault, kind: None, method: None, key_prefix: String::new(), access_key: None, skip: 0, times: u64::MAX }
    }

    /// Only requests of this kind.
    pub fn kind(mut self, kind: Kind) -> Rule {
        self.kind = Some(kind);
        self
    }

    /// Only requests with this method.
    pub fn method(mut self, method: &str) -> Rule {
        self.method = Some(method.to_owned());
        self
    }

    /// Only requests for keys (or listings of prefixes) that begin so.
    pub fn key_prefix(mut self, prefix: &str) -> Rule {
        prefix.clone_into(&mut self.key_prefix);
        self
    }

    /// Only requests that are signed by this key.
    pub fn access_key(mut self, key: &str) -> Rule {
        self.access_key = Some(key.to_owned());
        self
    }

    /// The first `count` matching requests are spared.
    pub fn skip(mut self, count: u64) -> Rule {
        self.skip = count;
        self
    }

    /// Only so many requests, after those that are spared.
    pub fn times(mut self, count: u64) -> Rule {
        self.times = count;
        self
    }

    fn matches(&self, request: &Request) -> bool {
        self.kind.is_none_or(|kind| kind == request.kind)
            && self.method.as_ref().is_none_or(|method| *method == request.method)
            && self.access_key.as_ref().is_none_or(|key| *key == request.access_key)
            && request.key.starts_with(&self.key_prefix)
    }
}

/// The name of a rule at its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: Rule,
    seen: u64,
    applied: u64,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Active>,
    ids: u64,
}

/// The rules of one server.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the rules of faults")
    }

    /// From now on this goes wrong too; rules added before go first.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.state();
        state.ids += 1;
        let id = RuleId(state.ids);
        state.rules.push(Active { id, rule, seen: 0, applied: 0 });
        id
    }

    /// From now on this does not go wrong any more. Requests that met it stay spoilt.
    pub fn remove(&self, id: RuleId) {
        self.state().rules.retain(|active| active.id != id);
    }

    /// From now on nothing goes wrong.
    pub fn clear(&self) {
        self.state().rules.clear();
    }

    /// How many requests this rule spoilt; 0 for one that was removed.
    pub fn applied(&self, id: RuleId) -> u64 {
        self.state().rules.iter().find(|active| active.id == id).map_or(0, |active| active.applied)
    }

    pub(super) fn decide(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        for active in state.rules.iter_mut().filter(|active| active.rule.matches(request)) {
            active.seen += 1;
            if active.seen > active.rule.skip && active.applied < active.rule.times {
                active.applied += 1;
                return Some(active.rule.fault.clone());
            }
        }
        None
    }
}

//! A client of the API: requests with a token or a certificate, answers as JSON.

use std::time::Duration;

use serde_json::Value;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Speaks to one server.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
    token: String,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// What was asked.
    pub request: String,
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as text.
    pub text: String,
    /// The body as JSON; null if it is none.
    pub body: Value,
}

impl Answer {
    /// Fails the test unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text);
        self
    }

    /// Fails the test unless it is a problem of this status and type.
    #[track_caller]
    pub fn expect_problem(self, status: u16, name: &str) -> Answer {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.request);
        assert_eq!(answer.body["type"], format!("urn:mover:problem:{name}"), "{}: {}", answer.request, answer.text);
        assert_eq!(answer.body["status"], status);
        assert!(!answer.body["detail"].as_str().unwrap_or_default().is_empty(), "{}", answer.text);
        answer
    }

    /// A header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A field that is a text.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.text)).to_owned()
    }
}

impl Client {
    /// Speaks to the server at `url` that `authority` (PEM) signed for, by a certificate with its key (PEM), by a token.
    pub fn new(url: &str, authority: &[u8], identity: Option<&[u8]>, token: &str) -> Client {
        let root = reqwest::Certificate::from_pem(authority).expect("a certificate");
        let mut builder = reqwest::Client::builder().tls_certs_only([root]).timeout(PATIENCE);
        if let Some(identity) = identity {
            builder = builder.identity(reqwest::Identity::from_pem(identity).expect("an identity"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let http = builder.redirect(reqwest::redirect::Policy::none()).no_proxy().build().expect("a client");
        Client { runtime, http, url: url.to_owned(), token: token.to_owned() }
    }

    /// Sends a request with these headers and this body: the error text if no answer came.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let parsed = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(parsed, format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let answer = request.body(body).send().await.map_err(|error| format!("{error:?}"))?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
            let body = serde_json::from_str(&text).unwrap_or_default();
            Ok(Answer { request: format!("{method} {path}"), status, headers, text, body })
        })
    }

    /// Sends a request with these headers and this body.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new())
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Vec::new())
    }

    /// POST of JSON.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body)
    }

    /// POST of JSON with more headers.
    #[track_caller]
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        self.send("POST", path, &headers, body.to_string().into_bytes())
    }
}

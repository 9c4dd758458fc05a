//! One request of a person or a script, and its answer: JSON, or problem details (RFC 9457) told in words.
//!
//! What changes something carries an idempotency key, so a request whose answer was lost is simply repeated.

use std::time::Duration;

use serde_json::{Map, Value};

use super::args::ClientArgs;
use super::trust;
use crate::cli::Session;
use crate::cli::error::{CliError, Result};
use crate::cli::secret::random_hex;
use crate::cli::table::Table;
use crate::cli::text::escape;

/// How long an answer may take: looking into a repository takes longest.
const PATIENCE: Duration = Duration::from_secs(90);
/// Attempts of a request that found nobody, or a server that cannot now.
const ATTEMPTS: u32 = 4;
/// Entries of one page.
const PAGE: usize = 200;

/// Why a server did not do what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// `urn:mover:problem:NAME`
    kind: String,
    title: String,
    /// The HTTP status.
    pub status: u16,
    detail: String,
}

impl Problem {
    /// What a body says; one that is no problem of ours is told by its status.
    pub fn read(status: u16, body: &[u8]) -> Problem {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        Problem { kind: text("type"), title: text("title"), status, detail: text("detail") }
    }

    /// The end of its type.
    pub fn name(&self) -> &str {
        self.kind.rsplit(':').next().unwrap_or_default()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.detail.is_empty(), self.title.is_empty()) {
            (false, _) => f.write_str(&escape(self.detail.as_bytes())),
            (true, false) => f.write_str(&escape(self.title.as_bytes())),
            (true, true) => write!(f, "it answered with status {} and no reason", self.status),
        }
    }
}

/// The innermost cause of an error, where the reason is.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

/// The API of one server, as one person.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Api {
    /// With the server and the token that were named.
    ///
    /// # Errors
    /// One of them is missing or cannot be read.
    pub fn new(args: &ClientArgs) -> Result<Api> {
        let url = args.server.url()?;
        let file = args
            .token_file
            .as_ref()
            .ok_or_else(|| CliError::usage("no token was named", "give --token-file FILE, or set MOVER_TOKEN_FILE"))?;
        let text = std::fs::read_to_string(file).map_err(|error| CliError::system("read", file.display(), error))?;
        let token = text.lines().next().unwrap_or_default().trim().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::system("start", "the request", error))?;
        Ok(Api { runtime, http: trust::http(&args.server.trust()?, None)?, url, token })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// In words.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, None, &[]).map(|(value, _)| value)
    }

    /// As [`Api::get`], with the version of what was found.
    ///
    /// # Errors
    /// In words.
    pub fn get_tagged(&self, path: &str) -> Result<(Value, String)> {
        self.send("GET", path, None, &[])
    }

    /// Changes something.
    ///
    /// # Errors
    /// In words.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let key = random_hex()?;
        self.send("POST", path, Some(body), &[("idempotency-key", &key)]).map(|(value, _)| value)
    }

    /// Replaces something, if it is at this version still.
    ///
    /// # Errors
    /// In words.
    pub fn put(&self, path: &str, version: &str, body: &Value) -> Result<Value> {
        self.send("PUT", path, Some(body), &[("if-match", version)]).map(|(value, _)| value)
    }

    /// Removes something.
    ///
    /// # Errors
    /// In words.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.send("DELETE", path, None, &[]).map(drop)
    }

    /// Entries of a list, page after page, at most so many.
    ///
    /// # Errors
    /// In words.
    pub fn list(&self, path: &str, query: &[(&str, Option<String>)], limit: usize) -> Result<Vec<Value>> {
        let mut found: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        while found.len() < limit {
            let mut all = query.to_vec();
            all.push(("cursor", cursor.take()));
            all.push(("limit", Some((limit - found.len()).min(PAGE).to_string())));
            let mut page = self.get(&with_query(path, &all))?;
            if let Value::Array(items) = page["items"].take() {
                found.extend(items);
            }
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<(Value, String)> {
        for attempt in 1.. {
            let (cause, after) = match self.runtime.block_on(self.once(method, path, body, headers)) {
                Ok((status, tag, content)) if status < 300 => {
                    let content: &[u8] = if content.is_empty() { b"null" } else { &content };
                    let value = serde_json::from_slice(content).map_err(|error| {
                        CliError::system("understand", format!("the answer of {}", self.url), error)
                    })?;
                    return Ok((value, tag));
                }
                Ok((status, _, content)) => {
                    let problem = Problem::read(status, &content);
                    if !matches!(status, 429 | 502 | 503) {
                        return Err(self.told(&problem));
                    }
                    (problem.to_string(), 1)
                }
                // What changes something and has no key must not be repeated blindly.
                Err(error) => (innermost(&error), if method == "PUT" || method == "DELETE" { ATTEMPTS } else { 1 }),
            };
            if attempt + after > ATTEMPTS {
                return Err(CliError::failed(
                    format!("{} does not answer: {cause}", self.url),
                    "check the address, the port, and by which authority the server is known (--ca, --ca-fingerprint)",
                ));
            }
            std::thread::sleep(Duration::from_millis(200) * attempt);
        }
        unreachable!("the loop ends by returning")
    }

    fn told(&self, problem: &Problem) -> CliError {
        let help = match problem.status {
            401 => "the token is unknown or over: ask an administrator for another",
            403 => "the token may not do this: ask an administrator",
            404 => "the list command shows what there is",
            409 | 412 => "look at it again; it may have changed meanwhile",
            _ => "see --help, and /api/v1 of the server",
        };
        CliError::failed(problem.to_string(), help)
    }

    async fn once(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> std::result::Result<(u16, String, Vec<u8>), reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method of ours");
        let mut request = self.http.request(method, format!("{}{path}", self.url)).timeout(PATIENCE);
        request = request.bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        Ok((status, tag, response.bytes().await?.to_vec()))
    }
}

/// A path with what follows the question mark.
pub fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let given: Vec<(&str, &str)> = query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    match serde_urlencoded::to_string(given) {
        Ok(text) if !text.is_empty() => format!("{path}?{text}"),
        _ => path.to_owned(),
    }
}

/// A word in a path.
pub fn place(word: &str) -> String {
    serde_urlencoded::to_string([("", word)]).unwrap_or_default().trim_start_matches('=').replace('+', "%20")
}

/// A field as text: words as they are, nothing for what is not there.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escape(text.as_bytes()),
        other => escape(other.to_string().as_bytes()),
    }
}

/// Unix milliseconds as a local time.
pub fn time(value: &Value) -> String {
    match value.as_i64() {
        Some(millis) => crate::cli::text::local_time(mover_repository::ids::UnixNanos(i128::from(millis) * 1_000_000)),
        None => "-".to_owned(),
    }
}

/// Prints a list: a table, or one object a line.
///
/// # Errors
/// Nothing can be printed.
pub fn print_list(
    session: &Session,
    kind: &str,
    items: &[Value],
    columns: &[&'static str],
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<()> {
    let mut table = Table::new(columns);
    for item in items {
        session.output.object(kind, item.clone())?;
        table.row(row(item));
    }
    if !session.output.json && !items.is_empty() {
        for line in table.lines() {
            session.output.line(&line)?;
        }
    }
    if items.is_empty() {
        session.output.say("there is none")?;
    }
    let mut fields = Map::new();
    fields.insert("count".to_owned(), items.len().into());
    fields.insert("exit_code".to_owned(), 0.into());
    session.output.object("summary", Value::Object(fields))
}

/// Prints one thing: as lines of name and value, or as an object.
///
/// # Errors
/// Nothing can be printed.
pub fn print_one(session: &Session, kind: &str, item: &Value, fields: &[(&str, String)]) -> Result<()> {
    session.output.object(kind, item.clone())?;
    if !session.output.json {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in fields.iter().filter(|(_, value)| value != "-" && !value.is_empty()) {
            session.output.line(&format!("{name:width$}  {value}"))?;
        }
    }
    Ok(())
}

/// A JSON document from a file or standard input.
///
/// # Errors
/// It cannot be read, or is none.
pub fn document(file: &std::path::Path) -> Result<Value> {
    let read =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = read.map_err(|error| CliError::system("read", file.display(), error))?;
    serde_json::from_str(&text).map_err(|error| {
        CliError::usage(format!("{} is no JSON document: {error}", file.display()), "see /api/v1 of the server")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_people_stay_words_in_paths_and_queries() {
        assert_eq!(place("a b/c?d"), "a%20b%2Fc%3Fd");
        let query = [("set", Some("web:/etc&x".to_owned())), ("state", None)];
        assert_eq!(with_query("/jobs", &query), "/jobs?set=web%3A%2Fetc%26x");
        assert_eq!(with_query("/jobs", &[("state", None)]), "/jobs");
    }

    #[test]
    fn problems_are_told_in_words_and_never_reach_a_terminal_raw() {
        let said = br#"{"type":"urn:mover:problem:not-found","title":"not found","detail":"no job \u001b[2J"}"#;
        let problem = Problem::read(404, said);
        assert_eq!((problem.name(), problem.status), ("not-found", 404));
        assert!(!problem.to_string().contains('\u{1b}') && problem.to_string().starts_with("no job"));
        assert!(Problem::read(502, b"<html>").to_string().contains("502"));
    }
}

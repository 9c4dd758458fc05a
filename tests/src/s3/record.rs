//! What a server was asked: every request with its kind, so that tests can assert how many of each were needed.
//!
//! A request is recorded before a fault or the store sees it, and gets its status once the answer begins.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, IF_MATCH, IF_NONE_MATCH, RANGE};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A whole object.
    Get,
    /// A range of an object.
    GetRange,
    /// The properties of an object or a bucket.
    Head,
    /// One page of a listing.
    List,
    /// An object in one piece.
    Put,
    /// The begin of a multipart upload.
    CreateUpload,
    /// A part of a multipart upload.
    UploadPart,
    /// The end of a multipart upload, which creates the object.
    CompleteUpload,
    /// A multipart upload given up.
    AbortUpload,
    /// One object to delete.
    Delete,
    /// Up to 1000 objects to delete; their keys are in the body and not recorded.
    DeleteMany,
    /// Anything else.
    Other,
}

/// One recorded request.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it arrived.
    pub arrived: Instant,
    /// The key that it is signed by; empty where it is not signed in its header.
    pub access_key: String,
    /// The HTTP method.
    pub method: String,
    /// What it wants.
    pub kind: Kind,
    /// The key in its bucket; of a listing its prefix.
    pub key: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Whether it has a condition (`If-None-Match`, `If-Match`).
    pub is_conditional: bool,
    /// The status of the answer; `None` while there is none, and for ever where it was lost.
    pub status: Option<u16>,
    /// The length of the request's body in bytes.
    pub request_bytes: u64,
    /// The bytes of the answer's body that were handed to the connection.
    pub answer_bytes: u64,
}

impl Request {
    pub(super) fn of(parts: &Parts) -> Request {
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, raw_key) = path.split_once('/').unwrap_or((path, ""));
        let query = parts.uri.query().unwrap_or_default();
        let value_of = |name: &str| {
            query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
            })
        };
        let has = |name: &str| value_of(name).is_some();
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let kind = match (parts.method.as_str(), raw_key.is_empty()) {
            ("GET", true) if !bucket.is_empty() && !has("location") => Kind::List,
            ("GET", false) if has("uploadId") || has("retention") => Kind::Other,
            ("GET", false) if parts.headers.contains_key(RANGE) => Kind::GetRange,
            ("GET", false) => Kind::Get,
            ("HEAD", _) => Kind::Head,
            ("PUT", false) if has("partNumber") => Kind::UploadPart,
            ("PUT", false) if has("retention") => Kind::Other,
            ("PUT", false) => Kind::Put,
            ("POST", false) if has("uploads") => Kind::CreateUpload,
            ("POST", false) if has("uploadId") => Kind::CompleteUpload,
            ("POST", true) if has("delete") => Kind::DeleteMany,
            ("DELETE", false) if has("uploadId") => Kind::AbortUpload,
            ("DELETE", false) => Kind::Delete,
            _ => Kind::Other,
        };
        let key = match kind {
            Kind::List => value_of("prefix").unwrap_or_default(),
            _ => percent_decode_str(raw_key).decode_utf8_lossy().into_owned(),
        };
        let signer = header(AUTHORIZATION).and_then(|line| {
            let (_, behind) = line.split_once("Credential=")?;
            Some(behind.split_once('/')?.0.to_owned())
        });
        Request {
            arrived: Instant::now(),
            access_key: signer.unwrap_or_default(),
            method: parts.method.to_string(),
            kind,
            key,
            range: header(RANGE),
            is_conditional: parts.headers.contains_key(IF_NONE_MATCH) || parts.headers.contains_key(IF_MATCH),
            status: None,
            request_bytes: header(CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0),
            answer_bytes: 0,
        }
    }

    fn is_creation(&self) -> bool {
        matches!(self.kind, Kind::Put | Kind::CompleteUpload) && self.status == Some(200)
    }
}

/// A copy of what was recorded up to now.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// Every request in the order of its arrival.
    pub all: Vec<Request>,
    /// Most requests that were under way at once.
    pub in_flight_max: usize,
}

impl Requests {
    /// How many there were.
    pub fn total(&self) -> usize {
        self.all.len()
    }

    /// How many there were of one kind.
    pub fn of(&self, kind: Kind) -> usize {
        self.all.iter().filter(|request| request.kind == kind).count()
    }

    /// How many were answered with this status.
    pub fn with_status(&self, status: u16) -> usize {
        self.all.iter().filter(|request| request.status == Some(status)).count()
    }

    /// Those whose key begins with `prefix`.
    pub fn below(&self, prefix: &str) -> Requests {
        let all = self.all.iter().filter(|request| request.key.starts_with(prefix)).cloned().collect();
        Requests { all, in_flight_max: self.in_flight_max }
    }

    /// Bytes of all bodies that clients announced.
    pub fn request_bytes(&self) -> u64 {
        self.all.iter().map(|request| request.request_bytes).sum()
    }

    /// Bytes of all bodies of answers.
    pub fn answer_bytes(&self) -> u64 {
        self.all.iter().map(|request| request.answer_bytes).sum()
    }
}

#[derive(Debug, Default)]
struct State {
    requests: Requests,
    in_flight: usize,
    /// Counts the resets, so that a request from before one does not write into a record from after it.
    generation: u64,
}

/// Where a server writes what it was asked.
#[derive(Debug, Default)]
pub(super) struct Record {
    state: Mutex<State>,
}

/// The place of one request in the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    generation: u64,
    index: usize,
}

impl Record {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the record of requests")
    }

    pub(super) fn begin(&self, request: Request) -> Place {
        let mut state = self.state();
        state.in_flight += 1;
        state.requests.in_flight_max = state.requests.in_flight_max.max(state.in_flight);
        state.requests.all.push(request);
        Place { generation: state.generation, index: state.requests.all.len() - 1 }
    }

    pub(super) fn answered(&self, place: Place, status: u16) {
        self.change(place, |request| request.status = Some(status));
    }

    pub(super) fn sent(&self, place: Place, bytes: u64) {
        self.change(place, |request| request.answer_bytes += bytes);
    }

    pub(super) fn end(&self) {
        self.state().in_flight -= 1;
    }

    pub(super) fn copy(&self) -> Requests {
        self.state().requests.clone()
    }

    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.requests = Requests { in_flight_max: state.in_flight, ..Requests::default() };
        state.generation += 1;
    }

    /// The keys of the last `count` objects created, newest first.
    pub(super) fn created_last(&self, count: usize) -> Vec<String> {
        let state = self.state();
        let creations = state.requests.all.iter().rev().filter(|request| request.is_creation());
        creations.take(count).map(|request| request.key.clone()).collect()
    }

    fn change(&self, place: Place, change: impl FnOnce(&mut Request)) {
        let mut state = self.state();
        if state.generation == place.generation {
            change(&mut state.requests.all[place.index]);
        }
    }
}

//! One HTTP request: counted, within the bandwidth, and given up when it is stuck.
//!
//! A request is stuck when nothing of it moves for much longer than its peers took (a mean and deviation as TCP keeps for
//! its round trips): it is ended, and whoever made it makes it again on another connection. While it runs, what the
//! answer said beside its body is noted for whoever decides about the next try; see [`Note`].

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::flow::Flow;
use super::retry::Patience;

/// Bytes of one piece of a body on its way out: small enough that progress shows on a slow link.
const PIECE_BYTES: usize = 256 << 10;
/// Requests without a body of at least so many bytes tell the delay of the way.
const SMALL_BYTES: u64 = 4 << 10;

/// What one try came to, beside its body.
#[derive(Debug, Default)]
pub(super) struct Note {
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    /// Seconds by which the store's clock is ahead of this machine's.
    pub clock_ahead_seconds: Option<i64>,
    /// The region in which the store says that the bucket is.
    pub region: Option<String>,
    /// What the connection failed of.
    pub broken: Option<String>,
}

tokio::task_local! {
    /// The note of the try that this task makes.
    pub(super) static NOTE: RefCell<Note>;
}

fn note(change: impl FnOnce(&mut Note)) {
    // Credentials are fetched outside of any try.
    let _ = NOTE.try_with(|note| change(&mut note.borrow_mut()));
}

/// Requests and bytes of a store so far.
#[derive(Debug, Default)]
pub struct RemoteCounters {
    /// HTTP requests that were begun.
    pub requests: AtomicU64,
    /// Requests that were begun because one before had failed.
    pub retries: AtomicU64,
    /// Requests that were given up because nothing of them moved.
    pub stuck: AtomicU64,
    /// Bytes of bodies that were handed to the network.
    pub sent_bytes: AtomicU64,
    /// Bytes of bodies that came from the network.
    pub received_bytes: AtomicU64,
}

/// What all requests to one store share.
#[derive(Debug)]
pub(super) struct Wire {
    pub counters: RemoteCounters,
    pub flow: Flow,
    pub patience: Patience,
    reads: Mutex<Usual>,
    writes: Mutex<Usual>,
}

impl Wire {
    pub(super) fn new(patience: Patience) -> Self {
        let usual = |floor| Mutex::new(Usual { floor: Duration::from_secs(floor), ..Usual::default() });
        Self {
            counters: RemoteCounters::default(),
            flow: Flow::default(),
            patience,
            reads: usual(3),
            writes: usual(10),
        }
    }

    fn usual(&self, is_read: bool) -> &Mutex<Usual> {
        if is_read { &self.reads } else { &self.writes }
    }
}

/// How long answers usually take.
#[derive(Debug, Default)]
struct Usual {
    /// Nothing is stuck before.
    floor: Duration,
    answers: u32,
    mean_seconds: f64,
    deviation_seconds: f64,
}

impl Usual {
    /// Until there are so many answers nothing is known.
    const ANSWERS_MIN: u32 = 8;
    const UNKNOWN: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(300);

    fn learn(&mut self, taken: Duration) {
        let taken = taken.as_secs_f64();
        if self.answers == 0 {
            (self.mean_seconds, self.deviation_seconds) = (taken, taken / 2.0);
        } else {
            // The gains of RFC 6298.
            self.deviation_seconds += ((taken - self.mean_seconds).abs() - self.deviation_seconds) / 4.0;
            self.mean_seconds += (taken - self.mean_seconds) / 8.0;
        }
        self.answers += 1;
    }

    /// Who waits longer is stuck.
    fn deadline(&self) -> Duration {
        if self.answers < Self::ANSWERS_MIN {
            return Self::UNKNOWN;
        }
        let seconds = self.mean_seconds + 8.0 * self.deviation_seconds;
        Duration::from_secs_f64(seconds).clamp(self.floor, Self::LONGEST)
    }
}

/// Makes requests by one HTTP client.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
    wire: Arc<Wire>,
}

impl Transport {
    pub(super) fn new(client: reqwest::Client, wire: Arc<Wire>) -> Self {
        Self { client, wire }
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(until) = self.wire.patience.pause() {
            sleep_until(until).await;
        }
        let is_read = request.method() == http::Method::GET || request.method() == http::Method::HEAD;
        let is_small = request.body().content_length() as u64 <= SMALL_BYTES;
        let moved = Arc::new(Mutex::new(Instant::now()));
        let request = self.prepare(request, &moved)?;
        let begun = Instant::now();
        self.wire.counters.requests.fetch_add(1, Ordering::Relaxed);
        let answered = tokio::select! {
            answered = self.client.execute(request) => answered.map_err(|error| broken(&error)),
            () = stuck(&self.wire, is_read, &moved) => {
                self.wire.counters.stuck.fetch_add(1, Ordering::Relaxed);
                Err(timed_out("no answer, for much longer than others took"))
            }
        };
        let response = answered.inspect_err(|error| note(|note| note.broken = Some(error_chain(error))))?;
        let waited = moved.lock().elapsed();
        if response.status().is_success() {
            self.wire.usual(is_read).lock().learn(waited);
            if is_small {
                self.wire.flow.answered_after(begun.elapsed());
            }
        }
        note_answer(&response);
        let response: http::Response<reqwest::Body> = response.into();
        let (parts, body) = response.into_parts();
        let body = Watched { body, wire: Arc::clone(&self.wire), alarm: None };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Transport {
    fn prepare(&self, request: HttpRequest, moved: &Arc<Mutex<Instant>>) -> Result<reqwest::Request, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut prepared = reqwest::Request::new(parts.method, url);
        *prepared.headers_mut() = parts.headers;
        // `is_empty` of that body says the contrary of what it should for several pieces.
        if body.content_length() > 0 {
            let pieces = Pieces { body, rest: Bytes::new(), wire: Arc::clone(&self.wire), moved: Arc::clone(moved) };
            *prepared.body_mut() = Some(reqwest::Body::wrap(pieces));
        }
        Ok(prepared)
    }
}

/// Resolves when nothing has moved for too long.
async fn stuck(wire: &Wire, is_read: bool, moved: &Mutex<Instant>) {
    loop {
        let deadline = wire.usual(is_read).lock().deadline();
        let at = *moved.lock() + deadline;
        if at <= Instant::now() {
            return;
        }
        sleep_until(at).await;
    }
}

fn timed_out(what: &str) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, std::io::Error::new(std::io::ErrorKind::TimedOut, what.to_owned()))
}

fn broken(error: &reqwest::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, std::io::Error::other(innermost(error)))
}

/// The last cause says what happened, the ones before only where.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn error_chain(error: &HttpError) -> String {
    innermost(error)
}

fn note_answer(response: &reqwest::Response) {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date = header("date").and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    note(|note| {
        note.status = Some(response.status().as_u16());
        note.retry_after = header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        note.region = header("x-amz-bucket-region").map(str::to_owned);
        note.clock_ahead_seconds = date.map(|date| date.timestamp().as_second() - jiff::Timestamp::now().as_second());
    });
}

/// A body on its way out, in pieces.
struct Pieces {
    body: HttpRequestBody,
    rest: Bytes,
    wire: Arc<Wire>,
    moved: Arc<Mutex<Instant>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                ended => return Poll::Ready(ended),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        *this.moved.lock() = Instant::now();
        this.wire.counters.sent_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        this.wire.flow.sent(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().map(|bytes| bytes + self.rest.len() as u64);
        rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body on its way in. The alarm runs only while somebody waits for bytes.
struct Watched {
    body: reqwest::Body,
    wire: Arc<Wire>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(frame) => {
                this.alarm = None;
                let frame = frame.map(|frame| frame.map_err(|error| broken(&error)));
                if let Some(Ok(frame)) = &frame {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    this.wire.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let wire = &this.wire;
                let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep(wire.reads.lock().deadline())));
                ready!(alarm.as_mut().poll(context));
                this.wire.counters.stuck.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Some(Err(timed_out("the answer stopped in the middle"))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_is_learned_from_peers() {
        let mut usual = Usual { floor: Duration::from_secs(1), ..Usual::default() };
        for _ in 0..Usual::ANSWERS_MIN {
            assert_eq!(usual.deadline(), Usual::UNKNOWN);
            usual.learn(Duration::from_millis(500));
        }
        let few = usual.deadline();
        for _ in 0..100 {
            usual.learn(Duration::from_millis(500));
        }
        assert!(usual.deadline() < few && usual.deadline() == Duration::from_secs(1), "{:?}", usual.deadline());
        for taken in [2.0, 9.0, 1.0, 8.0, 3.0, 9.0] {
            usual.learn(Duration::from_secs_f64(taken));
        }
        assert!(usual.deadline() > Duration::from_secs(9), "{:?}", usual.deadline());
    }
}

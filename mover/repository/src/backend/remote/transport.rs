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

use super::error::innermost;
use super::flow::Flow;
use super::lock::{Held, Wanted};
use super::retry::Patience;
use crate::bandwidth::{BandwidthLimits, TokenBucket};

/// Bytes of one piece of a body on its way out: small enough that progress shows on a slow link.
const PIECE_BYTES: usize = 256 << 10;
/// Requests without a body of at least so many bytes tell the delay of the way.
const SMALL_BYTES: u64 = 4 << 10;

/// A metadata service is on this machine's own link: where it does not answer at once there is none.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether it is the metadata service of a virtual machine or a container, which hands out credentials.
fn is_metadata_service(address: &http::Uri) -> bool {
    let hosts = ["169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "metadata.google.internal"];
    let paths = ["/latest/api/token", "/latest/meta-data/"];
    address.host().is_some_and(|host| hosts.contains(&host))
        || paths.iter().any(|beginning| address.path().starts_with(beginning))
}

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
    /// It was the machine's metadata service that was asked last, for credentials.
    pub is_metadata: bool,
    /// The lock of the object, if it has one.
    pub held: Option<Held>,
    /// The request asked for a lock.
    pub is_locking: bool,
    /// The lock that the next request shall ask for.
    pub wanted: Option<Wanted>,
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
pub(super) struct Wire {
    pub counters: RemoteCounters,
    pub flow: Flow,
    pub patience: Patience,
    limits: Arc<BandwidthLimits>,
    /// How often the store said that credentials hold no longer.
    pub expired: AtomicU64,
    reads: Mutex<Usual>,
    writes: Mutex<Usual>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(patience: Patience, limits: Arc<BandwidthLimits>) -> Self {
        let usual = |floor| Mutex::new(Usual { floor: Duration::from_secs(floor), ..Usual::default() });
        Self {
            counters: RemoteCounters::default(),
            flow: Flow::default(),
            patience,
            limits,
            expired: AtomicU64::new(0),
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

    pub(super) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Transport {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(until) = self.wire.patience.pause() {
            sleep_until(until).await;
        }
        let is_locking = ask_for_lock(&mut request)?;
        let is_read = request.method() == http::Method::GET || request.method() == http::Method::HEAD;
        let is_metadata = is_metadata_service(request.uri());
        // What a request before this one came to, for credentials, says nothing of it.
        note(|note| *note = Note { is_metadata, is_locking, wanted: note.wanted.take(), ..Note::default() });
        let is_small = request.body().content_length() as u64 <= SMALL_BYTES;
        let moved = Arc::new(Mutex::new(Movement { last: Instant::now(), waits_for_bandwidth: false }));
        let request = self.prepare(request, &moved)?;
        let begun = Instant::now();
        self.wire.counters.requests.fetch_add(1, Ordering::Relaxed);
        let answered = tokio::select! {
            answered = self.client.execute(request) => answered.map_err(|error| broken(&error)),
            () = stuck(&self.wire, is_read, &moved) => {
                self.wire.counters.stuck.fetch_add(1, Ordering::Relaxed);
                Err(timed_out("no answer, for much longer than others took"))
            }
            () = sleep(METADATA_TIMEOUT), if is_metadata => Err(timed_out("no answer")),
        };
        let response = answered.inspect_err(|error| note(|note| note.broken = Some(innermost(error))))?;
        let waited = moved.lock().last.elapsed();
        if response.status().is_success() && !is_metadata {
            self.wire.usual(is_read).lock().learn(waited);
            if is_small {
                self.wire.flow.answered_after(begun.elapsed());
            }
        }
        note_answer(&response);
        let response: http::Response<reqwest::Body> = response.into();
        let (parts, body) = response.into_parts();
        let wire = Arc::clone(&self.wire);
        let body = Watched::new(body, wire);
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Transport {
    fn prepare(&self, request: HttpRequest, moved: &Arc<Mutex<Movement>>) -> Result<reqwest::Request, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut prepared = reqwest::Request::new(parts.method, url);
        *prepared.headers_mut() = parts.headers;
        // `is_empty` of that body says the contrary of what it should for several pieces.
        if body.content_length() > 0 {
            let (wire, moved) = (Arc::clone(&self.wire), Arc::clone(moved));
            let pieces = Pieces { body, rest: Bytes::new(), turn: Turn::default(), wire, moved };
            *prepared.body_mut() = Some(reqwest::Body::wrap(pieces));
        }
        Ok(prepared)
    }
}

/// When something of a request moved last.
struct Movement {
    last: Instant,
    /// To wait for one's turn is not to be stuck.
    waits_for_bandwidth: bool,
}

/// Puts the lock that this try wants into its request; others, such as those for credentials, stay as they are.
/// True if it did.
fn ask_for_lock(request: &mut HttpRequest) -> Result<bool, HttpError> {
    let wanted = NOTE.try_with(|note| note.borrow_mut().wanted.take_if(|_| Wanted::fits(request)));
    let Ok(Some(wanted)) = wanted else { return Ok(false) };
    wanted.put_into(request).map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
    Ok(true)
}

/// Resolves when nothing has moved for too long.
async fn stuck(wire: &Wire, is_read: bool, moved: &Mutex<Movement>) {
    loop {
        let deadline = wire.usual(is_read).lock().deadline();
        let (at, now) = {
            let moved = moved.lock();
            let last = if moved.waits_for_bandwidth { Instant::now() } else { moved.last };
            (last + deadline, Instant::now())
        };
        if at <= now {
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

fn note_answer(response: &reqwest::Response) {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date = header("date").and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    note(|note| {
        note.status = Some(response.status().as_u16());
        note.retry_after = header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        note.held = Held::read(response.headers());
        note.region = header("x-amz-bucket-region").map(str::to_owned);
        note.clock_ahead_seconds = date.map(|date| date.timestamp().as_second() - jiff::Timestamp::now().as_second());
    });
}

/// A piece of a body that waits until the bandwidth has room for it.
#[derive(Default)]
struct Turn {
    /// Its bytes, and the wait. Behind a lock that nobody contends for: bodies have to be shareable between threads.
    waiting: Mutex<Option<(usize, Wait)>>,
}

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Turn {
    /// Resolves to how many of `bytes` may pass now.
    fn poll(&mut self, context: &mut Context<'_>, wire: &Arc<Wire>, way: Way, bytes: usize) -> Poll<usize> {
        let waiting = self.waiting.get_mut();
        let (granted, wait) = waiting.get_or_insert_with(|| {
            let (limits, bytes) = (Arc::clone(&wire.limits), bytes.min(way.bucket(&wire.limits).slice_bytes()));
            (bytes, Box::pin(async move { way.bucket(&limits).take(bytes).await }))
        });
        ready!(wait.as_mut().poll(context));
        let granted = *granted;
        *waiting = None;
        Poll::Ready(granted)
    }
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl Way {
    fn bucket(self, limits: &BandwidthLimits) -> &TokenBucket {
        match self {
            Way::Up => &limits.upload,
            Way::Down => &limits.download,
        }
    }
}

/// A body on its way out, in pieces.
struct Pieces {
    body: HttpRequestBody,
    rest: Bytes,
    turn: Turn,
    wire: Arc<Wire>,
    moved: Arc<Mutex<Movement>>,
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
        let granted = this.turn.poll(context, &this.wire, Way::Up, this.rest.len().min(PIECE_BYTES));
        *this.moved.lock() = Movement { last: Instant::now(), waits_for_bandwidth: granted.is_pending() };
        let bytes = ready!(granted);
        let piece = this.rest.split_to(bytes);
        this.wire.counters.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        this.wire.flow.sent(bytes as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().map(|bytes| bytes + self.rest.len() as u64);
        rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body on its way in. The alarm runs only while somebody waits for bytes that the bandwidth has room for.
struct Watched {
    body: reqwest::Body,
    /// Bytes that came and wait for their turn.
    rest: Bytes,
    turn: Turn,
    wire: Arc<Wire>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// When its first byte could come, and how many have.
    begun: Instant,
    received_bytes: u64,
    /// Bytes gather in the connection until then.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(body: reqwest::Body, wire: Arc<Wire>) -> Self {
        let (rest, turn, begun) = (Bytes::new(), Turn::default(), Instant::now());
        Self { body, rest, turn, wire, alarm: None, begun, received_bytes: 0, pause: None }
    }

    /// The next bytes from the connection; nothing at its end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, HttpError>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.alarm = None;
                let bytes = |frame: Frame<Bytes>| frame.into_data().unwrap_or_default();
                let frame = frame.map(|frame| frame.map(bytes).map_err(|error| broken(&error)));
                self.received_bytes +=
                    frame.as_ref().and_then(|bytes| bytes.as_ref().ok()).map_or(0, Bytes::len) as u64;
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let expected = self.body.size_hint().exact().unwrap_or_default();
                if let Some(pause) = gathering_pause(self.received_bytes, self.begun.elapsed(), expected) {
                    let pause = self.pause.insert(Box::pin(sleep(pause)));
                    // To be woken at its end.
                    let _ = pause.as_mut().poll(context);
                }
                let wire = &self.wire;
                let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(wire.reads.lock().deadline())));
                ready!(alarm.as_mut().poll(context));
                self.wire.counters.stuck.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Some(Err(timed_out("the answer stopped in the middle"))))
            }
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.poll_bytes(context)) {
                Some(Ok(bytes)) => this.rest = bytes,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = ready!(this.turn.poll(context, &this.wire, Way::Down, this.rest.len()));
        this.wire.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(bytes)))))
    }
}

/// Bytes that should gather in a connection before they are looked at.
const GATHERED_BYTES: u64 = 128 << 10;
/// The longest and the shortest time that is worth it.
const GATHERING_PAUSE_MAX: Duration = Duration::from_millis(100);
const GATHERING_PAUSE_MIN: Duration = Duration::from_millis(3);

/// How long not to look at a body of which everything that has come was taken. A slow link hands out bytes in small
/// pieces, and to wake up for each costs more than all that is done with it afterwards.
fn gathering_pause(received_bytes: u64, taken: Duration, expected_bytes: u64) -> Option<Duration> {
    if received_bytes < GATHERED_BYTES || expected_bytes < 2 * GATHERED_BYTES {
        return None;
    }
    let pause = taken.mul_f64(GATHERED_BYTES as f64 / received_bytes as f64).min(GATHERING_PAUSE_MAX);
    (pause >= GATHERING_PAUSE_MIN).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_slow_link_gather_and_those_of_a_fast_one_do_not_wait() {
        let pause = |megabytes_per_second: u64, expected| {
            gathering_pause(megabytes_per_second * 1_000_000, Duration::from_secs(1), expected)
        };
        assert_eq!(pause(1, 8 << 20), Some(GATHERING_PAUSE_MAX));
        let some = pause(10, 8 << 20).expect("a pause");
        assert!((13..=14).contains(&some.as_millis()), "{some:?}");
        assert_eq!(pause(100, 8 << 20), None);
        // The begin and the end of a body do not wait.
        assert_eq!(pause(1, 200 << 10), None);
        assert_eq!(gathering_pause(100 << 10, Duration::from_secs(1), 8 << 20), None);
    }

    #[test]
    fn the_deadline_is_learned_from_peers() {
        let mut usual = Usual { floor: Duration::from_millis(510), ..Usual::default() };
        for _ in 0..Usual::ANSWERS_MIN {
            assert_eq!(usual.deadline(), Usual::UNKNOWN);
            usual.learn(Duration::from_millis(500));
        }
        let few = usual.deadline();
        for _ in 0..100 {
            usual.learn(Duration::from_millis(500));
        }
        assert!(usual.deadline() < few && usual.deadline() == usual.floor, "{:?}", usual.deadline());
        for taken in [2.0, 9.0, 1.0, 8.0, 3.0, 9.0] {
            usual.learn(Duration::from_secs_f64(taken));
        }
        assert!(usual.deadline() > Duration::from_secs(9), "{:?}", usual.deadline());
    }
}

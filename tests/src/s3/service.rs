//! What stands between the connection and the store: records each request and lets it meet its fault.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::http::{self, Response};
use s3s::StdError;
use s3s::service::S3Service;
use tokio::time::{Sleep, sleep};

use super::faults::{Answer, Fault, Faults};
use super::google;
use super::record::{Place, Record, Request};
use super::store::{Hidden, Instead, Unconditional};

/// Time that bytes before a cut get to leave this process; the cut itself would discard them.
const FLUSH: Duration = Duration::from_millis(50);

/// One server's way of answering.
#[derive(Clone)]
pub(super) struct Service {
    pub store: S3Service,
    pub faults: Arc<Faults>,
    pub record: Arc<Record>,
    pub dialect: Dialect,
}

/// What the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// S3, with signed requests.
    S3,
    /// Google's XML interface, with a bearer token.
    Google,
}

impl Service {
    /// Answers a request; an error ends the connection without an answer.
    pub(super) async fn answer(&self, request: http::Request<Incoming>) -> Result<Response<AnswerBody>, io::Error> {
        let (mut parts, body) = request.into_parts();
        let refusal = match self.dialect {
            Dialect::S3 => None,
            Dialect::Google => google::to_s3(&mut parts).err(),
        };
        let described = Request::of(&parts);
        let fault = self.faults.decide(&described);
        let visit = Visit { place: self.record.begin(described), record: Arc::clone(&self.record) };
        if let Some(refusal) = refusal {
            let _ = body.collect().await;
            return Ok(visit.answered(built(&refusal), None));
        }
        let mut damage = None;
        match &fault {
            None | Some(Fault::LoseAnswer) => {}
            Some(Fault::Answer(answer)) => {
                // A server that answers early and closes makes some clients see a reset in place of the answer.
                let _ = body.collect().await;
                return Ok(visit.answered(built(answer), None));
            }
            Some(Fault::Delay(time)) => sleep(*time).await,
            Some(Fault::StallBefore) => pending::<()>().await,
            Some(Fault::StallAfter { bytes }) => damage = Some(Damage::Stall(*bytes)),
            Some(Fault::CutAfter { bytes }) => damage = Some(Damage::Cut(*bytes)),
            Some(Fault::ShortenTo { bytes }) => damage = Some(Damage::Shorten(*bytes)),
            Some(Fault::OtherObject { key }) => {
                parts.extensions.insert(Instead(key.clone()));
            }
            Some(Fault::IgnoreConditions) => {
                parts.extensions.insert(Unconditional);
            }
            Some(Fault::ListLate { creations }) => {
                let keys = self.record.created_last(*creations).into_iter().collect();
                parts.extensions.insert(Hidden(keys));
            }
        }
        let asked = http::Request::from_parts(parts, s3s::Body::from(body));
        let mut answer = self.store.call(asked).await.map_err(|error| io::Error::other(StdError::from(error)))?;
        if self.dialect == Dialect::Google {
            google::from_s3(answer.headers_mut());
        }
        if matches!(fault, Some(Fault::LoseAnswer)) {
            return Err(io::Error::other("the answer is lost, as the fault says"));
        }
        Ok(visit.answered(answer, damage))
    }
}

fn built(answer: &Answer) -> Response<s3s::Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(s3s::Body::from(answer.body.clone())).expect("a valid answer in the fault")
}

/// A request that is under way; dropped, it is not any more.
struct Visit {
    record: Arc<Record>,
    place: Place,
}

impl Visit {
    fn answered(self, answer: Response<s3s::Body>, damage: Option<Damage>) -> Response<AnswerBody> {
        self.record.answered(self.place, answer.status().as_u16());
        let (mut parts, body) = answer.into_parts();
        if let Some(damage) = damage {
            let announced = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            if let Some(length) = announced.or(body.size_hint().exact()) {
                let length = if let Damage::Shorten(bytes) = damage { bytes.min(length) } else { length };
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        Response::from_parts(parts, AnswerBody { body, damage, sent_bytes: 0, flush: None, visit: self })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.record.end();
    }
}

/// What happens to a body after so many bytes.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Stall(u64),
    Cut(u64),
    Shorten(u64),
}

impl Damage {
    fn bytes(self) -> u64 {
        match self {
            Damage::Stall(bytes) | Damage::Cut(bytes) | Damage::Shorten(bytes) => bytes,
        }
    }
}

/// The body of an answer, counted and perhaps damaged.
pub(super) struct AnswerBody {
    body: s3s::Body,
    damage: Option<Damage>,
    sent_bytes: u64,
    flush: Option<Pin<Box<Sleep>>>,
    visit: Visit,
}

impl AnswerBody {
    fn poll_damage(&mut self, damage: Damage, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match damage {
            Damage::Shorten(_) => Poll::Ready(None),
            Damage::Stall(_) => Poll::Pending,
            Damage::Cut(_) => {
                let flush = self.flush.get_or_insert_with(|| Box::pin(sleep(FLUSH)));
                flush.as_mut().poll(context).map(|()| Some(Err(io::Error::other("the body is cut, as the fault says"))))
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let left = this.damage.map_or(u64::MAX, |damage| damage.bytes() - this.sent_bytes);
        if left == 0
            && let Some(damage) = this.damage
        {
            return this.poll_damage(damage, context);
        }
        let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(context) else { return Poll::Pending };
        let Some(frame) = next.transpose().map_err(io::Error::other)? else { return Poll::Ready(None) };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(None) };
        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        this.sent_bytes += data.len() as u64;
        this.visit.record.sent(this.visit.place, data.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.damage.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.damage.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

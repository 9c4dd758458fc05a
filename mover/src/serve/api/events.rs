//! Server-sent events: what happens to jobs, as it happens, and every few seconds how far each is.
//!
//! An event has the id of its row, so a client that was cut off goes on after the last one that it saw
//! (`Last-Event-ID`). Rows of two servers may appear a moment late: each look reads a little of what was seen again.
//! Progress has no id and is not repeated. A stream costs one look at a primary key a second; there are at most
//! [`STREAMS_MAX`](crate::serve::app::STREAMS_MAX) at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use mover_control::access::tokens;
use mover_control::ids::{RecordId, UnixMillis};
use mover_control::job::events::{self, Event, OVERLAP};
use tokio::sync::mpsc;

use super::{Answer, overview};
use crate::serve::app::App;
use crate::serve::call::{Call, Reply};
use crate::serve::problem::Problem;

/// How often it is looked for events.
const LOOK: Duration = Duration::from_secs(1);
/// How often progress is told, in looks.
const PROGRESS: u64 = 2;
/// How often it is looked whether the token of the reader counts still, in looks.
const CHECK: u64 = 10;
/// Events in one look.
const BATCH: u32 = 500;
/// Ids that are remembered as told.
const REMEMBERED: usize = 4096;
/// Parts that wait for a slow reader; one that is slower is cut off and comes again.
const BUFFERED: usize = 64;
/// How long a slow reader is waited for.
const SLOW: Duration = Duration::from_secs(20);

/// Begins a stream.
pub async fn stream(call: Call) -> Answer {
    let Ok(place) = Arc::clone(&call.app.streams).try_acquire_owned() else {
        let detail = "too many streams of events; ask again later, or ask for pages";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail).retry_after(10));
    };
    let from = call.last_event.clone().filter(|id| id.len() <= 64).map(RecordId::from);
    let (sender, receiver) = mpsc::channel(BUFFERED);
    let (app, now, token) = (Arc::clone(&call.app), call.now(), call.token().id.clone());
    actix_web::rt::spawn(async move {
        let _place = place;
        follow(&app, &token, from, now, sender).await;
    });
    let parts = futures_util::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<String>| {
        let part = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(part)), receiver))
    });
    let response = HttpResponse::Ok()
        .insert_header(("content-type", "text/event-stream"))
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(Box::pin(parts));
    Ok(Reply::made(response))
}

/// What was told already, newest last.
struct Told {
    ids: VecDeque<RecordId>,
    /// Everything up to here was told, and is not read again.
    from: RecordId,
}

impl Told {
    fn new(from: Option<RecordId>, now: UnixMillis) -> Told {
        // Without a last event, the stream begins now.
        Told { ids: VecDeque::new(), from: from.unwrap_or_else(|| RecordId::new(now)) }
    }

    /// The event as text, if it is new.
    fn tell(&mut self, event: &Event) -> Option<String> {
        if self.ids.contains(&event.id) {
            return None;
        }
        self.ids.push_back(event.id.clone());
        if self.ids.len() > REMEMBERED {
            self.ids.pop_front();
        }
        let data = serde_json::to_string(event).expect("plain data has a JSON form");
        Some(format!("id: {}\nevent: job\ndata: {data}\n\n", event.id))
    }

    /// Moves the begin of the next look, but for what may still appear before it.
    fn forget(&mut self, now: UnixMillis, is_full: bool) {
        let settled = RecordId::derived(now.minus(OVERLAP), b"");
        let newest = self.ids.back().cloned();
        if is_full && let Some(newest) = newest {
            self.from = newest;
        } else if let Some(last) = self.ids.iter().filter(|id| **id < settled).max() {
            self.from = last.clone().max(self.from.clone());
        }
    }
}

async fn follow(app: &App, token: &RecordId, from: Option<RecordId>, now: UnixMillis, sender: mpsc::Sender<String>) {
    let mut stopping = app.stopping.clone();
    let mut told = Told::new(from, now);
    if send(&sender, "retry: 2000\n\n".to_owned()).await.is_err() {
        return;
    }
    for look in 0u64.. {
        let mut text = String::new();
        let now = app.clock.now();
        // Who was let in must count still; a database that is away does not say that they do not.
        if look.is_multiple_of(CHECK) && matches!(tokens::counts(&app.database, token, now).await, Ok(false)) {
            return;
        }
        // A database that is away has no news; the stream goes on after it.
        if let Ok(found) = events::after(&app.database, Some(&told.from), BATCH).await {
            let is_full = found.len() == BATCH as usize;
            text.extend(found.iter().filter_map(|event| told.tell(event)));
            told.forget(now, is_full);
            if is_full {
                if send(&sender, text).await.is_err() {
                    return;
                }
                continue;
            }
        }
        if look.is_multiple_of(PROGRESS)
            && let Ok(running) = overview::running(&app.database).await
        {
            let data = serde_json::to_string(&running).expect("plain data has a JSON form");
            text.push_str(&format!("event: progress\ndata: {data}\n\n"));
        }
        if !text.is_empty() && send(&sender, text).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = sender.closed() => return,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

async fn send(sender: &mpsc::Sender<String>, text: String) -> Result<(), ()> {
    match tokio::time::timeout(SLOW, sender.send(text)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}

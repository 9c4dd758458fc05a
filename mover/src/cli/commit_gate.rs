//! The question before a recovery point is published, for whoever runs this process on behalf of somebody else.
//!
//! One line of JSON goes out on standard output, one line comes in on standard input: `yes`, or why not. An end of input
//! is a no, so a run whose owner has died publishes nothing. A thread named `gate` waits; no shard ever does.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use mover_actors::backup::{CommitGate, GateAnswer};
use serde_json::json;

use super::output::Output;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

type Answer = Result<(), String>;

/// What the waiting thread leaves, and who is to be woken then.
#[derive(Default)]
struct Slot {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// A gate that asks by standard output and input.
pub fn gate(output: &Arc<Output>) -> CommitGate {
    let output = Arc::clone(output);
    CommitGate(Arc::new(move || ask(Arc::clone(&output))))
}

fn ask(output: Arc<Output>) -> GateAnswer {
    let slot = Arc::new(Mutex::new(Slot::default()));
    let shared = Arc::clone(&slot);
    let put = move |answer: Answer| {
        let mut slot = shared.lock().unwrap_or_else(PoisonError::into_inner);
        slot.answer = Some(answer);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    };
    let refuse = put.clone();
    let thread = std::thread::Builder::new().name("gate".to_owned()).spawn(move || put(exchange(&output)));
    if let Err(error) = thread {
        refuse(Err(format!("nobody could be asked: {error}")));
    }
    Box::pin(poll_fn(move |context| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }))
}

fn exchange(output: &Output) -> Answer {
    output.object("commit", json!({})).map_err(|error| format!("nobody could be asked: {error}"))?;
    let mut line = String::new();
    let input = std::io::stdin().lock();
    std::io::BufRead::read_line(&mut std::io::Read::take(input, ANSWER_BYTES_MAX), &mut line)
        .map_err(|error| format!("there was no answer: {error}"))?;
    match line.trim() {
        "yes" => Ok(()),
        "" => Err("whoever ordered this run is gone".to_owned()),
        reason => Err(reason.to_owned()),
    }
}

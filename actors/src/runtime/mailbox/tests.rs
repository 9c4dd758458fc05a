//! The mailbox against a plain model, and the traps of waiting futures one by one.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use futures_lite::future::{block_on, poll_once};
use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq, Eq)]
struct Parcel {
    number: u32,
    bytes: usize,
}

impl Weigh for Parcel {
    fn weight_bytes(&self) -> usize {
        self.bytes
    }
}

fn parcel(number: u32, bytes: usize) -> Parcel {
    Parcel { number, bytes }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);
impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll_with<F: Future + Unpin>(future: &mut F, bell: &Arc<Bell>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(bell.clone())))
}

#[test]
fn it_is_bounded_in_messages_and_in_bytes() {
    let (address, mut inbox) = mailbox("parcels", 3, 100);
    assert!(address.try_send(parcel(1, 60)).is_ok());
    assert_eq!(address.try_send(parcel(2, 41)).unwrap_err().number, 2);
    assert!(address.try_send(parcel(3, 40)).is_ok());
    assert!(address.try_send(parcel(4, 0)).is_ok());
    assert!(address.try_send(parcel(5, 0)).is_err(), "a fourth message");
    assert_eq!(address.depth(), Depth { messages: 3, bytes: 100, waiting: 0 });
    assert_eq!(inbox.try_receive().unwrap().number, 1);
    assert_eq!(inbox.depth().bytes, 40);
}

#[test]
fn a_message_larger_than_the_mailbox_is_admitted_alone() {
    let (address, mut inbox) = mailbox("parcels", 8, 100);
    assert!(address.try_send(parcel(1, 1_000_000)).is_ok());
    assert!(address.try_send(parcel(2, 1)).is_err());
    assert_eq!(inbox.try_receive().unwrap().number, 1);
    assert!(address.try_send(parcel(2, 1)).is_ok());
    assert!(address.try_send(parcel(3, 1_000_000)).is_err(), "only when it is empty");
}

#[test]
fn waiting_senders_are_served_in_the_order_they_came() {
    let (address, mut inbox) = mailbox("parcels", 2, 100);
    let others: Vec<_> = (0..6).map(|_| address.clone()).collect();
    let mut sends: Vec<_> = others
        .iter()
        .enumerate()
        .map(|(n, address)| address.send(parcel(n as u32, if n == 2 { 100 } else { 10 })))
        .collect();
    let bell = Arc::new(Bell::default());
    let ready = sends.iter_mut().filter_map(|send| poll_with(send, &bell).is_ready().then_some(())).count();
    assert_eq!(ready, 2);
    assert!(address.try_send(parcel(99, 0)).is_err(), "nobody overtakes those who wait");
    let order: Vec<u32> = std::iter::from_fn(|| inbox.try_receive()).map(|parcel| parcel.number).collect();
    assert_eq!(order, (0..6).collect::<Vec<_>>());
    assert!(sends[2..].iter_mut().all(|send| poll_with(send, &bell).is_ready()));
    assert_eq!(bell.rings(), 4, "one wake-up for each that waited");
}

#[test]
fn a_dropped_send_takes_its_message_out_and_lets_the_next_in() {
    let (address, mut inbox) = mailbox("parcels", 8, 100);
    assert!(address.try_send(parcel(0, 50)).is_ok());
    let (bell_large, bell_small) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut large = address.send(parcel(1, 90));
    let mut small = address.send(parcel(2, 10));
    assert!(poll_with(&mut large, &bell_large).is_pending());
    assert!(poll_with(&mut small, &bell_small).is_pending());
    drop(large);
    assert_eq!((bell_large.rings(), bell_small.rings()), (0, 1));
    assert!(poll_with(&mut small, &bell_small).is_ready());
    let numbers: Vec<u32> = std::iter::from_fn(|| inbox.try_receive()).map(|parcel| parcel.number).collect();
    assert_eq!(numbers, vec![0, 2]);
}

#[test]
fn a_dropped_receive_swallows_no_wake_up() {
    let (address, mut inbox) = mailbox("parcels", 8, 100);
    let (stale, fresh) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut receive = inbox.receive();
    assert!(poll_with(&mut receive, &stale).is_pending());
    drop(receive);
    let mut receive = inbox.receive();
    assert!(poll_with(&mut receive, &fresh).is_pending());
    assert!(address.try_send(parcel(7, 1)).is_ok());
    assert_eq!((stale.rings(), fresh.rings()), (0, 1));
    assert!(matches!(poll_with(&mut receive, &fresh), Poll::Ready(Some(Parcel { number: 7, .. }))));
    // And one that was woken and dropped unpolled leaves the message where it is.
    let mut receive = inbox.receive();
    assert!(poll_with(&mut receive, &fresh).is_pending());
    assert!(address.try_send(parcel(8, 1)).is_ok());
    drop(receive);
    assert_eq!(block_on(inbox.receive()).unwrap().number, 8);
}

#[test]
fn an_admitted_send_that_is_dropped_unpolled_keeps_its_message() {
    let (address, mut inbox) = mailbox("parcels", 1, 100);
    let bell = Arc::new(Bell::default());
    assert!(address.try_send(parcel(0, 1)).is_ok());
    let mut send = address.send(parcel(1, 1));
    assert!(poll_with(&mut send, &bell).is_pending());
    assert_eq!(inbox.try_receive().unwrap().number, 0);
    drop(send);
    assert_eq!(inbox.try_receive().unwrap().number, 1);
}

#[test]
fn the_end_of_either_side_is_seen_by_the_other() {
    let (address, mut inbox) = mailbox("parcels", 2, 100);
    let second = address.clone();
    assert!(address.try_send(parcel(1, 1)).is_ok());
    drop(address);
    assert!(block_on(poll_once(inbox.receive())).unwrap().is_some());
    assert!(block_on(poll_once(inbox.receive())).is_none(), "one address is left");
    let bell = Arc::new(Bell::default());
    assert!(poll_with(&mut inbox.receive(), &bell).is_pending());
    drop(second);
    assert_eq!(bell.rings(), 1);
    assert!(block_on(inbox.receive()).is_none());

    let (address, inbox) = mailbox("parcels", 1, 100);
    assert!(address.try_send(parcel(1, 1)).is_ok());
    let mut send = address.send(parcel(2, 1));
    assert!(poll_with(&mut send, &bell).is_pending());
    drop(inbox);
    assert_eq!(poll_with(&mut send, &bell), Poll::Ready(Err(Closed { mailbox: "parcels" })));
    assert_eq!(block_on(address.send(parcel(3, 1))), Err(Closed { mailbox: "parcels" }));
    assert!(address.try_send(parcel(3, 1)).is_err());
}

#[test]
fn waiting_for_room_is_measured() {
    let (address, mut inbox) = mailbox("parcels", 1, 100);
    assert!(address.try_send(parcel(0, 1)).is_ok());
    assert_eq!(address.blocked(), Duration::ZERO);
    let sender = std::thread::spawn({
        let address = address.clone();
        move || block_on(address.send(parcel(1, 1)))
    });
    while address.depth().waiting == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    inbox.try_receive();
    sender.join().unwrap().unwrap();
    assert!(address.blocked() >= Duration::from_millis(20), "{:?}", address.blocked());
}

#[test]
fn eight_threads_lose_nothing_and_keep_each_senders_order() {
    const EACH: u32 = 5_000;
    let (address, mut inbox) = mailbox("parcels", 4, 64);
    let senders: Vec<_> = (0..8)
        .map(|sender: u32| {
            let address = address.clone();
            std::thread::spawn(move || {
                for n in 0..EACH {
                    block_on(address.send(parcel(sender * EACH + n, (n % 40) as usize))).unwrap();
                }
            })
        })
        .collect();
    drop(address);
    let mut next = [0; 8];
    while let Some(got) = block_on(inbox.receive()) {
        let (sender, n) = ((got.number / EACH) as usize, got.number % EACH);
        assert_eq!(next[sender], n);
        next[sender] += 1;
    }
    assert_eq!(next, [EACH; 8]);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[derive(Clone, Debug)]
enum Act {
    Send(usize),
    DropSend(usize),
    Receive,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0_usize..70).prop_map(Act::Send),
        1 => (0_usize..8).prop_map(Act::DropSend),
        3 => Just(Act::Receive),
    ];
    proptest::collection::vec(act, 0..120)
}

/// The rules in the plainest words: a queue, those who wait, nothing else.
struct Model {
    queue: VecDeque<(u32, usize)>,
    waiting: VecDeque<(u32, usize)>,
}

impl Model {
    const MESSAGES: usize = 4;
    const BYTES: usize = 100;

    fn pump(&mut self) {
        while let Some(head) = self.waiting.front().copied() {
            let bytes: usize = self.queue.iter().map(|(_, bytes)| bytes).sum();
            let fits = self.queue.is_empty() || (self.queue.len() < Self::MESSAGES && bytes + head.1 <= Self::BYTES);
            if !fits {
                return;
            }
            self.waiting.pop_front();
            self.queue.push_back(head);
        }
    }
}

proptest! {
    #[test]
    fn it_behaves_as_the_model_does(acts in acts()) {
        let (address, mut inbox) = mailbox("parcels", Model::MESSAGES, Model::BYTES);
        let bell = Arc::new(Bell::default());
        let mut model = Model { queue: VecDeque::new(), waiting: VecDeque::new() };
        let mut sends: Vec<(u32, Send<'_, Parcel>)> = Vec::new();
        for (number, act) in acts.into_iter().enumerate() {
            let number = number as u32;
            match act {
                Act::Send(bytes) => {
                    let mut send = address.send(parcel(number, bytes));
                    model.waiting.push_back((number, bytes));
                    model.pump();
                    let waits = model.waiting.back().is_some_and(|last| last.0 == number);
                    prop_assert_eq!(poll_with(&mut send, &bell).is_pending(), waits);
                    if waits {
                        sends.push((number, send));
                    }
                }
                Act::DropSend(which) if which < sends.len() => {
                    let (dropped, send) = sends.remove(which);
                    drop(send);
                    model.waiting.retain(|(number, _)| *number != dropped);
                    model.pump();
                }
                Act::DropSend(_) => {}
                Act::Receive => {
                    let expected = model.queue.pop_front().map(|(number, _)| number);
                    model.pump();
                    prop_assert_eq!(inbox.try_receive().map(|parcel| parcel.number), expected);
                }
            }
            let bytes = model.queue.iter().map(|(_, bytes)| bytes).sum();
            let expected = Depth { messages: model.queue.len(), bytes, waiting: model.waiting.len() };
            prop_assert_eq!(address.depth(), expected);
        }
        for (number, send) in &mut sends {
            let waits = model.waiting.iter().any(|(waiting, _)| waiting == number);
            prop_assert_eq!(poll_with(send, &bell).is_pending(), waits);
        }
    }
}

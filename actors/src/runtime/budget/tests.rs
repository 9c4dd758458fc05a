//! The budget: turns are kept, nothing is lent twice, nothing is lost.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use futures_lite::future::{block_on, poll_once};
use proptest::prelude::*;

use super::*;
use crate::runtime::mutant::MutantSwitch;

#[derive(Default)]
struct Bell(AtomicUsize);
impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_with<F: Future + Unpin>(future: &mut F, bell: &Arc<Bell>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(bell.clone())))
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_with(future, &Arc::new(Bell::default()))
}

#[test]
fn a_permit_gives_its_bytes_back_on_any_thread() {
    let budget = Budget::new(100);
    let mut permit = block_on(budget.acquire(80));
    assert_eq!((permit.bytes(), budget.in_use()), (80, 80));
    let part = permit.split(30);
    std::thread::spawn(move || drop(part)).join().unwrap();
    assert_eq!(budget.in_use(), 50);
    permit.shrink_to(20);
    permit.shrink_to(90);
    assert_eq!((permit.bytes(), budget.in_use()), (20, 20));
    permit.merge(budget.try_acquire(10).unwrap());
    assert_eq!((permit.bytes(), budget.in_use()), (30, 30));
    drop(permit);
    assert_eq!((budget.in_use(), budget.peak_bytes()), (0, 80));
}

#[test]
fn requests_are_served_in_turn_and_the_large_one_is_not_starved() {
    let budget = Budget::new(100);
    let held = block_on(budget.acquire(60));
    let (bell_large, bell_small) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut large = budget.acquire(90);
    let mut small = budget.acquire(10);
    assert!(poll_with(&mut large, &bell_large).is_pending());
    assert!(poll_with(&mut small, &bell_small).is_pending());
    assert!(budget.try_acquire(1).is_none(), "nobody overtakes those who wait");
    drop(held);
    assert_eq!((bell_large.0.load(Ordering::SeqCst), bell_small.0.load(Ordering::SeqCst)), (1, 1));
    let (Poll::Ready(first), Poll::Ready(second)) = (poll(&mut large), poll(&mut small)) else { panic!("not granted") };
    assert_eq!((first.bytes(), second.bytes()), (90, 10));
}

#[test]
fn a_budget_that_grows_lets_the_next_one_in() {
    let budget = Budget::new(10);
    let held = budget.try_acquire(8).expect("free");
    let mut waiting = budget.acquire(5);
    assert!(poll(&mut waiting).is_pending());
    budget.grow(2);
    assert!(poll(&mut waiting).is_pending());
    budget.grow(1);
    let Poll::Ready(permit) = poll(&mut waiting) else { panic!("13 bytes have room for 8 and 5") };
    assert_eq!((budget.total_bytes(), budget.in_use()), (13, 13));
    drop((held, permit));
    assert_eq!(budget.in_use(), 0);
}

#[test]
fn a_dropped_request_lets_the_next_in_and_loses_nothing() {
    let budget = Budget::new(100);
    let held = block_on(budget.acquire(50));
    let mut large = budget.acquire(80);
    let mut small = budget.acquire(50);
    assert!(poll(&mut large).is_pending());
    assert!(poll(&mut small).is_pending());
    drop(large);
    let Poll::Ready(second) = poll(&mut small) else { panic!("the small one is kept out by nobody") };
    // Granted, then dropped before it was polled again.
    let mut granted = budget.acquire(10);
    assert!(poll(&mut granted).is_pending());
    drop(held);
    assert_eq!(budget.in_use(), 60);
    drop(granted);
    assert_eq!(budget.in_use(), 50);
    drop(second);
    assert_eq!(budget.in_use(), 0);
    assert!(!budget.is_pressed());
}

#[test]
#[should_panic(expected = "can never be granted")]
fn a_request_for_more_than_there_is_is_refused_loudly() {
    drop(Budget::new(100).acquire(101));
}

#[test]
#[should_panic(expected = "can never be granted by a budget of 60 B")]
fn what_is_reserved_can_never_be_granted_to_others() {
    let budget = Budget::new(100);
    let _reserve = budget.reserve(40).unwrap();
    drop(budget.acquire(61));
}

#[test]
fn pressure_resolves_when_somebody_waits() {
    let budget = Budget::new(100);
    let held = budget.try_acquire(100).unwrap();
    let bell = Arc::new(Bell::default());
    let mut pressure = budget.pressure();
    assert!(poll_with(&mut pressure, &bell).is_pending());
    assert!(!budget.is_pressed());
    let mut request = budget.acquire(1);
    assert!(poll(&mut request).is_pending());
    assert_eq!(bell.0.load(Ordering::SeqCst), 1);
    assert!(budget.is_pressed() && poll_with(&mut pressure, &bell).is_ready());
    drop(held);
    assert!(!budget.is_pressed());
    assert!(poll(&mut budget.pressure()).is_pending());
}

#[test]
fn a_reserve_serves_its_actor_when_the_common_budget_is_gone() {
    let budget = Budget::new(100);
    let reserve = budget.reserve(30).unwrap();
    assert_eq!((budget.in_use(), budget.common_bytes()), (30, 70));
    let hog = budget.try_acquire(70).unwrap();
    let item = block_on(reserve.acquire(30));
    let mut second = Box::pin(reserve.acquire(20));
    assert!(block_on(poll_once(&mut second)).is_none());
    drop(hog);
    let from_common = block_on(second);
    assert!(!from_common.same_budget(&item));
    drop(reserve);
    assert_eq!(budget.in_use(), 50, "the reserve lives as long as its last permit");
    drop(item);
    assert_eq!((budget.in_use(), budget.common_bytes()), (20, 100));
    drop(from_common);
    assert!(budget.reserve(101).is_none());
}

#[test]
fn mutant_permit_leak_is_seen_at_the_end() {
    let budget = Budget::new(100);
    {
        let _switch = MutantSwitch::set(Some(Mutant::PermitLeak));
        drop(budget.try_acquire(10));
    }
    assert_eq!(budget.in_use(), 10);
}

#[test]
fn many_threads_never_hold_more_than_there_is() {
    let budget = Budget::new(64);
    let lent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let (budget, lent) = (budget.clone(), &lent);
            scope.spawn(move || {
                for turn in 0..3_000_usize {
                    let bytes = 1 + (turn * 31 + thread * 7) % 64;
                    let permit = block_on(budget.acquire(bytes));
                    assert!(lent.fetch_add(bytes, Ordering::SeqCst) + bytes <= 64);
                    lent.fetch_sub(bytes, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(budget.in_use(), 0);
}

proptest! {
    /// Any order of requests, cancellations and returns: the sum holds, and who waits is who must.
    #[test]
    fn the_books_balance(acts in proptest::collection::vec((0_u8..4, 1_usize..=50), 0..150)) {
        let budget = Budget::new(100);
        let mut waiting: Vec<Acquire> = Vec::new();
        let mut held: Vec<Permit> = Vec::new();
        for (act, bytes) in acts {
            match act {
                0 | 1 => waiting.push(budget.acquire(bytes)),
                2 if !waiting.is_empty() => drop(waiting.remove(bytes % waiting.len())),
                3 if !held.is_empty() => drop(held.remove(bytes % held.len())),
                _ => {}
            }
            let mut still = Vec::new();
            for mut request in waiting.drain(..) {
                match poll(&mut request) {
                    Poll::Ready(permit) => held.push(permit),
                    Poll::Pending => still.push(request),
                }
            }
            waiting = still;
            let lent: usize = held.iter().map(Permit::bytes).sum();
            prop_assert_eq!(budget.in_use(), lent);
            prop_assert!(lent <= 100);
            if let Some(head) = waiting.first() {
                prop_assert!(head.bytes > 100 - lent, "the head waits although it fits");
            }
            prop_assert_eq!(budget.is_pressed(), !waiting.is_empty());
        }
        drop((waiting, held));
        prop_assert_eq!(budget.in_use(), 0);
    }
}

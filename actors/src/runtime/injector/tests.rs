//! The injector: bounded, silent while idle, and no wake-up is ever lost.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use futures_lite::future::{block_on, poll_once};

use super::*;

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

fn poll_with<F: Future>(future: Pin<&mut F>, bell: &Arc<Bell>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(bell.clone())))
}

#[test]
fn a_push_waits_for_room() {
    let injector = Injector::new("work", 2);
    block_on(async {
        injector.push(1).await.unwrap();
        injector.push(2).await.unwrap();
        let mut third = Box::pin(injector.push(3));
        assert!(poll_once(&mut third).await.is_none());
        assert_eq!(injector.take(0).await, Some(1));
        third.await.unwrap();
        assert_eq!((injector.len(), injector.take(0).await, injector.try_take()), (2, Some(2), Some(3)));
    });
}

#[test]
fn a_push_wakes_one_parked_shard_and_no_more() {
    let injector = Injector::new("work", 8);
    let bells: Vec<_> = (0..3).map(|_| Arc::new(Bell::default())).collect();
    let mut takes: Vec<_> = (0..3).map(|shard| Box::pin(injector.take(shard))).collect();
    for (take, bell) in takes.iter_mut().zip(&bells) {
        assert!(poll_with(take.as_mut(), bell).is_pending());
    }
    block_on(injector.push(7)).unwrap();
    assert_eq!(bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>(), vec![1, 0, 0]);
    assert_eq!(poll_with(takes[0].as_mut(), &bells[0]), Poll::Ready(Some(7)));
    injector.close();
    assert_eq!(bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>(), vec![1, 1, 1]);
    assert_eq!(poll_with(takes[1].as_mut(), &bells[1]), Poll::Ready(None));
    assert_eq!(injector.wake_ups(), 1);
}

#[test]
fn a_woken_shard_that_leaves_hands_its_wake_up_on() {
    let injector = Injector::new("work", 8);
    let (first_bell, second_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut first = Box::pin(injector.take(0));
    let mut second = Box::pin(injector.take(1));
    assert!(poll_with(first.as_mut(), &first_bell).is_pending());
    assert!(poll_with(second.as_mut(), &second_bell).is_pending());
    block_on(injector.push(7)).unwrap();
    assert_eq!((first_bell.rings(), second_bell.rings()), (1, 0));
    drop(first);
    assert_eq!(second_bell.rings(), 1);
    assert_eq!(poll_with(second.as_mut(), &second_bell), Poll::Ready(Some(7)));
}

#[test]
fn a_parked_shard_that_leaves_is_forgotten() {
    let injector: Injector<u32> = Injector::new("work", 8);
    let bell = Arc::new(Bell::default());
    let mut take = Box::pin(injector.take(0));
    assert!(poll_with(take.as_mut(), &bell).is_pending());
    drop(take);
    assert_eq!(injector.shared.parked_count.load(Ordering::SeqCst), 0);
    block_on(injector.push(7)).unwrap();
    assert_eq!(bell.rings(), 0);
}

#[test]
fn after_close_the_rest_is_still_taken() {
    let injector = Injector::new("work", 8);
    block_on(async {
        injector.push(1).await.unwrap();
        injector.push(2).await.unwrap();
        injector.close();
        assert!(injector.push(3).await.is_err());
        assert_eq!((injector.take(0).await, injector.take(1).await, injector.take(0).await), (Some(1), Some(2), None));
        assert!(injector.is_empty());
    });
}

/// Each round pushes a few items and waits until all are taken before the next: one lost wake-up and it hangs.
#[test]
fn no_wake_up_is_lost_between_real_threads() {
    const ROUNDS: usize = 20_000;
    let injector: Injector<usize> = Injector::new("work", 3);
    let taken = Arc::new(AtomicUsize::new(0));
    let takers: Vec<_> = (0..4)
        .map(|shard| {
            let (injector, taken) = (injector.clone(), taken.clone());
            std::thread::spawn(move || {
                block_on(async {
                    while injector.take(shard).await.is_some() {
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            })
        })
        .collect();
    let mut pushed = 0;
    for round in 0..ROUNDS {
        for _ in 0..=round % 3 {
            block_on(injector.push(round)).unwrap();
            pushed += 1;
        }
        let mut looks = 0_u64;
        while taken.load(Ordering::SeqCst) < pushed {
            looks += 1;
            assert!(looks < 200_000_000, "round {round}: a wake-up was lost");
            std::thread::yield_now();
        }
    }
    injector.close();
    takers.into_iter().for_each(|taker| taker.join().unwrap());
}

//! Blocking work on named OS threads, and futures that need no reactor.
//!
//! A [`Pool`] runs closures that block (file system calls, key stretching); a [`Completion`] is
//! the future of one result, woken through a std `Waker`, so it may be awaited on any executor
//! or by `block_on`. The queue of a pool is unbounded because whoever submits work already holds
//! a permit for its memory. Nothing here may run on an executor thread except `run` itself.

use parking_lot::Mutex;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of named threads that run blocking closures in the order of submission.
pub struct Pool {
    jobs: Option<crossbeam::channel::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    under_way: Arc<Mutex<UnderWay>>,
}

/// Work that is queued or running, and who waits for its end.
#[derive(Default)]
struct UnderWay {
    jobs: usize,
    waiting: Vec<Waker>,
}

impl Pool {
    /// Starts `threads` threads (at least one) named `name`-0, `name`-1 and so on.
    ///
    /// # Panics
    /// If the operating system cannot start a thread.
    pub fn new(name: &str, threads: usize) -> Arc<Pool> {
        let (sender, receiver) = crossbeam::channel::unbounded::<Job>();
        let handles = (0..threads.max(1))
            .map(|index| {
                let jobs = receiver.clone();
                std::thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .spawn(move || jobs.iter().for_each(|job| job()))
                    .expect("the system starts a thread")
            })
            .collect();
        Arc::new(Pool { jobs: Some(sender), threads: handles, under_way: Arc::default() })
    }

    /// Queues `work`. It runs even if the returned future is dropped.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Completion<T> {
        let (completer, completion) = completion();
        self.execute(move || {
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                completer.complete(value);
            }
        });
        completion
    }

    /// Queues `work` without a result; a panic in it ends the work, not the thread.
    pub fn execute(&self, work: impl FnOnce() + Send + 'static) {
        let under_way = Arc::clone(&self.under_way);
        under_way.lock().jobs += 1;
        let job: Job = Box::new(move || {
            let _ = catch_unwind(AssertUnwindSafe(work));
            let waiting = {
                let mut under_way = under_way.lock();
                under_way.jobs -= 1;
                if under_way.jobs == 0 { std::mem::take(&mut under_way.waiting) } else { Vec::new() }
            };
            waiting.into_iter().for_each(Waker::wake);
        });
        self.jobs
            .as_ref()
            .expect("the queue lives as long as the pool")
            .send(job)
            .expect("the threads live as long as the pool");
    }
}

impl Pool {
    /// Resolves when nothing is queued or running: work goes on although nobody waits for its result any more.
    pub async fn idle(&self) {
        std::future::poll_fn(|context| {
            let mut under_way = self.under_way.lock();
            if under_way.jobs == 0 {
                return Poll::Ready(());
            }
            under_way.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Pool {
    /// Runs what is queued, then joins the threads.
    fn drop(&mut self) {
        self.jobs = None;
        let this_thread = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last reference may be dropped by a job of this very pool: it cannot join itself.
            if thread.thread().id() != this_thread {
                let _ = thread.join();
            }
        }
    }
}

/// The work behind a [`Completion`] panicked or was dropped before it had a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("background work ended without a result")]
pub struct PoolPanicked;

struct Slot<T> {
    result: Option<Result<T, PoolPanicked>>,
    waker: Option<Waker>,
}

/// The sending half of [`completion`]. Dropping it unused completes with [`PoolPanicked`].
pub struct Completer<T> {
    slot: Option<Arc<Mutex<Slot<T>>>>,
}

/// The future of one result. Resolves once; must not be polled after that.
pub struct Completion<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

/// A connected pair: whoever holds the first half decides the result of the second.
pub fn completion<T>() -> (Completer<T>, Completion<T>) {
    let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    (Completer { slot: Some(Arc::clone(&slot)) }, Completion { slot })
}

impl<T> Completer<T> {
    /// Delivers the result and wakes whoever waits.
    pub fn complete(mut self, value: T) {
        self.deliver(Ok(value));
    }

    fn deliver(&mut self, result: Result<T, PoolPanicked>) {
        let Some(slot) = self.slot.take() else { return };
        let waker = {
            let mut slot = slot.lock();
            slot.result = Some(result);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.deliver(Err(PoolPanicked));
    }
}

impl<T> Future for Completion<T> {
    type Output = Result<T, PoolPanicked>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.lock();
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                match &mut slot.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    empty => *empty = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

/// Runs the futures of `items`, at most `in_flight` at a time, and returns their results in the
/// order of the items. Needs no executor support; meant for some dozens in flight.
pub async fn in_parallel<T, F: Future<Output = T>>(in_flight: usize, items: impl IntoIterator<Item = F>) -> Vec<T> {
    let mut waiting = items.into_iter();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut results: Vec<Option<T>> = Vec::new();
    std::future::poll_fn(move |context| {
        loop {
            while running.len() < in_flight.max(1) {
                let Some(future) = waiting.next() else { break };
                running.push((results.len(), Box::pin(future)));
                results.push(None);
            }
            if running.is_empty() {
                return Poll::Ready(results.drain(..).map(|result| result.expect("every future ended")).collect());
            }
            let running_before = running.len();
            running.retain_mut(|(index, future)| match future.as_mut().poll(context) {
                Poll::Ready(value) => {
                    results[*index] = Some(value);
                    false
                }
                Poll::Pending => true,
            });
            if running.len() == running_before {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_panic_is_a_result_and_the_thread_lives_on() {
        let pool = Pool::new("test", 1);
        assert_eq!(
            block_on(pool.run(|| if true {
                panic!("on purpose")
            })),
            Err(PoolPanicked)
        );
        assert_eq!(block_on(pool.run(|| 7)), Ok(7));
    }

    #[test]
    fn drop_runs_what_is_queued() {
        let done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new("test", 2);
        for _ in 0..100 {
            let done = Arc::clone(&done);
            drop(pool.run(move || done.fetch_add(1, Ordering::SeqCst)));
        }
        drop(pool);
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn idle_waits_for_work_whose_result_nobody_wants() {
        let pool = Pool::new("test", 2);
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let done = Arc::clone(&done);
            drop(pool.run(move || {
                std::thread::sleep(std::time::Duration::from_millis(2));
                done.fetch_add(1, Ordering::SeqCst)
            }));
        }
        block_on(pool.idle());
        assert_eq!(done.load(Ordering::SeqCst), 20);
    }

    #[test]
    fn a_pool_may_be_dropped_by_its_own_job() {
        let pool = Pool::new("test", 1);
        let (completer, completion) = completion();
        let inner = Arc::clone(&pool);
        pool.execute(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(inner);
            completer.complete(());
        });
        drop(pool);
        assert_eq!(block_on(completion), Ok(()));
    }

    #[test]
    fn parallel_results_keep_their_order_and_the_bound_holds() {
        let pool = Pool::new("test", 8);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..50).map(|index| {
            let (pool, running, most) = (Arc::clone(&pool), Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let result = pool.run(move || index).await;
                running.fetch_sub(1, Ordering::SeqCst);
                result
            }
        });
        let results = block_on(in_parallel(4, work));
        assert_eq!(results, (0..50).map(Ok).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 4);
    }
}

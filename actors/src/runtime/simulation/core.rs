//! What simulated tasks, wakers and devices share: the seed, the time, the queues, the trace.
//!
//! Everything is behind one mutex so that wakers and device futures are `Send`, as the traits demand; in fact one
//! thread uses it. No foreign code (a waker, a destructor) runs while the lock is held.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mover_repository::ids::UnixNanos;
use parking_lot::Mutex;

use super::{SimRuntime, SimStart};
use crate::runtime::clock;
use crate::runtime::stats::{Wait, waits_for};

/// Steps that a report of a stuck simulation shows.
const TRACE_TAIL: usize = 48;
/// Where the simulated wall clock starts: 2026-01-01 00:00 UTC.
const UNIX_START_NANOS: i128 = 1_767_225_600_000_000_000;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): small, and good enough to choose by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// What happens at a point in simulated time.
pub(super) enum Event {
    Wake(Arc<SimWaker>),
    Timer(Waker),
    Start { shard: usize, name: &'static str, start: SimStart },
}

/// One line of the trace.
#[derive(Clone)]
struct TraceLine {
    step: u64,
    nanos: u64,
    shard: usize,
    what: Cow<'static, str>,
}

struct State {
    random: Random,
    now_nanos: u64,
    step: u64,
    crashed: bool,
    /// Shard of the task that is being polled; none while the scheduler itself or a device wakes somebody.
    polling: Option<usize>,
    ready: Vec<Vec<Arc<SimWaker>>>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    trace: blake3::Hasher,
    tail: VecDeque<TraceLine>,
}

pub(super) struct Core {
    pub(super) shards: usize,
    state: Mutex<State>,
}

const IDLE: u8 = 0;
const DELAYED: u8 = 1;
const READY: u8 = 2;

/// Wakes one task: at once on its own shard, after a seeded while from another.
pub(super) struct SimWaker {
    pub(super) core: Arc<Core>,
    pub(super) task: u64,
    pub(super) shard: usize,
    queued: AtomicU8,
}

impl SimWaker {
    pub(super) fn new(core: &Arc<Core>, task: u64, shard: usize) -> Arc<SimWaker> {
        Arc::new(SimWaker { core: core.clone(), task, shard, queued: AtomicU8::new(IDLE) })
    }

    /// The task is about to be polled: from here on a wake-up counts again.
    pub(super) fn unqueue(&self) {
        self.queued.store(IDLE, Ordering::SeqCst);
    }
}

impl Wake for SimWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.core.state.lock();
        if state.crashed {
            return;
        }
        let is_foreign = state.polling.is_some_and(|shard| shard != self.shard);
        match self.queued.load(Ordering::SeqCst) {
            READY => {}
            DELAYED if is_foreign => {}
            _ if is_foreign => {
                self.queued.store(DELAYED, Ordering::SeqCst);
                let delay_nanos = state.hand_over_nanos();
                state.schedule(delay_nanos, Event::Wake(self.clone()));
            }
            _ => {
                self.queued.store(READY, Ordering::SeqCst);
                state.ready[self.shard].push(self.clone());
            }
        }
    }
}

impl State {
    fn schedule(&mut self, delay_nanos: u64, event: Event) -> (u64, u64) {
        let key = (self.now_nanos.saturating_add(delay_nanos), self.next_event);
        self.next_event += 1;
        self.events.insert(key, event);
        key
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        assert!(least <= most, "a range from {least} to {most}");
        match (most - least).checked_add(1) {
            Some(width) => least + self.random.below(width),
            None => self.random.next(),
        }
    }

    /// How long a wake-up takes from one shard to another: microseconds as a rule, sometimes until the preempt timer
    /// of a busy shard, rarely much longer.
    fn hand_over_nanos(&mut self) -> u64 {
        match self.random.below(64) {
            0 => self.between(1_000_000, 200_000_000),
            1..=8 => self.between(50_000, 1_100_000),
            _ => self.between(200, 50_000),
        }
    }

    fn note(&mut self, shard: usize, what: impl Into<Cow<'static, str>>) {
        let line = TraceLine { step: self.step, nanos: self.now_nanos, shard, what: what.into() };
        self.trace.update(&line.step.to_le_bytes());
        self.trace.update(&line.nanos.to_le_bytes());
        self.trace.update(&(shard as u64).to_le_bytes());
        self.trace.update(line.what.as_bytes());
        self.trace.update(&[0]);
        if self.tail.len() == TRACE_TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

impl Core {
    pub(super) fn new(seed: u64, shards: usize) -> Arc<Core> {
        assert!(shards > 0, "a simulation without shards");
        let mut random = Random(seed ^ 0x6d6f_7665_7221);
        random.next();
        Arc::new(Core {
            shards,
            state: Mutex::new(State {
                random,
                now_nanos: 0,
                step: 0,
                crashed: false,
                polling: None,
                ready: vec![Vec::new(); shards],
                events: BTreeMap::new(),
                next_event: 0,
                trace: blake3::Hasher::new(),
                tail: VecDeque::with_capacity(TRACE_TAIL),
            }),
        })
    }

    pub(super) fn start(&self, shard: usize, name: &'static str, start: SimStart) {
        assert!(shard < self.shards, "no shard {shard}");
        let mut state = self.state.lock();
        if state.crashed {
            return;
        }
        let delay_nanos = if state.polling == Some(shard) { 0 } else { state.hand_over_nanos() };
        state.schedule(delay_nanos, Event::Start { shard, name, start });
    }

    /// The next event that is due now.
    pub(super) fn next_due(&self) -> Option<Event> {
        let mut state = self.state.lock();
        let now_nanos = state.now_nanos;
        let is_due = state.events.first_key_value().is_some_and(|(key, _)| key.0 <= now_nanos);
        if is_due { state.events.pop_first().map(|(_, event)| event) } else { None }
    }

    /// A wake-up from another shard has arrived.
    pub(super) fn arrive(&self, waker: &Arc<SimWaker>) {
        let mut state = self.state.lock();
        // The task may have been woken on its own shard, and even polled, since this wake-up was sent.
        if waker.queued.load(Ordering::SeqCst) == DELAYED && !state.crashed {
            waker.queued.store(READY, Ordering::SeqCst);
            state.ready[waker.shard].push(waker.clone());
        }
    }

    /// Chooses a shard that has something to do, and one of its ready tasks.
    pub(super) fn choose(&self) -> Option<Arc<SimWaker>> {
        let mut state = self.state.lock();
        let busy = state.ready.iter().filter(|queue| !queue.is_empty()).count() as u64;
        if busy == 0 {
            return None;
        }
        let which = state.random.below(busy) as usize;
        let shard = state.ready.iter().enumerate().filter(|(_, queue)| !queue.is_empty()).nth(which)?.0;
        let waiting = state.ready[shard].len() as u64;
        let place = state.random.below(waiting) as usize;
        Some(state.ready[shard].swap_remove(place))
    }

    /// Nothing is ready: time passes until the next event. False if there is none.
    pub(super) fn advance(&self) -> bool {
        let mut state = self.state.lock();
        let Some((key, _)) = state.events.first_key_value() else { return false };
        state.now_nanos = state.now_nanos.max(key.0);
        clock::set_simulated(Some(Duration::from_nanos(state.now_nanos)));
        true
    }

    pub(super) fn step_begins(&self, shard: usize, name: &'static str) {
        let mut state = self.state.lock();
        state.step += 1;
        state.polling = Some(shard);
        state.note(shard, name);
    }

    pub(super) fn step_ends(&self, shard: usize, name: &str, ended: bool) {
        let mut state = self.state.lock();
        state.polling = None;
        if ended {
            state.note(shard, format!("{name} ended"));
        }
        // A step is short as a rule; now and then the core is taken away in the middle of it.
        let cost_nanos =
            if state.random.below(128) == 0 { state.between(10_000, 3_000_000) } else { state.between(100, 3_000) };
        state.now_nanos += cost_nanos;
        clock::set_simulated(Some(Duration::from_nanos(state.now_nanos)));
    }

    /// The machine stops: no wake-up and no device does anything from now on.
    pub(super) fn crash(&self) {
        let (ready, events) = {
            let mut state = self.state.lock();
            state.crashed = true;
            state.note(0, "crash");
            let shards = self.shards;
            (std::mem::replace(&mut state.ready, vec![Vec::new(); shards]), std::mem::take(&mut state.events))
        };
        drop((ready, events));
    }

    pub(super) fn step(&self) -> u64 {
        self.state.lock().step
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.state.lock().now_nanos)
    }

    pub(super) fn trace_hash(&self) -> [u8; 32] {
        *self.state.lock().trace.finalize().as_bytes()
    }

    /// The last lines of the trace, one a line.
    pub(super) fn tail(&self) -> String {
        let state = self.state.lock();
        let mut text = String::new();
        for line in &state.tail {
            let micros = line.nanos / 1000;
            text.push_str(&format!("step {} at {micros} us, shard {}: {}\n", line.step, line.shard, line.what));
        }
        text
    }
}

/// What simulated devices and tests hold of a simulation. `Send`, so that device futures may hold it too.
#[derive(Clone)]
pub struct SimHandle {
    pub(super) core: Arc<Core>,
}

impl SimHandle {
    /// Simulated monotonic time.
    pub fn now(&self) -> Duration {
        self.core.now()
    }

    /// Simulated wall clock time.
    pub fn unix_now(&self) -> UnixNanos {
        UnixNanos(UNIX_START_NANOS + self.now().as_nanos() as i128)
    }

    /// Steps so far.
    pub fn step(&self) -> u64 {
        self.core.step()
    }

    /// A seeded number from `least` to `most`, both included.
    pub fn between(&self, least: u64, most: u64) -> u64 {
        self.core.state.lock().between(least, most)
    }

    /// True `numerator` times out of `denominator`, by seed.
    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.core.state.lock().random.below(denominator) < numerator
    }

    /// True once the simulated machine has crashed: devices forget what they are told from then on.
    pub fn has_crashed(&self) -> bool {
        self.core.state.lock().crashed
    }

    /// Writes a line into the trace, and so into its hash.
    pub fn event(&self, what: &str) {
        let mut state = self.core.state.lock();
        let shard = state.polling.unwrap_or(0);
        state.note(shard, what.to_owned());
    }

    /// Resolves after a seeded while from `least` to `most`.
    pub fn delay(&self, least: Duration, most: Duration) -> Delay {
        let nanos = self.between(least.as_nanos() as u64, most.as_nanos() as u64);
        Delay { core: self.core.clone(), wait_nanos: nanos, armed: None }
    }

    /// Resolves with `value` after a seeded while from `least` to `most`: a device that answers.
    pub fn delayed<T: Send>(
        &self,
        least: Duration,
        most: Duration,
        value: T,
    ) -> impl Future<Output = T> + Send + use<T> {
        let delay = self.delay(least, most);
        async move {
            delay.await;
            value
        }
    }
}

struct Armed {
    key: (u64, u64),
    waker: Waker,
}

/// Resolves at a simulated time. Dropped, it takes its event back, so that nobody waits for it.
#[must_use = "futures do nothing unless awaited"]
pub struct Delay {
    core: Arc<Core>,
    wait_nanos: u64,
    armed: Option<Armed>,
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = self.core.clone();
        let mut state = core.state.lock();
        if state.crashed {
            return Poll::Pending;
        }
        let wait_nanos = match self.armed.take() {
            None => self.wait_nanos,
            Some(armed) if armed.key.0 <= state.now_nanos => {
                drop(state.events.remove(&armed.key));
                return Poll::Ready(());
            }
            Some(armed) if armed.waker.will_wake(cx.waker()) => {
                self.armed = Some(armed);
                waits_for(Wait::Device);
                return Poll::Pending;
            }
            Some(armed) => {
                drop(state.events.remove(&armed.key));
                armed.key.0 - state.now_nanos
            }
        };
        let key = state.schedule(wait_nanos, Event::Timer(cx.waker().clone()));
        self.armed = Some(Armed { key, waker: cx.waker().clone() });
        waits_for(Wait::Device);
        Poll::Pending
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        let event = self.armed.take().and_then(|armed| self.core.state.lock().events.remove(&armed.key));
        drop(event);
    }
}

impl SimRuntime {
    /// What devices hold of this simulation.
    pub fn handle(&self) -> SimHandle {
        SimHandle { core: self.local.core.clone() }
    }
}

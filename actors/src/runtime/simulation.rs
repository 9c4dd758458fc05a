//! The second runtime: the same actors on a seeded, single-threaded scheduler.
//!
//! The seed chooses the next ready task among N simulated shards with queues of their own, how long a wake-up takes
//! from one shard to another, how long a step and a device take. Time is simulated and jumps to the next event when
//! nothing is ready. One seed gives one trace, step by step, and so one trace hash; a failing test prints its seed.
//! Found here: deadlocks (nothing ready, nothing to come), work that never ends, panics, and what a crash between
//! any two steps leaves behind.
//!
//! Code under simulation must not iterate over maps with random hash keys and must not wait for real threads, else
//! its traces differ. Lives on the thread that calls [`Simulation::run`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use mover_repository::ids::UnixNanos;

mod core;
#[cfg(test)]
mod tests;

use self::core::{Core, Event, SimWaker};
pub use self::core::{Delay, SimHandle};
use super::task::TaskCell;
use super::{LocalBoxFuture, Remote, Runtime, TaskHandle, clock};
use crate::error::{Failure, panic_message};

type SimStart = Box<dyn FnOnce(SimRuntime) -> LocalBoxFuture<()> + Send>;

/// Steps after which a simulation is called endless.
const STEPS_MAX: u64 = 200_000_000;
/// Simulated time after which a simulation is called stuck, although timers still fire.
const SIMULATED_TIME_MAX: Duration = Duration::from_secs(48 * 3600);

thread_local! {
    static RUNNING: RefCell<Option<SimHandle>> = const { RefCell::new(None) };
}

/// How long the core is taken away at a race point, if a simulation runs on this thread.
pub(super) fn preemption() -> Option<Delay> {
    let handle = RUNNING.with(|running| running.borrow().clone())?;
    let most_micros = if handle.chance(1, 4) { 3_000 } else { 5 };
    Some(handle.delay(Duration::ZERO, Duration::from_micros(most_micros)))
}

struct SimTask {
    cell: Rc<TaskCell>,
    waker: Arc<SimWaker>,
    /// Kept for tasks that were started from elsewhere: they belong to the simulation.
    owned: Option<TaskHandle>,
}

struct SimLocal {
    core: Arc<Core>,
    tasks: RefCell<BTreeMap<u64, SimTask>>,
    next_task: Cell<u64>,
}

impl SimLocal {
    fn start(&self, shard: usize, name: &'static str, future: LocalBoxFuture<()>, owned: bool) -> Rc<TaskCell> {
        let number = self.next_task.replace(self.next_task.get() + 1);
        let cell = TaskCell::new(name, future);
        let waker = SimWaker::new(&self.core, number, shard);
        cell.set_waker(Waker::from(waker.clone()));
        let owned = owned.then(|| TaskHandle::new(cell.clone()));
        self.tasks.borrow_mut().insert(number, SimTask { cell: cell.clone(), waker: waker.clone(), owned });
        Waker::from(waker).wake();
        cell
    }

    fn live(&self) -> Vec<String> {
        let tasks = self.tasks.borrow();
        tasks.values().map(|task| format!("{} on shard {}", task.cell.name(), task.waker.shard)).collect()
    }

    /// Drops the future of every task, as the end of a process would.
    fn drop_all(&self) {
        while let Some((_, task)) = { self.tasks.borrow_mut().pop_first() } {
            task.cell.cancel();
        }
    }
}

/// The simulated runtime as seen from one of its shards.
#[derive(Clone)]
pub struct SimRuntime {
    local: Rc<SimLocal>,
    shard: usize,
}

impl Runtime for SimRuntime {
    type Remote = SimRemote;

    fn remote(&self) -> SimRemote {
        SimRemote { core: self.local.core.clone() }
    }

    fn shard(&self) -> usize {
        self.shard
    }

    fn shards(&self) -> usize {
        self.local.core.shards
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) -> TaskHandle {
        TaskHandle::new(self.local.start(self.shard, name, Box::pin(task), false))
    }

    fn sleep(&self, wait: Duration) -> LocalBoxFuture<()> {
        Box::pin(self.handle().delay(wait, wait))
    }

    fn yield_now(&self) -> LocalBoxFuture<()> {
        Box::pin(futures_lite::future::yield_now())
    }

    fn now(&self) -> Duration {
        self.local.core.now()
    }

    fn unix_now(&self) -> UnixNanos {
        self.handle().unix_now()
    }
}

/// Starts tasks on simulated shards.
#[derive(Clone)]
pub struct SimRemote {
    core: Arc<Core>,
}

impl Remote<SimRuntime> for SimRemote {
    fn shards(&self) -> usize {
        self.core.shards
    }

    fn spawn_on<F, Fut>(&self, shard: usize, name: &'static str, make: F)
    where
        F: FnOnce(SimRuntime) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.core.start(shard, name, Box::new(move |runtime| Box::pin(make(runtime))));
    }
}

/// Why a simulation has no result.
#[derive(Debug)]
pub enum Ended {
    /// The job failed or panicked, or a task without a supervisor panicked.
    Failed(Failure),
    /// Nothing was ready and nothing was to come, yet the job had not ended.
    Deadlock {
        /// Tasks that were waiting.
        live: Vec<String>,
        /// The last steps.
        tail: String,
    },
    /// Too many steps or too much simulated time: somebody runs in a circle.
    Endless {
        /// Tasks that were there.
        live: Vec<String>,
        /// The last steps.
        tail: String,
    },
    /// The crash that was asked for.
    Crashed,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Failed(failure) => write!(f, "failed: {failure}"),
            Ended::Deadlock { live, tail } => write!(f, "deadlock, waiting: {}\n{tail}", live.join(", ")),
            Ended::Endless { live, tail } => write!(f, "endless, alive: {}\n{tail}", live.join(", ")),
            Ended::Crashed => f.write_str("crashed as asked"),
        }
    }
}

/// What a simulation came to.
pub struct Outcome<T> {
    /// The job's result.
    pub result: Result<T, Ended>,
    /// The seed, to print and to replay.
    pub seed: u64,
    /// BLAKE3 of (step, time, shard, task or event) of every step.
    pub trace_hash: [u8; 32],
    /// Steps made.
    pub steps: u64,
    /// Simulated time that passed.
    pub simulated: Duration,
    /// Tasks that were still there when the job had ended.
    pub left_over: Vec<String>,
}

impl<T> Outcome<T> {
    /// The result, or a panic that tells how to replay it.
    #[track_caller]
    pub fn unwrap(self) -> T {
        match self.result {
            Ok(value) => value,
            Err(ended) => panic!("seed {}: {ended}", self.seed),
        }
    }

    /// The failure of the job, or a panic that tells how to replay it.
    #[track_caller]
    pub fn unwrap_failure(self) -> Failure {
        match self.result {
            Err(Ended::Failed(failure)) => failure,
            Err(ended) => panic!("seed {}: {ended}", self.seed),
            Ok(_) => panic!("seed {}: the job succeeded", self.seed),
        }
    }
}

/// One seeded run of a job on simulated shards.
pub struct Simulation {
    seed: u64,
    core: Arc<Core>,
    crash_after: Option<u64>,
    steps_max: u64,
}

impl Simulation {
    /// A simulation of `shards` shards in the order that `seed` chooses.
    pub fn new(seed: u64, shards: usize) -> Simulation {
        Simulation { seed, core: Core::new(seed, shards), crash_after: None, steps_max: STEPS_MAX }
    }

    /// What devices hold of this simulation.
    pub fn handle(&self) -> SimHandle {
        SimHandle { core: self.core.clone() }
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.core.shards
    }

    /// Stops the machine after that many steps: devices freeze first, then every task is dropped.
    pub fn crash_after(mut self, steps: u64) -> Simulation {
        self.crash_after = Some(steps);
        self
    }

    /// Calls the simulation endless after that many steps.
    pub fn steps_max(mut self, steps: u64) -> Simulation {
        self.steps_max = steps;
        self
    }

    /// Runs a job on shard 0 until it ends, and then drops what tasks it left.
    pub fn run<T, F, Fut>(self, make: F) -> Outcome<T>
    where
        T: 'static,
        F: FnOnce(SimRuntime) -> Fut,
        Fut: Future<Output = Result<T, Failure>> + 'static,
    {
        clock::set_simulated(Some(Duration::ZERO));
        RUNNING.with(|running| *running.borrow_mut() = Some(self.handle()));
        let local = Rc::new(SimLocal { core: self.core.clone(), tasks: RefCell::default(), next_task: Cell::new(0) });
        let slot: Rc<RefCell<Option<Result<T, Failure>>>> = Rc::default();
        let answer = slot.clone();
        let job = make(SimRuntime { local: local.clone(), shard: 0 });
        let job = Box::pin(async move {
            let result = futures_lite::future::FutureExt::catch_unwind(AssertUnwindSafe(job)).await;
            let result = result.unwrap_or_else(|payload| Err(Failure::from_panic("job", &*payload)));
            *answer.borrow_mut() = Some(result);
        });
        local.start(0, "job", job, true);
        let ended = self.drive(&local, &|| slot.borrow().is_some());
        let left_over = local.live();
        if matches!(ended, Err(Ended::Crashed)) {
            self.core.crash();
        }
        local.drop_all();
        let result = match ended {
            Err(ended) => Err(ended),
            Ok(()) => match slot.borrow_mut().take() {
                Some(result) => result.map_err(Ended::Failed),
                None => Err(Ended::Crashed),
            },
        };
        stand_down();
        Outcome {
            result,
            seed: self.seed,
            trace_hash: self.core.trace_hash(),
            steps: self.core.step(),
            simulated: self.core.now(),
            left_over,
        }
    }

    fn drive(&self, local: &Rc<SimLocal>, is_done: &dyn Fn() -> bool) -> Result<(), Ended> {
        loop {
            while let Some(event) = self.core.next_due() {
                match event {
                    Event::Wake(waker) => self.core.arrive(&waker),
                    Event::Timer(waker) => waker.wake(),
                    Event::Start { shard, name, start } => {
                        let task = start(SimRuntime { local: local.clone(), shard });
                        local.start(shard, name, task, true);
                    }
                }
            }
            if is_done() {
                return Ok(());
            }
            if self.crash_after.is_some_and(|steps| self.core.step() >= steps) {
                return Err(Ended::Crashed);
            }
            if self.core.step() >= self.steps_max || self.core.now() > SIMULATED_TIME_MAX {
                return Err(Ended::Endless { live: local.live(), tail: self.core.tail() });
            }
            match self.core.choose() {
                Some(waker) => self.step(local, &waker)?,
                None if self.core.advance() => {}
                None => return Err(Ended::Deadlock { live: local.live(), tail: self.core.tail() }),
            }
        }
    }

    fn step(&self, local: &Rc<SimLocal>, sim_waker: &Arc<SimWaker>) -> Result<(), Ended> {
        let cell = local.tasks.borrow().get(&sim_waker.task).map(|task| task.cell.clone());
        let Some(cell) = cell else { return Ok(()) };
        self.core.step_begins(sim_waker.shard, cell.name());
        sim_waker.unqueue();
        let waker = Waker::from(sim_waker.clone());
        let ended = cell.poll(&mut Context::from_waker(&waker)).is_ready();
        self.core.step_ends(sim_waker.shard, cell.name(), ended);
        if !ended {
            return Ok(());
        }
        let task = local.tasks.borrow_mut().remove(&sim_waker.task);
        let unsupervised = task.is_some_and(|task| task.owned.is_some());
        match cell.take_panic() {
            Some(payload) if unsupervised => {
                tracing::error!(task = cell.name(), cause = panic_message(&*payload), "panicked without a supervisor");
                Err(Ended::Failed(Failure::from_panic(cell.name(), &*payload)))
            }
            Some(payload) => {
                cell.put_panic(payload);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        stand_down();
    }
}

/// This thread has the machine's time again.
fn stand_down() {
    clock::set_simulated(None);
    RUNNING.with(|running| *running.borrow_mut() = None);
}

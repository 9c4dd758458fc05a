//! The real runtime: one pinned glommio executor a core, created once a process. The only file that names glommio.
//!
//! A shard is a thread that runs one executor. Its buffers for I/O are the smallest glommio allows (64 KiB, registered
//! in each of 3 rings, so 192 KiB of locked memory a shard: all rings of 64 shards together are 12 MiB), because the
//! data path reads through its own rings and the blocking pool. It therefore runs within the 8 MiB of locked memory
//! that an unprivileged process may have by default, up to 40 shards.
//!
//! Tasks are woken by wakers of our own. glommio's task wakers count references in 16 bits and their last foreign drop
//! races with the end of the task; here a foreign thread only ever notes a number and rings one bell per shard, and
//! the shard's driver wakes the task on its own thread. The preempt timer of 1 ms bounds how long a busy executor does
//! not hear the bell; `yield_now` looks at it too.
//!
//! Must never: run a blocking call on a shard, leak a task (all are dropped when the shards shut down).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use hashbrown::HashMap;
use mover_repository::ids::UnixNanos;
use parking_lot::{Condvar, Mutex};

use super::pulse::{Pulse, Sleeper};
use super::task::TaskCell;
use super::{LocalBoxFuture, Remote, Runtime, TaskHandle, clock, cores_available};
use crate::error::{ActorError, Failure, panic_message};

/// Bytes of registered I/O buffers a ring: the least that glommio takes.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Entries of each ring. The data path does its I/O elsewhere; timers and the bell need few.
const RING_DEPTH: usize = 128;
/// How long a busy shard may not look at what other threads told it.
const PREEMPT: Duration = Duration::from_millis(1);
/// How often a shard is looked at that has tasks and does not run any. `run_task_queues` of glommio 0.9.0 says "nothing
/// ran" when its preempt timer fires before the first task of a round, and the executor then sleeps with tasks ready
/// to run and no timer set. Jobs hung for good, one in some dozens on a busy machine; a timer on the shard itself hung
/// with them. Short enough that a job does not feel it.
const PULSE: Duration = Duration::from_millis(10);
/// The same once all shards have stood still for [`BEATS_QUIET`] beats, as they do over a slow link: a mistake then costs
/// a tenth of a second.
const PULSE_QUIET: Duration = Duration::from_millis(40);
const BEATS_QUIET: u32 = 8;
/// Threads for glommio's own blocking calls, a shard.
const BLOCKING_THREADS: usize = 1;

/// How the shards are started.
#[derive(Clone, Debug, Default)]
pub struct ShardOptions {
    /// How many shards; 0 means one a core that this process may use. More shards than cores share them.
    pub shards: usize,
}

type Start = Box<dyn FnOnce(GlommioRuntime) -> LocalBoxFuture<()> + Send>;

#[derive(Default)]
struct Letters {
    woken: Vec<u64>,
    starts: Vec<(&'static str, Start)>,
    bell: Option<Waker>,
    shut: bool,
}

/// What other threads know of a shard.
#[derive(Default)]
struct Shard {
    number: usize,
    letters: Mutex<Letters>,
    has_letters: AtomicBool,
    polls: AtomicU64,
    polls_at_last_beat: AtomicU64,
    /// Beats in a row that found it standing still.
    beats_still: AtomicU32,
    tasks: AtomicUsize,
    /// True once the driver has been polled and can hear the bell.
    is_driven: AtomicBool,
    sleeper: Sleeper,
}

impl Shard {
    /// Ends the sleep of a shard that stands still although it has tasks or letters, or has not begun: it may sleep by
    /// mistake. By a signal, which helps even before there is a bell: the executor's wait returns, and it looks again.
    ///
    /// Tasks alone may just as well wait for a slow disk or network, and each look costs some 50 µs: after looks that
    /// found nothing the next one comes later. Gives the beats in a row that found it so.
    fn beat(&self) -> u32 {
        let polls = self.polls.load(Ordering::Relaxed);
        if self.polls_at_last_beat.swap(polls, Ordering::Relaxed) != polls {
            self.beats_still.store(0, Ordering::Relaxed);
            return 0;
        }
        let beats = self.beats_still.load(Ordering::Relaxed).saturating_add(1);
        self.beats_still.store(beats, Ordering::Relaxed);
        let must_run = self.has_letters.load(Ordering::Relaxed) || !self.is_driven.load(Ordering::Relaxed);
        let may_have_to = self.tasks.load(Ordering::Relaxed) > 0
            && (beats.is_power_of_two() || beats > BEATS_QUIET && beats.is_multiple_of(2));
        if must_run || may_have_to {
            self.sleeper.kick();
        }
        beats
    }

    fn post(&self, write: impl FnOnce(&mut Letters)) {
        let mut letters = self.letters.lock();
        if letters.shut {
            return;
        }
        write(&mut letters);
        let rang = self.has_letters.swap(true, Ordering::AcqRel);
        // Rung under the lock: the driver takes its bell down under the same lock before the executor goes.
        if !rang && let Some(bell) = &letters.bell {
            bell.wake_by_ref();
        }
    }
}

/// What the shard's own thread knows of it.
struct ShardLocal {
    shard: Arc<Shard>,
    tasks: RefCell<Tasks>,
}

#[derive(Default)]
struct Tasks {
    next_number: u64,
    live: HashMap<u64, LiveTask>,
}

struct LiveTask {
    cell: Rc<TaskCell>,
    waker: Option<Waker>,
    /// Kept for tasks that were started from elsewhere: they belong to the shard.
    owned: Option<TaskHandle>,
}

thread_local! {
    static HERE: RefCell<Option<Rc<ShardLocal>>> = const { RefCell::new(None) };
}

impl ShardLocal {
    fn wake(&self, number: u64) {
        let tasks = self.tasks.borrow();
        if let Some(waker) = tasks.live.get(&number).and_then(|task| task.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Wakes and starts what other threads asked for. True if there was something.
    fn read_letters(self: &Rc<Self>, runtime: &GlommioRuntime) -> bool {
        if !self.shard.has_letters.swap(false, Ordering::AcqRel) {
            return false;
        }
        let (woken, starts) = {
            let mut letters = self.shard.letters.lock();
            (std::mem::take(&mut letters.woken), std::mem::take(&mut letters.starts))
        };
        woken.into_iter().for_each(|number| self.wake(number));
        for (name, start) in starts {
            match catch_unwind(AssertUnwindSafe(|| start(runtime.clone()))) {
                Ok(task) => drop(self.start(name, task, true)),
                Err(payload) => tracing::error!(task = name, cause = panic_message(&*payload), "panicked at its start"),
            }
        }
        true
    }

    fn start(self: &Rc<Self>, name: &'static str, future: LocalBoxFuture<()>, owned: bool) -> Rc<TaskCell> {
        let cell = TaskCell::new(name, future);
        let number = {
            let mut tasks = self.tasks.borrow_mut();
            let number = tasks.next_number;
            tasks.next_number += 1;
            let owned = owned.then(|| TaskHandle::new(cell.clone()));
            tasks.live.insert(number, LiveTask { cell: cell.clone(), waker: None, owned });
            self.shard.tasks.store(tasks.live.len(), Ordering::Relaxed);
            number
        };
        let bell = Arc::new(TaskWaker { shard: self.shard.clone(), number, woken: AtomicBool::new(true) });
        cell.set_waker(Waker::from(bell.clone()));
        glommio::spawn_local(run_task(self.clone(), cell.clone(), bell)).detach();
        cell
    }
}

/// Polls a task with our own waker until it ends. Its first poll is never inside of `spawn`.
async fn run_task(local: Rc<ShardLocal>, cell: Rc<TaskCell>, bell: Arc<TaskWaker>) {
    let waker = Waker::from(bell.clone());
    let mut registered = false;
    poll_fn(|cx| {
        if !registered {
            registered = true;
            if let Some(task) = local.tasks.borrow_mut().live.get_mut(&bell.number) {
                task.waker = Some(cx.waker().clone());
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        bell.woken.store(false, Ordering::SeqCst);
        local.shard.polls.fetch_add(1, Ordering::Relaxed);
        cell.poll(&mut Context::from_waker(&waker))
    })
    .await;
    let ended = {
        let mut tasks = local.tasks.borrow_mut();
        let ended = tasks.live.remove(&bell.number);
        local.shard.tasks.store(tasks.live.len(), Ordering::Relaxed);
        ended
    };
    if let Some(LiveTask { owned: Some(_), .. }) = &ended
        && let Some(payload) = cell.take_panic()
    {
        tracing::error!(task = cell.name(), cause = panic_message(&*payload), "panicked without a supervisor");
    }
    drop(ended);
}

struct TaskWaker {
    shard: Arc<Shard>,
    number: u64,
    woken: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::SeqCst) {
            return;
        }
        let here = HERE.with(|here| {
            let here = here.try_borrow().ok()?;
            here.as_ref().filter(|local| Arc::ptr_eq(&local.shard, &self.shard)).cloned()
        });
        match here {
            Some(local) => local.wake(self.number),
            None => self.shard.post(|letters| letters.woken.push(self.number)),
        }
    }
}

/// The glommio runtime as seen from one of its shards.
#[derive(Clone)]
pub struct GlommioRuntime {
    local: Rc<ShardLocal>,
    remote: GlommioRemote,
}

impl Runtime for GlommioRuntime {
    type Remote = GlommioRemote;

    fn remote(&self) -> GlommioRemote {
        self.remote.clone()
    }

    fn shard(&self) -> usize {
        self.local.shard.number
    }

    fn shards(&self) -> usize {
        self.remote.shards.len()
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) -> TaskHandle {
        TaskHandle::new(self.local.start(name, Box::pin(task), false))
    }

    fn sleep(&self, wait: Duration) -> LocalBoxFuture<()> {
        Box::pin(glommio::timer::sleep(wait))
    }

    fn yield_now(&self) -> LocalBoxFuture<()> {
        let runtime = self.clone();
        Box::pin(async move {
            let heard = runtime.local.read_letters(&runtime);
            if glommio::executor().need_preempt() {
                glommio::executor().yield_if_needed().await;
            } else if heard {
                futures_lite::future::yield_now().await;
            }
        })
    }

    fn now(&self) -> Duration {
        clock::monotonic()
    }

    fn unix_now(&self) -> UnixNanos {
        UnixNanos::now()
    }
}

/// Starts tasks on the shards from any thread.
#[derive(Clone)]
pub struct GlommioRemote {
    shards: Arc<[Arc<Shard>]>,
}

impl Remote<GlommioRuntime> for GlommioRemote {
    fn shards(&self) -> usize {
        self.shards.len()
    }

    fn spawn_on<F, Fut>(&self, shard: usize, name: &'static str, make: F)
    where
        F: FnOnce(GlommioRuntime) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let start: Start = Box::new(move |runtime| Box::pin(make(runtime)));
        self.shards[shard].post(|letters| letters.starts.push((name, start)));
    }
}

#[derive(Default)]
struct Health {
    dead: Mutex<Option<String>>,
    changed: Condvar,
}

/// All shards of this process. Created once: each executor costs an eventfd that glommio never closes.
pub struct GlommioShards {
    remote: GlommioRemote,
    health: Arc<Health>,
    threads: Vec<JoinHandle<()>>,
    /// Dropped after the threads have been joined: a shard may sleep through its end too.
    _pulse: Pulse,
}

impl GlommioShards {
    /// Starts the shards, each pinned to one of the cores that this process may use.
    ///
    /// # Errors
    /// [`ActorError::Start`] with what to do next, if the kernel refuses an executor (io_uring forbidden, too little
    /// locked memory). Shards that had started are stopped again.
    pub fn start(options: ShardOptions) -> Result<GlommioShards, ActorError> {
        let cores = cores_available();
        let count = if options.shards == 0 { cores.len() } else { options.shards };
        let shards: Arc<[Arc<Shard>]> =
            (0..count).map(|number| Arc::new(Shard { number, ..Shard::default() })).collect();
        let remote = GlommioRemote { shards };
        let watched = remote.shards.clone();
        let pulse = Pulse::start(PULSE, move || {
            let beats_still = watched.iter().map(|shard| shard.beat()).min().unwrap_or_default();
            if beats_still < BEATS_QUIET { PULSE } else { PULSE_QUIET }
        });
        let pulse = pulse.map_err(|error| start_error(0, &error.to_string()))?;
        let threads = Vec::new();
        let mut started = GlommioShards { remote: remote.clone(), health: Arc::default(), threads, _pulse: pulse };
        for number in 0..count {
            let (ready, is_ready) = mpsc::channel();
            let core = cores[number % cores.len()];
            let (health, remote) = (started.health.clone(), remote.clone());
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || shard_thread(number, core, remote, &health, &ready))
                .map_err(|error| start_error(number, &error.to_string()))?;
            started.threads.push(thread);
            match is_ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => return Err(start_error(number, &cause)),
                Err(_) => return Err(start_error(number, "its thread ended at once")),
            }
        }
        Ok(started)
    }

    /// What starts tasks on the shards.
    pub fn remote(&self) -> GlommioRemote {
        self.remote.clone()
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.remote.shards.len()
    }

    /// Polls of tasks so far, over all shards: stands still while nothing happens.
    pub fn polls(&self) -> u64 {
        self.remote.shards.iter().map(|shard| shard.polls.load(Ordering::Relaxed)).sum()
    }

    /// Runs a job on shard 0 and waits for it. From a plain thread, never from a shard.
    ///
    /// # Errors
    /// What the job returns; its panic, or the death of an executor, as a failure of ours.
    pub fn run<T, F, Fut>(&self, make: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(GlommioRuntime) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Failure>> + 'static,
    {
        let on_a_shard = HERE.with(|here| here.borrow().is_some());
        assert!(!on_a_shard, "a shard cannot wait for a job");
        let slot: Arc<Mutex<Option<Result<T, Failure>>>> = Arc::new(Mutex::new(None));
        let answer = Answer { slot: slot.clone(), health: self.health.clone() };
        self.remote.spawn_on(0, "job", move |runtime| async move {
            let result = futures_lite::future::FutureExt::catch_unwind(AssertUnwindSafe(async { make(runtime).await }));
            let result = result.await.unwrap_or_else(|payload| Err(Failure::from_panic("job", &*payload)));
            answer.give(result);
        });
        let mut dead = self.health.dead.lock();
        loop {
            if let Some(result) = slot.lock().take() {
                return result;
            }
            if let Some(cause) = dead.as_ref() {
                return Err(Failure::internal("run job", "", cause));
            }
            self.health.changed.wait(&mut dead);
        }
    }

    /// Stops the shards: drops their tasks, joins their threads.
    pub fn shutdown(self) {}
}

impl Drop for GlommioShards {
    fn drop(&mut self) {
        for shard in self.remote.shards.iter() {
            shard.post(|letters| letters.shut = true);
        }
        for thread in self.threads.drain(..) {
            // Its panics were caught and told inside.
            let _ = thread.join();
        }
    }
}

/// Brings the result of a job to the thread that waits for it; tells it too when the job is dropped without one.
struct Answer<T> {
    slot: Arc<Mutex<Option<Result<T, Failure>>>>,
    health: Arc<Health>,
}

impl<T> Answer<T> {
    fn give(self, result: Result<T, Failure>) {
        *self.slot.lock() = Some(result);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.slot.lock().get_or_insert_with(|| Err(Failure::internal("run job", "", "its shard was shut down")));
        let _dead = self.health.dead.lock();
        self.health.changed.notify_all();
    }
}

fn start_error(shard: usize, cause: &str) -> ActorError {
    let guidance = if cause.contains("MemLock") || cause.contains("os error 12") {
        "raise the limit of locked memory to 8 MiB (ulimit -l, LimitMEMLOCK= in the systemd unit)"
    } else {
        "mover needs io_uring (Linux 5.8 or newer): allow it in the container's seccomp profile and see \
         /proc/sys/kernel/io_uring_disabled; `mover doctor` tells more"
    };
    ActorError::Start { shard, cause: cause.to_owned(), guidance: guidance.to_owned() }
}

fn build_executor(number: usize, core: usize) -> Result<LocalExecutor, String> {
    let build = || {
        LocalExecutorBuilder::new(Placement::Fixed(core))
            .name(&format!("shard-{number}"))
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .make()
            .map_err(|error| error.to_string())
    };
    catch_unwind(build).unwrap_or_else(|payload| Err(panic_message(&*payload)))
}

/// The life of one shard. Supervises its executor: if that dies, every job that waits is told.
fn shard_thread(
    number: usize,
    core: usize,
    remote: GlommioRemote,
    health: &Health,
    ready: &mpsc::Sender<Result<(), String>>,
) {
    let executor = match build_executor(number, core) {
        Ok(executor) => executor,
        Err(cause) => {
            let _ = ready.send(Err(cause));
            return;
        }
    };
    let shard = remote.shards[number].clone();
    let local = Rc::new(ShardLocal { shard: shard.clone(), tasks: RefCell::default() });
    HERE.with(|here| *here.borrow_mut() = Some(local.clone()));
    let _ = ready.send(Ok(()));
    let runtime = GlommioRuntime { local: local.clone(), remote };
    shard.sleeper.enter();
    let outcome = catch_unwind(AssertUnwindSafe(|| executor.run(drive_shard(local.clone(), runtime))));
    shard.sleeper.leave();
    if let Err(payload) = outcome {
        let cause = format!("shard {number} died: {}", panic_message(&*payload));
        tracing::error!(shard = number, cause, "executor died");
        *health.dead.lock() = Some(cause);
        health.changed.notify_all();
        close_shard(&local);
    }
    drop(executor);
    HERE.with(|here| *here.borrow_mut() = None);
}

/// Reads what other threads ask for until the shard is shut, then drops its tasks while the executor still runs.
async fn drive_shard(local: Rc<ShardLocal>, runtime: GlommioRuntime) {
    poll_fn(|cx| {
        local.shard.letters.lock().bell.get_or_insert_with(|| cx.waker().clone());
        local.shard.is_driven.store(true, Ordering::Relaxed);
        local.read_letters(&runtime);
        // Looked at last: who shuts the shard rings only if the letters were read before.
        if local.shard.letters.lock().shut { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    close_shard(&local);
    // The emptied tasks are woken and let go by the executor; what their destructors started follows them.
    while !local.tasks.borrow().live.is_empty() {
        futures_lite::future::yield_now().await;
        close_shard(&local);
    }
}

/// Takes the bell down and drops the future of every task.
fn close_shard(local: &ShardLocal) {
    let (bell, starts) = {
        let mut letters = local.shard.letters.lock();
        letters.shut = true;
        (letters.bell.take(), std::mem::take(&mut letters.starts))
    };
    drop((bell, starts));
    loop {
        let cells: Vec<Rc<TaskCell>> = {
            let tasks = local.tasks.borrow();
            tasks.live.values().filter(|task| !task.cell.has_ended()).map(|task| task.cell.clone()).collect()
        };
        if cells.is_empty() {
            return;
        }
        for cell in cells {
            // Only a dead executor panics here, when the task wants to be forgotten by it.
            let _ = catch_unwind(AssertUnwindSafe(|| cell.cancel()));
        }
    }
}

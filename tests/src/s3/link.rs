//! A link to a server that is as slow, far and broken as a test wants: a TCP proxy in this process.
//!
//! Each direction has a rate, shared by all connections as a cable is, and a delay; both may change while bytes are on
//! their way. The delay also holds for the handshake: the first bytes of a connection wait a round trip more.
//! Bytes of one connection keep their order, and at most rate × delay × 2 + 1 MiB of it wait here in each direction, so
//! that a sender feels a receiver that does not read.
//!
//! Not modelled: loss and slow start, as each connection is two, and a handshake that fails, as the kernel answers
//! it: where the link refuses, a connection opens and is reset. Runs on two threads of its own.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};

/// Most bytes that are taken from a connection at once.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// Fewest bytes that a rate makes of this.
const PIECE_BYTES_MIN: usize = 16 << 10;
/// A piece is no longer than this on the wire where the rate allows it, so that connections take turns.
const PIECE_TIME: Duration = Duration::from_millis(4);
/// How far a connection may be ahead of the wire, so that a late wake-up leaves no gap in it.
const AHEAD: Duration = Duration::from_millis(5);
/// Idle time that the wire makes up for after a late wake-up.
const CREDIT: Duration = Duration::from_millis(5);
/// Bytes that may wait in one direction of a connection, besides those that are on their way.
const QUEUE_BYTES: u64 = 1 << 20;

/// One direction of the wire.
#[derive(Debug)]
struct Direction {
    /// 0 is without limit.
    bits_per_second: AtomicU64,
    /// When the last bit taken so far has left.
    free_at: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Direction {
    fn new() -> Direction {
        Direction { bits_per_second: AtomicU64::new(0), free_at: Mutex::new(Instant::now()), bytes: AtomicU64::new(0) }
    }

    fn rate(&self) -> u64 {
        self.bits_per_second.load(Ordering::Relaxed)
    }

    /// When the last of so many bytes has left.
    fn take(&self, bytes: usize) -> Instant {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = Instant::now();
        let Some(nanoseconds) = (bytes as u64 * 8 * 1_000_000_000).checked_div(self.rate()) else { return now };
        let mut free_at = self.free_at.lock().expect("the wire");
        *free_at = (*free_at).max(now - CREDIT) + Duration::from_nanos(nanoseconds);
        *free_at
    }

    fn bytes_in(&self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.rate()) * time.as_nanos() / 8_000_000_000).unwrap_or(u64::MAX)
    }

    fn piece_bytes(&self) -> usize {
        let on_time = usize::try_from(self.bytes_in(PIECE_TIME)).unwrap_or(usize::MAX);
        if on_time == 0 { PIECE_BYTES_MAX } else { on_time.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX) }
    }
}

#[derive(Debug)]
struct Wire {
    up: Direction,
    down: Direction,
    delay_nanoseconds: AtomicU64,
    connections: AtomicU64,
}

impl Wire {
    fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay_nanoseconds.load(Ordering::Relaxed))
    }
}

/// What the link does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Passing,
    Refusing,
    Silent,
}

#[derive(Debug, Clone, Copy)]
struct Switch {
    mode: Mode,
    /// How often all connections were cut.
    cuts: u64,
}

/// A running link; connections end when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    wire: Arc<Wire>,
    switch: watch::Sender<Switch>,
    runtime: Option<Runtime>,
}

impl Link {
    /// A link to `target` without delay and limit; panics where it cannot listen.
    pub fn to(target: SocketAddr) -> Link {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen on 127.0.0.1");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("the address of the link");
        let wire = Arc::new(Wire {
            up: Direction::new(),
            down: Direction::new(),
            delay_nanoseconds: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let (switch, state) = watch::channel(Switch { mode: Mode::Passing, cuts: 0 });
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("link").enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.spawn(accept(listener, target, Arc::clone(&wire), state));
        Link { address, wire, switch, runtime: Some(runtime) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The delay of each direction: half of the round trip.
    pub fn set_delay(&self, one_way: Duration) {
        let nanoseconds = u64::try_from(one_way.as_nanos()).expect("a delay of less than centuries");
        self.wire.delay_nanoseconds.store(nanoseconds, Ordering::Relaxed);
    }

    /// The rate of each direction in bits per second; `None` is without limit.
    pub fn set_rate(&self, bits_per_second: Option<u64>) {
        self.set_rate_up(bits_per_second);
        self.set_rate_down(bits_per_second);
    }

    /// The rate to the server.
    pub fn set_rate_up(&self, bits_per_second: Option<u64>) {
        self.wire.up.bits_per_second.store(bits_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// The rate from the server.
    pub fn set_rate_down(&self, bits_per_second: Option<u64>) {
        self.wire.down.bits_per_second.store(bits_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// Resets all connections now; what is on its way is lost. New ones are not concerned.
    pub fn cut(&self) {
        self.switch.send_modify(|switch| switch.cuts += 1);
    }

    /// Resets each new connection, until [`Link::heal`].
    pub fn refuse(&self) {
        self.switch.send_modify(|switch| switch.mode = Mode::Refusing);
    }

    /// Lets nothing pass and tells nobody, until [`Link::heal`]; connections stay open.
    pub fn silence(&self) {
        self.switch.send_modify(|switch| switch.mode = Mode::Silent);
    }

    /// Works again; what waited in silence goes on.
    pub fn heal(&self) {
        self.switch.send_modify(|switch| switch.mode = Mode::Passing);
    }

    /// Bytes that left for the server since the start.
    pub fn bytes_up(&self) -> u64 {
        self.wire.up.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that left for the clients since the start.
    pub fn bytes_down(&self) -> u64 {
        self.wire.down.bytes.load(Ordering::Relaxed)
    }

    /// Connections that were let in since the start.
    pub fn connections(&self) -> u64 {
        self.wire.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: std::net::TcpListener, target: SocketAddr, wire: Arc<Wire>, switch: watch::Receiver<Switch>) {
    let listener = TcpListener::from_std(listener).expect("a listener in the runtime");
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if switch.borrow().mode == Mode::Refusing {
            let _ = client.set_zero_linger();
            continue;
        }
        wire.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connection(client, target, Arc::clone(&wire), switch.clone()));
    }
}

async fn connection(mut client: TcpStream, target: SocketAddr, wire: Arc<Wire>, mut switch: watch::Receiver<Switch>) {
    let cuts = switch.borrow().cuts;
    let mut cut = switch.clone();
    let is_whole = tokio::select! {
        done = both_ways(&mut client, target, &wire, &mut switch) => done.is_ok(),
        _ = cut.wait_for(|switch| switch.cuts != cuts) => false,
    };
    if !is_whole {
        let _ = client.set_zero_linger();
    }
}

async fn both_ways(
    client: &mut TcpStream,
    target: SocketAddr,
    wire: &Wire,
    switch: &mut watch::Receiver<Switch>,
) -> io::Result<()> {
    passing(switch).await?;
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let opened = Instant::now() + wire.delay() * 2;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = Lane { wire, direction: &wire.up, switch: switch.clone(), opened };
    let down = Lane { wire, direction: &wire.down, switch: switch.clone(), opened };
    let outcome = tokio::try_join!(up.carry(from_client, to_server), down.carry(from_server, to_client));
    if outcome.is_err() {
        let _ = server.set_zero_linger();
    }
    outcome.map(drop)
}

async fn passing(switch: &mut watch::Receiver<Switch>) -> io::Result<()> {
    switch.wait_for(|switch| switch.mode != Mode::Silent).await.map(drop).map_err(io::Error::other)
}

/// One thing on its way.
#[derive(Debug)]
enum Parcel {
    Data(Bytes),
    /// The sender closed its side.
    End,
    /// The sender's side broke.
    Reset,
}

/// What is on its way in one direction of one connection.
#[derive(Debug, Default)]
struct Queue {
    parcels: Mutex<(VecDeque<(Parcel, Instant)>, u64)>,
    filled: Notify,
    emptied: Notify,
}

impl Queue {
    fn push(&self, parcel: Parcel, arrives: Instant) {
        let mut state = self.parcels.lock().expect("the queue of a link");
        if let Parcel::Data(data) = &parcel {
            state.1 += data.len() as u64;
        }
        state.0.push_back((parcel, arrives));
        self.filled.notify_one();
    }

    async fn pop(&self) -> (Parcel, Instant) {
        loop {
            if let Some(next) = self.parcels.lock().expect("the queue of a link").0.pop_front() {
                return next;
            }
            self.filled.notified().await;
        }
    }

    fn delivered(&self, bytes: usize) {
        self.parcels.lock().expect("the queue of a link").1 -= bytes as u64;
        self.emptied.notify_one();
    }

    async fn room(&self, bytes_max: impl Fn() -> u64) {
        while self.parcels.lock().expect("the queue of a link").1 >= bytes_max() {
            self.emptied.notified().await;
        }
    }
}

/// One direction of one connection.
struct Lane<'a> {
    wire: &'a Wire,
    direction: &'a Direction,
    switch: watch::Receiver<Switch>,
    /// When the handshake would be over.
    opened: Instant,
}

impl Lane<'_> {
    async fn carry(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        let queue = Queue::default();
        let switch = self.switch.clone();
        tokio::try_join!(self.send(from, &queue), deliver(to, &queue, switch)).map(drop)
    }

    async fn send(mut self, mut from: ReadHalf<'_>, queue: &Queue) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES_MAX];
        let mut timer = Timer::new()?;
        timer.until(self.opened).await?;
        loop {
            queue.room(|| self.direction.bytes_in(self.wire.delay()) * 2 + QUEUE_BYTES).await;
            passing(&mut self.switch).await?;
            let parcel = match from.read(&mut buffer[..self.direction.piece_bytes()]).await {
                Ok(0) => Parcel::End,
                Ok(length) => Parcel::Data(Bytes::copy_from_slice(&buffer[..length])),
                Err(_) => Parcel::Reset,
            };
            let Parcel::Data(data) = &parcel else {
                queue.push(parcel, Instant::now() + self.wire.delay());
                return Ok(());
            };
            let left = self.direction.take(data.len());
            let arrives = left.max(Instant::now()) + self.wire.delay();
            queue.push(parcel, arrives);
            timer.until(left - AHEAD).await?;
        }
    }
}

async fn deliver(mut to: WriteHalf<'_>, queue: &Queue, mut switch: watch::Receiver<Switch>) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let mut is_open = true;
    loop {
        let (parcel, arrives) = queue.pop().await;
        timer.until(arrives).await?;
        passing(&mut switch).await?;
        match parcel {
            // A receiver that is gone may still have an answer on its way back: only its side is over.
            Parcel::Data(data) => {
                is_open = is_open && to.write_all(&data).await.is_ok();
                queue.delivered(data.len());
            }
            Parcel::End => {
                let _ = to.shutdown().await;
                return Ok(());
            }
            Parcel::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// Wakes a task within some 50 µs of a time; the runtime's own timers round up to whole milliseconds.
struct Timer {
    file: AsyncFd<OwnedFd>,
}

impl Timer {
    fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let file = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the owned descriptor stays open and the same until the registration ends with it.
        let file = unsafe { AsyncFd::register(file)? };
        Ok(Timer { file })
    }

    async fn until(&mut self, time: Instant) -> io::Result<()> {
        let wait = time.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let value = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: interval, it_value: value };
        rustix::time::timerfd_settime(self.file.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.file.readable().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|file| Ok(rustix::io::read(file.get_ref(), &mut expirations)?)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => continue,
            }
        }
    }
}

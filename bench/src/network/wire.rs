//! A link with a set rate, delay and loss: two network namespaces joined by a pair of tunnel devices, and between them
//! threads of this program that carry every packet late.
//!
//! Packets are real and so is TCP between the ends: windows, retransmission and slow start meet the delay as on a long
//! line. Each direction has a rate, a queue that drops its tail, a delay, and random loss from a seed. It needs root.
//! Everything is removed on drop: threads, devices, namespaces. It carries up to some hundred Mbit/s; what it really
//! reached is measured before use.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::corpus::bytes::Stream;
use crate::{Result, during, reference};

/// Address of the end where the tools run.
pub const NEAR: &str = "10.211.77.1";
/// Address of the end where the repository is.
pub const FAR: &str = "10.211.77.2";
const PACKET_BYTES_MAX: usize = 2048;
/// A queue holds what the line carries in so long: short enough not to hide the delay, long enough for a window.
const QUEUE_TIME: Duration = Duration::from_millis(50);
const QUEUE_BYTES_MIN: usize = 64 << 10;
/// How often a waiting thread looks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What one direction does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bits a second.
    pub bits_per_second: u64,
    /// One way.
    pub delay: Duration,
    /// Share of packets that vanish.
    pub loss: f64,
    /// Seed of what vanishes.
    pub seed: u64,
}

/// Both ends and what carries packets between them.
pub struct Wire {
    near: Namespace,
    far: Namespace,
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

struct Namespace {
    name: String,
}

impl Namespace {
    fn create(name: &str) -> Result<Namespace> {
        reference::run(Command::new("ip").args(["netns", "add", name]))?;
        Ok(Namespace { name: name.to_owned() })
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Makes a tunnel device inside with an address, and gives its packets.
    fn device(&self, address: &str) -> Result<File> {
        let path = self.path();
        let device = std::thread::spawn(move || {
            enter(&path)?;
            open_tunnel("mover0")
        });
        let device = device.join().map_err(|_| "the thread of a device panicked".to_owned())??;
        let ip = |arguments: &[&str]| reference::run(Command::new("ip").args(["-n", &self.name]).args(arguments));
        ip(&["address", "add", &format!("{address}/30"), "dev", "mover0"])?;
        ip(&["link", "set", "mover0", "mtu", "1500", "up"])?;
        ip(&["link", "set", "lo", "up"])?;
        Ok(device)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Moves this thread into the network namespace at `path`.
pub fn enter(path: &Path) -> Result<()> {
    let file = during(format!("open {}", path.display()), File::open(path))?;
    // SAFETY: the descriptor is open through the call; the call concerns this thread alone.
    let code = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    if code == 0 { Ok(()) } else { Err(format!("cannot enter a namespace: {}", std::io::Error::last_os_error())) }
}

fn open_tunnel(name: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let device = during("open /dev/net/tun", options.read(true).write(true).open("/dev/net/tun"))?;
    // SAFETY: `ifreq` is plain data for which all zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, letter) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = letter as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and the request lives through the call, which reads and fills it.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if code == 0 { Ok(device) } else { Err(format!("cannot make a tunnel: {}", std::io::Error::last_os_error())) }
}

impl Wire {
    /// Builds the link.
    pub fn create(shape: Shape) -> Result<Wire> {
        let number = std::process::id();
        let near = Namespace::create(&format!("mover-near-{number}"))?;
        let far = Namespace::create(&format!("mover-far-{number}"))?;
        let (one, other) = (near.device(NEAR)?, far.device(FAR)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut wire = Wire { near, far, stop, carriers: Vec::new() };
        let back = Shape { seed: shape.seed.wrapping_add(1), ..shape };
        let copy = |file: &File| during("copy a descriptor", file.try_clone());
        wire.carry(copy(&one)?, copy(&other)?, shape);
        wire.carry(other, one, back);
        Ok(wire)
    }

    /// The namespace where the tools run.
    pub fn near(&self) -> PathBuf {
        self.near.path()
    }

    /// The namespace where the repository is.
    pub fn far(&self) -> PathBuf {
        self.far.path()
    }

    fn carry(&mut self, from: File, to: File, shape: Shape) {
        let stop = Arc::clone(&self.stop);
        self.carriers.push(std::thread::spawn(move || carry(from, to, shape, &stop)));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
    }
}

/// The line of one direction as it stands: what is under way and when it arrives.
struct Line {
    shape: Shape,
    queue_bytes_max: usize,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    /// When the last bit that was accepted leaves the sender.
    busy_until: Instant,
    chance: Stream,
}

impl Line {
    fn new(shape: Shape, now: Instant) -> Line {
        let bytes = shape.bits_per_second as f64 / 8.0 * QUEUE_TIME.as_secs_f64();
        let chance = Stream::new(shape.seed, "loss");
        let queue_bytes_max = QUEUE_BYTES_MIN.max(bytes as usize);
        Line { shape, queue_bytes_max, under_way: VecDeque::new(), busy_until: now, chance }
    }

    /// Takes a packet in, unless the queue is full or chance takes it.
    fn accept(&mut self, packet: &[u8], now: Instant) {
        let seconds_a_byte = 8.0 / self.shape.bits_per_second as f64;
        let waiting = self.busy_until.saturating_duration_since(now).as_secs_f64();
        if waiting / seconds_a_byte > self.queue_bytes_max as f64 || self.chance.share() < self.shape.loss {
            return;
        }
        self.busy_until = self.busy_until.max(now) + Duration::from_secs_f64(packet.len() as f64 * seconds_a_byte);
        self.under_way.push_back((self.busy_until + self.shape.delay, packet.to_vec()));
    }

    /// The next packet that has arrived.
    fn arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.under_way.front()?.0 <= now { Some(self.under_way.pop_front()?.1) } else { None }
    }

    /// How long nothing arrives from now on.
    fn quiet_for(&self, now: Instant) -> Duration {
        self.under_way.front().map_or(LOOK_EVERY, |next| next.0.saturating_duration_since(now).min(LOOK_EVERY))
    }
}

fn carry(mut from: File, mut to: File, shape: Shape, stop: &AtomicBool) {
    let mut line = Line::new(shape, Instant::now());
    let mut packet = vec![0; PACKET_BYTES_MAX];
    while !stop.load(Ordering::Relaxed) {
        while let Some(arrived) = line.arrived(Instant::now()) {
            // A device that is going down takes nothing more: as on a real line, the packet is lost.
            let _ = to.write(&arrived);
        }
        let wait = line.quiet_for(Instant::now());
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let readable = {
            let mut ends = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
            matches!(poll(&mut ends, Some(&timeout)), Ok(count) if count > 0)
        };
        if readable && let Ok(count) = from.read(&mut packet) {
            line.accept(&packet[..count], Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Line, Shape};

    const SHAPE: Shape = Shape { bits_per_second: 8_000_000, delay: Duration::from_millis(10), loss: 0.0, seed: 1 };

    #[test]
    fn network_packet_arrives_after_its_bits_and_the_delay() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE, start);
        // 1000 bytes at 1 MB/s are 1 ms.
        line.accept(&[1; 1000], start);
        line.accept(&[2; 1000], start);
        assert_eq!(line.quiet_for(start), Duration::from_millis(11));
        assert_eq!(line.arrived(start + Duration::from_micros(10_900)), None);
        assert_eq!(line.arrived(start + Duration::from_micros(11_100)), Some(vec![1; 1000]));
        assert_eq!(line.arrived(start + Duration::from_micros(11_900)), None);
        assert_eq!(line.arrived(start + Duration::from_micros(12_100)), Some(vec![2; 1000]));
    }

    #[test]
    fn network_queue_drops_its_tail() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE, start);
        (0..200).for_each(|_| line.accept(&[0; 1000], start));
        // 64 KiB wait at most, and one packet more is being sent.
        assert_eq!(line.under_way.len(), 66);
    }

    #[test]
    fn network_loss_is_the_same_for_the_same_seed() {
        let survivors = |seed: u64| {
            let start = Instant::now();
            let mut line = Line::new(Shape { loss: 0.1, seed, bits_per_second: 8_000_000_000, ..SHAPE }, start);
            for number in 0..10_000_u32 {
                line.accept(&number.to_le_bytes(), start);
            }
            line.under_way.into_iter().map(|packet| packet.1).collect::<Vec<_>>()
        };
        let (one, same, other) = (survivors(1), survivors(1), survivors(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert!((8_800..9_200).contains(&one.len()), "{} of 10,000", one.len());
    }
}

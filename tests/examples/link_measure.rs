//! Prints how exact the link of the tests is in rate and delay here: `cargo run -p mover-tests --example link_measure`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mover_tests::s3::Link;

fn main() {
    for (megabits, connections) in [(100, 1), (100, 8), (1000, 1), (1000, 8)] {
        for round_trip_ms in [1, 50, 150, 300] {
            let (share, cpu, ping) = measure(megabits * 1_000_000, connections, Duration::from_millis(round_trip_ms));
            println!(
                "{megabits:>4} Mbit/s, {round_trip_ms:>3} ms, {connections} connections: {:.1} % of the rate, \
                 {cpu:.2} cores with both ends, {ping:.2?} for one byte and back",
                share * 100.0
            );
        }
    }
}

/// The share of the rate that a download of 4 s reaches, the cores that this process used, and the round trip.
fn measure(bits_per_second: u64, connections: usize, round_trip: Duration) -> (f64, f64, Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let source = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for connection in listener.incoming() {
            thread::spawn(move || {
                let piece = vec![0; 1 << 20];
                let mut connection = connection.expect("accept");
                while connection.write_all(&piece).is_ok() {}
            });
        }
    });
    let ping = ping(round_trip);
    let link = Link::to(source);
    link.set_delay(round_trip / 2);
    link.set_rate(Some(bits_per_second));
    let seconds = 4;
    let address = link.address();
    let readers: Vec<_> = (0..connections)
        .map(|_| {
            thread::spawn(move || {
                let mut connection = TcpStream::connect(address).expect("connect");
                let mut buffer = vec![0; 256 << 10];
                let first = connection.read(&mut buffer).expect("receive");
                assert!(first > 0);
                let begin = Instant::now();
                let mut bytes = 0;
                while begin.elapsed() < Duration::from_secs(seconds) {
                    bytes += connection.read(&mut buffer).expect("receive") as u64;
                }
                bytes
            })
        })
        .collect();
    let before = cpu_seconds();
    let bytes: u64 = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
    let cpu = (cpu_seconds() - before) / seconds as f64;
    ((bytes * 8) as f64 / (bits_per_second * seconds) as f64, cpu, ping)
}

/// The time of one byte to an idle server and back.
fn ping(round_trip: Duration) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let link = Link::to(listener.local_addr().expect("an address"));
    link.set_delay(round_trip / 2);
    let mut client = TcpStream::connect(link.address()).expect("connect");
    let mut server = listener.accept().expect("accept").0;
    let mut byte = [0];
    let mut once = || {
        let begin = Instant::now();
        client.write_all(&byte).expect("send");
        server.read_exact(&mut byte).expect("receive");
        server.write_all(&byte).expect("send");
        client.read_exact(&mut byte).expect("receive");
        begin.elapsed()
    };
    // The first one pays for the handshake.
    once();
    once()
}

fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

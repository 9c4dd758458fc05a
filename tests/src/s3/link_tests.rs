//! The link: what passes, in which order, and what ends when it breaks. Counts alone; its exactness is measured by
//! `link_measure` on request, since a test must not assert seconds.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Link;

/// A server that sends back what it gets until each client closes its side.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for connection in listener.incoming() {
            thread::spawn(move || {
                let mut connection = connection.expect("accept");
                let mut buffer = vec![0; 64 << 10];
                while let Ok(length @ 1..) = connection.read(&mut buffer) {
                    if connection.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn numbers(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 7 + at / 251 + seed) % 256).expect("a byte")).collect()
}

/// Sends `sent` on one connection and returns all that comes back.
fn there_and_back(address: SocketAddr, sent: Vec<u8>) -> Vec<u8> {
    let mut connection = TcpStream::connect(address).expect("connect");
    let mut sender = connection.try_clone().expect("clone");
    let sending = thread::spawn(move || {
        sender.write_all(&sent).expect("send");
        sender.shutdown(Shutdown::Write).expect("close one side");
    });
    let mut received = Vec::new();
    connection.read_to_end(&mut received).expect("receive");
    sending.join().expect("the sender");
    received
}

#[test]
fn link_keeps_every_byte_in_order_while_it_changes() {
    let link = Link::to(echo());
    link.set_delay(Duration::from_millis(20));
    link.set_rate(Some(200_000_000));
    let address = link.address();
    let transfers: Vec<_> = (0..4)
        .map(|seed| {
            let sent = numbers(3_000_000, seed);
            thread::spawn(move || assert!(there_and_back(address, sent.clone()) == sent, "bytes differ"))
        })
        .collect();
    for delay_ms in [50, 1, 0, 30] {
        thread::sleep(Duration::from_millis(40));
        link.set_delay(Duration::from_millis(delay_ms));
        link.set_rate_down(Some(100_000_000 + delay_ms * 5_000_000));
    }
    link.set_rate(None);
    for transfer in transfers {
        transfer.join().expect("a transfer");
    }
    assert_eq!((link.bytes_up(), link.bytes_down(), link.connections()), (12_000_000, 12_000_000, 4));
}

#[test]
fn link_holds_a_sender_back_whose_receiver_does_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let link = Link::to(listener.local_addr().expect("an address"));
    let mut sender = TcpStream::connect(link.address()).expect("connect");
    let _receiver = listener.accept().expect("accept");
    sender.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let piece = vec![0; 1 << 20];
    let mut sent = 0;
    while let Ok(length) = sender.write(&piece) {
        sent += length;
        assert!(sent < 64 << 20, "nothing holds the sender back");
    }
    // Twice the 1 MiB of its queue: one piece more than the limit, and what the kernel took from it.
    assert!(link.bytes_up() < 16 << 20, "{} bytes in a queue and the receiver's buffer", link.bytes_up());
}

#[test]
fn link_cuts_refuses_and_heals() {
    let link = Link::to(echo());
    let mut buffer = [0; 4];
    let mut first = TcpStream::connect(link.address()).expect("connect");
    first.write_all(b"ping").expect("send");
    first.read_exact(&mut buffer).expect("receive");
    link.refuse();
    first.write_all(b"ping").expect("send");
    first.read_exact(&mut buffer).expect("an old connection is not concerned");
    link.cut();
    let error = first.read_exact(&mut buffer).expect_err("cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(link.address()).and_then(|mut connection| connection.read_exact(&mut buffer));
    assert!(refused.is_err());
    assert_eq!(link.connections(), 1);
    link.heal();
    assert_eq!(there_and_back(link.address(), numbers(1000, 1)), numbers(1000, 1));
    assert_eq!(link.connections(), 2);
}

#[test]
fn link_in_silence_passes_nothing_and_then_everything() {
    let link = Link::to(echo());
    let mut connection = TcpStream::connect(link.address()).expect("connect");
    let mut buffer = [0; 4];
    connection.write_all(b"ping").expect("send");
    connection.read_exact(&mut buffer).expect("receive");
    link.silence();
    connection.write_all(b"pong").expect("send");
    connection.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let error = connection.read_exact(&mut buffer).expect_err("silence");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    link.heal();
    connection.set_read_timeout(None).expect("no timeout");
    connection.read_exact(&mut buffer).expect("receive");
    assert_eq!(&buffer, b"pong");
}

/// Prints what the link reaches of its rate and delay: `cargo test -p mover-tests --lib link_measure -- --ignored`.
#[test]
#[ignore = "prints times, which no test may assert"]
fn link_measure() {
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
    let pinger = Link::to(echo());
    pinger.set_delay(round_trip / 2);
    let mut connection = TcpStream::connect(pinger.address()).expect("connect");
    let mut byte = [0];
    let mut ping = || {
        let begin = Instant::now();
        connection.write_all(&byte).expect("send");
        connection.read_exact(&mut byte).expect("receive");
        begin.elapsed()
    };
    ping();
    let ping = ping();
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

fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

//! The link: what passes, in which order, and what ends when it breaks. Counts alone: how exact it is in time the example
//! `link_measure` prints.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

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

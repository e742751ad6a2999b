//! The relay between real sockets, as a value and as a process.

mod process;
mod support;
mod troubles;

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use testnet::Options;

use crate::support::{DEADLINE, Net, bytes, expect_end, expect_refused, expect_reset, read};

#[test]
fn bytes_arrive_in_order_both_ways_and_never_early() {
    let (delay, jitter) = (Duration::from_millis(3), Duration::from_millis(4));
    let net = Net::with(|options| Options { delay, jitter, seed: 5, ..options });
    let (mut client, mut server) = net.pair();
    let sent = bytes(2_000_000);
    let started = Instant::now();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            server.write_all(&buffer[..length]).expect("the client reads");
        }
    });
    let mut writing = client.try_clone().expect("a descriptor");
    let to_send = sent.clone();
    let writer = std::thread::spawn(move || {
        to_send.chunks(1000).for_each(|chunk| writing.write_all(chunk).expect("the relay reads"));
        writing.shutdown(Shutdown::Write).expect("it is open");
    });
    assert_eq!(read(&mut client, 1), sent[..1]);
    assert!(started.elapsed() >= 2 * delay);
    assert!(read(&mut client, sent.len() - 1) == sent[1..], "in order");
    expect_end(&mut client);
    writer.join().expect("no panic");
    echo.join().expect("no panic");
}

#[test]
fn one_side_may_end_before_the_other() {
    let net = Net::with(|options| Options { delay: Duration::from_millis(2), ..options });
    let (mut client, mut server) = net.pair();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"last words", "the end comes behind what was said before it");
    server.write_all(b"goodbye").unwrap();
    drop(server);
    assert_eq!(read(&mut client, 7), b"goodbye");
    expect_end(&mut client);
}

#[test]
fn a_reset_comes_through_behind_what_was_sent() {
    let net = Net::with(|options| Options { delay: Duration::from_millis(2), ..options });
    let (mut client, mut server) = net.pair();
    server.write_all(b"so far").unwrap();
    // All of it has left before the reset throws away what has not.
    assert_eq!(read(&mut client, 6), b"so far");
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    expect_reset(&mut client);
}

#[test]
fn a_server_that_is_not_there_is_a_reset() {
    let Net { relay, listener } = Net::start();
    drop(listener);
    expect_refused(relay.address());
}

#[test]
fn a_receiver_that_does_not_read_holds_up_its_sender() {
    let net = Net::with(|options| Options { delay: Duration::from_millis(1), ..options });
    let (mut client, mut server) = net.pair();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = bytes(64 * 1024);
    let mut sent = Vec::new();
    let refused = loop {
        match client.write(&chunk) {
            Ok(length) => sent.extend_from_slice(&chunk[..length]),
            Err(error) => break error,
        }
        // The relay's megabyte and four socket buffers, which grow to some megabytes each.
        assert!(sent.len() < 128 * 1024 * 1024, "nothing holds it up");
    };
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read(&mut server, sent.len()) == sent, "nothing is lost");
    expect_end(&mut server);
}

#[test]
fn a_relay_that_is_dropped_has_let_go_of_everything() {
    let net = Net::start();
    let (mut client, mut server) = net.pair();
    let address = net.relay.address();
    drop(net.relay);
    expect_end(&mut client);
    expect_end(&mut server);
    let refused = std::net::TcpStream::connect_timeout(&address, DEADLINE).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

//! Stalls, half-open links and cuts.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use testnet::Options;

use crate::support::{Net, bytes, expect_end, expect_refused, expect_reset, expect_silence, read};

/// Both sides hear each other.
fn expect_works(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"ping").expect("it is open");
    assert_eq!(read(server, 4), b"ping");
    server.write_all(b"pong").expect("it is open");
    assert_eq!(read(client, 4), b"pong");
}

#[test]
fn a_stall_holds_everything_back_and_loses_nothing() {
    let net = Net::with(|options| Options { jitter: Duration::from_millis(2), ..options });
    let (mut client, mut server) = net.pair();
    expect_works(&mut client, &mut server);
    net.relay.stall();
    let sent = bytes(100_000);
    client.write_all(&sent).unwrap();
    server.write_all(b"hello?").unwrap();
    expect_silence(&mut server);
    expect_silence(&mut client);
    net.relay.heal();
    expect_silence(&mut client);
    net.relay.resume();
    assert!(read(&mut server, sent.len()) == sent);
    assert_eq!(read(&mut client, 6), b"hello?");
    expect_works(&mut client, &mut server);
}

#[test]
fn new_connections_wait_for_the_end_of_a_stall() {
    let net = Net::start();
    net.relay.stall();
    let mut client = net.client();
    client.write_all(b"ping").unwrap();
    expect_silence(&mut client);
    net.listener.set_nonblocking(true).unwrap();
    assert_eq!(net.listener.accept().expect_err("nobody comes").kind(), io::ErrorKind::WouldBlock);
    net.listener.set_nonblocking(false).unwrap();
    net.relay.resume();
    let mut server = net.accept();
    assert_eq!(read(&mut server, 4), b"ping");
    expect_works(&mut client, &mut server);
}

#[test]
fn a_stalled_sender_is_held_up_in_the_end() {
    let net = Net::start();
    let (mut client, mut server) = net.pair();
    net.relay.stall();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = bytes(64 * 1024);
    let mut sent = 0;
    while let Ok(length) = client.write(&chunk) {
        sent += length;
        assert!(sent < 128 * 1024 * 1024, "nothing holds it up");
    }
    net.relay.resume();
    assert_eq!(read(&mut server, sent).len(), sent);
}

#[test]
fn a_half_open_link_swallows_what_is_sent_and_keeps_connections_open() {
    let net = Net::with(|options| Options { delay: Duration::from_millis(1), ..options });
    let (mut client, mut server) = net.pair();
    expect_works(&mut client, &mut server);
    net.relay.half_open();
    // More than all buffers hold: it is read and thrown away.
    let chunk = bytes(64 * 1024);
    for _ in 0..1024 {
        client.write_all(&chunk).unwrap();
    }
    server.write_all(b"hello?").unwrap();
    expect_silence(&mut server);
    expect_silence(&mut client);
    let mut young = net.client();
    young.write_all(b"hello?").unwrap();
    expect_silence(&mut young);

    net.relay.heal();
    let (mut new_client, mut new_server) = net.pair();
    expect_works(&mut new_client, &mut new_server);
    // Bytes of the old ones were lost, so that nothing can come behind them.
    client.write_all(b"hello?").unwrap();
    expect_silence(&mut server);
    young.write_all(b"hello?").unwrap();
    expect_silence(&mut young);
    // Nor does the other side hear of an end.
    drop(client);
    expect_silence(&mut server);
    drop(server);
    net.relay.cut();
    expect_reset(&mut new_client);
}

#[test]
fn a_dead_connection_ends_when_both_sides_have_ended_it() {
    let net = Net::start();
    let (mut client, server) = net.pair();
    net.relay.half_open();
    net.relay.heal();
    drop(server);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    expect_end(&mut client);
}

#[test]
fn a_cut_resets_what_is_there_and_what_comes_until_healed() {
    let net = Net::start();
    let (mut client, mut server) = net.pair();
    let (mut dead_client, mut dead_server) = net.pair();
    expect_works(&mut client, &mut server);
    expect_works(&mut dead_client, &mut dead_server);
    net.relay.half_open();
    net.relay.heal();
    let (mut client_2, mut server_2) = net.pair();
    expect_works(&mut client_2, &mut server_2);
    net.relay.cut();
    for stream in [&mut client, &mut server, &mut dead_client, &mut dead_server, &mut client_2, &mut server_2] {
        expect_reset(stream);
    }
    expect_refused(net.relay.address());
    net.relay.resume();
    expect_refused(net.relay.address());
    net.relay.heal();
    let (mut client, mut server) = net.pair();
    expect_works(&mut client, &mut server);
}

#[test]
fn a_cut_that_is_healed_at_once_is_still_a_cut() {
    let net = Net::start();
    let (mut client, mut server) = net.pair();
    expect_works(&mut client, &mut server);
    net.relay.stall();
    net.relay.cut();
    net.relay.heal();
    net.relay.resume();
    expect_reset(&mut client);
    expect_reset(&mut server);
}

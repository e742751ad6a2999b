use tokio::io::AsyncReadExt as _;

use super::*;
use crate::{Faults, Options};

/// A connection of a server with these faults. Time is a value here: it runs when nothing else does.
async fn connect(faults: Faults) -> TcpStream {
    let options = Options { host_name: Some("vm".into()), faults, ..Options::default() };
    let worker = Worker::new(options, 18_000).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    tokio::spawn(serve(stream, None, worker, CancellationToken::new()));
    client
}

/// Sends `text` and returns what comes until the end of the connection, and how long that takes.
async fn all_that_follows(client: &mut TcpStream, text: &str) -> (String, Duration) {
    let start = Instant::now();
    client.write_all(text.as_bytes()).await.unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    (reply, start.elapsed())
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_idle_http_connection_is_cut_before_its_time() {
    let limit = Duration::from_millis(300);
    for (idle_cut, kept) in [(None, KEEP_ALIVE), (Some(limit), limit), (Some(2 * KEEP_ALIVE), KEEP_ALIVE)] {
        let mut client = connect(Faults { idle_cut, ..Faults::default() }).await;
        let (reply, elapsed) = all_that_follows(&mut client, HEALTH).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(elapsed >= kept && elapsed < kept + Duration::from_millis(100), "{idle_cut:?}: {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_in_pieces_must_be_whole_in_time() {
    let header_timeout = Some(Duration::from_secs(3));
    let mut client = connect(Faults { header_timeout, ..Faults::default() }).await;
    let start = Instant::now();
    for piece in ["GET /", "health", " HTTP/1.1"] {
        sleep(Duration::from_millis(900)).await;
        client.write_all(piece.as_bytes()).await.unwrap();
    }
    let (reply, _) = all_that_follows(&mut client, "\r\nHost").await;
    assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("\r\nconnection: close\r\n"), "{reply}");
    assert!(start.elapsed() < Duration::from_secs(4), "a piece buys no more time");

    // What comes behind the first request has uvicorn's time.
    let mut client = connect(Faults { header_timeout, ..Faults::default() }).await;
    let (reply, elapsed) = all_that_follows(&mut client, HEALTH).await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && !reply.contains("408") && elapsed >= KEEP_ALIVE, "{reply}");
}

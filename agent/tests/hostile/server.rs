//! The servers of the table.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use proto::{Mode, Phase};
use refserver::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::interval;
use tokio_util::sync::DropGuard;

use crate::rows::{Act, At, Dress, Row};
use crate::support::peer::{HASH, Peer, close, http, observation, switching};
use crate::support::tls::{Authority, secured};
use crate::support::{raw, reference};

/// Where a row's server is.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
    _server: Option<DropGuard>,
}

/// Starts a row's server on this thread. With `paused` the clock stands still from its first drip on, so that seconds
/// pass at once; whoever talks to it must be on this thread then.
pub(crate) async fn start(row: &Row, paused: bool) -> Place {
    if let Some(place) = behind_tls(row).await {
        return place;
    }
    let (mode, at) = (row.mode, row.at);
    let acts: Rc<[Act]> = row.acts.clone().into();
    let url = raw(move |peer| {
        let acts = acts.clone();
        async move { play(peer, mode, at, &acts, paused).await }
    })
    .await;
    let url = if row.dress == Dress::TlsWanted { url.replace("http:", "https:") } else { url };
    Place { url, ca_pem: String::new(), _server: None }
}

async fn behind_tls(row: &Row) -> Option<Place> {
    let (name, year, trusted) = match row.dress {
        Dress::Plain | Dress::TlsWanted => return None,
        Dress::Misnamed => ("elsewhere.example", 4_096, true),
        Dress::Expired => ("127.0.0.1", 1_999, true),
        Dress::UnknownIssuer => ("127.0.0.1", 4_096, false),
        Dress::TlsUnasked => ("127.0.0.1", 4_096, true),
    };
    let (plain, server) = reference(Options::default());
    let authority = Authority::new("ours");
    let address = secured(authority.acceptor_until(name, year), &plain).await;
    let scheme = if row.dress == Dress::TlsUnasked { "http" } else { "https" };
    let ca_pem = if trusted { authority.pem() } else { Authority::new("another").pem() };
    Some(Place { url: format!("{scheme}://{address}"), ca_pem, _server: Some(server) })
}

async fn play(mut peer: Peer<TcpStream>, mode: Mode, at: At, acts: &[Act], paused: bool) {
    let mut head = String::new();
    let mut answered = Phase::Connect;
    match (mode, at) {
        (_, At::Accept) => {}
        (Mode::Ws, At::Asked(Phase::Connect)) => head = peer.head().await,
        (Mode::Ws, At::Upgraded) => {
            head = peer.head().await;
            peer.send(switching(&head)).await;
        }
        (Mode::Ws, At::Asked(phase)) => {
            answered = phase;
            peer.ws_until(phase).await;
        }
        (Mode::Http, At::Asked(phase)) => {
            answered = phase;
            peer.http_until(phase).await;
        }
        (Mode::Http, At::Upgraded) => panic!("HTTP has no upgrade"),
    }
    for act in acts {
        match act {
            Act::Answer(answer) => peer.send(answer(&head)).await,
            Act::Send(bytes) => peer.send(bytes).await,
            // It ends when the client has gone.
            Act::Flood(bytes) => while peer.stream.write_all(bytes).await.is_ok() {},
            Act::Chatter(bytes) => chatter(&mut peer.stream, bytes).await,
            Act::Drip(bytes) => drip(&mut peer.stream, bytes, paused).await,
            Act::GoOn => go_on(&mut peer, mode, answered).await,
            Act::HalfClose => drop(peer.stream.shutdown().await),
            Act::Close => return,
            Act::Cut => return peer.cut(),
        }
    }
    peer.silent().await;
}

async fn chatter(stream: &mut TcpStream, bytes: &[u8]) {
    let (mut read, mut write) = stream.split();
    let mut buffer = [0; 4_096];
    let talk = async { while write.write_all(bytes).await.is_ok() {} };
    let listen = async { while matches!(read.read(&mut buffer).await, Ok(1..)) {} };
    tokio::join!(talk, listen);
}

async fn drip(stream: &mut TcpStream, bytes: &[u8], paused: bool) {
    if paused {
        tokio::time::pause();
    }
    let mut second = interval(Duration::from_secs(1));
    for byte in bytes.iter().cycle() {
        second.tick().await;
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}

async fn go_on(peer: &mut Peer<TcpStream>, mode: Mode, answered: Phase) {
    match mode {
        Mode::Ws => {
            peer.ws_on(answered, Phase::Close).await;
            peer.send(close(Some(1000))).await;
            // Reads the client's close, and hangs up first.
            let ended: io::Result<()> = peer.stream.shutdown().await;
            ended.expect("the client is there");
        }
        Mode::Http => {
            if answered < Phase::Step {
                peer.http_on(answered, Phase::Step).await;
                peer.send(http(200, &observation(HASH))).await;
            }
            drop(peer.stream.shutdown().await);
        }
    }
}

//! Relays one accepted connection over a second one to the server.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::Options;
use crate::delay_line::{DelayLine, stream};
use crate::link::{Fate, Link};

/// The most bytes that are read at once.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// The most bytes that wait in one direction. Beyond it the socket is not read: the sender waits.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// What a chunk costs besides its bytes, so that a flood of tiny chunks is bounded too.
const CHUNK_OVERHEAD_BYTES: usize = 64;

/// A side has reset its connection or can't be reached. The other side is reset too.
#[derive(Debug)]
struct Broken;

/// What was read from one side.
#[derive(Debug)]
enum Chunk {
    /// The bytes, and how many of them were written.
    Bytes(Box<[u8]>, usize),
    /// FIN.
    End,
    /// RST.
    Reset,
}

/// Relays `client`, the `number`th connection, until it has ended on both sides or the link is cut.
pub(crate) async fn serve(mut client: TcpStream, number: u64, options: Options, mut link: watch::Receiver<Link>) {
    let at_accept = *link.borrow();
    let mut server = None;
    let is_broken = |link: &Link| matches!(link.fate(&at_accept), Fate::Dead | Fate::Reset);
    let watched = Watched { link: link.clone(), at_accept };
    let forwarded = tokio::select! {
        biased;
        broken = link.wait_for(is_broken) => match broken.map(|link| link.fate(&at_accept)) {
            Ok(Fate::Dead) => None,
            Ok(_) => Some(Err(Broken)),
            // The relay was dropped.
            Err(_) => return,
        },
        ended = forward(&mut client, &mut server, number, options, watched) => Some(ended),
    };
    let is_reset = |link: &Link| link.fate(&at_accept) == Fate::Reset;
    let ended = match forwarded {
        Some(ended) => ended,
        None => tokio::select! {
            biased;
            cut = link.wait_for(is_reset) => cut.map_or(Ok(()), |_| Err(Broken)),
            () = discard(&client, server.as_ref()) => Ok(()),
        },
    };
    if let Err(Broken) = ended {
        for stream in std::iter::once(&client).chain(server.as_ref()) {
            // If this fails the connection ends in an orderly way, and nothing can be done about it.
            let _ = stream.set_zero_linger();
        }
    }
}

/// Reads and discards until both sides have ended.
async fn discard(client: &TcpStream, server: Option<&TcpStream>) {
    let side = async |stream: &TcpStream| {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    };
    match server {
        Some(server) => drop(tokio::join!(side(client), side(server))),
        None => side(client).await,
    }
}

/// The link as one connection sees it.
#[derive(Debug, Clone)]
struct Watched {
    link: watch::Receiver<Link>,
    at_accept: Link,
}

impl Watched {
    /// Runs `act` if the link forwards; `None` if not. The link can't change before `act` returns.
    fn unless_stopped<T>(&mut self, act: impl FnOnce() -> T) -> Option<T> {
        let link = self.link.borrow_and_update();
        (link.fate(&self.at_accept) == Fate::Forwarded).then(act)
    }

    async fn until_forwarded(&mut self) {
        let at_accept = self.at_accept;
        // An error means that the relay was dropped, and this future with it.
        let _ = self.link.wait_for(|link| link.fate(&at_accept) == Fate::Forwarded).await;
    }

    async fn changed(&mut self) {
        if self.link.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn forward(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    number: u64,
    options: Options,
    mut link: Watched,
) -> Result<(), Broken> {
    link.until_forwarded().await;
    let server = server.insert(connect(options.to).await.map_err(|_| Broken)?);
    client.set_nodelay(true).map_err(|_| Broken)?;
    let line = |direction| DelayLine::new(options.delay, options.jitter, stream(options.seed, number, direction));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = Direction::new(to_server, line(0), link.clone()).pump(from_client);
    let down = Direction::new(to_client, line(1), link).pump(from_server);
    tokio::try_join!(up, down).map(drop)
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// The result of trying to write what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Nothing is due.
    Waiting,
    /// The receiver accepts no more bytes now.
    Full,
    End,
    Broken,
}

/// One direction of a connection.
#[derive(Debug)]
struct Direction<'a> {
    to: WriteHalf<'a>,
    line: DelayLine<Chunk>,
    /// The chunk that has left the line and is not written completely.
    head: Option<Chunk>,
    waiting_bytes: usize,
    link: Watched,
}

impl<'a> Direction<'a> {
    fn new(to: WriteHalf<'a>, line: DelayLine<Chunk>, link: Watched) -> Self {
        Self { to, line, head: None, waiting_bytes: 0, link }
    }

    /// Forwards what arrives until the FIN is forwarded.
    async fn pump(mut self, from: ReadHalf<'_>) -> Result<(), Broken> {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let mut is_reading = true;
        loop {
            let Self { to, line, head, waiting_bytes, link } = &mut self;
            let flow = link.unless_stopped(|| flow(to, line, head, waiting_bytes));
            match flow {
                Some(Flow::End) => return self.to.shutdown().await.map_err(|_| Broken),
                Some(Flow::Broken) => return Err(Broken),
                Some(Flow::Waiting | Flow::Full) | None => {}
            }
            let release = line.next_release();
            tokio::select! {
                () = link.changed() => {}
                ready = from.readable(), if is_reading && *waiting_bytes < WAITING_BYTES_MAX => {
                    let chunk = match ready.and_then(|()| from.try_read(&mut buffer)) {
                        Ok(0) => Chunk::End,
                        Ok(length) => Chunk::Bytes(buffer[..length].into(), 0),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(_) => Chunk::Reset,
                    };
                    is_reading = matches!(chunk, Chunk::Bytes(..));
                    *waiting_bytes += cost(&chunk);
                    line.push(chunk, Instant::now());
                }
                () = sleep_until(release.unwrap_or_else(Instant::now)),
                    if flow == Some(Flow::Waiting) && release.is_some() => {}
                // An error shows at the next write.
                _ = to.writable(), if flow == Some(Flow::Full) => {}
            }
        }
    }
}

fn cost(chunk: &Chunk) -> usize {
    match chunk {
        Chunk::Bytes(bytes, _) => bytes.len() + CHUNK_OVERHEAD_BYTES,
        Chunk::End | Chunk::Reset => 0,
    }
}

/// Writes what is due, as far as the receiver accepts it.
fn flow(to: &WriteHalf<'_>, line: &mut DelayLine<Chunk>, head: &mut Option<Chunk>, waiting_bytes: &mut usize) -> Flow {
    loop {
        if head.is_none() {
            *head = line.pop(Instant::now());
        }
        let Some(chunk) = head else { return Flow::Waiting };
        match chunk {
            Chunk::End => return Flow::End,
            Chunk::Reset => return Flow::Broken,
            Chunk::Bytes(bytes, written) => match to.try_write(&bytes[*written..]) {
                Ok(taken) => *written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flow::Full,
                Err(_) => return Flow::Broken,
            },
        }
        if matches!(chunk, Chunk::Bytes(bytes, written) if *written == bytes.len()) {
            *waiting_bytes -= cost(chunk);
            *head = None;
        }
    }
}

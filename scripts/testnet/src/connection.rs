//! One accepted connection and the one made for it.

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

/// Most bytes read at once.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// Bytes that may wait in one direction; the socket is not read while there are as many, and so the sender has to wait.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// What a chunk costs on top of its bytes, so that a flood of tiny ones is bounded too.
const CHUNK_OVERHEAD_BYTES: usize = 64;

/// The peer has reset its connection or cannot be reached: the other side is to see the same.
#[derive(Debug)]
struct Broken;

/// What is read of one side.
#[derive(Debug)]
enum Chunk {
    /// And how many of them have been written.
    Bytes(Box<[u8]>, usize),
    /// FIN.
    End,
    /// RST.
    Reset,
}

/// Relays `client`, the `number`th connection, until it has ended on both sides or the link is cut.
pub(crate) async fn serve(mut client: TcpStream, number: u64, options: Options, mut link: watch::Receiver<Link>) {
    let born = *link.borrow();
    let mut server = None;
    let is_broken = |link: &Link| matches!(link.fate(&born), Fate::Dead | Fate::Reset);
    let watched = Watched { link: link.clone(), born };
    let forwarded = tokio::select! {
        biased;
        broken = link.wait_for(is_broken) => match broken.map(|link| link.fate(&born)) {
            Ok(Fate::Dead) => None,
            Ok(_) => Some(Err(Broken)),
            // The relay has gone.
            Err(_) => return,
        },
        ended = forward(&mut client, &mut server, number, options, watched) => Some(ended),
    };
    let is_reset = |link: &Link| link.fate(&born) == Fate::Reset;
    let ended = match forwarded {
        Some(ended) => ended,
        None => tokio::select! {
            biased;
            cut = link.wait_for(is_reset) => cut.map_or(Ok(()), |_| Err(Broken)),
            () = swallow(&client, server.as_ref()) => Ok(()),
        },
    };
    if let Err(Broken) = ended {
        for stream in std::iter::once(&client).chain(server.as_ref()) {
            // Failing, there is an orderly end instead; there is nothing better to do.
            let _ = stream.set_zero_linger();
        }
    }
}

/// Reads and throws away until both sides have ended.
async fn swallow(client: &TcpStream, server: Option<&TcpStream>) {
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
    born: Link,
}

impl Watched {
    /// Does `act` unless nothing may go on, and says whether it did. Whoever changes the link waits until that is done.
    fn unless_stopped<T>(&mut self, act: impl FnOnce() -> T) -> Option<T> {
        let link = self.link.borrow_and_update();
        (link.fate(&self.born) == Fate::Forwarded).then(act)
    }

    async fn until_forwarded(&mut self) {
        let born = self.born;
        // Without a relay nobody polls this any more.
        let _ = self.link.wait_for(|link| link.fate(&born) == Fate::Forwarded).await;
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

/// What became of a try to write what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Nothing is due.
    Waiting,
    /// The receiver takes nothing now.
    Full,
    End,
    Broken,
}

/// One way of a connection.
#[derive(Debug)]
struct Direction<'a> {
    to: WriteHalf<'a>,
    line: DelayLine<Chunk>,
    /// Out of the line, but not written as a whole.
    head: Option<Chunk>,
    waiting_bytes: usize,
    link: Watched,
}

impl<'a> Direction<'a> {
    fn new(to: WriteHalf<'a>, line: DelayLine<Chunk>, link: Watched) -> Self {
        Self { to, line, head: None, waiting_bytes: 0, link }
    }

    /// Carries what comes to the other side until its FIN has been passed on.
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
                // An error shows when it is written to.
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

/// Writes what is due, as far as it is taken.
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

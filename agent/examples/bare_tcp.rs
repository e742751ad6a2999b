//! What this machine can do without any protocol: the yardstick of `scripts/bench`.
//!
//! `bare_tcp server` echoes lines of fixed size; `bare_tcp client SESSIONS ADDRESS THREADS` opens SESSIONS connections
//! at once, makes four round trips on each (as a session does: upgrade, reset, step, close) and waits for the server to
//! close. It prints sessions and seconds. Threads are as in the agent: each with its own single-threaded runtime.

#![expect(clippy::print_stdout, reason = "it prints its result")]

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};

/// About the size of a step and its reply.
const BYTES: usize = 128;
const ROUND_TRIPS: usize = 4;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["server", threads] => serve(threads.parse()?),
        ["client", sessions, address, threads] => load(sessions.parse()?, address.parse()?, threads.parse()?),
        _ => Err("bare_tcp server THREADS | bare_tcp client SESSIONS ADDRESS THREADS".into()),
    }
}

fn local(future: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}

fn serve(threads: usize) -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    // The standard library's backlog is short: a burst would wait for retransmitted SYNs.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4_096)?)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let listener = listener.try_clone()?;
            Ok(std::thread::spawn(move || {
                local(async move {
                    let listener = TcpListener::from_std(listener)?;
                    loop {
                        if let Ok((stream, _)) = listener.accept().await {
                            tokio::task::spawn_local(echo(stream));
                        }
                    }
                })
            }))
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = [0; BYTES];
    let _ = stream.set_nodelay(true);
    for _ in 0..ROUND_TRIPS {
        if stream.read_exact(&mut buffer).await.is_err() || stream.write_all(&buffer).await.is_err() {
            return;
        }
    }
}

fn load(sessions: usize, address: SocketAddr, threads: usize) -> Result<()> {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?.1;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit)?;
    let start = Instant::now();
    let threads: Vec<_> = (0..threads)
        .map(|thread| {
            let count = sessions.saturating_sub(thread).div_ceil(threads);
            std::thread::spawn(move || {
                local(async move {
                    let mut open = JoinSet::new();
                    for _ in 0..count {
                        open.spawn_local(session(address));
                    }
                    while let Some(ended) = open.join_next().await {
                        ended??;
                    }
                    Ok(())
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    println!("{sessions} {:.6}", start.elapsed().as_secs_f64());
    Ok(())
}

async fn session(address: SocketAddr) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    let mut stream = socket.connect(address).await?;
    let mut buffer = [7; BYTES];
    for _ in 0..ROUND_TRIPS {
        stream.write_all(&buffer).await?;
        stream.read_exact(&mut buffer).await?;
    }
    // The server closes first, as an environment server does.
    if stream.read(&mut buffer).await? == 0 { Ok(()) } else { Err("more than was sent".into()) }
}

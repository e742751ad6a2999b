//! `refserver health`: whether a server of this machine answers, for health checks of containers, which may have
//! neither a shell nor curl.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

/// The first argument that selects this command.
pub(crate) const COMMAND: &str = "health";

/// A server that takes longer counts as unhealthy.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More bytes than the answer has.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Asks a server of this machine for GET /health: 0 if it answers that it is healthy, 1 and what is wrong if not.
#[derive(Debug, clap::Parser)]
#[command(name = "refserver health", version)]
struct Args {
    /// Where the server listens: the address that it was given
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
}

/// Runs the command. `args` are the arguments after its name.
pub(crate) fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (line, code) = match Args::try_parse_from(std::iter::once("refserver health".into()).chain(args)) {
        Ok(args) => {
            let place = reachable(args.listen);
            match ask(place) {
                Ok(()) => (format!("http://{place}/health says healthy"), ExitCode::SUCCESS),
                Err(error) => (format!("http://{place}/health: {error}"), ExitCode::FAILURE),
            }
        }
        // Docker knows no failure code but 1.
        Err(error) => (error.to_string(), if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
    };
    // Standard output may be closed.
    let _ = writeln!(io::stdout(), "{}", line.trim_end());
    code
}

/// A server that listens on every address is reached over the loopback interface.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, listen.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, listen.port()).into(),
        _ => listen,
    }
}

/// Requests GET /health.
fn ask(place: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&place, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // Sent in one piece: a server that answers the first part and closes would reset the connection.
    let request = format!("GET /health HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""status":"healthy""#) {
        return Ok(());
    }
    let first = answer.lines().next().unwrap_or("nothing");
    Err(io::Error::other(format!("it answered {first:?}; is another server listening there?")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that gives this one answer.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let place = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut request = [0; 256];
            let _ = stream.read(&mut request).expect("request");
            stream.write_all(answer.as_bytes()).expect("answered");
        });
        place
    }

    #[test]
    fn only_a_healthy_answer_is_health() {
        let healthy = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"status\":\"healthy\"}";
        assert!(ask(server(healthy)).is_ok());
        for (answer, named) in [
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "503"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "200 OK"),
            ("", "nothing"),
        ] {
            let error = ask(server(answer)).expect_err("no health").to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn every_address_is_asked_over_the_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8000", "127.0.0.1:8000"), ("[::]:8000", "[::1]:8000"), ("10.0.0.5:80", "10.0.0.5:80")]
        {
            assert_eq!(reachable(listen.parse().expect("address")), asked.parse().expect("address"));
        }
    }
}

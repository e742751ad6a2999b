//! The upgrade from HTTP to WebSocket (RFC 6455 section 4.1).
//!
//! tungstenite has one too, but it keeps several KiB for each handshake and builds header maps of the request and the
//! response. In a burst thousands of handshakes are under way at once (docs/performance.md).

use memchr::memmem;
use proto::FailureKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fault::{Fault, Refusal};
use super::reply;
use crate::net::socket::Transport;
use crate::net::target::Endpoint;

/// Room for header fields at the first try; it doubles while there are more.
const HEADERS_FIRST: usize = 32;
/// Separates head and body (RFC 9112 section 2.1).
const HEAD_END: &[u8] = b"\r\n\r\n";
/// A head up to this length is parsed after each read, so that a server that does not speak HTTP is noticed at once.
const PARSED_EACH_READ_BYTES: usize = 1 << 10;

/// The request for one url, without its key and its end.
#[derive(Debug)]
pub struct UpgradeRequest(String);

impl UpgradeRequest {
    #[must_use]
    pub fn to(endpoint: &Endpoint) -> Self {
        Self(format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: ",
            endpoint.url.http_path("ws"),
            endpoint.url.authority()
        ))
    }

    /// Sends the request and waits for status 101. Returns the bytes read after the head: frames may follow at once.
    ///
    /// # Errors
    /// `upgrade_refused` with the status, `bad_reply` for a response that breaks RFC 6455, `client_limit` for a head
    /// above `bytes_max`, or the connection's own failure.
    pub async fn send(&self, stream: &mut Transport, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let key = generate_key();
        let mut bytes = Vec::with_capacity(self.0.len() + key.len() + 4);
        bytes.extend_from_slice(self.0.as_bytes());
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(b"\r\n\r\n");
        stream.write_all(&bytes).await?;
        // Without a flush TLS may hold the last bytes back.
        stream.flush().await?;
        // The response takes the request's buffer.
        bytes.clear();
        loop {
            let before = bytes.len();
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(Fault::new(FailureKind::Closed(1006), "closed before the upgrade was answered"));
            }
            // A long head is parsed once, when it is whole.
            let fresh = &bytes[before.saturating_sub(HEAD_END.len() - 1)..];
            let ends = memmem::find(fresh, HEAD_END).is_some() || fresh.ends_with(b"\n\n");
            if (ends || before < PARSED_EACH_READ_BYTES)
                && let Some(head_bytes) = judge(&bytes, &key)?
            {
                return Ok(bytes.split_off(head_bytes));
            }
            if bytes.len() > bytes_max {
                return Err(Fault::too_large(bytes_max));
            }
        }
    }
}

fn bad(what: &str) -> Fault {
    Fault::new(FailureKind::BadReply, format!("the upgrade was answered by {what}"))
}

/// The length of a response head that accepts the upgrade with `key`; `None` if the head is not complete yet.
///
/// # Errors
/// See [`UpgradeRequest::send`].
pub fn judge(bytes: &[u8], key: &str) -> Result<Option<usize>, Fault> {
    let mut room = HEADERS_FIRST;
    loop {
        let mut headers = vec![httparse::EMPTY_HEADER; room];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(bytes) {
            Ok(httparse::Status::Complete(head_bytes)) => {
                return accepted(&response, key, &bytes[head_bytes..]).map(|()| Some(head_bytes));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => room *= 2,
            Err(error) => return Err(bad(&format!("no HTTP ({error})"))),
        }
    }
}

/// Checks that a whole head accepts the upgrade. `body` is what has arrived of the body.
fn accepted(response: &httparse::Response<'_, '_>, key: &str, body: &[u8]) -> Result<(), Fault> {
    let values = |name: &'static str| {
        response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    let status = response.code.unwrap_or(0);
    if status != 101 {
        let first = |name: &'static str| values(name).next().map(String::from_utf8_lossy);
        let refusal = Refusal::of(first("retry-after").as_deref(), first("location").as_deref());
        return Err(Fault { refusal, ..refused(status, response.reason.unwrap_or(""), body) });
    }
    // A list may be spread over several lines (RFC 9110 section 5.3).
    let has = |name: &'static str, token: &str| {
        values(name)
            .any(|value| String::from_utf8_lossy(value).split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err(bad("101 without Upgrade: websocket"));
    }
    if !values("sec-websocket-accept").eq([derive_accept_key(key.as_bytes()).as_bytes()]) {
        return Err(bad("a wrong Sec-WebSocket-Accept"));
    }
    // The client offered neither, so the server may choose neither (RFC 6455 section 4.1, points 5 and 6).
    if values("sec-websocket-extensions").chain(values("sec-websocket-protocol")).next().is_some() {
        return Err(bad("an extension or subprotocol that was not asked for"));
    }
    Ok(())
}

fn refused(status: u16, reason: &str, body: &[u8]) -> Fault {
    let mut message =
        format!("the upgrade to WebSocket was answered with HTTP {status} {reason}").trim_end().to_owned();
    let body = String::from_utf8_lossy(body);
    if !body.trim().is_empty() {
        message.push_str(&format!(": {}", reply::excerpt(body.trim())));
    }
    Fault::new(FailureKind::UpgradeRefused(status), message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    /// The example of RFC 6455 section 1.3.
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn reply(accept: &str, extra: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
        )
    }

    #[test]
    fn only_the_right_answer_is_accepted() {
        let good = reply(ACCEPT, "");
        assert_eq!(judge(good.as_bytes(), KEY), Ok(Some(good.len())));
        let lines = good.replace("keep-alive, Upgrade", "keep-alive\r\nConnection: Upgrade");
        assert_eq!(judge(lines.as_bytes(), KEY), Ok(Some(lines.len())));
        let followed = format!("{good}\u{1}frame");
        assert_eq!(judge(followed.as_bytes(), KEY), Ok(Some(good.len())));
        for (text, kind) in [
            (reply("wrong", ""), FailureKind::BadReply),
            (reply(ACCEPT, "Sec-WebSocket-Accept: wrong\r\n"), FailureKind::BadReply),
            (reply(ACCEPT, "Sec-WebSocket-Extensions: permessage-deflate\r\n"), FailureKind::BadReply),
            (good.replace("WebSocket\r\nC", "h2c\r\nC"), FailureKind::BadReply),
            ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), FailureKind::BadReply),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned(), FailureKind::UpgradeRefused(503)),
            ("HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\n\r\n".to_owned(), FailureKind::UpgradeRefused(301)),
        ] {
            assert_eq!(judge(text.as_bytes(), KEY).err().and_then(|f| f.kind().cloned()), Some(kind), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_head_is_complete_only_at_its_end(cut in 0_usize..200) {
            let good = reply(ACCEPT, "");
            let cut = cut.min(good.len() - 1);
            prop_assert_eq!(judge(&good.as_bytes()[..cut], KEY), Ok(None));
        }

        #[test]
        fn garbage_is_an_answer_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!matches!(judge(&bytes, KEY), Ok(Some(_))));
        }
    }
}

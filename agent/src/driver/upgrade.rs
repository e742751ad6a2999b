//! The upgrade from HTTP to WebSocket (RFC 6455 section 4.1), by hand.
//!
//! tungstenite has one, but it keeps several KiB for each handshake and builds header maps of the request and the
//! reply: in a burst thousands of them are under way at once (docs/performance.md). Frames are tungstenite's.

use proto::FailureKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Fault;
use crate::target::Endpoint;
use crate::wire::Transport;

/// What a reply's head may at most have.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// One url's request, complete but for the key.
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

    /// Asks and waits for 101. Returns what was read beyond the head: frames may follow at once.
    ///
    /// # Errors
    /// `upgrade_refused` with the status, `bad_reply` for what is no answer of RFC 6455, or what the connection does.
    pub async fn send(&self, stream: &mut Transport) -> Result<Vec<u8>, Fault> {
        let key = generate_key();
        let mut bytes = Vec::with_capacity(self.0.len() + key.len() + 4);
        bytes.extend_from_slice(self.0.as_bytes());
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(b"\r\n\r\n");
        stream.write_all(&bytes).await?;
        // TLS may hold the end of it back otherwise.
        stream.flush().await?;
        // The request is not needed any more: the reply takes its room.
        bytes.clear();
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(Fault::new(FailureKind::Closed(1006), "closed before the upgrade was answered"));
            }
            if let Some(head_bytes) = judge(&bytes, &key)? {
                return Ok(bytes.split_off(head_bytes));
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(bad("a head without an end"));
            }
        }
    }
}

fn bad(what: &str) -> Fault {
    Fault::new(FailureKind::BadReply, format!("the upgrade was answered by {what}"))
}

/// The length of a head that accepts the upgrade asked for with `key`; `None` if it is not complete yet.
///
/// # Errors
/// See [`UpgradeRequest::send`].
pub fn judge(bytes: &[u8], key: &str) -> Result<Option<usize>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(bad(&format!("no HTTP ({error})"))),
    };
    let status = response.code.unwrap_or(0);
    if status != 101 {
        let reason = response.reason.unwrap_or("");
        return Err(Fault::new(
            FailureKind::UpgradeRefused(status),
            format!("the upgrade to WebSocket was answered with HTTP {status} {reason}").trim_end().to_owned(),
        ));
    }
    let values = |name: &'static str| {
        response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    // A list may come in several lines (RFC 9110 section 5.3).
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
    // Neither was offered, so neither may be chosen (RFC 6455 section 4.1, points 5 and 6).
    if values("sec-websocket-extensions").chain(values("sec-websocket-protocol")).next().is_some() {
        return Err(bad("an extension or subprotocol that was not asked for"));
    }
    Ok(Some(head_bytes))
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

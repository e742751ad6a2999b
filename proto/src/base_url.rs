//! Parses a target's base URL by the rules of the OpenEnv client: `http` becomes `ws`, a trailing `/` is removed, and
//! `/ws` is appended unless it is there.

use url::{Host, Url};

/// Why a text is not a base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {cause}; give http://HOST:PORT, https://, ws:// or wss://")]
pub struct UrlError {
    pub url: String,
    pub cause: String,
}

/// A checked base URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// As the user wrote it.
    pub text: String,
    pub tls: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// Path without a trailing `/` and without the final `/ws`; empty for the root.
    path: String,
}

impl BaseUrl {
    /// # Errors
    /// [`UrlError`] for anything but http, https, ws and wss with a host.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let refuse = |cause: &str| UrlError { url: text.to_owned(), cause: cause.to_owned() };
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        let tls = match url.scheme() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            other => return Err(refuse(&format!("the scheme {other} is not known"))),
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("a query or fragment has no meaning in a base URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("a user name or password in a URL is not sent"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(refuse("no host")),
        };
        let port = match url.port_or_known_default() {
            Some(0) | None => return Err(refuse("no usable port")),
            Some(port) => port,
        };
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/ws").unwrap_or(path).trim_end_matches('/').to_owned();
        Ok(Self { text: text.to_owned(), tls, host, port, path })
    }

    /// `host:port` as it goes into the Host header, with the default port left out.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }

    /// The URL of the WebSocket: `/ws` appended unless the base ended in it.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("{}://{}{}/ws", if self.tls { "wss" } else { "ws" }, self.authority(), self.path)
    }

    /// Path of an HTTP call such as `reset`.
    #[must_use]
    pub fn http_path(&self, call: &str) -> String {
        format!("{}/{call}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_become_ws_and_http_urls() {
        for (text, ws, reset) in [
            ("http://h:8000", "ws://h:8000/ws", "/reset"),
            ("http://h:8000/", "ws://h:8000/ws", "/reset"),
            ("ws://h:8000/ws", "ws://h:8000/ws", "/reset"),
            ("https://space.example/base/", "wss://space.example/base/ws", "/base/reset"),
            ("wss://space.example/base/ws/", "wss://space.example/base/ws", "/base/reset"),
            ("http://[::1]:9", "ws://[::1]:9/ws", "/reset"),
            ("http://127.0.0.1", "ws://127.0.0.1/ws", "/reset"),
        ] {
            let base = BaseUrl::parse(text).expect(text);
            assert_eq!((base.ws().as_str(), base.http_path("reset").as_str()), (ws, reset), "{text}");
        }
    }

    #[test]
    fn what_is_no_base_url_says_why() {
        for (text, cause) in [
            ("ftp://h", "scheme ftp"),
            ("h:8000", "scheme h"),
            ("/ws", "relative URL"),
            ("http://", "empty host"),
            ("http://h:0", "no usable port"),
            ("http://h?x=1", "query"),
            ("http://u:p@h", "password"),
        ] {
            let error = BaseUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}

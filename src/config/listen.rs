//! Addresses: `HOST:PORT` or `unix:PATH`, and which of them may be listened on. Where nothing proves who calls, whoever
//! reaches a listener may do everything, so it must be this machine only, unless the operator spells out `insecure`.

use crate::domain::command::Violation;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a Unix socket in bytes (`sun_path`, with its end).
const MAX_SOCKET_PATH: usize = 107;

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A name or an address, without brackets; port 0 lets the kernel choose.
    Tcp {
        host: String,
        port: u16,
    },
    Unix {
        path: PathBuf,
    },
}

impl Endpoint {
    /// Only processes of this machine reach it. Names other than `localhost` count as outside: what they mean may
    /// change.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { host, .. } => match host.parse::<IpAddr>() {
                Ok(address) => address.is_loopback(),
                Err(_) => host.eq_ignore_ascii_case("localhost"),
            },
        }
    }

    /// All addresses of this machine, so not one that others can be told.
    pub fn is_unspecified(&self) -> bool {
        match self {
            Self::Unix { .. } => false,
            Self::Tcp { host, .. } => host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; found '{found}'; allowed: HOST:PORT or unix:/PATH")]
pub struct InvalidEndpoint {
    pub message: &'static str,
    pub found: String,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |message| InvalidEndpoint { message, found: text.chars().take(120).collect() };
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(invalid("the path of a Unix socket is not absolute"));
            }
            if path.len() > MAX_SOCKET_PATH {
                return Err(invalid("the path of a Unix socket is longer than the kernel's 107 bytes"));
            }
            return Ok(Self::Unix { path: PathBuf::from(path) });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid("there is no port"))?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid("the port is not a number"));
        }
        let port = port.parse().map_err(|_| invalid("the port is not a number from 0 to 65535"))?;
        Ok(Self::Tcp { host: host_of(host).map_err(invalid)?, port })
    }
}

/// A name or address without its brackets.
fn host_of(text: &str) -> Result<String, &'static str> {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| "between the brackets there is no IPv6 address")?;
        return Ok(address.to_string());
    }
    if text.contains(':') {
        return Err("an IPv6 address needs brackets: [::1]:7600");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("there is no host name or address");
    }
    Ok(text.to_owned())
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The listeners of `field` that others can reach, where nothing proves who calls.
pub fn refuse_outside(field: &str, listeners: &[Endpoint], because: &str, instead: &str) -> Vec<Violation> {
    let outside = listeners.iter().filter(|listener| !listener.is_local());
    let refused = |listener: &Endpoint| Violation {
        field: field.to_owned(),
        message: because.to_owned(),
        found: format!("'{listener}'"),
        allowed: format!(
            "a loopback address such as 127.0.0.1:PORT, unix:/PATH, {instead}, or insecure = true (--insecure)"
        ),
    };
    outside.map(refused).collect()
}

/// What to warn of at every start with `insecure`.
pub fn warnings(field: &str, listeners: &[Endpoint]) -> Vec<String> {
    let tcp = listeners.iter().filter(|listener| matches!(listener, Endpoint::Tcp { .. }));
    let warn = |listener: &Endpoint| {
        let whoever = if listener.is_local() { "whatever runs on this machine and" } else { "whoever" };
        format!(
            "{field}: {whoever} reaches {listener} may run commands on every node as any user: there is no TLS and no token (insecure is set)"
        )
    };
    tcp.map(warn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Endpoint {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn addresses_survive_text_and_say_who_reaches_them() {
        let local = ["127.0.0.1:7600", "127.9.9.9:0", "localhost:1", "[::1]:7600", "unix:/run/wharf/a.sock"];
        let outside = ["0.0.0.0:7600", "[::]:7600", "10.0.0.1:7600", "node-3.example:65535", "127.0.0.1.example:1"];
        for (texts, expected) in [(local, true), (outside, false)] {
            for text in texts {
                let endpoint = parsed(text);
                assert_eq!((endpoint.to_string().as_str(), endpoint.is_local()), (text, expected));
            }
        }
        assert!(parsed("0.0.0.0:1").is_unspecified() && parsed("[::]:1").is_unspecified());
    }

    #[test]
    fn other_texts_are_refused_with_what_is_allowed() {
        let long = format!("unix:/{}", "s".repeat(MAX_SOCKET_PATH));
        for text in ["", "7600", "host", ":7600", "host:", "host:+1", "host:65536", "::1:7600", "[::1:1", "[x]:1"]
            .into_iter()
            .chain(["unix:", "unix:run/x", "http://host:1", "a b:1", &long])
        {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT or unix:/PATH"), "{text}: {error}");
        }
    }

    #[test]
    fn outside_listeners_need_the_word_and_then_warn() {
        let listeners = [parsed("127.0.0.1:1"), parsed("0.0.0.0:7600"), parsed("unix:/run/x")];
        let violations = refuse_outside("listen", &listeners, "nobody is authenticated", "a certificate");
        assert_eq!(violations.len(), 1);
        assert!(violations[0].to_string().contains("found '0.0.0.0:7600'"), "{}", violations[0]);
        let warnings = warnings("listen", &listeners);
        assert!(warnings.len() == 2 && warnings[1].contains("whoever reaches 0.0.0.0:7600"), "{warnings:?}");
    }
}

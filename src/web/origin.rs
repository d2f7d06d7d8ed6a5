//! Keeps web pages out. A browser on this machine reaches loopback ports, where its account (`wharf dev`) or its word
//! (`insecure`) may be enough: without this a page could submit jobs as anybody.
//!
//! * A page of another site says so in `Origin` or `Sec-Fetch-Site`, and is refused, whatever it asks.
//! * A page whose own name was made to point at this machine (DNS rebinding) is of the same site as far as its browser
//!   knows. It asks a host by that name: so over TCP only addresses, `localhost` and this machine's own names are
//!   answered.
//!
//! What has neither header and asks no host is no browser. Browsers cannot reach Unix sockets.

use http::{HeaderMap, header};
use std::net::IpAddr;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Plain,
    /// Callers have to prove who they are with every request, which no page can: any host may be asked.
    Tls,
    Unix,
}

impl Reached {
    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::Tls => "https",
            Self::Plain | Self::Unix => "http",
        }
    }
}

/// Whether a request may be answered; if not, a sentence that says why.
pub(super) fn check(
    headers: &HeaderMap,
    host: Option<&str>,
    reached: Reached,
    names: &[String],
) -> Result<(), String> {
    let (is_unix, scheme) = (reached != Reached::Plain, reached.scheme());
    for site in headers.get_all("sec-fetch-site") {
        if site != "same-origin" && site != "none" {
            return Err("requests from pages of other sites are refused".to_owned());
        }
    }
    for origin in headers.get_all(header::ORIGIN) {
        let own =
            host.is_some_and(|host| origin.as_bytes().eq_ignore_ascii_case(format!("{scheme}://{host}").as_bytes()));
        if !own {
            return Err(format!("requests from pages of other sites are refused: {}", shown(origin.as_bytes())));
        }
    }
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err("a request that names several hosts is refused".to_owned());
    }
    match host {
        Some(host) if !is_unix && !is_ours(host, names) => Err(format!(
            "a request to the host '{}' is refused: ask by an address, by localhost, or by this machine's name",
            shown(host.as_bytes())
        )),
        None if headers.contains_key(header::HOST) && !is_unix => Err("the request's host is no text".to_owned()),
        _ => Ok(()),
    }
}

fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split_once(']').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok()),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || names.iter().any(|own| own.eq_ignore_ascii_case(&name))
}

/// The beginning of what a client sent, fit for a message.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(host: Option<&str>, is_unix: bool, more: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        for (name, value) in more {
            headers.append(*name, value.parse().unwrap());
        }
        let reached = if is_unix { Reached::Unix } else { Reached::Plain };
        check(&headers, host, reached, &["gpu-01.example.org".to_owned(), "gpu-01".to_owned()]).is_ok()
    }

    #[test]
    fn only_hosts_that_no_stranger_can_name_are_answered() {
        for host in [
            "127.0.0.1:7600",
            "127.0.0.1",
            "[::1]:7600",
            "10.1.2.3:7600",
            "localhost:7600",
            "LOCALHOST",
            "localhost.",
            "wharf.localhost",
            "gpu-01:7600",
            "GPU-01.example.org",
        ] {
            assert!(checked(Some(host), false, &[]), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "gpu-01.evil.example",
            "notlocalhost",
            "[evil]:1",
            "@localhost",
            "localhost@evil.example",
        ] {
            assert!(!checked(Some(host), false, &[]), "{host}");
            assert!(checked(Some(host), true, &[]), "no browser gets to a Unix socket: {host}");
        }
        assert!(checked(None, false, &[]), "no browser asks nobody");
        assert!(!checked(Some("localhost"), false, &[("host", "localhost")]), "two hosts");
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = Some("localhost:7600");
        for good in ["http://localhost:7600", "HTTP://LOCALHOST:7600"] {
            assert!(checked(host, false, &[("origin", good)]), "{good}");
        }
        for bad in
            ["http://localhost", "https://localhost:7600", "http://evil.example", "null", "http://localhost:80"]
        {
            assert!(!checked(host, false, &[("origin", bad)]), "{bad}");
            assert!(!checked(host, false, &[("origin", "http://localhost:7600"), ("origin", bad)]), "{bad}");
        }
        for (site, answered) in [("same-origin", true), ("none", true), ("cross-site", false), ("same-site", false)] {
            assert_eq!(checked(host, false, &[("sec-fetch-site", site)]), answered, "{site}");
        }
    }
}

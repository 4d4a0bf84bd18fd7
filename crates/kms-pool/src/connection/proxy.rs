//! Decides which proxy a request goes through, by the same rules as curl.
//!
//! Only `https://` goes through a proxy. Plain `http://` is used only for this machine and for the
//! metadata services of EC2, ECS and EKS, which no proxy can reach.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use crate::error::BuildError;

/// The proxy, and the hosts that bypass it.
#[derive(Clone, Default)]
pub(crate) struct Proxies {
    proxy: Option<Proxy>,
    direct: Vec<Direct>,
}

/// A proxy that opens tunnels with `CONNECT`.
#[derive(Clone)]
pub(super) struct Proxy {
    /// Without the credentials of the configured URL.
    pub(super) url: Uri,
    /// The value of the `Proxy-Authorization` header.
    pub(super) authorization: Option<HeaderValue>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Direct {
    hosts: Hosts,
    /// `None` matches every port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// All addresses that share this many leading bits with the address.
    Network(IpAddr, u32),
    /// A domain and all its subdomains.
    Domain(String),
}

impl Proxies {
    /// One proxy for all hosts.
    ///
    /// # Errors
    ///
    /// [`BuildError::Proxy`] if `url` is not a valid proxy URL.
    pub(crate) fn all(url: &str) -> Result<Self, BuildError> {
        let proxy = Proxy::parse(url).ok_or(BuildError::Proxy)?;
        Ok(Self { proxy: Some(proxy), direct: vec![] })
    }

    /// The proxy of the environment variables. An empty variable counts as unset; the lower-case
    /// name takes precedence.
    ///
    /// # Errors
    ///
    /// [`BuildError::Proxy`] if a variable is not a valid proxy URL. Ignoring it would send
    /// requests over a route that was not intended.
    pub(crate) fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BuildError> {
        let first = |names: &[&str]| {
            names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        let Some(url) = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) else {
            return Ok(Self::default());
        };
        let direct = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        // As for curl, an asterisk beside anything else matches no host.
        let is_all = direct == "*";
        let entries = direct.split(|c: char| c == ',' || c.is_whitespace());
        let entries = entries.filter(|entry| !entry.is_empty() && (is_all || *entry != "*"));
        let direct = entries.map(Direct::parse).collect();
        Ok(Self { direct, ..Self::all(&url)? })
    }

    pub(crate) fn is_none(&self) -> bool {
        self.proxy.is_none()
    }

    /// The proxy for a request to `url`, if any.
    pub(super) fn of(&self, url: &Uri) -> Option<&Proxy> {
        if url.scheme_str() != Some("https") {
            return None;
        }
        let host = url.host()?;
        let port = url.port_u16().unwrap_or(443);
        self.proxy.as_ref().filter(|_| !self.direct.iter().any(|entry| entry.covers(host, port)))
    }
}

impl Proxy {
    fn parse(url: &str) -> Option<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let matcher = Matcher::builder().https(url).build();
        let proxy = matcher.intercept(&Uri::from_static("https://any"))?;
        let url = proxy.uri().clone();
        let default = match url.scheme_str()? {
            // The default of curl.
            "http" => 1080,
            "https" => 443,
            _ => return None,
        };
        let host = url.host().filter(|host| !host.is_empty())?;
        let port = match url.authority()?.as_str().strip_prefix(host)?.strip_prefix(':') {
            Some(port) => port.parse::<u16>().ok()?,
            None => default,
        };
        let mut parts = url.clone().into_parts();
        parts.authority = format!("{host}:{port}").parse().ok();
        Some(Self { url: Uri::from_parts(parts).ok()?, authorization: proxy.basic_auth().cloned() })
    }
}

impl Direct {
    fn parse(entry: &str) -> Self {
        let (host, port) = match entry.rsplit_once(':') {
            // In an address without brackets, a colon is part of the address.
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => {
                match port.parse() {
                    Ok(port) => (host, Some(port)),
                    Err(_) => (entry, None),
                }
            }
            _ => (entry, None),
        };
        Self { hosts: Hosts::parse(unbracketed(host)), port }
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.hosts.covers(unbracketed(host))
    }
}

impl Hosts {
    fn parse(host: &str) -> Self {
        if host == "*" {
            return Self::All;
        }
        let (address, bits) = host.split_once('/').unwrap_or((host, "128"));
        if let (Ok(address), Ok(bits)) = (address.parse(), bits.parse()) {
            return Self::Network(address, bits);
        }
        let domain = host.strip_prefix('.').unwrap_or(host);
        Self::Domain(domain.trim_end_matches('.').to_ascii_lowercase())
    }

    fn covers(&self, host: &str) -> bool {
        match (self, host.parse()) {
            (Self::All, _) => true,
            (Self::Network(network, bits), Ok(address)) => {
                network.is_ipv4() == IpAddr::is_ipv4(&address)
                    && prefix(*network, *bits) == prefix(address, *bits)
            }
            (Self::Domain(domain), Err(_)) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => false,
        }
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// The leading `bits` of an address.
fn prefix(address: IpAddr, bits: u32) -> u128 {
    let (address, length): (u128, u32) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    address.checked_shr(length.saturating_sub(bits)).unwrap_or(0)
}

/// Shows the proxy's address without its credentials.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("proxy", &self.proxy.as_ref().map(|proxy| &proxy.url))
            .field("direct", &self.direct)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Proxies, BuildError> {
        Proxies::from_variables(|name| {
            variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn way(proxies: &Proxies, url: &str) -> String {
        let proxy = proxies.of(&url.parse().unwrap());
        proxy.map_or("direct".to_owned(), |proxy| proxy.url.to_string())
    }

    const KMS: &str = "https://kms.eu-west-1.amazonaws.com/";

    #[test]
    fn the_variables_have_the_same_meaning_as_for_curl() {
        let p = "http://p:3128/";
        for (variables, expected) in [
            (&[][..], "direct"),
            (&[("HTTPS_PROXY", "http://p:3128")], p),
            (&[("https_proxy", "http://p:3128")], p),
            (&[("ALL_PROXY", "http://p:3128")], p),
            (&[("all_proxy", "http://p:3128")], p),
            (&[("HTTP_PROXY", "http://p:3128"), ("http_proxy", "http://p:3128")], "direct"),
            // An empty variable counts as unset.
            (&[("HTTPS_PROXY", ""), ("https_proxy", "http://p:3128")], p),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "http://p:3128")], p),
            (&[("https_proxy", ""), ("ALL_PROXY", "http://p:3128")], p),
            (&[("HTTPS_PROXY", "")], "direct"),
            // Lower case takes precedence, and so does the specific variable.
            (&[("https_proxy", "http://p:3128"), ("HTTPS_PROXY", "http://other:1")], p),
            (&[("HTTPS_PROXY", "http://p:3128"), ("all_proxy", "http://other:1")], p),
            (&[("https_proxy", "http://p:3128"), ("no_proxy", ""), ("NO_PROXY", "*")], "direct"),
            (&[("https_proxy", "http://p:3128"), ("no_proxy", "x"), ("NO_PROXY", "*")], p),
        ] {
            assert_eq!(way(&from(variables).unwrap(), KMS), expected, "{variables:?}");
        }
    }

    #[test]
    fn proxy_urls_have_the_same_syntax_as_for_curl() {
        for (url, expected) in [
            ("http://p:3128", Some("http://p:3128/")),
            ("https://p:3129/", Some("https://p:3129/")),
            ("p:3128", Some("http://p:3128/")),
            ("p", Some("http://p:1080/")),
            ("http://p", Some("http://p:1080/")),
            ("https://p", Some("https://p:443/")),
            ("http://[::1]:3128", Some("http://[::1]:3128/")),
            ("http://user:secret@p:3128", Some("http://p:3128/")),
            ("socks5://p:1080", None),
            ("ftp://p", None),
            ("http://", None),
            ("http://p:port", None),
            ("", None),
            (" ", None),
        ] {
            match (Proxies::all(url), expected) {
                (Ok(proxies), Some(expected)) => assert_eq!(way(&proxies, KMS), expected, "{url}"),
                (Err(BuildError::Proxy), None) => {}
                (other, _) => panic!("{url}: {other:?}"),
            }
        }
        assert!(matches!(from(&[("HTTPS_PROXY", "socks5://p")]), Err(BuildError::Proxy)));
    }

    #[test]
    fn credentials_in_the_url_appear_only_in_the_header() {
        for (url, expected) in [
            ("http://user:secret@p:3128", Some("Basic dXNlcjpzZWNyZXQ=")),
            ("https://user:secret@p", Some("Basic dXNlcjpzZWNyZXQ=")),
            // Percent-encoded `us@er` and `se:cret`.
            ("http://us%40er:se%3Acret@p", Some("Basic dXNAZXI6c2U6Y3JldA==")),
            ("http://user@p", Some("Basic dXNlcjo=")),
            ("http://p", None),
        ] {
            let proxies = Proxies::all(url).unwrap();
            let header = proxies.of(&Uri::from_static(KMS)).unwrap().authorization.clone();
            assert_eq!(header.as_ref().map(|it| it.to_str().unwrap()), expected, "{url}");
            assert!(header.is_none_or(|header| header.is_sensitive()));
            assert!(!format!("{proxies:?}").contains("cret"), "{proxies:?}");
        }
    }

    #[test]
    fn no_proxy_has_the_same_meaning_as_for_curl() {
        for (no_proxy, url, is_direct) in [
            ("*", KMS, true),
            ("*", "https://10.0.0.1", true),
            ("*", "https://[::1]:8443", true),
            ("", KMS, false),
            // Only an asterisk alone means all hosts, and a name has no other wildcards.
            ("a.example,*", KMS, false),
            ("* a.example", KMS, false),
            (" * ", KMS, false),
            ("*.amazonaws.com", KMS, false),
            // A name includes its subdomains, with or without a leading dot.
            ("amazonaws.com", KMS, true),
            (".amazonaws.com", KMS, true),
            (".amazonaws.com", "https://amazonaws.com", true),
            ("AmazonAWS.com", "https://KMS.amazonaws.COM", true),
            ("kms.eu-west-1.amazonaws.com", KMS, true),
            ("kms.eu-west-1.amazonaws.com.", KMS, true),
            ("amazonaws.com", "https://kms.eu-west-1.amazonaws.com.", true),
            ("aws.com", KMS, false),
            ("eu-west-1", KMS, false),
            ("x.kms.eu-west-1.amazonaws.com", KMS, false),
            // Commas and spaces separate entries.
            ("a.example, amazonaws.com", KMS, true),
            ("a.example amazonaws.com", KMS, true),
            (",,a.example,,amazonaws.com,", KMS, true),
            // An entry with a port matches only that port; without one, every port.
            ("kms.example:8443", "https://kms.example:8443", true),
            ("kms.example:8443", "https://kms.example", false),
            ("kms.example:443", "https://kms.example", true),
            (".example:8443", "https://kms.example:8443", true),
            ("kms.example", "https://kms.example:8443", true),
            ("*:8443", "https://kms.example:8443", true),
            ("*:8443", "https://kms.example", false),
            ("10.0.0.1:8443", "https://10.0.0.1:8443", true),
            ("10.0.0.1:8443", "https://10.0.0.1", false),
            // Addresses and networks.
            ("10.0.0.1", "https://10.0.0.1", true),
            ("10.0.0.1", "https://10.0.0.2", false),
            ("10.0.0.0/8", "https://10.255.0.1:8443", true),
            ("10.0.0.0/8", "https://11.0.0.1", false),
            ("10.1.2.128/25", "https://10.1.2.200", true),
            ("10.1.2.128/25", "https://10.1.2.100", false),
            ("0.0.0.0/0", "https://8.8.8.8", true),
            ("0.0.0.0/0", "https://[::1]", false),
            ("0.0.0.0/0", KMS, false),
            ("::1", "https://[::1]:8443", true),
            ("[::1]", "https://[::1]:8443", true),
            ("[::1]:8443", "https://[::1]:8443", true),
            ("[::1]:8443", "https://[::1]", false),
            ("fd00::/8", "https://[fd12:3456::1]", true),
            ("fd00::/8", "https://[fe80::1]", false),
            ("::/0", "https://[2001:db8::1]", true),
            // A name does not match an address or the end of one.
            ("1", "https://10.0.0.1", false),
            ("0.0.1", "https://10.0.0.1", false),
        ] {
            let proxies = from(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", no_proxy)]).unwrap();
            assert_eq!(way(&proxies, url) == "direct", is_direct, "{no_proxy:?} for {url}");
        }
    }

    #[test]
    fn plain_http_bypasses_the_proxy() {
        let proxies = Proxies::all("http://p:3128").unwrap();
        for url in
            ["http://169.254.169.254/latest", "http://localhost:4566", "http://[fd00:ec2::254]"]
        {
            assert_eq!(way(&proxies, url), "direct", "{url}");
        }
    }
}

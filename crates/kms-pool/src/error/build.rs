//! What can be wrong with a pool's settings.

use std::error::Error;

/// A setting with which no pool can be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A number or duration out of its range.
    #[error("{setting} is {value}, but must be between {least} and {most}")]
    OutOfRange {
        /// The builder's method.
        setting: &'static str,
        /// What it was given.
        value: String,
        /// The least value allowed.
        least: String,
        /// The greatest value allowed.
        most: String,
    },
    /// An endpoint that is no `https://host[:port]`, or `http://` beyond this machine.
    #[error("the endpoint URL of {region} {reason}")]
    Endpoint {
        /// The region, or `all regions`.
        region: String,
        /// Why the URL is invalid. The URL itself is not shown, because it may contain a password.
        reason: &'static str,
    },
    /// A custom certificate authority that cannot be read.
    #[error("trust root number {index}, counted from 0, cannot be used: {reason}")]
    TrustRoot {
        /// Which one, in the order of the calls.
        index: usize,
        /// Why it is invalid.
        reason: &'static str,
    },
    /// The file that `AWS_CA_BUNDLE` names cannot be read.
    #[error("the file {path:?}, which AWS_CA_BUNDLE names, cannot be read: {cause}")]
    CaBundle {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// The name of a region that cannot be one; or, of several, none at all or one twice.
    #[error("{region:?} {problem}")]
    Region {
        /// What was given.
        region: String,
        /// Why it is invalid.
        problem: &'static str,
    },
    /// A role with settings that do not go with how it is assumed.
    #[error("the role cannot be assumed so: {reason}")]
    Role {
        /// What does not go with what.
        reason: &'static str,
    },
    /// The proxy URL is invalid. The error does not show the URL, which may contain a password.
    #[error("invalid proxy URL: expected http://host:port or https://host:port")]
    Proxy,
    /// An application name with characters that a user agent may not have.
    #[error("the application name is not valid: use letters, digits and any of !#$%&'*+-.^_`|~")]
    AppName,
    /// The TLS stack refused its configuration.
    #[error("the TLS configuration was refused")]
    Tls {
        /// Why.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

impl BuildError {
    pub(crate) fn no_region(region: &str) -> Self {
        Self::Region {
            region: region.to_owned(),
            problem: "is not the name of a region, such as eu-west-1",
        }
    }
}

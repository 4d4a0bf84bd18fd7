//! Errors of invalid settings.

use std::error::Error;

/// An invalid setting of a pool, a principal or a role, or an invalid region name or key ARN.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A number or duration is out of its range.
    #[error("invalid {setting} {value}: expected {min} to {max}")]
    OutOfRange {
        /// The method of the builder.
        setting: &'static str,
        /// The value that was given.
        value: String,
        /// The smallest allowed value.
        min: String,
        /// The largest allowed value.
        max: String,
    },
    /// An endpoint URL is not `https://host[:port]`, or is `http://` for another machine.
    #[error("invalid endpoint URL for {region}: {reason}")]
    Endpoint {
        /// The region, `all regions`, or the name of another service.
        region: String,
        /// Why the URL is invalid. The URL itself is not shown, because it may contain a password.
        reason: &'static str,
    },
    /// A custom certificate authority cannot be used.
    #[error("invalid trust root at index {index}: {reason}")]
    TrustRoot {
        /// Its index, in the order of the calls.
        index: usize,
        /// Why it is invalid.
        reason: &'static str,
    },
    /// The file in `AWS_CA_BUNDLE` cannot be read.
    #[error("could not read the file in AWS_CA_BUNDLE, {path:?}")]
    CaBundle {
        /// The path of the file.
        path: String,
        /// The error of the file system.
        #[source]
        cause: std::io::Error,
    },
    /// A region name is invalid: see [`Region`](crate::Region).
    #[error("invalid region name {region:?}: expected e.g. eu-west-1")]
    Region {
        /// The name that was given, shortened if it is long.
        region: String,
    },
    /// A region was given twice to [`Replicas::new`](crate::Replicas::new).
    #[error("duplicate region {region}: name each region once")]
    DuplicateRegion {
        /// The region.
        region: String,
    },
    /// No region was given to [`Replicas::new`](crate::Replicas::new).
    #[error("at least one region is required")]
    NoRegion,
    /// The ARN of a KMS key is invalid: see [`KmsKeyArn`](crate::KmsKeyArn).
    #[error(
        "invalid KMS key ARN {arn:?}: expected arn:PARTITION:kms:REGION:ACCOUNT:key/ID; for an \
         alias, see `aws kms describe-key`"
    )]
    KeyArn {
        /// The text that was given, shortened if it is long.
        arn: String,
    },
    /// The settings of a role conflict with the way in which it is assumed.
    #[error("invalid role settings: {reason}")]
    Role {
        /// Which settings conflict.
        reason: &'static str,
    },
    /// The proxy URL is invalid. The error does not show the URL, which may contain a password.
    #[error("invalid proxy URL: expected http://host:port or https://host:port")]
    Proxy,
    /// An application name contains characters that are not allowed in a user agent.
    #[error("invalid application name: use only letters, digits and !#$%&'*+-.^_`|~")]
    AppName,
    /// The TLS stack rejected its configuration.
    #[error("invalid TLS configuration")]
    Tls {
        /// The error of the TLS stack.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

impl BuildError {
    pub(crate) fn region(name: &str) -> Self {
        Self::Region { region: shortened(name) }
    }

    pub(crate) fn key_arn(text: &str) -> Self {
        Self::KeyArn { arn: shortened(text) }
    }
}

/// The start of a text that may come from an untrusted message.
fn shortened(text: &str) -> String {
    const MAX_LENGTH: usize = 100;
    match text.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_repeats_its_source() {
        let secret_cause = "the cause";
        let cause = std::io::Error::other(secret_cause);
        let errors = [
            BuildError::CaBundle { path: "ca.pem".to_owned(), cause },
            BuildError::Tls { cause: secret_cause.into() },
        ];
        for error in errors {
            assert_eq!(error.source().unwrap().to_string(), secret_cause);
            assert!(!error.to_string().contains(secret_cause), "{error}");
        }
    }

    #[test]
    fn long_texts_are_shortened() {
        let error = BuildError::region(&"é".repeat(1_000)).to_string();
        assert_eq!(
            error,
            format!("invalid region name \"{}…\": expected e.g. eu-west-1", "é".repeat(100))
        );
    }
}

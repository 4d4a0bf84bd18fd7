//! Why a server does not start, and why a request is refused.

use std::{io, net::SocketAddr, path::PathBuf};

use http::StatusCode;
use thiserror::Error;

/// Why [`Builder::start`](crate::Builder::start) failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A region's name is not made of 1 to 32 of `a-z`, `0-9` and `-`.
    #[error("`{0}` is not the name of a region")]
    InvalidRegion(String),
    /// The same region was asked for twice.
    #[error("region `{0}` was asked for twice")]
    DuplicateRegion(String),
    /// An account is not twelve digits.
    #[error("`{0}` is not an account: twelve digits are")]
    InvalidAccount(String),
    /// A port could not be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The certificate authority or the server's certificate could not be made.
    #[error("cannot make the certificates")]
    Certificate(#[from] rcgen::Error),
    /// The TLS configuration was refused.
    #[error("cannot configure TLS")]
    Tls(#[from] rustls::Error),
    /// The data directory could not be made or opened.
    #[error("cannot use the data directory {}", path.display())]
    DataDirectory {
        /// The directory that was asked for.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another server holds the data directory.
    #[error("the data directory {} is in use by another kms-local", .0.display())]
    DataDirectoryInUse(PathBuf),
    /// The data directory was written for another account, so its ARNs would change.
    #[error("the data directory belongs to account {found}, not {wanted}")]
    AccountMismatch {
        /// The account this server was started for.
        wanted: String,
        /// The account in the data directory.
        found: String,
    },
    /// The database in the data directory could not be read or written.
    #[error("cannot read the keys in the data directory")]
    Storage(#[from] redb::Error),
    /// A record in the data directory is not one that this version writes.
    #[error("the record of {0} in the data directory is damaged or of another version")]
    DamagedRecord(String),
}

/// Why a key or an alias could not be made or changed without a request.
#[derive(Debug, Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct Refused {
    /// The error type that a request would have got, such as `NotFoundException`.
    pub code: &'static str,
    /// Its message.
    pub message: String,
}

/// Why a request is refused: one variant for each error type of AWS KMS that we raise.
///
/// The texts are those of AWS where it publishes or shows them.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    AccessDenied(&'static str),
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0} is disabled.")]
    Disabled(String),
    #[error("The request would have succeeded, but the DryRun option is set.")]
    DryRun,
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    #[error("{0}")]
    IncompleteSignature(&'static str),
    #[error("The key ID in the request does not identify a CMK that can perform this operation.")]
    IncorrectKey,
    #[error("The service could not process the request: {0}")]
    Internal(String),
    #[error("")]
    InvalidCiphertext,
    #[error("{0}")]
    InvalidKeyUsage(String),
    #[error("Marker '{0}' is invalid")]
    InvalidMarker(String),
    #[error("{0}")]
    InvalidSignature(String),
    #[error("{0}")]
    InvalidState(String),
    #[error("Missing Authentication Token")]
    MissingAuthenticationToken,
    #[error("Aliases under alias/aws/ are reserved for AWS")]
    NotAuthorized,
    #[error("{0}")]
    NotFound(String),
    #[error("The request is larger than {0} bytes")]
    RequestTooLarge(usize),
    #[error("The request body did not arrive")]
    RequestTimeout,
    #[error("{0}")]
    Serialization(String),
    #[error("Rate exceeded")]
    Throttling,
    #[error("")]
    UnknownOperation,
    #[error("The security token included in the request is invalid.")]
    UnrecognizedClient,
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Validation(String),
}

impl Refusal {
    /// The error type on the wire.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::AccessDenied(_) => "AccessDeniedException",
            Self::AlreadyExists(_) => "AlreadyExistsException",
            Self::Disabled(_) => "DisabledException",
            Self::DryRun => "DryRunOperationException",
            Self::ExpiredToken => "ExpiredTokenException",
            Self::IncompleteSignature(_) => "IncompleteSignatureException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::Internal(_) => "KMSInternalException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidKeyUsage(_) => "InvalidKeyUsageException",
            Self::InvalidMarker(_) => "InvalidMarkerException",
            Self::InvalidSignature(_) => "InvalidSignatureException",
            Self::InvalidState(_) => "KMSInvalidStateException",
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::NotAuthorized => "NotAuthorizedException",
            Self::NotFound(_) => "NotFoundException",
            Self::RequestTooLarge(_) => "RequestEntityTooLargeException",
            Self::RequestTimeout => "RequestTimeoutException",
            Self::Serialization(_) => "SerializationException",
            Self::Throttling => "ThrottlingException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::Unsupported(_) => "UnsupportedOperationException",
            Self::Validation(_) => "ValidationException",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RequestTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code(), message: refusal.to_string() }
    }
}

//! Errors: why a server does not start, and why it refuses a request.

use std::{error::Error as StdError, io, net::SocketAddr, path::PathBuf};

use http::StatusCode;
use thiserror::Error;

/// An error of a dependency, whose type is not part of this crate's API.
type Source = Box<dyn StdError + Send + Sync>;

/// The reason why [`KmsLocalBuilder::start`](crate::KmsLocalBuilder::start) failed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use kms_local::{KmsLocal, StartError};
///
/// let error = KmsLocal::builder().region("EU").start().await.unwrap_err();
/// assert!(matches!(error, StartError::InvalidRegion(_)));
/// # }
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A region name is not 1 to 32 characters from `a-z`, `0-9` and inner `-`.
    #[error("invalid region name `{0}`: expected 1 to 32 of a-z, 0-9 and inner -")]
    InvalidRegion(String),
    /// A region was added twice.
    #[error("duplicate region `{0}`")]
    DuplicateRegion(String),
    /// An account is not twelve digits.
    #[error("invalid account `{0}`: expected twelve digits")]
    InvalidAccount(String),
    /// The server could not listen on a port.
    #[error("could not listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The certificates or the TLS configuration could not be created.
    #[error("could not set up TLS")]
    Tls(#[source] Source),
    /// The data directory could not be created or opened.
    #[error("could not open the data directory {}", path.display())]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another server uses the data directory.
    #[error("the data directory {} is in use by another kms-local", .0.display())]
    DataDirectoryInUse(PathBuf),
    /// The data directory belongs to another account, so the ARNs of its keys would change.
    #[error("the data directory belongs to account {found}: expected {wanted}")]
    AccountMismatch {
        /// The account of this server.
        wanted: String,
        /// The account in the data directory.
        found: String,
    },
    /// The database in the data directory could not be read or written.
    #[error("could not read the keys in the data directory")]
    Storage(#[source] Source),
    /// A record in the data directory is damaged, or was written by an unknown version.
    #[error("invalid record in the data directory: {0} is damaged or of an unknown version")]
    DamagedRecord(String),
}

/// The reason why a method of [`KmsLocal`](crate::KmsLocal) could not create or change a key.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kms = kms_local::KmsLocal::builder().start().await?;
/// let refused = kms.disable_key("us-east-1", "no such key").unwrap_err();
/// assert_eq!(refused.code, "NotFoundException");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct Refused {
    /// The error type that a request would have received, such as `NotFoundException`.
    pub code: &'static str,
    /// The error message.
    pub message: String,
}

/// The reason why a request is refused: one variant for each AWS KMS error type that we return.
///
/// The messages are those of AWS, where AWS publishes or shows them.
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
    #[error("The request body did not arrive in time")]
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
    /// Returns the error type, as the protocol names it.
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

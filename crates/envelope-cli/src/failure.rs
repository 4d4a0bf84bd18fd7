//! Failures: one line that says what failed and what to do, and the exit status.

use std::{
    fmt::{Display, Write as _},
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use envelope::{Error, keyring::KeyringError};
use signal_hook::{consts::SIGPIPE, low_level::emulate_default_handler};

/// The end of the program without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Prints a message and exits with a status.
    Message { text: String, status: u8 },
    /// The reader of standard output has closed the pipe. Ends like other Unix programs: by
    /// SIGPIPE, without a message.
    BrokenPipe,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Message { text: text.into(), status: 1 }
    }

    /// A mistake in the command line that its grammar does not find.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Message { text: text.into(), status: 2 }
    }

    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(format!("{}: {error}", path.display()))
    }

    pub(crate) fn key_file(path: &Path, error: &Error) -> Self {
        Self::new(format!("{}: {}", path.display(), with_causes(error)))
    }

    /// A write to standard output failed.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::new(format!("standard output: {error}")),
        }
    }

    /// A stream failed, either in the library or in `what`.
    pub(crate) fn stream(what: impl Display, error: &io::Error) -> Self {
        match Error::in_io(error) {
            Some(error) => Self::envelope(error),
            None => Self::new(format!("{what}: {error}")),
        }
    }

    /// An error of the library, which can be about the encryption context of the command line.
    pub(crate) fn context(error: &Error) -> Self {
        match error {
            Error::InvalidEncryptionContext { .. } => {
                Self::usage(format!("--encryption-context: {error}"))
            }
            error => Self::envelope(error),
        }
    }

    /// An error of the library. Adds what to do on the command line.
    pub(crate) fn envelope(error: &Error) -> Self {
        let hint = match error {
            Error::CommitmentPolicy { .. } => {
                "; choose another --commitment-policy, or another --suite when encrypting"
            }
            Error::TooManyEncryptedDataKeys { count, limit, .. } => {
                return Self::new(format!(
                    "too many encrypted data keys: {count} (limit {limit}); raise \
                     --max-encrypted-data-keys if you expect that many"
                ));
            }
            Error::EncryptionContextMismatch { .. } => {
                "; run `envelope inspect` to see the message's encryption context"
            }
            Error::DataKeyNotUnwrapped { .. } => {
                "; run `envelope inspect` to see the message's wrapping keys and encryption \
                 context (pairs encrypted with --required-context are not stored: pass them with \
                 --encryption-context)"
            }
            Error::SignedMessage { suite } => {
                return Self::new(format!(
                    "the message is signed (suite {suite}): a pipe would receive its plaintext \
                     before the signature is verified; use -o FILE, or allow this with \
                     --release-unverified"
                ));
            }
            Error::InvalidSetting { setting: "suite", .. } => {
                return Self::new("invalid suite: no key derivation; use --legacy to allow it");
            }
            Error::Truncated { offset: 0, .. } => {
                "; the input is empty or is not an AWS Encryption SDK message"
            }
            Error::Truncated { .. } => "; the input may be truncated",
            Error::Unsupported { field: "version", .. } => {
                "; the input may not be an AWS Encryption SDK message"
            }
            _ if error.is_retryable() => "; try again later",
            _ => "",
        };
        Self::new(format!("{}{hint}", with_causes(error)))
    }

    /// Prints the message on standard error and returns the exit status, or ends the process by
    /// SIGPIPE.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Message { text, status } => {
                print_line(&text);
                ExitCode::from(status)
            }
            Self::BrokenPipe => {
                let _ = emulate_default_handler(SIGPIPE);
                // The status that a shell shows for SIGPIPE.
                ExitCode::from(128 + 13)
            }
        }
    }
}

/// An error and its causes, up to the one that a key provider returned: deeper ones may come from a
/// credentials provider, and contain secrets.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut current = error;
    while let Some(cause) = current.source() {
        let _ = write!(text, ": {cause}");
        if current.is::<KeyringError>() {
            break;
        }
        current = cause;
    }
    text
}

/// Prints one line on standard error. Ignores errors.
pub(crate) fn print_line(text: &str) {
    let line: String =
        text.chars().map(|character| if is_plain(character) { character } else { ' ' }).collect();
    let mut stderr = io::stderr().lock();
    // On a terminal, the line replaces the progress.
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(stderr, "{clear}envelope: {line}");
}

/// Returns whether a character is safe to print: it neither controls a terminal nor reorders text.
pub(crate) fn is_plain(character: char) -> bool {
    let reorders = matches!(
        character,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !character.is_control() && !reorders
}

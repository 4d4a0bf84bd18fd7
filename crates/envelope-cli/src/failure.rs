//! Failures: one line that says what failed and what to do, and the exit status.

use std::{
    fmt::{Display, Write as _},
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use branch_keys::StorageError;
use envelope::{Error, keyring::KeyringError};
use kms_pool::KmsErrorKind;
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

    /// An error of the storage of branch keys.
    pub(crate) fn storage(error: &StorageError) -> Self {
        let text = with_causes(error);
        let is_missing = ["the table is missing", "ResourceNotFoundException"];
        let hint = if is_missing.iter().any(|it| text.contains(it)) {
            "; create or update the table with `envelope keys create-store`"
        } else {
            ""
        };
        Self::new(format!("{text}{hint}"))
    }

    /// An error of the key store. Adds what to do on the command line.
    pub(crate) fn branch_keys(error: &branch_keys::Error) -> Self {
        match error {
            branch_keys::Error::Storage(cause) => Self::storage(cause),
            branch_keys::Error::InvalidArgument { argument: "context", .. } => {
                Self::usage(format!("{error}; pass --encryption-context KEY=VALUE"))
            }
            branch_keys::Error::InvalidArgument { .. } => Self::usage(error.to_string()),
            branch_keys::Error::Discovery => {
                Self::usage("aws-kms-discovery neither creates nor rotates: use --kms-key KEY-ARN")
            }
            branch_keys::Error::RootBranchKey { id } => {
                Self::usage(format!("branch key {id:?} is the root: leave out --root"))
            }
            branch_keys::Error::VersionRace { winner } => {
                Self::new(format!("{error}, created at {}", winner.create_time))
            }
            error => Self::new(branch_key_text(error)),
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
        Self::new(format!("{}{}{hint}", with_causes(error), key_store_reasons(error)))
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

/// An error and its causes, up to the one that a key provider or a storage returned: deeper ones
/// may come from a credentials provider, and contain secrets.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut current = error;
    while let Some(cause) = current.source() {
        let _ = write!(text, ": {cause}");
        let is_last = match current {
            it if it.is::<KeyringError>() => !cause.is::<branch_keys::Error>(),
            it if it.is::<branch_keys::Error>() => {
                !cause.is::<StorageError>() && !cause.is::<KeyringError>()
            }
            it => it.is::<StorageError>(),
        };
        if is_last {
            break;
        }
        current = cause;
    }
    text
}

/// Prints the help, or why the command line could not be parsed, and returns the exit status.
///
/// `clap` repeats arguments that it does not expect. One may be a URL with a password.
pub(crate) fn unparsed(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if error.use_stderr() && text.contains("://") {
        let words = text.split_inclusive(char::is_whitespace).map(|word| {
            let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
            let space = rest.chars().last().filter(|last| last.is_whitespace());
            format!("{scheme}://...'{}", space.map(String::from).unwrap_or_default())
        });
        let _ = io::stderr().write_all(words.collect::<String>().as_bytes());
    } else {
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Why the key store failed, which the text of a failed decryption leaves out.
fn key_store_reasons(error: &Error) -> String {
    if !matches!(error, Error::DataKeyNotUnwrapped { .. }) {
        return String::new();
    }
    let errors = error.keyring_errors().iter();
    let errors = errors.filter_map(|it| it.cause().downcast_ref::<branch_keys::Error>());
    let causes = errors.filter_map(std::error::Error::source);
    let known = causes.filter(|it| it.is::<StorageError>() || it.is::<KeyringError>());
    known.flat_map(|cause| [": ".to_owned(), with_causes(cause)]).collect()
}

/// An error of the key store and its causes. Adds why AWS KMS can refuse an item.
pub(crate) fn branch_key_text(error: &branch_keys::Error) -> String {
    let hint = match error {
        branch_keys::Error::Kms { cause, .. }
            if cause.kind() == KmsErrorKind::InvalidCiphertext =>
        {
            "; the item was changed, or its key store has another --logical-name"
        }
        _ => "",
    };
    format!("{}{hint}", with_causes(error))
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

//! Why the program failed, in one line that says what to try.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use envelope::Error;

/// The error message, and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    status: u8,
    /// Whether nothing is printed, because the reader of the output has gone.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), status: 1, silent: false }
    }

    /// The command line is wrong in a way that its grammar does not tell.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), status: 2, silent: false }
    }

    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(format!("{}: {error}", path.display()))
    }

    pub(crate) fn key_file(path: &Path, error: &Error) -> Self {
        Self::new(format!("{}: {error}", path.display()))
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        Self { silent, ..Self::new(format!("standard output: {error}")) }
    }

    /// A stream failed: the library, or else `what` by itself.
    pub(crate) fn stream(what: impl Display, error: &io::Error) -> Self {
        match Error::in_io(error) {
            Some(error) => Self::envelope(error),
            None => Self::new(format!("{what}: {error}")),
        }
    }

    /// The encryption context of the command line can't be.
    pub(crate) fn context(error: &Error) -> Self {
        match error {
            Error::InvalidEncryptionContext { .. } => {
                Self::usage(format!("--encryption-context: {error}"))
            }
            error => Self::envelope(error),
        }
    }

    pub(crate) fn envelope(error: &Error) -> Self {
        let hint = match error {
            Error::CommitmentPolicy { .. } => {
                "; choose another --commitment-policy, or another --suite when encrypting"
            }
            Error::TooManyEncryptedDataKeys { .. } => "; the option is --max-encrypted-data-keys",
            Error::EncryptionContextMismatch { .. } | Error::DataKeyNotUnwrapped { .. } => {
                "; `envelope inspect` shows the stored encryption context and the wrapping keys. Pairs \
                 of --required-context are not stored: pass them with --encryption-context"
            }
            Error::SignedMessage { suite } => {
                return Self::new(format!(
                    "the message is signed (suite {suite}), and a pipe would get its frames before the signature is verified: \
                     write to a file with -o FILE, which appears after the verification, or allow it by --release-unverified"
                ));
            }
            Error::InvalidSetting { setting: "suite", .. } => {
                "; on the command line that is --legacy"
            }
            Error::Truncated { offset: 0, .. } => "; the input is empty, or no message",
            Error::Truncated { .. } => "; is the input whole?",
            Error::Unsupported { field: "version", .. } => {
                "; is the input a message of the AWS Encryption SDK?"
            }
            _ if error.is_retryable() => "; try again later",
            _ => "",
        };
        Self::new(format!("{error}{hint}"))
    }

    /// Says it on standard error, in one line.
    pub(crate) fn report(self) -> ExitCode {
        if !self.silent {
            say(&self.text);
        }
        ExitCode::from(self.status)
    }
}

/// Prints one line on standard error. If its reader has gone, that does not matter.
pub(crate) fn say(text: &str) {
    let line: String =
        text.chars().map(|character| if is_plain(character) { character } else { ' ' }).collect();
    let mut stderr = io::stderr().lock();
    // On a terminal, in place of any progress.
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(stderr, "{clear}envelope: {line}");
}

/// Whether a character does nothing to a terminal or to the order of the text around it.
pub(crate) fn is_plain(character: char) -> bool {
    let reorders = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !reorders
}

//! The program's command line. It never contains a secret, because every user can list processes.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use envelope::{AlgorithmSuite, CommitmentPolicy};

use crate::{failure::Failure, wrapping_key::WrappingKey};

const WRAPPING_KEYS: &str = "\
Wrapping keys (SPEC):
  aws-kms:KEY-ARN                                  an AWS KMS key
  aws-kms-mrk:KEY-ARN                              a multi-Region key; to decrypt, it is asked in this ARN's region, in
          whichever region the message was encrypted
  aws-kms-discovery[,account=ACCOUNT]...[,partition=PARTITION][,region=REGION]
          to decrypt only: the AWS KMS keys that the message names, each asked in its own region. With account=,
          which may be given more than once, only those of these accounts, in partition aws unless told otherwise;
          without it, anyone who lets you use their key can write messages that you decrypt. With region=, asks in that
          region alone: its keys, and multi-Region keys of any region
  raw-aes,namespace=NS,name=NAME,key-file=PATH     the file has 16, 24 or 32 raw bytes
  raw-rsa,namespace=NS,name=NAME,padding=PADDING,key-file=PATH
          PADDING is pkcs1, oaep-sha1, oaep-sha256, oaep-sha384 or oaep-sha512; the file is PEM, a public key to
          encrypt, a private one for both
A comma or a backslash in a value is written behind a backslash.

AWS credentials come from where the AWS CLI takes them: the environment, profiles, web identity, container or instance.
Endpoint and certificate authorities come from --endpoint-url and --ca-file, or else from AWS_ENDPOINT_URL_KMS and
AWS_CA_BUNDLE; one endpoint serves the keys of all regions. HTTPS_PROXY and NO_PROXY are heeded.

A FILE is written under another name first, and renamed when all is well: after a failure, or Ctrl-C, it is as it was.
Exit status: 0 when all is well, 1 after a failure, 2 for wrong usage.";

const ENCRYPT: &str = "\
Examples:
  head -c 32 /dev/urandom > wrapping.key
  envelope encrypt --wrapping-key raw-aes,namespace=backup,name=2026,key-file=wrapping.key \\
      --encryption-context file=report -i report.pdf -o report.pdf.enc
  tar c /srv | envelope encrypt --wrapping-key aws-kms:arn:aws:kms:eu-west-1:111122223333:key/ID > srv.tar.enc";

const DECRYPT: &str = "\
Examples:
  envelope decrypt --wrapping-key raw-aes,namespace=backup,name=2026,key-file=wrapping.key \\
      --encryption-context file=report -i report.pdf.enc -o report.pdf
  envelope decrypt --wrapping-key aws-kms:arn:aws:kms:eu-west-1:111122223333:key/ID < srv.tar.enc | tar x
  envelope decrypt --wrapping-key aws-kms-discovery,account=111122223333 < srv.tar.enc | tar x

Each frame is verified before a byte of it is written. To a pipe, frames before a damaged one may be written by then, so
watch the exit status (in a shell, `set -o pipefail`).";

/// Encrypts, decrypts and inspects files in the AWS Encryption SDK message format.
///
/// Every AWS Encryption SDK client, in any language, opens what this program writes, and the
/// reverse.
#[derive(Debug, Parser)]
#[command(name = "envelope", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Encrypt(Encrypt),
    Decrypt(Decrypt),
    Inspect(Inspect),
    /// Print a completion script for a shell
    ///
    /// For bash: `envelope completions bash > /etc/bash_completion.d/envelope`
    Completions {
        shell: Shell,
    },
    /// Print the manual page, of the program or of one of its commands
    ///
    /// To read one: `envelope man encrypt | man -l -`
    Man {
        /// The command whose page to print
        command: Option<String>,
    },
}

/// Encrypt a file, or standard input, to a file or standard output
#[derive(Debug, Args)]
#[command(after_help = ENCRYPT, after_long_help = format!("{ENCRYPT}\n\n{WRAPPING_KEYS}"))]
pub(crate) struct Encrypt {
    /// Key that wraps the data key, repeatable; the first one generates the data key, and any one
    /// of them can decrypt the message
    #[arg(long = "wrapping-key", value_name = "SPEC", required = true)]
    pub(crate) wrapping_keys: Vec<WrappingKey>,

    /// A pair that the message authenticates and stores in the clear; may be given more than once
    #[arg(long = "encryption-context", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) encryption_context: Vec<(String, String)>,

    /// A key of the encryption context that is authenticated, but not stored: its pair must be
    /// supplied for decryption
    #[arg(long = "required-context", value_name = "KEY")]
    pub(crate) required_context: Vec<String>,

    /// The algorithm suite, in hexadecimal: 0478 commits to its key, 0578 also signs [default:
    /// 0478, or 0178 where the policy forbids commitment]
    #[arg(long, value_name = "ID", value_parser = suite)]
    pub(crate) suite: Option<AlgorithmSuite>,

    /// Allow the suites without key derivation: 0014, 0046, 0078
    #[arg(long)]
    pub(crate) legacy: bool,

    /// How many plaintext bytes each frame has, 1 to 4294967295; a frame is held in memory whole
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) frame_length: u32,

    /// Whether messages must, or must not, commit to their data key
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::RequireEncryptRequireDecrypt)]
    pub(crate) commitment_policy: Policy,

    #[command(flatten)]
    pub(crate) kms: Kms,

    #[command(flatten)]
    pub(crate) files: Files,
}

/// Decrypt a file, or standard input, to a file or standard output
#[derive(Debug, Args)]
#[command(after_help = DECRYPT, after_long_help = format!("{DECRYPT}\n\n{WRAPPING_KEYS}"))]
pub(crate) struct Decrypt {
    /// Key that may unwrap the data key, repeatable; each one that the message names is tried
    #[arg(long = "wrapping-key", value_name = "SPEC", required = true)]
    pub(crate) wrapping_keys: Vec<WrappingKey>,

    /// A pair that the message must authenticate; may be given more than once. Pairs that are not
    /// given are not checked
    #[arg(long = "encryption-context", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) encryption_context: Vec<(String, String)>,

    /// Which messages are opened. Unlike the library's, this default opens data from before key
    /// commitment, too; give require-encrypt-require-decrypt where there is none
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::RequireEncryptAllowDecrypt)]
    pub(crate) commitment_policy: Policy,

    /// How many wrapped data keys a message may have, 1 to 65535: each may cost a KMS request
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_encrypted_data_keys: u16,

    /// Write a signed message to a pipe, before its signature is verified: until the exit status is
    /// 0, what came may be by anyone who may decrypt. A FILE needs no such flag, it appears after
    /// the verification
    #[arg(long)]
    pub(crate) release_unverified: bool,

    #[command(flatten)]
    pub(crate) kms: Kms,

    #[command(flatten)]
    pub(crate) files: Files,
}

/// Show a message's header and where its frames lie, without any key. Verifies nothing
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The message; - is standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "AWS KMS")]
pub(crate) struct Kms {
    /// URL of AWS KMS [default: the region's public endpoint]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,

    /// PEM file of trusted certificate authorities [default: the system's]
    #[arg(long, value_name = "PEM")]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Input and output")]
pub(crate) struct Files {
    /// File to read; - is standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,

    /// File to write; - is standard output. It may be the input file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// How many threads encrypt or decrypt one large message together, 1 to 256; each takes some
    /// megabytes, and one more reads, one writes [default: half the cores, but at least 1 and at
    /// most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "the specification's names")]
pub(crate) enum Policy {
    /// Write without commitment, open both
    ForbidEncryptAllowDecrypt,
    /// Write with commitment, open both
    RequireEncryptAllowDecrypt,
    /// Write and open with commitment only
    RequireEncryptRequireDecrypt,
}

impl From<Policy> for CommitmentPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::ForbidEncryptAllowDecrypt => Self::ForbidEncryptAllowDecrypt,
            Policy::RequireEncryptAllowDecrypt => Self::RequireEncryptAllowDecrypt,
            Policy::RequireEncryptRequireDecrypt => Self::RequireEncryptRequireDecrypt,
        }
    }
}

/// The program, or one of its commands, for its manual page.
pub(crate) fn described(command: Option<&str>) -> Result<clap::Command, Failure> {
    let mut program = Arguments::command();
    program.build();
    let Some(name) = command else { return Ok(program) };
    let found = program.find_subcommand(name).cloned();
    let found = found.ok_or_else(|| {
        Failure::usage(format!("there is no command {name:?}: see `envelope --help`"))
    })?;
    Ok(found.display_name(format!("envelope-{name}")))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has no `=`: write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn suite(text: &str) -> Result<AlgorithmSuite, String> {
    let id = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    id.and_then(AlgorithmSuite::from_id).ok_or_else(|| {
        let all: Vec<_> =
            AlgorithmSuite::ALL.iter().map(|suite| format!("{:04x}", suite.id())).collect();
        format!("it is not one of {}", all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn suites_are_read_with_and_without_prefix() {
        assert_eq!(suite("0478").unwrap().id(), 0x0478);
        assert_eq!(suite("0x0578").unwrap().id(), 0x0578);
        for wrong in ["", "478x", "0479", "0x", "99999"] {
            assert!(suite(wrong).unwrap_err().contains("0478"), "{wrong}");
        }
    }

    #[test]
    fn a_pair_ends_its_key_at_the_first_sign() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(pair("a=").unwrap(), ("a".to_owned(), String::new()));
        assert!(pair("a").is_err());
    }
}

//! The program's command line. It never contains a secret, because every user can list processes.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use envelope::{AlgorithmSuite, CommitmentPolicy};

use self::keys::Keys;
use crate::{
    failure::Failure,
    options::{BranchKeyOptions, Kms, StoreOptions, pair},
    wrapping_key::WrappingKey,
};

pub(crate) mod keys;

const WRAPPING_KEYS: &str = "\
Wrapping keys (SPEC):
  aws-kms:KEY-ARN
          an AWS KMS key
  aws-kms-mrk:KEY-ARN
          a multi-Region key; decrypts in this ARN's region, even if the message was encrypted in
          another region
  aws-kms-discovery[,account=ACCOUNT]...[,partition=PARTITION][,region=REGION]
          decrypt only: the AWS KMS keys that the message names, each in its own region
          - account= (repeatable) allows only keys of these accounts, in partition= (default: aws).
            Without account=, anyone who grants you use of a key can create messages that you
            decrypt
          - region= sends requests to this region only, for its keys and for multi-Region keys of
            any region
  raw-aes,namespace=NS,name=NAME,key-file=PATH
          an AES key; the file holds 16, 24 or 32 raw key bytes
  raw-rsa,namespace=NS,name=NAME,padding=PADDING,key-file=PATH
          an RSA key; PADDING is pkcs1, oaep-sha1, oaep-sha256, oaep-sha384 or oaep-sha512; the file
          is PEM: a public key can only encrypt, a private key can also decrypt
  hierarchical:BRANCH-KEY-ID
          a branch key, which `envelope keys create` creates. Set its key store with --store,
          --logical-name and --kms-key
In a value KEY=VALUE, write `\\,` for a comma and `\\\\` for a backslash.

AWS credentials are found as by the AWS CLI: environment, profiles, web identity, container or
instance.
Set the endpoint and certificate authorities with --endpoint-url and --ca-file, or with
AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL, and AWS_CA_BUNDLE. The endpoint is used for all regions.
HTTPS_PROXY, ALL_PROXY and NO_PROXY are respected.

FILE is written under a temporary name and renamed on success. After a failure or Ctrl-C, an
existing FILE is unchanged.
Exit status: 0 on success, 1 on failure, 2 on a usage error.";

const ENCRYPT: &str = "\
Examples:
  head -c 32 /dev/urandom > wrapping.key
  envelope encrypt --wrapping-key raw-aes,namespace=backup,name=2026,key-file=wrapping.key \\
      --encryption-context file=report -i report.pdf -o report.pdf.enc
  tar c /srv | envelope encrypt \\
      --wrapping-key aws-kms:arn:aws:kms:eu-west-1:111122223333:key/ID > srv.tar.enc";

const DECRYPT: &str = "\
Examples:
  envelope decrypt --wrapping-key raw-aes,namespace=backup,name=2026,key-file=wrapping.key \\
      --encryption-context file=report -i report.pdf.enc -o report.pdf
  envelope decrypt \\
      --wrapping-key aws-kms:arn:aws:kms:eu-west-1:111122223333:key/ID < srv.tar.enc | tar x
  envelope decrypt --wrapping-key aws-kms-discovery,account=111122223333 < srv.tar.enc | tar x

Each frame is verified before any of it is written. A pipe may already have received earlier frames
when a damaged frame is found, so check the exit status (in a shell: `set -o pipefail`).";

/// Encrypts, decrypts and inspects files in the AWS Encryption SDK message format.
///
/// Messages are compatible with the AWS Encryption SDK clients for all languages, in both
/// directions.
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
    #[command(subcommand)]
    Keys(Keys),
    /// Print a completion script for a shell
    ///
    /// For bash: `envelope completions bash > /etc/bash_completion.d/envelope`
    Completions {
        shell: Shell,
    },
    /// Print the manual page for the program or for one command
    ///
    /// To read one: `envelope man encrypt | man -l -`
    Man {
        /// Command to print the page for, such as `keys create` [default: the program]
        #[arg(num_args = 0..)]
        command: Vec<String>,
    },
}

/// Encrypt a file, or standard input, to a file or standard output
#[derive(Debug, Args)]
#[command(after_help = ENCRYPT, after_long_help = format!("{ENCRYPT}\n\n{WRAPPING_KEYS}"))]
pub(crate) struct Encrypt {
    /// Wrapping key (repeatable). The first one generates the data key; any one of them can decrypt
    /// the message
    #[arg(long = "wrapping-key", value_name = "SPEC", required = true)]
    pub(crate) wrapping_keys: Vec<WrappingKey>,

    /// Encryption context pair (repeatable), authenticated and stored in the clear
    #[arg(long = "encryption-context", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) encryption_context: Vec<(String, String)>,

    /// Encryption context key (repeatable) whose pair is authenticated but not stored; to decrypt,
    /// pass the pair with --encryption-context
    #[arg(long = "required-context", value_name = "KEY")]
    pub(crate) required_context: Vec<String>,

    /// Algorithm suite id in hexadecimal: 0478 has key commitment, 0578 adds a signature [default:
    /// 0478, or 0178 if the policy forbids commitment]
    #[arg(long, value_name = "ID", value_parser = suite)]
    pub(crate) suite: Option<AlgorithmSuite>,

    /// Allow the suites without key derivation: 0014, 0046 and 0078
    #[arg(long)]
    pub(crate) legacy: bool,

    /// Plaintext bytes per frame, 1 to 4294967295; a whole frame is held in memory
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) frame_length: u32,

    /// Key commitment policy
    #[arg(long, value_name = "POLICY", value_enum)]
    #[arg(default_value_t = Policy::RequireEncryptRequireDecrypt)]
    pub(crate) commitment_policy: Policy,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) branch_keys: BranchKeyOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,

    #[command(flatten)]
    pub(crate) files: Files,
}

/// Decrypt a file, or standard input, to a file or standard output
#[derive(Debug, Args)]
#[command(after_help = DECRYPT, after_long_help = format!("{DECRYPT}\n\n{WRAPPING_KEYS}"))]
pub(crate) struct Decrypt {
    /// Wrapping key (repeatable). Each one that the message names is tried
    #[arg(long = "wrapping-key", value_name = "SPEC", required = true)]
    pub(crate) wrapping_keys: Vec<WrappingKey>,

    /// Encryption context pair (repeatable) that the message must authenticate. Pairs that you do
    /// not pass are not checked
    #[arg(long = "encryption-context", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) encryption_context: Vec<(String, String)>,

    /// Key commitment policy. Unlike the library, the program also decrypts messages without key
    /// commitment by default; to refuse them, use require-encrypt-require-decrypt
    #[arg(long, value_name = "POLICY", value_enum)]
    #[arg(default_value_t = Policy::RequireEncryptAllowDecrypt)]
    pub(crate) commitment_policy: Policy,

    /// Maximum number of encrypted data keys per message, 1 to 65535; each can cost one KMS request
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_encrypted_data_keys: u16,

    /// Write the plaintext of a signed message to a pipe before the signature is verified. Until
    /// the exit status is 0, it may come from anyone who can decrypt. Not needed with -o FILE: the
    /// file appears only after verification
    #[arg(long)]
    pub(crate) release_unverified: bool,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) branch_keys: BranchKeyOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,

    #[command(flatten)]
    pub(crate) files: Files,
}

/// Show a message's header, frame count and plaintext length, without a key or verification
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Message file; - for standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Input and output")]
pub(crate) struct Files {
    /// Input file; - for standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,

    /// Output file; - for standard output. Can be the input file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Threads that encrypt or decrypt a large input, 1 to 256; each uses a few megabytes. One
    /// extra thread reads and one writes [default: half the cores, 1 to 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// Do not show progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "the names of the specification")]
pub(crate) enum Policy {
    /// Encrypt without key commitment; decrypt both kinds
    ForbidEncryptAllowDecrypt,
    /// Encrypt with key commitment; decrypt both kinds
    RequireEncryptAllowDecrypt,
    /// Encrypt and decrypt with key commitment only
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

/// Returns the program or one of its commands, for the manual page.
pub(crate) fn described(names: &[String]) -> Result<clap::Command, Failure> {
    let mut program = Arguments::command();
    program.build();
    let mut found = &program;
    for name in names {
        found = found.find_subcommand(name).ok_or_else(|| {
            Failure::usage(format!("unknown command {name:?}: see `envelope --help`"))
        })?;
    }
    let name = ["envelope"].into_iter().chain(names.iter().map(String::as_str));
    Ok(found.clone().display_name(name.collect::<Vec<_>>().join("-")))
}

fn suite(text: &str) -> Result<AlgorithmSuite, String> {
    let id = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    id.and_then(AlgorithmSuite::from_id).ok_or_else(|| {
        let all: Vec<_> =
            AlgorithmSuite::ALL.iter().map(|suite| format!("{:04x}", suite.id())).collect();
        format!("unknown algorithm suite: expected one of {}", all.join(", "))
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
    fn suites_are_parsed_with_and_without_prefix() {
        assert_eq!(suite("0478").unwrap().id(), 0x0478);
        assert_eq!(suite("0x0578").unwrap().id(), 0x0578);
        for wrong in ["", "478x", "0479", "0x", "99999"] {
            assert!(suite(wrong).unwrap_err().contains("0478"), "{wrong}");
        }
    }
}

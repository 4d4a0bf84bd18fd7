//! The keyrings: wrapping keys, requests to AWS KMS, and errors.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it skips"
)]

#[cfg(feature = "aws-kms")]
mod aws_kms;
#[cfg(feature = "aws-kms")]
mod aws_kms_regions;
#[cfg(feature = "aws-kms")]
mod denials;
mod multi_keyring;
mod raw_aes;
#[cfg(feature = "aws-lc-rs")]
mod raw_rsa;
mod rotating;
#[cfg(feature = "aws-kms")]
mod tenure;

#[path = "../support/mod.rs"]
mod support;

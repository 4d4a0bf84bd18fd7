//! Encrypts and decrypts with AWS-LC and with RustCrypto: both must give the same bytes.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Debug, Arbitrary)]
struct Input {
    key: Vec<u8>,
    nonce: [u8; 12],
    aad: Vec<u8>,
    plaintext: Vec<u8>,
}

libfuzzer_sys::fuzz_target!(|input: Input| {
    envelope::fuzzing::aead_backends_agree(&input.key, input.nonce, &input.aad, &input.plaintext);
});

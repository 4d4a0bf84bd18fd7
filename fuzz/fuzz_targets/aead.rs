//! AES-GCM by AWS-LC and by RustCrypto: the same bytes from both.
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

//! Decrypts changed messages at once and as streams: both must give the same result.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Debug, Arbitrary)]
struct Input {
    suite: u8,
    frame_length: u16,
    plaintext: Vec<u8>,
    changes: Vec<(u8, u16, u16)>,
    plan: Vec<u16>,
}

libfuzzer_sys::fuzz_target!(|input: Input| {
    let Input { suite, frame_length, plaintext, changes, plan } = input;
    envelope::fuzzing::a_stream_fails_like_one_call(
        suite,
        frame_length.into(),
        &plaintext,
        &changes,
        &plan,
    );
});

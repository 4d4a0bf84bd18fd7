//! Encrypts and decrypts streams that are cut in any way: the cuts must not change the bytes.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Debug, Arbitrary)]
struct Input {
    suite: u8,
    frame_length: u16,
    plaintext: Vec<u8>,
    times: u8,
    written: Vec<u16>,
    read: Vec<u16>,
}

libfuzzer_sys::fuzz_target!(|input: Input| {
    let Input { suite, frame_length, plaintext, times, written, read } = input;
    // Repeated until it fills what a stream processes at once.
    let plaintext = plaintext.repeat(usize::from(times) + 1);
    envelope::fuzzing::any_split_gives_the_same(
        suite,
        frame_length.into(),
        &plaintext,
        &written,
        &read,
    );
});

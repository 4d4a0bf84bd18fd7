//! Streams that are cut in any way: the same bytes, whatever the cuts.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Debug, Arbitrary)]
struct Input {
    suite: u8,
    frame_length: u16,
    plaintext: Vec<u8>,
    written: Vec<u16>,
    read: Vec<u16>,
}

libfuzzer_sys::fuzz_target!(|input: Input| {
    let Input { suite, frame_length, plaintext, written, read } = input;
    envelope::fuzzing::any_split_gives_the_same(suite, frame_length.into(), &plaintext, &written, &read);
});

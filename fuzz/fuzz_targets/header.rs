//! Reads headers: a valid one must be written back to the same bytes, and nothing may panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| envelope::fuzzing::header_round_trip(bytes));

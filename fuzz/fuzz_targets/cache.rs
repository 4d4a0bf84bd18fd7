//! Operations on the cache: it must do what a plain model of it says.
#![no_main]

libfuzzer_sys::fuzz_target!(|operations: Vec<(u8, u8, u16)>| envelope::fuzzing::cache_operations(
    &operations
));

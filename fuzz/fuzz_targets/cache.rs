//! Applies operations to the cache and to a plain model of it: both must agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|operations: Vec<(u8, u8, u16)>| envelope::fuzzing::cache_operations(
    &operations
));

//! Changes a stored item: nothing may panic, and AWS KMS would notice each change.
#![no_main]

libfuzzer_sys::fuzz_target!(|changes: Vec<(u8, String, String)>| {
    branch_keys::fuzzing::stored_item(&changes);
});

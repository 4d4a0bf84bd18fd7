//! With a warm cache, an operation allocates its output, and nothing else. The only test of its
//! binary, because the global allocator counts for the whole process.
//!
//! It does not see what AWS-LC allocates in C: `benches/instructions --allocations` does.
#![allow(clippy::print_stdout, reason = "figures, for `--nocapture`")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{alloc::System, hint::black_box};

use envelope::{
    DataKey, Envelope,
    branch_key::{BranchKeys, StaticBranchKeys},
    keyring::HierarchicalKeyring,
    materials::DefaultMaterialsManager,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{caching, context, keyring, now};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TIMES: usize = 100;

/// The data key, the wrapped one in four parts and serialized, the materials and the output.
const MAX_ENCRYPT_UNDER_BRANCH_KEY: usize = 8;
/// The wrapped data key in four parts, the data key, the materials and the output.
const MAX_DECRYPT_UNDER_BRANCH_KEY: usize = 7;

/// Runs an operation often, checks how often it allocates, and prints the bytes.
fn check(name: &str, size: usize, max: usize, mut operation: impl FnMut()) {
    (0..TIMES).for_each(|_| operation());
    let region = Region::new(ALLOCATOR);
    (0..TIMES).for_each(|_| operation());
    let change = region.change();
    let allocations = change.allocations + change.reallocations;
    let bytes = change.bytes_allocated / TIMES;
    println!("{name} of {size} bytes: {allocations} in {TIMES} times, {bytes} bytes each");
    assert!(allocations <= max * TIMES, "{name} of {size} bytes: {allocations} in {TIMES} times");
}

#[test]
fn operations_with_a_warm_cache_allocate_only_their_output() {
    operations_over_a_warm_branch_key();
    let envelope = caching(keyring(), |builder| builder);
    let context = context("42");
    let prepared = envelope.prepare(&context).unwrap();
    for size in [16, 1024, 1_048_576] {
        let plaintext = vec![7; size];
        let message = now(envelope.encrypt(&plaintext, &context)).unwrap();
        now(envelope.decrypt(&message, &context)).unwrap();
        let with_output = |name, operation: &mut dyn FnMut() -> Vec<u8>| {
            check(name, size, 1, || drop(black_box(operation())));
        };
        with_output("encrypt", &mut || now(envelope.encrypt(&plaintext, &context)).unwrap());
        with_output("try_encrypt", &mut || envelope.try_encrypt(&plaintext, &context).unwrap());
        with_output("prepared encrypt", &mut || now(prepared.encrypt(&plaintext)).unwrap());
        with_output("prepared try_encrypt", &mut || prepared.try_encrypt(&plaintext).unwrap());
        check("decrypt", size, 1, || {
            drop(black_box(now(envelope.decrypt(&message, &context)).unwrap()));
        });
        check("try_decrypt", size, 1, || {
            drop(black_box(envelope.try_decrypt(&message, &context).unwrap()));
        });
        let mut buffer = Vec::with_capacity(message.len());
        let mut into = |name, operation: &mut dyn FnMut(&mut Vec<u8>)| {
            check(name, size, 0, || {
                buffer.clear();
                operation(&mut buffer);
            });
        };
        into("encrypt_into", &mut |buffer| {
            now(envelope.encrypt_into(&plaintext, &context, buffer)).unwrap();
        });
        into("prepared try_encrypt_into", &mut |buffer| {
            prepared.try_encrypt_into(&plaintext, buffer).unwrap();
        });
        into("decrypt_into", &mut |buffer| {
            now(envelope.decrypt_into(&message, &context, buffer)).unwrap();
        });
        into("try_decrypt_into", &mut |buffer| {
            envelope.try_decrypt_into(&message, &context, buffer).unwrap();
        });
        into("decrypt_in_place", &mut |buffer| {
            buffer.extend_from_slice(&message);
            now(envelope.decrypt_in_place(buffer, &context)).unwrap();
        });
        into("try_decrypt_in_place", &mut |buffer| {
            buffer.extend_from_slice(&message);
            envelope.try_decrypt_in_place(buffer, &context).unwrap();
        });
    }
}

/// Over a warm branch key, each message has its own data key, in a fixed number of allocations.
fn operations_over_a_warm_branch_key() {
    let source =
        StaticBranchKeys::new().with_active("tenant", [1; 16], DataKey::from_vec(vec![7; 32]));
    let keyring = HierarchicalKeyring::new(BranchKeys::new(source.unwrap()), "tenant").unwrap();
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build().unwrap();
    let context = context("42");
    let message = now(envelope.encrypt(&[7; 1024], &context)).unwrap();
    check("try_encrypt under a branch key", 1024, MAX_ENCRYPT_UNDER_BRANCH_KEY, || {
        drop(black_box(envelope.try_encrypt(&[7; 1024], &context).unwrap()));
    });
    check("try_decrypt under a branch key", 1024, MAX_DECRYPT_UNDER_BRANCH_KEY, || {
        drop(black_box(envelope.try_decrypt(&message, &context).unwrap()));
    });
}

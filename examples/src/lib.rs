//! The examples are the `[[example]]` files beside this package: `cargo run --release --example NAME`.

/// Compiles the code in README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

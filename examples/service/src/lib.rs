//! Examples that need a web framework, in a separate package so that the others do not need it.
//! They are the `[[example]]` files of this package: `cargo run --release --example NAME`.

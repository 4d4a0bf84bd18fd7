//! Examples that need a web framework, apart from those that do not. They are the `[[example]]`
//! files of this package: `cargo run --release --example NAME`.

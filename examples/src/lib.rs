//! The examples are the `[[example]]` files beside this package.

//! The error type of the examples, which are the `[[example]]` files of this package and of
//! `examples/service`. To run one: `cargo run --release --example NAME`.

use std::{error::Error, fmt, iter};

/// The error with which an example ends. It prints its message and its root cause.
pub struct Report(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Report {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// `main` prints its error with `Debug`.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let root = iter::successors(self.0.source(), |&error| error.source()).last();
        root.map_or(Ok(()), |root| write!(f, "\nCaused by: {root}"))
    }
}

/// Compiles the code in README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

//! The examples are the `[[example]]` files beside this package: `cargo run --release --example
//! NAME`.

/// What an example ends with when it fails: the error as it speaks, and the root of it.
pub struct Report(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Report {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// `main` shows its error by `Debug`.
impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let root = std::iter::successors(self.0.source(), |error| error.source()).last();
        root.map_or(Ok(()), |root| write!(f, "\nCaused by: {root}"))
    }
}

/// Compiles the code in README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

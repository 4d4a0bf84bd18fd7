//! Checks of the source tree: imports between files, words, and the length of lines.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it tolerates"
)]

mod graph;
mod imports;
mod readme;
mod source;
mod words;

//! The last word of a program.

use std::{fmt::Display, process::ExitCode};

/// Prints whether the line was met, with the figures that decide, and gives what the program exits with.
#[expect(clippy::print_stdout, reason = "a program that reports to a person")]
pub fn verdict(passed: bool, figures: impl Display) -> ExitCode {
    println!("{} {figures}", if passed { "PASS" } else { "FALLS SHORT" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

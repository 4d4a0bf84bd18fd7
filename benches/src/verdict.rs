//! The last word of a program.
#![expect(clippy::print_stdout, reason = "what programs report to a person")]

use std::{fmt::Display, process::ExitCode};

/// Prints whether the line was met, with the figures that decide, and gives what the program exits
/// with.
pub fn verdict(passed: bool, figures: impl Display) -> ExitCode {
    println!("{} {figures}", if passed { "PASS" } else { "FALLS SHORT" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Several lines that a program holds its figures to.
#[derive(Debug, Default)]
pub struct Lines(Vec<Line>);

#[derive(Debug)]
struct Line {
    what: String,
    figure: f64,
    holds: bool,
    limit: String,
}

impl Lines {
    /// A figure that must not be above `most`.
    pub fn at_most(&mut self, what: impl Into<String>, figure: f64, most: f64) {
        self.0.push(Line {
            what: what.into(),
            figure,
            holds: figure <= most,
            limit: format!("at most {most}"),
        });
    }

    /// A figure that must not be below `least`.
    pub fn at_least(&mut self, what: impl Into<String>, figure: f64, least: f64) {
        self.0.push(Line {
            what: what.into(),
            figure,
            holds: figure >= least,
            limit: format!("at least {least}"),
        });
    }

    /// Prints each line, and last those that were not met; gives what the program exits with.
    #[must_use]
    pub fn verdict(self) -> ExitCode {
        for Line { what, figure, holds, limit } in &self.0 {
            println!(
                "{what:<56} {figure:>9.2}   {limit:<14} {}",
                if *holds { "holds" } else { "short" }
            );
        }
        let short: Vec<_> = self.0.iter().filter(|line| !line.holds).collect();
        if short.is_empty() {
            return verdict(true, format_args!("all {} lines hold", self.0.len()));
        }
        let named: Vec<_> = short
            .iter()
            .map(|line| format!("{}: {:.2}, {}", line.what, line.figure, line.limit))
            .collect();
        let held = self.0.len() - short.len();
        verdict(
            false,
            format_args!("{held} of {} lines are met; short: {}", self.0.len(), named.join("; ")),
        )
    }
}

//! Figures, and the limits that they are held to.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::process::ExitCode;

/// The figures of a benchmark that have limits.
#[derive(Debug, Default)]
#[must_use = "a figure beyond its limit is only seen in the verdict"]
pub struct Limits(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    limit: String,
    holds: bool,
}

impl Limits {
    /// Adds a figure that must not be above `max`.
    pub fn at_most(&mut self, name: impl Into<String>, value: f64, max: f64) {
        self.add(name.into(), value, format!("at most {max}"), value <= max);
    }

    /// Adds a figure that must not be below `min`.
    pub fn at_least(&mut self, name: impl Into<String>, value: f64, min: f64) {
        self.add(name.into(), value, format!("at least {min}"), value >= min);
    }

    /// Adds a figure that must not be above `max` if it is judged. Short runs do not judge times.
    pub fn at_most_if(&mut self, judged: bool, name: impl Into<String>, value: f64, max: f64) {
        if judged {
            self.at_most(name, value, max);
        } else {
            self.add(name.into(), value, "not judged".to_owned(), true);
        }
    }

    /// Adds a condition.
    pub fn holds(&mut self, name: impl Into<String>, condition: bool) {
        self.at_least(name, f64::from(u8::from(condition)), 1.0);
    }

    fn add(&mut self, name: String, value: f64, limit: String, holds: bool) {
        self.0.push(Figure { name, value, limit, holds });
    }

    /// Prints all figures and the verdict, and returns the exit code of the program.
    pub fn verdict(self) -> ExitCode {
        println!();
        for Figure { name, value, limit, holds } in &self.0 {
            let verdict = if *holds { "holds" } else { "FALLS SHORT" };
            println!("{name:<60} {value:>9.2}   {limit:<16} {verdict}");
        }
        let short = self.0.iter().filter(|figure| !figure.holds).count();
        if short == 0 {
            println!("PASS: all {} figures are within their limits", self.0.len());
            return ExitCode::SUCCESS;
        }
        println!("FALLS SHORT: {short} of {} figures are beyond their limits", self.0.len());
        ExitCode::FAILURE
    }
}

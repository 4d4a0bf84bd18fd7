//! What ran, what passed, and what was left out and why.

use std::{collections::BTreeMap, fmt};

/// Counts by each of several headings.
#[derive(Default)]
pub(crate) struct Tally {
    /// By heading, then by line: how many ran, how many passed.
    counts: BTreeMap<&'static str, BTreeMap<String, (usize, usize)>>,
    left_out: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    /// A case ran, and counts in each of `lines`: heading and line.
    pub(crate) fn count(
        &mut self,
        lines: [(&'static str, String); 4],
        outcome: Result<(), String>,
    ) {
        for (heading, line) in lines {
            let (run, passed) = self.counts.entry(heading).or_default().entry(line).or_default();
            *run += 1;
            *passed += usize::from(outcome.is_ok());
        }
        self.failures.extend(outcome.err());
    }

    pub(crate) fn leave_out(&mut self, reason: &str, cases: usize) {
        *self.left_out.entry(reason.to_owned()).or_default() += cases;
    }

    /// Prints everything; panics if anything failed.
    pub(crate) fn finish(&self) {
        println!("{self}");
        assert!(!self.counts.is_empty(), "nothing ran");
        let shown: Vec<_> = self.failures.iter().take(20).map(String::as_str).collect();
        assert!(
            self.failures.is_empty(),
            "{} cases failed, among them:\n{}",
            self.failures.len(),
            shown.join("\n")
        );
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (heading, lines) in &self.counts {
            writeln!(formatter, "\n{heading:<70} {:>7} {:>7}", "run", "passed")?;
            for (line, (run, passed)) in lines {
                writeln!(formatter, "  {line:<68} {run:>7} {passed:>7}")?;
            }
            let (run, passed) =
                lines.values().fold((0, 0), |sum, line| (sum.0 + line.0, sum.1 + line.1));
            writeln!(formatter, "  {:<68} {run:>7} {passed:>7}", "in all")?;
        }
        writeln!(formatter, "\n{:<70} {:>7}", "left out, because", "cases")?;
        self.left_out
            .iter()
            .try_for_each(|(reason, cases)| writeln!(formatter, "  {reason:<68} {cases:>7}"))
    }
}

//! One pool and one envelope for many runtimes: those that end, and those that nobody drives.

mod background;
mod loads;

use crate::{Lines, trials::Trial};

/// Runs the trial.
///
/// # Errors
///
/// When the server or a runtime can't start.
pub fn run(quick: bool) -> Trial {
    let mut lines = Lines::default();
    loads::run(quick, &mut lines)?;
    background::run(quick, &mut lines)?;
    Ok(lines.verdict())
}

//! One pool and one envelope for many runtimes: some end, and some are not driven.

mod background;
mod loads;

use crate::{Lines, trials::Trial};

/// Runs the trial.
///
/// # Errors
///
/// If the server or a runtime cannot start.
pub fn run(quick: bool) -> Trial {
    let mut lines = Lines::default();
    loads::run(quick, &mut lines)?;
    background::run(quick, &mut lines)?;
    Ok(lines.verdict())
}

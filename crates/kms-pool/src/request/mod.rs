//! The way of a request, below the SDK's client: budget, circuit, attempt, outcome.

mod attempt;
mod budget;
mod circuit;
mod operation;
mod outcome;
mod retry;

pub(crate) use attempt::{Lane, LaneClient};
pub(crate) use budget::{Budget, BudgetSettings, Priority};
pub use circuit::CircuitState;
pub(crate) use circuit::{Circuit, CircuitSettings};
pub(crate) use operation::{NoteAttempt, PING};
pub(crate) use outcome::Outcome;
pub(crate) use retry::{Retries, retry_quota};

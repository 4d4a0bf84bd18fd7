//! The route of a request below the SDK's client: circuit, budget, attempts and their outcome.

mod attempt;
mod budget;
mod circuit;
mod lane;
mod operation;
mod outcome;
mod retry;
mod signature;

pub(crate) use budget::{Budget, BudgetSettings, Priority};
pub use circuit::CircuitState;
pub(crate) use circuit::{Circuit, CircuitSettings};
pub(crate) use lane::{Lane, LaneClient};
pub(crate) use operation::{NoteAttempt, PING};
pub(crate) use retry::{Retries, retry_quota};

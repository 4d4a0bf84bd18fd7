//! The interface between a cache and its users: the source of values, and the environment.

use std::{future::Future, sync::Arc, time::Duration};

use super::{failures::Failures, policy::Policy};
pub(crate) use crate::background::Task;
use crate::{error::Error, time::Moment};

/// How values are kept, and what a cache needs of the world around it.
pub(crate) trait Settings: Send + Sync {
    /// The time.
    fn now(&self) -> Moment;

    /// A random number in 0..1.
    fn chance(&self) -> f64;

    /// How values are kept.
    fn policy(&self) -> &Policy;

    /// The wrapping keys that failed several times in a row, by name.
    fn backoffs(&self) -> &Failures<Arc<str>>;

    /// Whether loads run in the background, instead of being driven by their waiters.
    ///
    /// # Errors
    ///
    /// Why loads cannot run at all.
    fn loads_in_background(&self) -> Result<bool, Error>;

    /// Runs a load in the background, if [`loads_in_background`](Self::loads_in_background)
    /// returned true.
    fn run(&self, load: Task);

    /// Does something in the background, or drops it where there is none.
    fn spawn(&self, task: Task);

    /// Sleeps in the background; for ever if there is none.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static;
}

/// How a load is scheduled among the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'a> {
    /// The encryption context that the caller supplied.
    pub(crate) context: &'a [u8],
    /// How many requests to the key provider the load may take.
    pub(crate) requests: usize,
    /// How many bytes the load holds while it waits.
    pub(crate) bytes: usize,
}

/// Where values come from, for one operation. Made only where a value must be loaded.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// The loaded value.
    type Value: Send + Sync + 'static;

    /// Whether a new value takes the place of the current one at once, rather than when that is
    /// spent.
    const IN_PLACE: bool;

    /// How values are kept.
    fn settings(&self) -> &impl Settings;

    /// What the operation reserves, in bytes; `None` is a use that is not counted.
    fn bytes(&self) -> Option<u64>;

    /// Whether somebody wants to use a value, rather than see whether it is there.
    fn is_use(&self) -> bool {
        true
    }

    /// How this load is scheduled.
    fn share(&self) -> Share<'_>;

    /// The wrapping keys of which any one may be asked, by the names in
    /// [`KeyringError`](crate::error::KeyringError); none where that is not known.
    fn wrapping_keys(&self) -> Vec<Arc<str>>;

    /// Asks for a value; in the background when nobody waits for it.
    fn load(
        self,
        background: bool,
    ) -> impl Future<Output = Result<Arc<Self::Value>, Error>> + Send + 'static;

    /// Whether a value is the right one, as far as this operation can tell. Only such values are
    /// kept. Default: always.
    fn proves(&self, value: &Arc<Self::Value>) -> bool {
        let _ = value;
        true
    }

    /// A source for the replacement of `value`, which was proven.
    fn replacing(&self, value: &Arc<Self::Value>) -> Self {
        let _ = value;
        self.clone()
    }

    /// The name of the wrapping key that is known to have supplied a value, as in
    /// [`KeyringError`](crate::error::KeyringError). Not needed if there is only one wrapping key.
    fn answered(&self, value: &Self::Value) -> Option<Arc<str>> {
        let _ = value;
        None
    }

    /// The size of a value in bytes, without its key.
    fn weight(&self, value: &Self::Value) -> usize {
        size_of_val(value)
    }

    /// Called after a failed load. `had` is true if the value had been kept before, or was to be
    /// generated.
    fn failed(&self, error: &Error, had: bool);

    /// A value that was asked for at `asked` is about to be kept. Nothing is invalidated meanwhile.
    fn loaded(&self, value: &Arc<Self::Value>, asked: Moment) {
        let _ = (value, asked);
    }
}

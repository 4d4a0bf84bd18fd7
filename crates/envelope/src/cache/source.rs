//! What a cache needs from its users: where values come from, and the environment.

use std::{future::Future, sync::Arc, time::Duration};

use super::{failures::Failures, policy::Policy};
pub(crate) use crate::background::Task;
use crate::{error::Error, time::Moment};

/// The settings and the environment of a cache.
pub(crate) trait Settings: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Moment;

    /// Returns a random number in 0..1.
    fn chance(&self) -> f64;

    /// Returns how long values are used, and failures remembered.
    fn policy(&self) -> &Policy;

    /// Returns the memory of wrapping keys that have failed several times in a row, by name.
    fn backoffs(&self) -> &Failures<Arc<str>>;

    /// Returns whether loads run in the background, instead of being driven by their callers.
    ///
    /// # Errors
    ///
    /// Why loads cannot run at all.
    fn loads_in_background(&self) -> Result<bool, Error>;

    /// Runs a load in the background, if [`loads_in_background`](Self::loads_in_background)
    /// returned true.
    fn run(&self, load: Task);

    /// Runs a task in the background, or drops it if there is no background.
    fn spawn(&self, task: Task);

    /// Sleeps in the background; for ever if there is no background.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static;
}

/// Where values come from, for one operation. Created only if a value must be loaded.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// The loaded value.
    type Value: Send + Sync + 'static;

    /// Whether a new value replaces the current one at once, not only when that is spent.
    const IN_PLACE: bool;

    /// Returns whether the load was not chosen by the sender of a message. Default: unless values
    /// are replaced in place, which is so for decryption.
    fn is_ours(&self) -> bool {
        !Self::IN_PLACE
    }

    /// Returns the settings and the environment.
    fn settings(&self) -> &impl Settings;

    /// Returns what the operation reserves, in bytes; `None` is a use that is not counted.
    fn bytes(&self) -> Option<u64>;

    /// Returns whether the operation uses the value. Otherwise it only makes sure that there is
    /// one.
    fn is_use(&self) -> bool {
        true
    }

    /// Returns the encryption context that the caller supplied. Loads of each context take turns.
    fn supplied_context(&self) -> &[u8];

    /// Returns how many requests to the key provider the load may take.
    fn requests(&self) -> usize {
        1
    }

    /// Returns how many bytes the load holds while it waits.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Returns the wrapping keys, any one of which the load may use, by the names in
    /// [`KeyringError`](crate::error::KeyringError); none if that is not known.
    fn wrapping_keys(&self) -> Vec<Arc<str>>;

    /// Loads a value. `ahead` says that no caller waits for it.
    fn load(
        self,
        ahead: bool,
    ) -> impl Future<Output = Result<Arc<Self::Value>, Error>> + Send + 'static;

    /// Returns whether a value is the right one, as far as this operation can tell.
    ///
    /// Only such values are kept. Default: always.
    fn proves(&self, value: &Arc<Self::Value>) -> bool {
        let _ = value;
        true
    }

    /// Returns a source for the replacement of `value`, which was proven.
    fn replacing(&self, value: &Arc<Self::Value>) -> Self {
        let _ = value;
        self.clone()
    }

    /// Returns the name of the wrapping key that supplied a value, if it is known, as in
    /// [`KeyringError`](crate::error::KeyringError). Not needed if there is only one wrapping key.
    fn answered(&self, value: &Self::Value) -> Option<Arc<str>> {
        let _ = value;
        None
    }

    /// Returns the size of a value in bytes, without its key.
    fn weight(&self, value: &Self::Value) -> usize {
        size_of_val(value)
    }

    /// Called after a load failed. `is_ours` says that the failed request was not chosen by the
    /// sender of a message: the value had been kept before, or was to be generated.
    fn failed(&self, error: &Error, is_ours: bool);

    /// Called when a value that was requested at `asked` is kept, while no entry can be
    /// invalidated.
    ///
    /// A lock is held, so events must not be reported. The result is called when the lock has been
    /// released.
    fn loaded(&self, value: &Arc<Self::Value>, asked: Moment) -> impl FnOnce() + use<Self> {
        let _ = (value, asked);
        || ()
    }
}

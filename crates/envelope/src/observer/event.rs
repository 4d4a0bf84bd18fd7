//! Cache events.

use std::{fmt, time::Duration};

use crate::{context::ContextKeys, error::Error};

/// Watches what happens in a [`MaterialsCache`](crate::materials::MaterialsCache).
///
/// Called on the thread to which it happens, while locks of the cache are held: it must not wait,
/// and must not use the cache. If it panics, that goes no further.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use envelope::observer::{Event, EventKind, Observer};
/// use envelope::materials::MaterialsCache;
///
/// #[derive(Debug, Default)]
/// struct Alarm(AtomicU64);
///
/// impl Observer for Alarm {
///     fn observe(&self, event: &Event<'_>) {
///         if let EventKind::StaleServed = event.kind {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let cache = MaterialsCache::builder().observer(Arc::new(Alarm::default())).build();
/// ```
pub trait Observer: fmt::Debug + Send + Sync {
    /// Something happened.
    fn observe(&self, event: &Event<'_>);
}

/// Something that happened in a cache.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Event<'a> {
    /// Whether it happened to what seals or to what opens.
    pub operation: Operation,
    /// The keys, not the values, of the encryption context that it happened to.
    pub context_keys: ContextKeys<'a>,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What a data key was wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Sealing.
    Encryption,
    /// Opening.
    Decryption,
}

impl Operation {
    /// `"encryption"` or `"decryption"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::Decryption => "decryption",
        }
    }
}

/// A cache event.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// An operation was served without waiting.
    Hit,
    /// An operation found no usable data key, and had to wait for one.
    Missed(MissReason),
    /// An operation waits for a load that another one started.
    Coalesced,
    /// An operation may not use the cache, and got its own data key.
    Bypassed,
    /// An operation was refused without a request to the keyring, because of a remembered failure
    /// or [`Error::Overloaded`].
    Refused {
        /// The failure.
        cause: &'a Error,
        /// How long operations are refused; zero if that is not known.
        retry_after: Duration,
    },
    /// A data key was loaded.
    Loaded {
        /// Whether it was a refresh ahead, in the background.
        ahead: bool,
        /// How long the load took.
        took: Duration,
    },
    /// A data key could not be loaded.
    LoadFailed {
        /// Whether it was a refresh ahead, in the background.
        ahead: bool,
        /// How long the load took.
        took: Duration,
        /// The failure.
        cause: &'a Error,
    },
    /// The standby data key replaced a spent one.
    Promoted,
    /// An operation used a data key past its age, because its provider is unavailable.
    StaleServed,
    /// An entry was evicted.
    Evicted,
    /// Entries were dropped: by [`invalidate`](crate::materials::MaterialsCache::invalidate) or a
    /// similar method, or because their wrapping key was refused.
    Invalidated {
        /// The number of entries.
        entries: u64,
    },
    /// Nearly every operation has a new encryption context, so that caching does not help. Emitted
    /// once for each cache and operation.
    ContextsNeverRepeat,
    /// The cache is too small for the encryption contexts in use (for decryption: the data keys in
    /// use).
    ///
    /// More than one operation in ten requests an entry that was evicted, which costs a request to
    /// the key provider. Raise [`capacity`](crate::materials::MaterialsCacheBuilder::capacity), or
    /// [`max_bytes_held`](crate::materials::MaterialsCacheBuilder::max_bytes_held) if entries are
    /// large. Emitted once for each cache and operation.
    CacheTooSmall {
        /// How many operations requested an evicted entry.
        evicted: u64,
        /// How many operations there were in the same time.
        operations: u64,
        /// The setting `capacity`.
        capacity: usize,
        /// The setting `max_bytes_held`.
        max_bytes_held: u64,
    },
}

/// Why an operation found no usable data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// There was none, and none was remembered to have been there.
    Absent,
    /// It had made room for another entry.
    Evicted,
    /// It had been invalidated, or its wrapping key refused.
    Invalidated,
    /// There was none, and there is no use in looking: contexts hardly ever repeat.
    NeverRepeats,
    /// It was too old.
    Age,
    /// It had sealed as many messages as it may.
    Messages,
    /// It had not as many bytes left as the message has.
    Bytes,
}

impl MissReason {
    /// Every reason, in the order of declaration.
    pub(crate) const ALL: [Self; 7] = [
        Self::Absent,
        Self::Evicted,
        Self::Invalidated,
        Self::NeverRepeats,
        Self::Age,
        Self::Messages,
        Self::Bytes,
    ];

    /// The reason's name, in `snake_case`: for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Evicted => "evicted",
            Self::Invalidated => "invalidated",
            Self::NeverRepeats => "never_repeats",
            Self::Age => "age",
            Self::Messages => "messages",
            Self::Bytes => "bytes",
        }
    }
}

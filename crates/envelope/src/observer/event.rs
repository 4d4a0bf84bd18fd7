//! Cache events.

use std::{fmt, time::Duration};

use crate::{context::ContextKeys, error::Error};

/// Receives the events of a [`MaterialsCache`](crate::materials::MaterialsCache).
///
/// It is called on the thread that causes the event, without locks, so it may use the cache: for
/// example read [`stats`], call `try_encrypt`, or invalidate entries. It should not block. Panics
/// are caught and ignored.
///
/// Events that an observer causes while it is called, on the same thread, are counted but not
/// reported to it.
///
/// [`stats`]: crate::materials::MaterialsCache::stats
///
/// # Examples
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
    /// Receives one event.
    fn observe(&self, event: &Event<'_>);
}

/// An event in a cache, with its circumstances.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Event<'a> {
    /// Whether the event is about encryption or decryption.
    pub operation: Operation,
    /// The [`partition_id`] of the entry, if the cache [labels partitions]; `None` for events about
    /// many entries.
    ///
    /// [`partition_id`]: crate::materials::CachingBuilder::partition_id
    /// [labels partitions]: crate::materials::MaterialsCacheBuilder::label_partitions
    pub partition: Option<&'a str>,
    pub(crate) context_keys: ContextKeys<'a>,
    /// What happened.
    pub kind: EventKind<'a>,
}

impl<'a> Event<'a> {
    /// Returns the keys of the encryption context without their values, for logs: `key, key, …`.
    /// Empty for events about many entries.
    ///
    /// The keys may come from an unverified message. They are therefore escaped, and the text is
    /// truncated after about 256 bytes.
    #[must_use]
    pub fn context_keys(&self) -> impl fmt::Display + fmt::Debug + use<'a> {
        self.context_keys
    }
}

/// The operation that a data key is for, or the role of a branch key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Encryption.
    Encryption,
    /// Decryption.
    Decryption,
    /// Wrapping data keys under the active version of a branch key.
    ActiveBranchKey,
    /// Unwrapping data keys under one version of a branch key.
    BranchKeyVersion,
}

impl Operation {
    /// Returns the name in `snake_case`, for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::Decryption => "decryption",
            Self::ActiveBranchKey => "active_branch_key",
            Self::BranchKeyVersion => "branch_key_version",
        }
    }
}

/// The kind of a cache event.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// An operation used a cached data key without waiting.
    Hit,
    /// An operation found no usable data key, and waits for one.
    Missed(MissReason),
    /// An operation waits for a load that another one started.
    Coalesced,
    /// An operation cannot use the cache, and gets a data key of its own.
    Bypassed,
    /// An operation failed without a request to the keyring, with a remembered failure or with
    /// [`Error::Overloaded`].
    Refused {
        /// The failure.
        cause: &'a Error,
        /// How long further operations fail; zero if unknown.
        retry_after: Duration,
    },
    /// A load succeeded.
    Loaded {
        /// Whether it was a refresh ahead, in the background.
        ahead: bool,
        /// How long the load took.
        took: Duration,
    },
    /// A load failed.
    LoadFailed {
        /// Whether it was a refresh ahead, in the background.
        ahead: bool,
        /// How long the load took.
        took: Duration,
        /// The failure.
        cause: &'a Error,
    },
    /// The standby data key replaced one that had reached a limit.
    Promoted,
    /// An operation used a data key past `max_age`, because its provider is unavailable.
    StaleServed,
    /// An entry was evicted because the cache was full.
    Evicted,
    /// Entries were invalidated: by [`invalidate`](crate::materials::MaterialsCache::invalidate) or
    /// a similar method, because their wrapping key was refused, or because the identity changed.
    Invalidated {
        /// The number of entries.
        entries: u64,
    },
    /// Almost every operation has a new encryption context, so caching has no effect. Emitted once
    /// for each cache and operation.
    ContextsNeverRepeat,
    /// The cache is too small for the encryption contexts in use (for encryption) or for the data
    /// keys in use (for decryption).
    ///
    /// More than one operation in ten needs an entry that was evicted, which costs a request to the
    /// key provider. Raise [`capacity`](crate::materials::MaterialsCacheBuilder::capacity), or
    /// [`max_bytes_held`](crate::materials::MaterialsCacheBuilder::max_bytes_held) if entries are
    /// large. Emitted once for each cache and operation.
    CacheTooSmall {
        /// The number of operations that needed an evicted entry.
        evicted: u64,
        /// The number of all operations in the same time.
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
    /// No entry was cached, and none is known to have been evicted or invalidated recently.
    Absent,
    /// The entry had been evicted.
    Evicted,
    /// The entry had been invalidated.
    Invalidated,
    /// No entry was cached, and encryption contexts almost never repeat: there is less than one hit
    /// for 100 new contexts.
    NeverRepeats,
    /// The data key had reached `max_age`.
    Age,
    /// The data key had reached `max_messages`.
    Messages,
    /// The message was longer than the bytes left under the data key.
    Bytes,
}

impl MissReason {
    /// All reasons, in the order of declaration.
    pub(crate) const ALL: [Self; 7] = [
        Self::Absent,
        Self::Evicted,
        Self::Invalidated,
        Self::NeverRepeats,
        Self::Age,
        Self::Messages,
        Self::Bytes,
    ];

    /// Returns the name in `snake_case`, for metrics and logs.
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

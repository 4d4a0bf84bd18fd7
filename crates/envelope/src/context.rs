//! The encryption context (specification: `framework/structures.md#encryption-context`).

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::error::Error;

/// How many bytes of keys are shown.
const LONGEST_SHOWN: usize = 256;
/// Keys with this prefix belong to the message format itself.
const RESERVED_PREFIX: &str = "aws-crypto-";

/// Non-secret pairs that are authenticated with a message and stored beside it: a tenant, a table,
/// a purpose. On decryption, a pair that contradicts the message's, or that it does not
/// authenticate, is an error; pairs that you don't supply are not checked, but for those that were
/// required when it was sealed.
///
/// Held in its canonical serialization (sorted by the UTF-8 bytes of the keys), which is what the
/// header, the wrapping keys and the cache all need. Cloning is cheap.
///
/// ```
/// use envelope::EncryptionContext;
///
/// let context = EncryptionContext::new([("tenant", "42"), ("purpose", "card number")])?;
/// assert_eq!(context.get("tenant"), Some("42"));
/// assert_eq!(context.iter().next(), Some(("purpose", "card number")));
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Clone)]
pub struct EncryptionContext(Serialized);

/// How many bytes of a context are held where it is: those of one or two pairs.
const SHORT: usize = 62;

/// A canonical serialization. Threads that clone a long one at once write to the same count, so
/// that a short one is copied.
#[derive(Clone)]
enum Serialized {
    Short { bytes: [u8; SHORT], length: u8 },
    Long(Arc<[u8]>),
}

impl EncryptionContext {
    /// A context with no pairs.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Serialized::Short { bytes: [0; SHORT], length: 0 })
    }

    /// A context with these pairs, in any order.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] when a key stands twice, or when the serialization would
    /// exceed 65,535 bytes (the header's length field has 16 bits).
    pub fn new<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Error> {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by(|(a, _), (b, _)| a.as_ref().as_bytes().cmp(b.as_ref().as_bytes()));
        if pairs.windows(2).any(|pair| pair[0].0.as_ref() == pair[1].0.as_ref()) {
            return Err(Error::InvalidEncryptionContext { problem: "a key stands twice" });
        }
        if pairs.is_empty() {
            return Ok(Self::empty());
        }
        let mut serialized = Vec::new();
        serialized.extend_from_slice(&length(pairs.len())?);
        for (key, value) in &pairs {
            for text in [key.as_ref(), value.as_ref()] {
                serialized.extend_from_slice(&length(text.len())?);
                serialized.extend_from_slice(text.as_bytes());
            }
        }
        length(serialized.len())?;
        Ok(Self::from_canonical(&serialized))
    }

    /// The context with this serialization, which stands at `offset` of a message.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless `serialized` is empty or canonical.
    pub(crate) fn from_serialized(serialized: &[u8], offset: u64) -> Result<Self, Error> {
        Self::validate(serialized, offset)?;
        Ok(Self::from_canonical(serialized))
    }

    fn from_canonical(serialized: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        Self(match (bytes.get_mut(..serialized.len()), u8::try_from(serialized.len())) {
            (Some(start), Ok(length)) => {
                start.copy_from_slice(serialized);
                Serialized::Short { bytes, length }
            }
            _ => Serialized::Long(serialized.into()),
        })
    }

    /// Checks that `serialized`, which stands at `offset` of a message, is a canonical
    /// serialization.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when it is not.
    pub(crate) fn validate(serialized: &[u8], offset: u64) -> Result<(), Error> {
        let malformed = |at: usize, problem| Error::Malformed {
            field: "encryption context",
            offset: offset + at as u64,
            problem,
        };
        if serialized.is_empty() {
            return Ok(());
        }
        let Some((count, mut rest)) = serialized.split_first_chunk() else {
            return Err(malformed(0, "the pair count is cut off"));
        };
        let count = u16::from_be_bytes(*count);
        if count == 0 {
            return Err(malformed(0, "an empty context must be serialized as no bytes at all"));
        }
        let mut previous: Option<&str> = None;
        for _ in 0..count {
            let at = serialized.len() - rest.len();
            let (Some(key), Some(_)) = (take_text(&mut rest), take_text(&mut rest)) else {
                return Err(malformed(at, "a pair is cut off or not UTF-8"));
            };
            if previous.is_some_and(|previous| previous.as_bytes() >= key.as_bytes()) {
                return Err(malformed(at, "keys are not sorted, or one stands twice"));
            }
            previous = Some(key);
        }
        if !rest.is_empty() {
            return Err(malformed(serialized.len() - rest.len(), "bytes follow the last pair"));
        }
        Ok(())
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        get(self.as_serialized(), key)
    }

    /// The pairs, sorted by the UTF-8 bytes of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(self.as_serialized())
    }

    /// The keys without their values.
    pub fn keys(&self) -> ContextKeys<'_> {
        ContextKeys(self.as_serialized())
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_serialized().is_empty()
    }

    /// The canonical serialization: empty for no pairs, else the pair count and the sorted pairs.
    #[must_use]
    pub fn as_serialized(&self) -> &[u8] {
        match &self.0 {
            Serialized::Short { bytes, length } => &bytes[..usize::from(*length)],
            Serialized::Long(serialized) => serialized,
        }
    }

    /// The canonical serialization, to keep.
    pub(crate) fn to_canonical(&self) -> Arc<[u8]> {
        match &self.0 {
            Serialized::Short { .. } => self.as_serialized().into(),
            Serialized::Long(serialized) => Arc::clone(serialized),
        }
    }

    /// The first key that is reserved for the message format, if any.
    pub(crate) fn reserved_key(&self) -> Option<&str> {
        self.iter().map(|(key, _)| key).find(|key| Self::is_reserved(key))
    }

    /// Returns whether this key is reserved for the message format.
    pub(crate) fn is_reserved(key: &str) -> bool {
        key.starts_with(RESERVED_PREFIX)
    }

    /// The first key that `stored`, a canonical serialization, gives another value.
    pub(crate) fn first_contradiction<'a>(&'a self, stored: &[u8]) -> Option<&'a str> {
        if self.as_serialized() == stored {
            return None;
        }
        let contradicts = |value, other: Option<&str>| other.is_some_and(|other| other != value);
        self.beside(stored)
            .find(|(_, value, other)| contradicts(*value, *other))
            .map(|(key, ..)| key)
    }

    /// The pairs whose keys do not stand in `stored`, a canonical serialization.
    pub(crate) fn without(&self, stored: &[u8]) -> Self {
        if self.as_serialized() == stored {
            return Self::empty();
        }
        let missing = self.beside(stored).filter(|(.., other)| other.is_none());
        Self::new(missing.map(|(key, value, _)| (key, value)))
            .expect("a part of a context is shorter than it")
    }

    /// The pairs, each with the value that `stored`, a canonical serialization, gives its key. Both
    /// are sorted, so that both are walked once.
    fn beside<'a, 'b>(
        &'a self,
        stored: &'b [u8],
    ) -> impl Iterator<Item = (&'a str, &'a str, Option<&'b str>)> {
        let mut others = pairs(stored).peekable();
        self.iter().map(move |(key, value)| {
            while others.next_if(|(other, _)| *other < key).is_some() {}
            (key, value, others.next_if(|(other, _)| *other == key).map(|(_, other)| other))
        })
    }

    /// The pairs whose keys are the caller's, not the message format's.
    pub(crate) fn without_reserved(&self) -> Self {
        self.filtered(|key| !Self::is_reserved(key))
    }

    /// The pairs whose keys are wanted.
    pub(crate) fn filtered(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self::new(self.iter().filter(|(key, _)| wanted(key)))
            .expect("a part of a context is shorter than it")
    }

    /// The pairs of both, which have no key in common.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] when they have, or when both together are too long.
    pub(crate) fn with(&self, other: &Self) -> Result<Self, Error> {
        if other.is_empty() {
            return Ok(self.clone());
        }
        Self::new(self.iter().chain(other.iter()))
    }
}

impl PartialEq for EncryptionContext {
    fn eq(&self, other: &Self) -> bool {
        self.as_serialized() == other.as_serialized()
    }
}

impl Eq for EncryptionContext {}

impl Hash for EncryptionContext {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_serialized().hash(state);
    }
}

impl Default for EncryptionContext {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for EncryptionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The keys of an encryption context, without their values: what logs may show. Displays as `key,
/// key, …`, escaped, and cut after some 256 bytes: it may be a message's that nobody has verified.
///
/// ```
/// use envelope::EncryptionContext;
///
/// let context = EncryptionContext::new([("tenant", "42"), ("purpose", "card number")])?;
/// assert_eq!(context.keys().to_string(), "purpose, tenant");
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct ContextKeys<'a>(
    /// A valid canonical serialization.
    &'a [u8],
);

impl<'a> ContextKeys<'a> {
    /// The keys in a valid canonical serialization.
    pub(crate) fn of_serialized(serialized: &'a [u8]) -> Self {
        Self(serialized)
    }

    /// The keys, sorted by their UTF-8 bytes.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        pairs(self.0).map(|(key, _)| key)
    }
}

impl fmt::Display for ContextKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for (at, key) in self.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            for character in key.chars() {
                if written >= LONGEST_SHOWN {
                    return f.write_str("…");
                }
                written += character.len_utf8();
                write!(f, "{}", character.escape_debug())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ContextKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// The pairs of a valid canonical serialization.
fn pairs(serialized: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = serialized.get(2..).unwrap_or_default();
    std::iter::from_fn(move || Some((take_text(&mut rest)?, take_text(&mut rest)?)))
}

/// The value of `key` in a valid canonical serialization.
fn get<'a>(serialized: &'a [u8], key: &str) -> Option<&'a str> {
    pairs(serialized).find_map(|(k, v)| (k == key).then_some(v))
}

/// Takes one length-prefixed text off the front of `rest`.
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

/// A length as its 16-bit field.
fn length(length: usize) -> Result<[u8; 2], Error> {
    u16::try_from(length)
        .map(u16::to_be_bytes)
        .map_err(|_| Error::InvalidEncryptionContext { problem: "longer than 65,535 bytes" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shown_keys_are_escaped_and_cut() {
        let shown = |key: &str| {
            EncryptionContext::new([(key, "value"), ("b", "")]).unwrap().keys().to_string()
        };
        assert_eq!(shown("a\n\u{1b}[1m"), "a\\n\\u{1b}[1m, b");
        assert_eq!(shown(&"a".repeat(10_000)), format!("{}…", "a".repeat(256)));
    }

    #[test]
    fn empty_has_no_bytes() {
        let none: [(&str, &str); 0] = [];
        assert_eq!(EncryptionContext::new(none).unwrap().as_serialized(), b"");
    }

    #[test]
    fn serialization_is_the_specified_one() {
        let context = EncryptionContext::new([("b", ""), ("a", "é")]).unwrap();
        assert_eq!(context.as_serialized(), b"\x00\x02\x00\x01a\x00\x02\xc3\xa9\x00\x01b\x00\x00");
    }

    #[test]
    fn duplicates_and_oversize_are_refused() {
        assert!(EncryptionContext::new([("a", "1"), ("a", "2")]).is_err());
        assert!(EncryptionContext::new([("a", "x".repeat(65_536))]).is_err());
        assert!(
            EncryptionContext::new([("a", "x".repeat(40_000)), ("b", "x".repeat(40_000))]).is_err()
        );
    }

    #[test]
    fn uncanonical_bytes_are_refused() {
        let cases: [(&[u8], &str); 6] = [
            (b"\x00", "cut off"),
            (b"\x00\x00", "no bytes at all"),
            (b"\x00\x01\x00\x01a\x00\x05x", "cut off"),
            (b"\x00\x01\x00\x01\xff\x00\x00", "UTF-8"),
            (b"\x00\x02\x00\x01a\x00\x00\x00\x01a\x00\x00", "twice"),
            (b"\x00\x01\x00\x01a\x00\x00!", "follow"),
        ];
        for (bytes, expected) in cases {
            let error = EncryptionContext::from_serialized(bytes, 0).unwrap_err();
            assert!(error.to_string().contains(expected), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn contradictions_and_what_is_not_stored_are_found() {
        let stored = EncryptionContext::new([("a", "1"), ("b", "2")]).unwrap();
        let against = |pairs: &[(&'static str, &str)]| {
            let supplied = EncryptionContext::new(pairs.iter().copied()).unwrap();
            let contradiction =
                supplied.first_contradiction(stored.as_serialized()).map(ToOwned::to_owned);
            (contradiction, supplied.without(stored.as_serialized()))
        };
        let empty = EncryptionContext::empty();
        assert_eq!(against(&[]), (None, empty.clone()));
        assert_eq!(against(&[("b", "2")]), (None, empty.clone()));
        assert_eq!(against(&[("a", "1"), ("b", "2")]), (None, empty.clone()));
        assert_eq!(against(&[("b", "1")]), (Some("b".to_owned()), empty));
        let other = EncryptionContext::new([("c", "")]).unwrap();
        assert_eq!(against(&[("a", "1"), ("c", "")]), (None, other.clone()));
        assert_eq!(stored.with(&other).unwrap().filtered(|key| key != "c"), stored);
        assert!(stored.with(&stored).is_err());
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(pairs: BTreeMap<String, String>) {
            let context = EncryptionContext::new(&pairs).unwrap();
            prop_assert!(context.iter().eq(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
            prop_assert_eq!(&EncryptionContext::from_serialized(context.as_serialized(), 0).unwrap(), &context);
        }

        #[test]
        fn contexts_are_compared_pair_by_pair(
            supplied in proptest::collection::btree_map("[a-c]{0,2}", "[xy]?", 0..8),
            stored in proptest::collection::btree_map("[a-c]{0,2}", "[xy]?", 0..8),
        ) {
            let (context, other) = (EncryptionContext::new(&supplied).unwrap(), EncryptionContext::new(&stored).unwrap());
            let contradicts = |(key, value): &(&String, &String)| stored.get(*key).is_some_and(|other| other != *value);
            let contradiction = supplied.iter().find(contradicts).map(|(key, _)| key.as_str());
            prop_assert_eq!(context.first_contradiction(other.as_serialized()), contradiction);
            let missing = supplied.iter().filter(|(key, _)| !stored.contains_key(*key));
            prop_assert_eq!(context.without(other.as_serialized()), EncryptionContext::new(missing).unwrap());
        }

        #[test]
        fn what_it_reads_it_writes_back(bytes in proptest::collection::vec(0u8..4, 0..24)) {
            if let Ok(context) = EncryptionContext::from_serialized(&bytes, 0) {
                let again = EncryptionContext::new(context.iter()).unwrap();
                prop_assert_eq!(again.as_serialized(), &bytes[..]);
            }
        }
    }
}

//! The encryption context (specification: `framework/structures.md#encryption-context`).

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::error::Error;

/// The max number of bytes of keys that are displayed.
const MAX_DISPLAYED: usize = 256;
/// The prefix of keys that are reserved for the message format.
const RESERVED_PREFIX: &str = "aws-crypto-";

/// Non-secret key-value pairs that are authenticated with a message: a tenant, a table, a purpose.
///
/// The message stores them in plaintext. On decryption, a pair that you supply must match the
/// message: another value, or a key that the message does not authenticate, is an error. Pairs that
/// you do not supply are not checked, except those that were required on encryption.
///
/// The pairs are kept in their canonical serialization, sorted by the UTF-8 bytes of the keys.
/// Cloning is cheap.
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

/// The max length of a serialization that is stored inline: one or two pairs.
const SHORT: usize = 62;

/// A canonical serialization. A short one is copied, because a shared one has a reference count,
/// which is slow when many threads clone it at once.
#[derive(Clone)]
enum Serialized {
    Short { bytes: [u8; SHORT], length: u8 },
    Long(Arc<[u8]>),
}

impl EncryptionContext {
    /// Returns a context without pairs.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Serialized::Short { bytes: [0; SHORT], length: 0 })
    }

    /// Creates a context from pairs in any order.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] when a key appears twice, or when the serialization is
    /// longer than 65,535 bytes (the header's length field has 16 bits).
    pub fn new<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Error> {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by(|(a, _), (b, _)| a.as_ref().as_bytes().cmp(b.as_ref().as_bytes()));
        if pairs.windows(2).any(|pair| pair[0].0.as_ref() == pair[1].0.as_ref()) {
            return Err(Error::InvalidEncryptionContext { problem: "a key appears twice" });
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

    /// Parses a serialization that starts at `offset` of a message.
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

    /// Checks that `serialized`, which starts at `offset` of a message, is canonical.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless `serialized` is empty or canonical.
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
            return Err(malformed(0, "the pair count is truncated"));
        };
        let count = u16::from_be_bytes(*count);
        if count == 0 {
            return Err(malformed(0, "an empty context must be serialized as zero bytes"));
        }
        let mut previous: Option<&str> = None;
        for _ in 0..count {
            let at = serialized.len() - rest.len();
            let (Some(key), Some(_)) = (take_text(&mut rest), take_text(&mut rest)) else {
                return Err(malformed(at, "a pair is truncated or not UTF-8"));
            };
            if previous.is_some_and(|previous| previous.as_bytes() >= key.as_bytes()) {
                return Err(malformed(at, "keys are not sorted, or one appears twice"));
            }
            previous = Some(key);
        }
        if !rest.is_empty() {
            return Err(malformed(serialized.len() - rest.len(), "bytes follow the last pair"));
        }
        Ok(())
    }

    /// Returns the value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        get(self.as_serialized(), key)
    }

    /// Returns an iterator over the pairs, sorted by the UTF-8 bytes of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(self.as_serialized())
    }

    /// Returns the keys without their values.
    pub(crate) fn keys(&self) -> ContextKeys<'_> {
        ContextKeys(self.as_serialized())
    }

    /// Returns the number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_serialized().is_empty()
    }

    /// Returns the canonical serialization: the pair count and the sorted pairs; empty for no
    /// pairs.
    #[must_use]
    pub fn as_serialized(&self) -> &[u8] {
        match &self.0 {
            Serialized::Short { bytes, length } => &bytes[..usize::from(*length)],
            Serialized::Long(serialized) => serialized,
        }
    }

    /// Returns the canonical serialization by value.
    pub(crate) fn to_canonical(&self) -> Arc<[u8]> {
        match &self.0 {
            Serialized::Short { .. } => self.as_serialized().into(),
            Serialized::Long(serialized) => Arc::clone(serialized),
        }
    }

    /// Returns the first key that is reserved for the message format, if any.
    pub(crate) fn reserved_key(&self) -> Option<&str> {
        self.iter().map(|(key, _)| key).find(|key| Self::is_reserved(key))
    }

    /// Returns whether this key is reserved for the message format.
    pub(crate) fn is_reserved(key: &str) -> bool {
        key.starts_with(RESERVED_PREFIX)
    }

    /// Returns the first key that has another value in `stored`, a canonical serialization.
    pub(crate) fn first_contradiction<'a>(&'a self, stored: &[u8]) -> Option<&'a str> {
        if self.as_serialized() == stored {
            return None;
        }
        let contradicts = |value, other: Option<&str>| other.is_some_and(|other| other != value);
        self.beside(stored)
            .find(|(_, value, other)| contradicts(*value, *other))
            .map(|(key, ..)| key)
    }

    /// Returns the pairs whose keys are not in `stored`, a canonical serialization.
    pub(crate) fn without(&self, stored: &[u8]) -> Self {
        if self.as_serialized() == stored {
            return Self::empty();
        }
        let missing = self.beside(stored).filter(|(.., other)| other.is_none());
        Self::new(missing.map(|(key, value, _)| (key, value)))
            .expect("a part of a context is not too long")
    }

    /// Returns the pairs, each with the value of its key in `stored`, a canonical serialization.
    /// Both are sorted, so each is read only once.
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

    /// Returns the pairs whose keys are not reserved for the message format.
    pub(crate) fn without_reserved(&self) -> Self {
        self.filtered(|key| !Self::is_reserved(key))
    }

    /// Returns the pairs for whose keys `wanted` returns `true`.
    pub(crate) fn filtered(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self::new(self.iter().filter(|(key, _)| wanted(key)))
            .expect("a part of a context is not too long")
    }

    /// Returns the pairs of both contexts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] when they have a key in common, or are too long
    /// together.
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

/// The keys of an encryption context without their values, for logs.
///
/// Displays as `key, key, …`. Since the keys may come from an unverified message, they are escaped,
/// and the text is truncated after about 256 bytes.
#[derive(Clone, Copy)]
pub(crate) struct ContextKeys<'a>(
    /// A valid canonical serialization.
    &'a [u8],
);

impl<'a> ContextKeys<'a> {
    /// Returns the keys in a valid canonical serialization.
    pub(crate) fn of_serialized(serialized: &'a [u8]) -> Self {
        Self(serialized)
    }

    /// Returns an iterator over the keys, sorted by their UTF-8 bytes.
    fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        pairs(self.0).map(|(key, _)| key)
    }
}

impl fmt::Display for ContextKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for (at, key) in self.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            for character in key.chars() {
                if written >= MAX_DISPLAYED {
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

/// Returns the pairs of a valid canonical serialization.
fn pairs(serialized: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = serialized.get(2..).unwrap_or_default();
    std::iter::from_fn(move || Some((take_text(&mut rest)?, take_text(&mut rest)?)))
}

/// Returns the value of `key` in a valid canonical serialization.
fn get<'a>(serialized: &'a [u8], key: &str) -> Option<&'a str> {
    pairs(serialized).find_map(|(k, v)| (k == key).then_some(v))
}

/// Takes one length-prefixed text from the front of `rest`.
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

/// Converts a length to its 16-bit field.
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
    fn displayed_keys_are_escaped_and_truncated() {
        let shown = |key: &str| {
            EncryptionContext::new([(key, "value"), ("b", "")]).unwrap().keys().to_string()
        };
        assert_eq!(shown("a\n\u{1b}[1m"), "a\\n\\u{1b}[1m, b");
        assert_eq!(shown(&"a".repeat(10_000)), format!("{}…", "a".repeat(256)));
    }

    #[test]
    fn an_empty_context_has_no_bytes() {
        let none: [(&str, &str); 0] = [];
        assert_eq!(EncryptionContext::new(none).unwrap().as_serialized(), b"");
    }

    #[test]
    fn the_serialization_is_as_specified() {
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
    fn bytes_that_are_not_canonical_are_refused() {
        let cases: [(&[u8], &str); 6] = [
            (b"\x00", "truncated"),
            (b"\x00\x00", "zero bytes"),
            (b"\x00\x01\x00\x01a\x00\x05x", "truncated"),
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
    fn contradictions_and_pairs_that_are_not_stored_are_found() {
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
            let read = EncryptionContext::from_serialized(context.as_serialized(), 0).unwrap();
            prop_assert_eq!(read, context);
        }

        #[test]
        fn contexts_are_compared_pair_by_pair(
            supplied in proptest::collection::btree_map("[a-c]{0,2}", "[xy]?", 0..8),
            stored in proptest::collection::btree_map("[a-c]{0,2}", "[xy]?", 0..8),
        ) {
            let context = EncryptionContext::new(&supplied).unwrap();
            let other = EncryptionContext::new(&stored).unwrap();
            let contradicts = |(key, value): &(&String, &String)| {
                stored.get(*key).is_some_and(|other| other != *value)
            };
            let contradiction = supplied.iter().find(contradicts).map(|(key, _)| key.as_str());
            prop_assert_eq!(context.first_contradiction(other.as_serialized()), contradiction);
            let missing = supplied.iter().filter(|(key, _)| !stored.contains_key(*key));
            let missing = EncryptionContext::new(missing).unwrap();
            prop_assert_eq!(context.without(other.as_serialized()), missing);
        }

        #[test]
        fn writes_what_it_reads(bytes in proptest::collection::vec(0u8..4, 0..24)) {
            if let Ok(context) = EncryptionContext::from_serialized(&bytes, 0) {
                let again = EncryptionContext::new(context.iter()).unwrap();
                prop_assert_eq!(again.as_serialized(), &bytes[..]);
            }
        }
    }
}

//! The encryption context, and its encoding as authenticated bytes.

use std::collections::BTreeMap;

/// An encryption context. The map keeps its pairs sorted by the UTF-8 bytes of the names.
pub(crate) type EncryptionContext = BTreeMap<String, String>;

/// Encodes a context so that different contexts have different bytes: each name and each value
/// follows its length (`u32`, big-endian), in the order of the names.
pub(crate) fn encode(context: &EncryptionContext, out: &mut Vec<u8>) {
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        let length = u32::try_from(text.len()).expect("a request is smaller than 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn encoded(context: &EncryptionContext) -> Vec<u8> {
        let mut out = Vec::new();
        encode(context, &mut out);
        out
    }

    /// The inverse of `encode`. It exists only if the encoding is injective.
    fn decode(mut bytes: &[u8]) -> EncryptionContext {
        let mut text = || {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            bytes = rest;
            Some(String::from_utf8(text.to_vec()).unwrap())
        };
        let mut context = EncryptionContext::new();
        while let (Some(name), Some(value)) = (text(), text()) {
            context.insert(name, value);
        }
        context
    }

    fn pair(name: &str, value: &str) -> EncryptionContext {
        EncryptionContext::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn moving_a_boundary_changes_the_bytes() {
        assert_ne!(encoded(&pair("ab", "c")), encoded(&pair("a", "bc")));
        assert_ne!(encoded(&pair("a", "")), encoded(&EncryptionContext::new()));
    }

    #[test]
    fn an_empty_context_has_no_bytes() {
        assert_eq!(encoded(&EncryptionContext::new()), b"");
    }

    proptest! {
        #[test]
        fn encoding_is_injective(context in btree_map(".{0,12}", ".{0,12}", 0..6)) {
            prop_assert_eq!(decode(&encoded(&context)), context);
        }

        #[test]
        fn different_contexts_differ(
            one in btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
            other in btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
        ) {
            prop_assert_eq!(encoded(&one) == encoded(&other), one == other);
        }
    }
}

//! Distinguishes sets of credentials without keeping them.

use aws_credential_types::Credentials;
use sha2::{Digest as _, Sha256};

/// A SHA-256 hash over access key id and session token, each with its length before it, so that no
/// two pairs have the same input. It has no `Debug`, so that it is never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(credentials: &Credentials) -> Self {
        Self::of_parts(credentials.access_key_id(), credentials.session_token())
    }

    /// The fingerprint of the credentials that signed a request.
    pub(crate) fn of_parts(access_key_id: &str, session_token: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        let mut absorb = |part: &str| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        absorb(access_key_id);
        // Without a token the input ends here, unlike with an empty one.
        if let Some(token) = session_token {
            absorb(token);
        }
        Self(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fingerprint(id: &str, token: Option<&str>) -> Fingerprint {
        Fingerprint::of(&Credentials::new(id, "secret", token.map(Into::into), None, "test"))
    }

    #[test]
    fn fingerprints_separate_id_and_token() {
        let pairs = [
            ("ab", Some("c")),
            ("a", Some("bc")),
            ("abc", Some("")),
            ("abc", None),
            ("", Some("abc")),
        ];
        for (i, a) in pairs.iter().enumerate() {
            for (j, b) in pairs.iter().enumerate() {
                assert!(
                    (fingerprint(a.0, a.1) == fingerprint(b.0, b.1)) == (i == j),
                    "{a:?} {b:?}"
                );
            }
        }
    }

    proptest! {
        // A small alphabet with the bytes of a length makes collisions of an ambiguous encoding
        // likely.
        #[test]
        fn fingerprints_are_equal_only_for_equal_pairs(
            a in ("[\0\u{1}a]{0,10}", proptest::option::of("[\0\u{1}a]{0,10}")),
            b in ("[\0\u{1}a]{0,10}", proptest::option::of("[\0\u{1}a]{0,10}")),
        ) {
            let same = fingerprint(&a.0, a.1.as_deref()) == fingerprint(&b.0, b.1.as_deref());
            prop_assert_eq!(same, a == b);
        }
    }
}

//! Determines the account that credentials belong to.

use aws_credential_types::Credentials;
use aws_credential_types::attributes::AccountId;

/// The identity that credentials belong to, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    account: Option<AccountId>,
    access_key_id: Box<str>,
}

impl Owner {
    /// The owner of `credentials`: their account id if they have one, or else the account that is
    /// encoded in their access key id.
    pub(super) fn of(credentials: &Credentials) -> Self {
        let access_key_id = credentials.access_key_id();
        let account = credentials.account_id().cloned().or_else(|| account_in(access_key_id));
        Self { account, access_key_id: access_key_id.into() }
    }

    /// Whether these credentials may belong to another identity than `last`: the accounts differ,
    /// or at least one is unknown and the access key ids differ.
    pub(super) fn is_other_than(&self, last: &Self) -> bool {
        match (&self.account, &last.account) {
            (Some(account), Some(last)) => account != last,
            _ => self.access_key_id != last.access_key_id,
        }
    }

    /// Adds the account that `last` had for the same access key id.
    pub(super) fn with_what_was_known(mut self, last: &Self) -> Self {
        if self.access_key_id == last.access_key_id {
            self.account = self.account.or_else(|| last.account.clone());
        }
        self
    }
}

/// The account that is encoded in an access key id.
///
/// After the prefix `AKIA` (long-lived) or `ASIA` (temporary), the remaining 16 characters are
/// base32 (RFC 4648) for 80 bits. The first bit is set, and the next 40 are the account. In ids
/// from before 2019 the first bit is not set, and they do not contain the account. AWS documents
/// only that the account can be derived from the id (`sts:GetAccessKeyInfo`, which needs no
/// secret). The encoding was published by Aidan Steele, "AWS Access Key ID formats" (awsteele.com,
/// 2020-09-26), and Tal Be'ery, "A short note on AWS KEY ID" (medium.com/@TalBeerySec, 2023). The
/// tests below use their examples.
fn account_in(access_key_id: &str) -> Option<AccountId> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const ACCOUNTS: u64 = 1_000_000_000_000;
    let encoded =
        access_key_id.strip_prefix("AKIA").or_else(|| access_key_id.strip_prefix("ASIA"))?;
    if encoded.len() != 16 {
        return None;
    }
    let mut first_bits = 0_u64;
    for (at, character) in encoded.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|it| *it == character)?;
        // The first ten characters, fifty bits, contain the account.
        if at < 10 {
            first_bits = first_bits << 5 | digit as u64;
        }
    }
    let is_set = first_bits >> 49 == 1;
    let account = first_bits >> 9 & ((1 << 40) - 1);
    (is_set && account < ACCOUNTS).then(|| AccountId::from(format!("{account:012}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_key_id_contains_the_account() {
        for (id, account) in [
            ("ASIAY34FZKBOKMUTVV7A", "609629065308"),
            ("ASIAQNZGKIQY56JQ7WML", "029608264753"),
            ("AKIAQNZGKIQY56JQ7WML", "029608264753"),
        ] {
            assert_eq!(account_in(id).map(|it| it.as_str().to_owned()).as_deref(), Some(account));
        }
        // The example of AWS's documentation has the old format; the others are invalid.
        for id in [
            "AKIAIOSFODNN7EXAMPLE",
            "",
            "AKIA",
            "AROAQNZGKIQY56JQ7WML",
            "ASIAQNZGKIQY56JQ7WM",
            "ASIAQNZGKIQY56JQ7WML2",
            "ASIAQNZGKIQY56JQ7WM1",
            "asiaqnzgkiqy56jq7wml",
            // An account of more than twelve digits.
            "ASIA7777777777777777",
        ] {
            assert_eq!(account_in(id), None, "{id}");
        }
    }

    #[test]
    fn credentials_have_another_owner_unless_they_show_the_same() {
        let owner = |id: &str, account: Option<&str>| {
            let keys = Credentials::builder().access_key_id(id).secret_access_key("secret");
            let mut keys = keys.provider_name("test");
            keys.set_account_id(account.map(AccountId::from));
            Owner::of(&keys.build())
        };
        let [here, refreshed] = ["ASIAY34FZKBOKMUTVV7A", "ASIAY34FZKBOAAAAAAAA"];
        let elsewhere = "ASIAQNZGKIQY56JQ7WML";
        let known = Some("609629065308");
        for (last, next, is_other) in [
            // Both accounts are known.
            (owner(here, None), owner(refreshed, None), false),
            (owner(here, None), owner("x", known), false),
            (owner(here, None), owner(elsewhere, None), true),
            (owner("x", known), owner("x", Some("029608264753")), true),
            // One account is unknown, or both are.
            (owner(here, None), owner("x", None), true),
            (owner("x", None), owner(here, None), true),
            (owner("x", None), owner("y", None), true),
            (owner("x", None), owner("x", None), false),
            (owner("x", known), owner("x", None), false),
            (owner("x", None), owner("x", known), false),
        ] {
            assert_eq!(next.is_other_than(&last), is_other, "{last:?} {next:?}");
        }
        let last = owner("x", known);
        let next = owner("x", None).with_what_was_known(&last);
        assert_eq!(next, last);
        let other = owner("y", None).with_what_was_known(&last);
        assert_eq!(other, owner("y", None));
    }
}

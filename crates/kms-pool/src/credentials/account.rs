//! Whose credentials are, as far as they show it.

use aws_credential_types::Credentials;
use aws_credential_types::attributes::AccountId;

/// Whose some credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    account: Option<AccountId>,
    access_key_id: Box<str>,
}

impl Owner {
    /// The owner of `credentials`: the account that came with them, or else the one in their access
    /// key id.
    pub(super) fn of(credentials: &Credentials) -> Self {
        let access_key_id = credentials.access_key_id();
        let account = credentials.account_id().cloned().or_else(|| account_in(access_key_id));
        Self { account, access_key_id: access_key_id.into() }
    }

    /// Whether these may be another identity's credentials than `last`: they are of another
    /// account, or the accounts are not both known and the access keys differ.
    pub(super) fn is_other_than(&self, last: &Self) -> bool {
        match (&self.account, &last.account) {
            (Some(account), Some(last)) => account != last,
            _ => self.access_key_id != last.access_key_id,
        }
    }

    /// What is known of this owner, with what `last` knew of the same access key.
    pub(super) fn with_what_was_known(mut self, last: &Self) -> Self {
        if self.access_key_id == last.access_key_id {
            self.account = self.account.or_else(|| last.account.clone());
        }
        self
    }
}

/// The account in an access key id.
///
/// AWS writes it there: for `AKIA` (long-lived) and `ASIA` (temporary) the 16 characters after the
/// prefix are base32 (RFC 4648) for 80 bits, of which the first is set, and the next 40 are the
/// account. Ids from before 2019 begin with a bit that is not set, and tell nothing. AWS documents
/// only that the id tells the account (`sts:GetAccessKeyInfo`, which needs no secret); how was
/// found out by Aidan Steele, "AWS Access Key ID formats" (awsteele.com, 2020-09-26), and Tal
/// Be'ery, "A short note on AWS KEY ID" (medium.com/@TalBeerySec, 2023), whose examples are in the
/// tests below.
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
        // Ten characters are fifty bits; no more are needed.
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
    fn an_access_key_id_tells_the_account() {
        for (id, account) in [
            ("ASIAY34FZKBOKMUTVV7A", "609629065308"),
            ("ASIAQNZGKIQY56JQ7WML", "029608264753"),
            ("AKIAQNZGKIQY56JQ7WML", "029608264753"),
        ] {
            assert_eq!(account_in(id).map(|it| it.as_str().to_owned()).as_deref(), Some(account));
        }
        // The example of AWS's documentation is of the old kind; the others are none.
        for id in [
            "AKIAIOSFODNN7EXAMPLE",
            "",
            "AKIA",
            "AROAQNZGKIQY56JQ7WML",
            "ASIAQNZGKIQY56JQ7WM",
            "ASIAQNZGKIQY56JQ7WML2",
            "ASIAQNZGKIQY56JQ7WM1",
            "asiaqnzgkiqy56jq7wml",
            // More than twelve digits.
            "ASIA7777777777777777",
        ] {
            assert_eq!(account_in(id), None, "{id}");
        }
    }

    #[test]
    fn credentials_are_anothers_unless_they_show_that_they_are_not() {
        let owner = |id: &str, account: Option<&str>| {
            let keys = Credentials::builder().access_key_id(id).secret_access_key("secret");
            let mut keys = keys.provider_name("test");
            keys.set_account_id(account.map(AccountId::from));
            Owner::of(&keys.build())
        };
        let [here, renewed] = ["ASIAY34FZKBOKMUTVV7A", "ASIAY34FZKBOAAAAAAAA"];
        let elsewhere = "ASIAQNZGKIQY56JQ7WML";
        let known = Some("609629065308");
        for (last, next, is_other) in [
            // Both accounts are known.
            (owner(here, None), owner(renewed, None), false),
            (owner(here, None), owner("x", known), false),
            (owner(here, None), owner(elsewhere, None), true),
            (owner("x", known), owner("x", Some("029608264753")), true),
            // One is not, or both.
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

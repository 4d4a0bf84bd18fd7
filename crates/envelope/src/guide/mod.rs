//! A guide for users: how to choose settings, what things cost, and what to do when something
//! fails.
//!
//! | page | question |
//! | --- | --- |
//! | [`getting_started`] | How do I encrypt and decrypt, with and without AWS? |
//! | [`contexts_and_limits`] | Which encryption contexts, partitions and limits do I choose? |
//! | [`sizing`] | How many bytes, KMS requests and dollars does it cost? |
//! | [`tenants`] | How do I serve many tenants? |
//! | [`binding`] | How do I bind a message to its tenant, table and row? |
//! | [`rotation_and_revocation`] | How do I rotate keys, re-encrypt, revoke access, and delete a tenant? |
//! | [`outages`] | What happens when KMS is slow or unavailable? |
//! | [`observability`] | What can I measure and log? |
//! | [`streams_and_files`] | How do I encrypt data that is larger than memory? |
//! | [`regions`] | How do I use several regions, and `kms-pool` by itself? |
//! | [`runtimes`] | What about programs without async, AWS Lambda, or several runtimes? |
//! | [`testing`] | How do I test without AWS? |
//! | [`migrating`] | How do I move from another library? |
//!
//! For keys that many hosts share, see the guide of the crate
//! [`branch-keys`](https://docs.rs/branch-keys).

macro_rules! page {
    ($name:ident) => {
        #[doc = include_str!(concat!(stringify!($name), ".md"))]
        pub mod $name {}
    };
}

page!(getting_started);
page!(contexts_and_limits);
page!(sizing);
page!(tenants);
page!(binding);
page!(rotation_and_revocation);
page!(outages);
page!(observability);
page!(streams_and_files);
page!(regions);
page!(runtimes);
page!(testing);
page!(migrating);

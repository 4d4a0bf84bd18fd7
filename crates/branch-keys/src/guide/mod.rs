//! A guide for users: tenants and hosts, costs, rotation, deletion, several regions, migration.
//!
//! | page | question |
//! | --- | --- |
//! | [`hosts`] | How do many hosts serve many tenants? |
//! | [`sizing`] | How many KMS requests, table reads and dollars does it cost? |
//! | [`rotation`] | How do I rotate a branch key, or its KMS key? |
//! | [`deletion`] | How do I delete a tenant, and what survives? How long does a revocation take? |
//! | [`global_tables`] | How do I use a table that is replicated to several regions? |
//! | [`migrating`] | How do I move from AWS's hierarchical keyring, or from Asherah? |
//!
//! The program `envelope` (package `kms-envelope-cli`) does all this at a terminal:
//! `envelope keys --help`.
//!
//! The guide of [`envelope`](https://docs.rs/kms-envelope) has the rest.

macro_rules! page {
    ($name:ident) => {
        #[doc = include_str!(concat!(stringify!($name), ".md"))]
        pub mod $name {}
    };
}

page!(hosts);
page!(sizing);
page!(rotation);
page!(deletion);
page!(global_tables);
page!(migrating);

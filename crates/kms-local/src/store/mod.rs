//! Keys and aliases: the state of each region in memory, with every change written through to disk.

mod disk;
mod keys;
mod related;
mod state;

pub(crate) use self::{
    disk::Disk,
    keys::KeyStore,
    related::{StoreHandle, Stores},
    state::{Alias, Change, Key, KeyState, State},
};

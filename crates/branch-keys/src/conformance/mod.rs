//! The tests that every storage passes. They panic at the first difference.
//!
//! Each test uses branch keys with random ids, so the table may have others, and several processes
//! may run the tests on one table.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//! use branch_keys::{MemoryStorage, conformance};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! conformance::storage(Arc::new(MemoryStorage::new())).await;
//! # }
//! ```

mod items;
mod key_store;
mod races;
mod shredding;

use std::sync::Arc;

pub use self::key_store::key_store;
use crate::storage::Storage;

/// Tests a storage by itself, without AWS KMS.
///
/// # Panics
///
/// If the storage does not do what [`Storage`] describes.
pub async fn storage(storage: Arc<dyn Storage>) {
    let storage = &*storage;
    items::attributes_survive(storage).await;
    items::ids_are_compared_by_bytes(storage).await;
    items::pages_have_each_id_once(storage).await;
    items::absent_items_are_none(storage).await;
    races::one_of_many_creations_wins(storage).await;
    races::one_of_many_rotations_wins(storage).await;
    races::a_rotation_needs_the_old_ciphertext(storage).await;
    races::a_version_is_never_replaced(storage).await;
    races::one_of_many_replacements_wins(storage).await;
    shredding::a_tombstone_stays_and_blocks(storage).await;
    shredding::nothing_survives_a_race_with_shredding(storage).await;
}

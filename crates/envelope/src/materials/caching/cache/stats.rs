//! Counts of a cache.

use std::fmt;

use crate::cache::Counts as CacheCounts;

/// Counts of a [`MaterialsCache`](super::MaterialsCache) since it was created. With the feature
/// `serde`, they can be serialized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CacheStats {
    /// Counts of encryption.
    pub encryption: CacheCounts,
    /// Counts of decryption.
    pub decryption: CacheCounts,
}

impl CacheStats {
    /// Returns the number of requests to keyrings. With the AWS KMS keyring, each is one KMS
    /// request.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.encryption.requests() + self.decryption.requests()
    }

    /// Returns the number of requests to keyrings that the cache avoided.
    #[must_use]
    pub fn requests_avoided(&self) -> u64 {
        self.encryption.requests_avoided() + self.decryption.requests_avoided()
    }

    /// Returns the cost of the avoided requests at a price for 10,000 requests. AWS KMS charges
    /// 0.03 US dollars in most regions.
    ///
    /// ```
    /// # let cache = envelope::materials::MaterialsCache::new(1_000);
    /// println!("saved {:.2} US dollars", cache.stats().saved(0.03));
    /// ```
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nobody saves 2^53 requests")]
    pub fn saved(&self, price_of_10_000_requests: f64) -> f64 {
        self.requests_avoided() as f64 / 10_000.0 * price_of_10_000_requests
    }
}

impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encryption, decryption } = self;
        write!(f, "encryption: {} hits, {} misses; ", encryption.hits, encryption.misses)?;
        write!(f, "decryption: {} hits, {} misses; ", decryption.hits, decryption.misses)?;
        write!(f, "{} requests sent, {} avoided", self.requests(), self.requests_avoided())?;
        let sum = |count: fn(&CacheCounts) -> u64| count(encryption) + count(decryption);
        let troubles = [
            (sum(|it| it.load_failures), "requests failed"),
            (sum(|it| it.refused), "operations refused by a remembered failure"),
            (sum(|it| it.stale), "operations served past `max_age`"),
            (sum(|it| it.evictions), "entries evicted"),
        ];
        troubles
            .iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, what)| write!(f, "; {count} {what}"))
    }
}

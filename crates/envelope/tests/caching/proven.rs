//! Decryption materials are kept only once a header was authentic under them.

use std::time::Duration;

use crate::support::{GatedKeyring, caching, context, encrypted_data_keys, header_length};
use envelope::{Clock, Envelope, Error, materials::MaterialsCache};
use futures_util::future::poll_immediate;

const MINUTE: Duration = Duration::from_mins(1);

/// A client, its cache, its keyring, and a message that it has not decrypted yet.
async fn scene() -> (Envelope, MaterialsCache, GatedKeyring, Vec<u8>) {
    let (keyring, cache) = (GatedKeyring::new(1), MaterialsCache::new(100));
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    (envelope, cache, keyring, message)
}

/// The message with a header that is not authentic, and with the same wrapped data key.
fn forged(message: &[u8]) -> Vec<u8> {
    let mut forged = message.to_vec();
    forged[header_length(message) - 1] ^= 1;
    assert_eq!(encrypted_data_keys(message), encrypted_data_keys(&forged));
    forged
}

/// Waits until the background work has reached this state.
async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

#[tokio::test]
async fn a_forged_message_whose_sender_disconnects_leaves_no_entry() {
    let (envelope, cache, keyring, message) = scene().await;
    for (message, left) in [(forged(&message), 0), (message.clone(), 1)] {
        let (before, loads) = (keyring.counts().1, cache.stats().decryption.loads);
        let context = context("a");
        let mut decrypting = Box::pin(envelope.decrypt(&message, &context));
        let polled = poll_immediate(&mut decrypting).await;
        assert!(polled.is_none(), "{polled:?}");
        until(|| keyring.counts().1 == before + 1).await;
        drop(decrypting);
        keyring.gate.add_permits(1);
        until(|| cache.stats().decryption.loads == loads + 1).await;
        until(|| cache.stats().decryption.entries == left).await;
    }
    envelope.try_decrypt(&message, &context("a")).unwrap();
}

#[tokio::test]
async fn a_forged_message_leaves_no_entry() {
    let (envelope, cache, keyring, message) = scene().await;
    keyring.gate.add_permits(2);
    let opened = envelope.decrypt(&forged(&message), &context("a")).await;
    assert!(matches!(opened, Err(Error::Authentication)), "{opened:?}");
    assert_eq!(cache.stats().decryption.entries, 0);
    envelope.decrypt(&message, &context("a")).await.unwrap();
    // A forged message does not affect an existing entry.
    assert!(envelope.decrypt(&forged(&message), &context("a")).await.is_err());
    envelope.try_decrypt(&message, &context("a")).unwrap();
}

/// Whether the forged or the authentic message comes first.
#[tokio::test]
async fn a_waiter_on_the_load_of_a_forged_message_decrypts_and_keeps_the_key() {
    for forged_first in [true, false] {
        let (envelope, cache, keyring, message) = scene().await;
        let (context, forged) = (context("a"), forged(&message));
        let (first, second) = if forged_first { (&forged, &message) } else { (&message, &forged) };
        let mut first = Box::pin(envelope.decrypt(first, &context));
        let mut second = Box::pin(envelope.decrypt(second, &context));
        assert!(poll_immediate(&mut first).await.is_none());
        assert!(poll_immediate(&mut second).await.is_none());
        keyring.gate.add_permits(1);
        let (first, second) = futures_util::future::join(first, second).await;
        let (good, bad) = if forged_first { (second, first) } else { (first, second) };
        assert_eq!(good.unwrap().plaintext(), b"x");
        assert!(matches!(bad, Err(Error::Authentication)), "{bad:?}");
        assert_eq!((keyring.counts().1, cache.stats().decryption.entries), (1, 1));
        envelope.try_decrypt(&message, &context).unwrap();
    }
}

/// The cached data key proves its replacement, whichever message triggers the refresh.
#[tokio::test]
async fn forged_messages_do_not_prevent_refreshes() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache).max_age(MINUTE));
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    envelope.decrypt(&message, &context("a")).await.unwrap();
    clock.advance(Duration::from_secs(49));
    assert!(envelope.try_decrypt(&forged(&message), &context("a")).is_err());
    until(|| keyring.counts().1 == 2).await;
    clock.advance(Duration::from_secs(30));
    until(|| envelope.try_decrypt(&message, &context("a")).is_ok()).await;
}

/// The cache stays within its bytes, and keeps entries that have been used.
#[tokio::test]
async fn a_flood_of_forged_messages_evicts_no_used_entry() {
    let keyring = GatedKeyring::new(100);
    let cache = MaterialsCache::builder().capacity(100).max_bytes_held(400_000).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache).max_messages(1));
    let mut messages = vec![];
    for number in 0..50 {
        let context = context(&number.to_string());
        let message = envelope.encrypt(b"x", &context).await.unwrap();
        envelope.decrypt(&message, &context).await.unwrap();
        messages.push((message, context));
    }
    for round in 0..2_000_u32 {
        let (message, context) = &messages[round as usize % messages.len()];
        let hostile = padded(message, &round.to_be_bytes(), 16, 1_000);
        let mut decrypting = Box::pin(envelope.decrypt(&hostile, context));
        let (before, loads) = (keyring.counts().1, cache.stats().decryption.loads);
        assert!(poll_immediate(&mut decrypting).await.is_none());
        until(|| keyring.counts().1 == before + 1).await;
        drop(decrypting);
        keyring.gate.add_permits(1);
        until(|| cache.stats().decryption.loads == loads + 1).await;
        assert!(cache.stats().decryption.bytes <= 400_000);
    }
    assert_eq!(cache.stats().decryption.entries, 50);
    for (message, context) in &messages {
        envelope.try_decrypt(message, context).unwrap();
    }
}

/// Anyone who may encrypt can make the wrapped data keys long.
#[tokio::test]
async fn authentic_messages_with_long_keys_stay_within_the_bytes() {
    let keyring = crate::support::PaddedKeyring::default();
    let cache = MaterialsCache::builder().capacity(100).max_bytes_held(1_000_000).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache).max_messages(1));
    let mut kept = 0;
    for number in 0..100_usize {
        // From the usual length to the maximum length of a field.
        keyring.pad(if number == 99 { 60_000 * 3 } else { number * 600 });
        let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
        for _ in 0..2 {
            envelope.decrypt(&message, &context("a")).await.unwrap();
            let counts = cache.stats().decryption;
            assert!(counts.bytes <= 1_000_000, "{counts:?}");
        }
        kept += usize::from(envelope.try_decrypt(&message, &context("a")).is_ok());
        if number == 99 {
            let opened = envelope.try_decrypt(&message, &context("a"));
            assert!(matches!(opened, Err(Error::NotCached)), "held: {}", opened.is_ok());
        }
    }
    assert!(kept > 90, "{kept}");
    assert!(cache.stats().decryption.bytes > 500_000);
    assert!(cache.stats().decryption.entries < 60);
}

/// The message with additional wrapped data keys that no keyring can unwrap.
fn padded(message: &[u8], number: &[u8], count: u16, length: usize) -> Vec<u8> {
    let own = encrypted_data_keys(message);
    let start = own.as_ptr() as usize - message.as_ptr() as usize;
    let mut padded = message[..start].to_vec();
    padded.extend(count.to_be_bytes());
    padded.extend(&own[2..]);
    for _ in 1..count {
        for field in [b"nobody".to_vec(), [number, &vec![7; length]].concat(), vec![7; 20]] {
            padded.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
            padded.extend(field);
        }
    }
    padded.extend(&message[start + own.len()..]);
    padded
}

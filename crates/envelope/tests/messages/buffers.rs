//! Buffers of the caller's, and long messages that let others have their turn.

use crate::support::{caching, context, keyring, now};
use envelope::{
    AlgorithmSuite, CommitmentPolicy, Envelope, Error, PreparedContext,
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};
use futures_util::future::poll_immediate;
use proptest::prelude::*;

/// What an async operation on a long message works on at once, in bytes.
const SLICE: usize = 256 * 1024;
const BEFORE: &[u8] = b"what was there before";

fn builder() -> envelope::EnvelopeBuilder {
    Envelope::builder(DefaultMaterialsManager::new(keyring()))
}

/// Frames of `frame_length`, or one piece for 0; with a signature where the build has them.
fn envelope(frame_length: u32, signed: bool) -> Envelope {
    let builder = if frame_length == 0 {
        builder().framed(false)
    } else {
        builder().frame_length(frame_length)
    };
    let signed = signed && cfg!(feature = "aws-lc-rs");
    let suite = if signed {
        AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384
    } else {
        AlgorithmSuite::default()
    };
    builder.suite(suite).build().unwrap()
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

async fn prepared() -> PreparedContext {
    let prepared = caching(keyring(), |builder| builder).prepare(&context("42")).unwrap();
    let message = prepared.encrypt(b"").await.unwrap();
    prepared.envelope().decrypt(&message, prepared.context()).await.unwrap();
    prepared
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The result does not depend on the buffer.
    #[test]
    fn every_way_opens_what_every_way_seals(
        frame_length in prop_oneof![Just(0u32), 1u32..100, Just(4096)],
        length in 0usize..1000,
        signed: bool,
    ) {
        let envelope = envelope(frame_length, signed);
        let context = context("42");
        let plaintext = plaintext(length);
        let mut message = BEFORE.to_vec();
        now(envelope.encrypt_into(&plaintext, &context, &mut message)).unwrap();
        prop_assert!(message.starts_with(BEFORE));
        let other_message = now(envelope.encrypt(&plaintext, &context)).unwrap();
        for mut message in [message.split_off(BEFORE.len()), other_message] {
            let opened = now(envelope.decrypt(&message, &context)).unwrap();
            prop_assert_eq!(opened.plaintext(), &plaintext);
            let mut into = BEFORE.to_vec();
            let opened = now(envelope.decrypt_into(&message, &context, &mut into)).unwrap();
            prop_assert_eq!(opened.plaintext(), &plaintext);
            prop_assert_eq!(&into, &[BEFORE, &plaintext].concat());
            let opened = now(envelope.decrypt_in_place(&mut message, &context)).unwrap();
            prop_assert_eq!(opened.plaintext(), &plaintext);
            prop_assert_eq!(opened.encryption_context().get("tenant"), Some("42"));
        }
    }

    /// After any change of the message, no plaintext is left anywhere.
    #[test]
    fn what_fails_leaves_nothing_behind(
        frame_length in prop_oneof![Just(0u32), 16u32..100],
        length in 64usize..500,
        signed: bool,
        at: prop::sample::Index,
    ) {
        let envelope = envelope(frame_length, signed);
        let context = context("42");
        let plaintext = plaintext(length);
        let mut message = now(envelope.encrypt(&plaintext, &context)).unwrap();
        *at.get_mut(&mut message) ^= 1;
        let mut into = BEFORE.to_vec();
        prop_assert!(now(envelope.decrypt_into(&message, &context, &mut into)).is_err());
        prop_assert_eq!(&into, BEFORE);
        prop_assert!(now(envelope.decrypt_in_place(&mut message, &context)).is_err());
        prop_assert!(!holds_part_of(&message, &plaintext));
    }
}

/// Whether eight bytes in a row are of the plaintext.
fn holds_part_of(bytes: &[u8], plaintext: &[u8]) -> bool {
    bytes.windows(8).any(|window| plaintext.windows(8).any(|part| part == window))
}

/// What frames that were moved leave behind is wiped.
#[test]
fn a_message_opened_in_place_holds_its_plaintext_once() {
    let (envelope, context, plaintext) = (envelope(16, false), context("42"), plaintext(200));
    let mut message = now(envelope.encrypt(&plaintext, &context)).unwrap();
    let opened = now(envelope.decrypt_in_place(&mut message, &context)).unwrap();
    assert_eq!(opened.into_plaintext(), &plaintext[..]);
    let start = message.windows(200).position(|window| window == plaintext).unwrap();
    assert!(message[start + 200..].iter().all(|byte| *byte == 0));
    assert!(message.len() > start + 200 + 12 * 16, "there was something to wipe");
}

#[tokio::test]
async fn where_nothing_is_cached_the_buffers_stay_as_they_were() {
    let envelope = caching(keyring(), |builder| builder);
    let mut message = BEFORE.to_vec();
    assert!(matches!(
        envelope.try_encrypt_into(b"x", &context("42"), &mut message),
        Err(Error::NotCached)
    ));
    assert_eq!(message, BEFORE);
    let mut sealed =
        caching(keyring(), |builder| builder).encrypt(b"x", &context("42")).await.unwrap();
    let before = sealed.clone();
    assert!(matches!(
        envelope.try_decrypt_in_place(&mut sealed, &context("42")),
        Err(Error::NotCached)
    ));
    assert_eq!(sealed, before);
    assert!(matches!(
        envelope.try_decrypt_into(&sealed, &context("42"), &mut message),
        Err(Error::NotCached)
    ));
    assert_eq!(message, BEFORE);
}

#[tokio::test]
async fn a_buffer_with_room_is_not_moved() {
    let prepared = prepared().await;
    let (mut message, mut plaintext) = (Vec::with_capacity(2048), Vec::with_capacity(2048));
    let places = (message.as_ptr(), plaintext.as_ptr());
    for _ in 0..3 {
        message.clear();
        plaintext.clear();
        prepared.try_encrypt_into(&[7; 1024], &mut message).unwrap();
        let opened = prepared
            .envelope()
            .try_decrypt_into(&message, prepared.context(), &mut plaintext)
            .unwrap();
        assert_eq!(opened.plaintext(), [7; 1024]);
        assert_eq!(
            prepared
                .envelope()
                .try_decrypt_in_place(&mut message, prepared.context())
                .unwrap()
                .plaintext(),
            [7; 1024]
        );
        assert_eq!((message.as_ptr(), plaintext.as_ptr()), places);
    }
}

/// Between slices of a long message, the executor can do something else.
#[tokio::test]
async fn long_messages_are_sealed_and_opened_in_turns() {
    let (prepared, length) = (prepared().await, 4 * SLICE + 5000);
    let plaintext = plaintext(length);
    let (mut turns, mut message) = (1, vec![]);
    {
        let mut sealing = std::pin::pin!(prepared.encrypt_into(&plaintext, &mut message));
        while poll_immediate(&mut sealing).await.map(Result::unwrap).is_none() {
            turns += 1;
        }
    }
    assert_eq!(turns, 5);
    let mut turns = [1, 1, 1];
    {
        let mut opening = std::pin::pin!(prepared.envelope().decrypt(&message, prepared.context()));
        let opened = loop {
            match poll_immediate(&mut opening).await {
                Some(opened) => break opened.unwrap(),
                None => turns[0] += 1,
            }
        };
        assert_eq!(opened.plaintext(), &plaintext);
    }
    let mut into = vec![];
    {
        let mut opening = std::pin::pin!(prepared.envelope().decrypt_into(
            &message,
            prepared.context(),
            &mut into
        ));
        while poll_immediate(&mut opening).await.map(Result::unwrap).is_none() {
            turns[1] += 1;
        }
    }
    assert_eq!(into, plaintext);
    {
        let mut opening =
            std::pin::pin!(prepared.envelope().decrypt_in_place(&mut message, prepared.context()));
        while poll_immediate(&mut opening).await.map(Result::unwrap).is_none() {
            turns[2] += 1;
        }
    }
    assert_eq!(turns, [5, 5, 5]);
}

/// The error is in the last frame: the plaintext that was decrypted before is wiped in several
/// steps as well.
#[tokio::test]
async fn a_long_message_that_is_not_authentic_is_wiped_in_turns() {
    let prepared = prepared().await;
    let mut message = prepared.encrypt(&plaintext(4 * SLICE)).await.unwrap();
    *message.last_mut().unwrap() ^= 1;
    let (mut turns, mut buffer) = ([1, 1], BEFORE.to_vec());
    {
        let mut opening = std::pin::pin!(prepared.envelope().decrypt_into(
            &message,
            prepared.context(),
            &mut buffer
        ));
        while poll_immediate(&mut opening).await.map(Result::unwrap_err).is_none() {
            turns[0] += 1;
        }
    }
    assert_eq!(buffer, BEFORE);
    {
        let mut opening =
            std::pin::pin!(prepared.envelope().decrypt_in_place(&mut message, prepared.context()));
        while poll_immediate(&mut opening).await.map(Result::unwrap_err).is_none() {
            turns[1] += 1;
        }
    }
    assert!(message[400..].iter().all(|byte| *byte == 0));
    assert!(turns.iter().all(|turns| *turns >= 7), "{turns:?}");
}

/// Who gives up a long message finds the buffer as it was, and no plaintext.
#[tokio::test]
async fn what_is_given_up_leaves_nothing_behind() {
    let (prepared, plaintext) = (prepared().await, plaintext(3 * SLICE));
    let mut message = prepared.encrypt(&plaintext).await.unwrap();
    let mut buffer = BEFORE.to_vec();
    assert!(poll_immediate(prepared.encrypt_into(&plaintext, &mut buffer)).await.is_none());
    assert_eq!(buffer, BEFORE);
    assert!(
        poll_immediate(prepared.envelope().decrypt_into(&message, prepared.context(), &mut buffer))
            .await
            .is_none()
    );
    assert_eq!(buffer, BEFORE);
    assert!(
        poll_immediate(prepared.envelope().decrypt_in_place(&mut message, prepared.context()))
            .await
            .is_none()
    );
    let header = message.len() - message.iter().rev().take_while(|byte| **byte == 0).count();
    assert!(header < 400, "all but the header is wiped");
}

#[tokio::test]
async fn a_batch_is_each_of_its_messages() {
    let keyring = crate::support::GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder);
    let plaintexts: Vec<_> = [0, 1, 5000, 300_000, 70_000, 200_000, 3].map(plaintext).into();
    let messages = envelope.encrypt_batch(&plaintexts, &context("42")).await.unwrap();
    let others = envelope.encrypt_batch(&plaintexts, &context("43")).await.unwrap();
    let mut all = [messages, others].concat();
    all[2][300] ^= 1;
    let opened = envelope.decrypt_batch(&all, &context("42")).await;
    for (at, opened) in opened.iter().enumerate() {
        match opened {
            Ok(opened) => assert!(opened.plaintext() == plaintexts[at] && at != 2, "{at}"),
            Err(Error::EncryptionContextMismatch { .. }) => assert!(at >= plaintexts.len(), "{at}"),
            Err(error) => {
                assert!(at == 2 && matches!(error, Error::Authentication), "{at}: {error}");
            }
        }
    }
    assert_eq!(keyring.counts(), (2, 1), "one data key for each context, and one to open with");
    assert!(envelope.encrypt_batch::<&[u8]>(&[], &context("42")).await.unwrap().is_empty());
}

/// Data keys that are not cached are asked for together.
#[tokio::test]
async fn a_batch_of_many_data_keys_waits_for_them_together() {
    let sealer = Envelope::builder(DefaultMaterialsManager::new(keyring())).build().unwrap();
    let mut messages = sealer.encrypt_batch(&[b"x"; 20], &context("42")).await.unwrap();
    messages.push(b"no message".to_vec());
    let keyring = crate::support::GatedKeyring::new(0);
    let cache = MaterialsCache::builder().max_loads(64).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let context = context("42");
    let mut opening = std::pin::pin!(envelope.decrypt_batch(&messages, &context));
    while keyring.counts().1 < 20 {
        assert!(poll_immediate(&mut opening).await.is_none());
        tokio::task::yield_now().await;
    }
    keyring.gate.add_permits(20);
    let opened = opening.await;
    assert!(opened[..20].iter().all(|opened| opened.as_ref().unwrap().plaintext() == b"x"));
    assert!(opened[20].is_err());
}

/// However long each of its messages is, a batch lets other tasks run behind each slice.
#[tokio::test]
async fn batches_are_sealed_and_opened_in_turns() {
    let envelope = caching(keyring(), |builder| builder);
    for (count, length, turns) in [(10, 200_000, 10), (100, 0, 5)] {
        let plaintexts = vec![plaintext(length); count];
        let (mut sealed, mut opened) = (0, 0);
        let messages = {
            let context = context("42");
            let mut sealing = std::pin::pin!(envelope.encrypt_batch(&plaintexts, &context));
            loop {
                match poll_immediate(&mut sealing).await {
                    Some(messages) => break messages.unwrap(),
                    None => sealed += 1,
                }
            }
        };
        let context = context("42");
        let mut opening = std::pin::pin!(envelope.decrypt_batch(&messages, &context));
        while poll_immediate(&mut opening).await.is_none() {
            opened += 1;
        }
        assert!(
            sealed >= turns && opened >= turns,
            "{count} of {length} bytes: {sealed} and {opened}"
        );
    }
}

/// A context that contradicts the message's, or a policy that forbids it, holds for a data key that
/// is cached, too.
#[tokio::test]
async fn what_is_checked_before_a_data_key_is_asked_for_is_checked_where_it_is_cached() {
    let cache = MaterialsCache::builder().build();
    let suite = AlgorithmSuite::Aes256GcmHkdfSha256;
    let envelope = |policy| {
        let source = DefaultMaterialsManager::new(keyring());
        let manager = CachingMaterialsManager::builder(source)
            .cache(&cache)
            .partition_id("p")
            .build()
            .unwrap();
        Envelope::builder(manager).commitment_policy(policy)
    };
    let allows =
        envelope(CommitmentPolicy::ForbidEncryptAllowDecrypt).suite(suite).build().unwrap();
    let mut message = allows.encrypt(b"x", &context("42")).await.unwrap();
    allows.decrypt(&message, &context("42")).await.unwrap();
    assert_eq!(allows.try_decrypt(&message, &context("42")).unwrap().plaintext(), b"x");
    let (before, mut plaintext) = (message.clone(), BEFORE.to_vec());
    let mismatch =
        |error| matches!(error, Error::EncryptionContextMismatch { key } if key == "tenant");
    assert!(mismatch(allows.try_decrypt(&message, &context("43")).unwrap_err()));
    assert!(mismatch(
        allows.try_decrypt_into(&message, &context("43"), &mut plaintext).unwrap_err()
    ));
    assert!(mismatch(allows.try_decrypt_in_place(&mut message, &context("43")).unwrap_err()));
    assert!(mismatch(allows.decrypt_in_place(&mut message, &context("43")).await.unwrap_err()));
    let requires = envelope(CommitmentPolicy::RequireEncryptRequireDecrypt).build().unwrap();
    let forbidden = |error| matches!(error, Error::CommitmentPolicy { .. });
    assert!(forbidden(requires.try_decrypt(&message, &context("42")).unwrap_err()));
    assert!(forbidden(
        requires.try_decrypt_into(&message, &context("42"), &mut plaintext).unwrap_err()
    ));
    assert!(forbidden(requires.try_decrypt_in_place(&mut message, &context("42")).unwrap_err()));
    assert_eq!((message, plaintext), (before, BEFORE.to_vec()));
}

/// Growing on the way would leave a copy of what was written behind.
#[test]
fn room_is_made_once() {
    for (frame_length, signed) in
        [0, 7, 100, 4096].into_iter().flat_map(|length| [(length, false), (length, true)])
    {
        let (envelope, plaintext) = (envelope(frame_length, signed), plaintext(10_000));
        let message = now(envelope.encrypt(&plaintext, &context("42"))).unwrap();
        // A signature in DER may be shorter than the longest.
        assert!(message.capacity() <= message.len() + 8, "{frame_length} {signed}");
        let plaintext = now(envelope.decrypt(&message, &context("42"))).unwrap().into_plaintext();
        let (room, footer) = (plaintext.capacity(), if signed { 150 } else { 0 });
        assert!(room <= plaintext.len() + 8 + footer, "{frame_length} {signed}: {room}");
    }
}

/// A length that no message has is refused before a data key is asked for.
#[tokio::test]
async fn a_bound_that_is_too_long_costs_no_data_key() {
    let keyring = crate::support::GatedKeyring::open();
    let builder = Envelope::builder(DefaultMaterialsManager::new(keyring.clone()));
    for builder in [
        builder.frame_length(1),
        Envelope::builder(DefaultMaterialsManager::new(keyring.clone())).framed(false),
    ] {
        let encryptor = builder.build().unwrap().encryptor(&context("42"), Some(u64::MAX)).await;
        assert!(matches!(encryptor, Err(Error::PlaintextTooLong { .. })));
    }
    assert_eq!(keyring.counts(), (0, 0));
}

/// A frame costs more than its bytes: many short ones are several slices, too.
#[tokio::test]
async fn short_frames_are_sealed_in_turns() {
    let envelope = envelope(1, false);
    let plaintext = plaintext(1000);
    let context = context("42");
    let mut sealing = std::pin::pin!(envelope.encrypt(&plaintext, &context));
    let mut turns = 1;
    while poll_immediate(&mut sealing).await.map(Result::unwrap).is_none() {
        turns += 1;
    }
    assert_eq!(turns, 4, "999 frames of one byte, 256 at a time");
}

//! Sealing and opening under a raw AES keyring, and everything that must make opening fail.

use crate::support::{header_length, keyring};
use envelope::{
    DataKey, EncryptionContext, Envelope, Error, keyring::RawAesKeyring,
    materials::DefaultMaterialsManager,
};
use futures_executor::block_on;
use proptest::prelude::*;

fn envelope(frame_length: u32) -> Envelope {
    Envelope::builder(DefaultMaterialsManager::new(keyring()))
        .frame_length(frame_length)
        .build()
        .unwrap()
}

fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42"), ("zweck", "Prüfung"), ("empty", "")]).unwrap()
}

fn encrypt(envelope: &Envelope, plaintext: &[u8]) -> Vec<u8> {
    block_on(envelope.encrypt(plaintext, &context())).unwrap()
}

fn decrypt(envelope: &Envelope, message: &[u8]) -> Result<Vec<u8>, Error> {
    block_on(envelope.decrypt(message, &context())).map(envelope::Decrypted::into_plaintext)
}

/// A message of two regular frames and a shorter final one, four bytes each at most.
fn three_frames(envelope: &Envelope) -> (Vec<u8>, [std::ops::Range<usize>; 3]) {
    let message = encrypt(envelope, b"aaaabbbbcc");
    let header = header_length(&message);
    let (first, second) = (header + 36, header + 72);
    let frames = [header..first, first..second, second..message.len()];
    (message, frames)
}

#[test]
fn a_message_of_each_shape_opens() {
    for (length, frame_length) in
        [(0, 1), (1, 1), (3, 1), (8, 4), (9, 4), (4096, 4096), (10_000, 4096), (5, u32::MAX)]
    {
        let plaintext: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let envelope = envelope(frame_length);
        let message = encrypt(&envelope, &plaintext);
        assert_eq!(
            decrypt(&envelope, &message).unwrap(),
            plaintext,
            "{length} bytes in frames of {frame_length}"
        );
    }
}

/// The AWS Encryption SDK for Python 4.0.7 wrote these. Copies of them are seeds in `fuzz/corpus`.
#[test]
fn messages_of_the_python_client_open() {
    let seeds: [(&[u8], &[u8]); 4] = [
        (include_bytes!("../data/python/empty"), b""),
        (include_bytes!("../data/python/one-frame"), b"4111 1111 1111 1111"),
        (include_bytes!("../data/python/three-frames"), &[0; 300]),
        (include_bytes!("../data/python/exact"), &[0; 256]),
    ];
    for (message, plaintext) in seeds {
        let opened = block_on(envelope(4096).decrypt(message, &EncryptionContext::empty()));
        assert_eq!(opened.unwrap().plaintext(), plaintext);
    }
}

#[test]
fn no_two_messages_share_a_message_id() {
    let envelope = Envelope::new(keyring()).unwrap();
    let (a, b) = (encrypt(&envelope, b"same"), encrypt(&envelope, b"same"));
    assert_eq!(
        crate::support::encrypted_data_keys(&a),
        crate::support::encrypted_data_keys(&b),
        "one cached data key"
    );
    assert_ne!(a[3..35], b[3..35], "two message ids");
}

#[test]
fn every_flipped_bit_is_refused() {
    let envelope = envelope(4);
    let (message, frames) = three_frames(&envelope);
    for at in 0..message.len() {
        for bit in 0..8 {
            let mut changed = message.clone();
            changed[at] ^= 1 << bit;
            let error = decrypt(&envelope, &changed).expect_err("a changed message opened");
            let expected = match error {
                Error::Authentication => true,
                // The header's form, or a wrapped key that no longer matches or unwraps, shows
                // first.
                Error::Unsupported { .. }
                | Error::Malformed { .. }
                | Error::Truncated { .. }
                | Error::TooManyEncryptedDataKeys { .. }
                | Error::EncryptionContextMismatch { .. }
                | Error::InvalidEncryptionContext { .. }
                | Error::DataKeyNotUnwrapped { .. } => at < frames[0].start,
                _ => false,
            } || matches!(error, Error::Malformed { .. } | Error::Truncated { .. });
            assert!(expected, "byte {at}, bit {bit}: {error:?}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let envelope = envelope(4);
    let (message, _) = three_frames(&envelope);
    for end in 0..message.len() {
        let error = decrypt(&envelope, &message[..end]).expect_err("a cut message opened");
        assert!(
            matches!(error, Error::Truncated { offset, .. } if offset <= end as u64),
            "{end}: {error:?}"
        );
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let envelope = envelope(4);
    let (mut message, _) = three_frames(&envelope);
    let end = message.len();
    message.push(0);
    assert!(matches!(
        decrypt(&envelope, &message),
        Err(Error::TrailingBytes { offset }) if offset == end as u64
    ));
}

#[test]
fn frames_swapped_dropped_doubled_or_spliced_are_refused() {
    let envelope = envelope(4);
    let (message, [first, second, last]) = three_frames(&envelope);
    let (other, _) = three_frames(&envelope);
    let header = ..first.start;
    let build = |parts: &[&[u8]]| parts.concat();
    let out_of_sequence = |message: &[u8]| {
        let error = decrypt(&envelope, message).expect_err("a rearranged message opened");
        assert!(matches!(error, Error::Malformed { field: "sequence number", .. }), "{error:?}");
    };
    let m = |range: &std::ops::Range<usize>| &message[range.clone()];
    out_of_sequence(&build(&[&message[header], m(&second), m(&first), m(&last)]));
    out_of_sequence(&build(&[&message[header], m(&second), m(&last)]));
    out_of_sequence(&build(&[&message[header], m(&first), m(&last)]));
    out_of_sequence(&build(&[&message[header], m(&first), m(&first), m(&second), m(&last)]));
    let spliced = build(&[&message[header], m(&first), &other[second.clone()], m(&last)]);
    assert!(matches!(decrypt(&envelope, &spliced), Err(Error::Authentication)));
    let header_exchanged = build(&[&other[header], m(&first), m(&second), m(&last)]);
    assert!(matches!(decrypt(&envelope, &header_exchanged), Err(Error::Authentication)));
}

#[test]
fn a_final_frame_can_not_pass_for_a_regular_one() {
    // Sealed as a final frame of four bytes; presented as a regular frame of four bytes.
    let envelope = envelope(4);
    let message = encrypt(&envelope, b"aaaa");
    let header = header_length(&message);
    let content = &message[header + 24..];
    let mut forged = message[..header].to_vec();
    forged.extend_from_slice(&message[header + 4..header + 20]);
    forged.extend_from_slice(content);
    forged.extend_from_slice(&message[header..]);
    assert!(matches!(decrypt(&envelope, &forged), Err(Error::Authentication)));
}

#[test]
fn a_wrong_wrapping_key_or_name_is_told_apart() {
    let message = encrypt(&envelope(4), b"secret");
    let with = |name: &str, byte: u8| {
        let keyring =
            RawAesKeyring::new("tests", name, &DataKey::from_vec(vec![byte; 32])).unwrap();
        decrypt(&Envelope::new(keyring).unwrap(), &message).unwrap_err()
    };
    let Error::DataKeyNotUnwrapped { failures, .. } = with("key", 8) else {
        panic!("another variant")
    };
    assert_eq!(failures.len(), 1);
    let Error::DataKeyNotUnwrapped { failures, .. } = with("other", 7) else {
        panic!("another variant")
    };
    assert!(failures.is_empty());
}

#[test]
fn the_supplied_context_must_stand_in_the_message() {
    let envelope = envelope(4);
    let message = encrypt(&envelope, b"secret");
    let open = |pairs: &[(&str, &str)]| {
        let context = EncryptionContext::new(pairs.iter().copied()).unwrap();
        block_on(envelope.decrypt(&message, &context))
    };
    assert_eq!(*open(&[]).unwrap().encryption_context(), context());
    assert!(open(&[("tenant", "42")]).is_ok());
    let Err(Error::EncryptionContextMismatch { key }) = open(&[("tenant", "43")]) else {
        panic!("opened")
    };
    assert_eq!(key, "tenant");
    let Err(Error::DataKeyNotUnwrapped { not_stored, .. }) = open(&[("other", "42")]) else {
        panic!("opened")
    };
    assert_eq!(not_stored, ["other"]);
}

#[test]
fn reserved_keys_are_refused_on_encryption() {
    let context = EncryptionContext::new([("aws-crypto-public-key", "x")]).unwrap();
    let sealed = block_on(envelope(4).encrypt(b"", &context));
    assert!(matches!(sealed, Err(Error::InvalidEncryptionContext { .. })));
}

#[test]
fn the_limit_on_encrypted_data_keys_comes_before_any_unwrapping() {
    let mut message = encrypt(&envelope(4), b"secret");
    let keys = header_length(&message) - 53 - crate::support::encrypted_data_keys(&message).len();
    message[keys..keys + 2].copy_from_slice(&17u16.to_be_bytes());
    let error = decrypt(&envelope(4), &message).unwrap_err();
    assert!(matches!(error, Error::TooManyEncryptedDataKeys { count: 17, limit: 16 }), "{error:?}");
}

#[test]
fn misuse_shows_when_it_is_built() {
    let builder = || Envelope::builder(DefaultMaterialsManager::new(keyring()));
    assert!(matches!(
        builder().frame_length(0).build(),
        Err(Error::InvalidSetting { setting: "frame_length", .. })
    ));
    for limit in [0, 65_536] {
        assert!(builder().max_encrypted_data_keys(limit).build().is_err());
    }
}

#[test]
fn nothing_secret_is_printed() {
    let envelope = Envelope::new(keyring()).unwrap();
    let message = encrypt(&envelope, b"4111 1111 1111 1111");
    let opened = block_on(envelope.decrypt(&message, &context())).unwrap();
    let shown = format!("{envelope:?} {opened:?}");
    assert!(!shown.contains("4111") && !shown.contains("7, 7, 7"), "{shown}");
}

proptest! {
    #[test]
    fn what_is_encrypted_decrypts(
        plaintext: Vec<u8>,
        frame_length in 1u32..200,
        pairs: std::collections::BTreeMap<String, String>,
    ) {
        let pairs = pairs.iter().filter(|(key, _)| !key.starts_with("aws-crypto-"));
        let context = EncryptionContext::new(pairs).unwrap();
        let envelope = envelope(frame_length);
        let message = block_on(envelope.encrypt(&plaintext, &context)).unwrap();
        let opened = block_on(envelope.decrypt(&message, &context)).unwrap();
        prop_assert_eq!(opened.plaintext(), &plaintext[..]);
        prop_assert_eq!(opened.encryption_context(), &context);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(decrypt(&envelope(4), &bytes).is_err());
    }
}

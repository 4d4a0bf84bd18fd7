//! Headers that are long, cut, or claim lengths of their own.

use std::io::{self, Read};

use envelope::{
    AlgorithmSuite, DataKey, Envelope, Error,
    keyring::{MultiKeyring, RawAesKeyring},
    materials::DefaultMaterialsManager,
    stream::UnverifiedHeader,
};

use super::{context, decryptor, encrypt, envelope, open_changed};
use crate::support::{keyring, now};

/// Counts how often it is read.
struct Counted<'a>(&'a [u8], usize);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        self.0.read(buffer)
    }
}

#[test]
fn a_header_with_as_many_keys_as_fit_is_read_in_few_steps() {
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring()));
    let envelope = envelope.max_encrypted_data_keys(65_535).build().unwrap();
    let message = encrypt(&envelope, b"");
    let keys = crate::support::header_length(&message)
        - 53
        - crate::support::encrypted_data_keys(&message).len();
    // 65,535 keys of one byte each.
    let mut hostile = [&message[..keys], &[0xFF, 0xFF]].concat();
    (0..65_535).for_each(|_| hostile.extend_from_slice(&[0, 0, 0, 0, 0, 1, 7]));
    let mut source = Counted(&hostile, 0);
    let error = envelope.read_header(&mut source).unwrap_err();
    assert!(
        matches!(Error::in_io(&error), Some(Error::Truncated { field: "content type", .. })),
        "{error:?}"
    );
    assert!(source.1 < 100, "{} reads", source.1);
}

/// A header may be read without the client, which then counts the keys again.
#[test]
fn a_header_with_too_many_keys_for_the_client_is_refused() {
    let other = RawAesKeyring::new("tests", "other", &DataKey::from_vec(vec![8; 32])).unwrap();
    let both = MultiKeyring::new(keyring()).with_child(other).unwrap();
    let message = encrypt(&Envelope::new(both).unwrap(), b"x");
    let header = UnverifiedHeader::read(&mut &message[..], 2).unwrap();
    for limit in [1, 2] {
        let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring()));
        let envelope = envelope.max_encrypted_data_keys(limit).build().unwrap();
        for decryptor in [
            now(envelope.decryptor(&header, &context())),
            now(envelope.decryptor_before_signature(&header, &context())),
        ] {
            match (limit, decryptor) {
                (1, Err(Error::TooManyEncryptedDataKeys { count: 2, limit: 1 })) | (2, Ok(_)) => {}
                (limit, other) => panic!("limit {limit}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_cut_header_fails_like_one_piece_wherever_it_is_cut() {
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring()));
    let envelope = envelope.max_encrypted_data_keys(65_535).build().unwrap();
    let message = encrypt(&envelope, b"");
    let keys = crate::support::header_length(&message)
        - 53
        - crate::support::encrypted_data_keys(&message).len();
    let mut hostile = [&message[..keys], &50_000_u16.to_be_bytes()[..]].concat();
    let key = [&[0, 20][..], &[b'k'; 20], &[0, 20], &[0; 20], &[0, 20], &[0; 20]].concat();
    (0..50_000).for_each(|_| hostile.extend_from_slice(&key));
    for end in (0..=hostile.len()).rev().step_by(100_001).chain(0..keys + 200) {
        let error = envelope.read_header(&mut &hostile[..end]).unwrap_err();
        let whole = now(envelope.decrypt(&hostile[..end], &context())).unwrap_err();
        assert_eq!(Error::in_io(&error).unwrap().to_string(), whole.to_string());
    }
}

#[test]
fn lengths_that_a_message_claims_cost_nothing_before_its_bytes_arrive() {
    // 4 GiB frames: an allocation of that size for each of a hundred streams would not go
    // unnoticed.
    let envelope = envelope(AlgorithmSuite::default(), u32::MAX);
    let message = encrypt(&envelope, b"small");
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let mut source = &message[..];
            let mut reader = decryptor(&envelope, &mut source).unwrap().reader(source);
            let mut plaintext = vec![];
            reader.read_to_end(&mut plaintext).unwrap();
            assert_eq!(plaintext, b"small");
            reader
        })
        .collect();
    drop(readers);
    let mut regular = message[..envelope.read_header(&mut &message[..]).unwrap().length()].to_vec();
    regular.extend_from_slice(&[0, 0, 0, 1]);
    regular.extend_from_slice(&[0; 1000]);
    let (released, error) = open_changed(&envelope, &regular, usize::MAX);
    assert!(
        released.is_empty() && matches!(error, Error::Truncated { field: "encrypted content", .. }),
        "{error:?}"
    );
}

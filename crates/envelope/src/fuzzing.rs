//! Functions for the fuzz targets, which use private modules. Built only by `cargo fuzz` and for
//! tests.
#![allow(clippy::missing_panics_doc, reason = "a fuzz target reports by panicking")]

use std::{
    io::{self, Read, Write as _},
    pin::pin,
};

use futures_util::FutureExt as _;

use crate::{
    cache::model::{self, Operation},
    client::Envelope,
    context::EncryptionContext,
    crypto::aead,
    data_key::DataKey,
    error::Error,
    format::{
        codec::Reader,
        encrypted_data_key, header,
        header::{HeaderBody, UnverifiedHeader},
    },
    keyring::RawAesKeyring,
    materials::DefaultMaterialsManager,
    stream::{Machine, Writer},
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// Reads a header and checks that writing it gives the same bytes.
pub fn header_round_trip(bytes: &[u8]) {
    let _ = read_and_write(bytes);
}

/// Does the same. Returns whether `bytes` started with a header.
fn read_and_write(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes, 0);
    let Ok(header) = UnverifiedHeader::read(&mut reader, usize::MAX) else { return false };
    let context =
        EncryptionContext::from_serialized(header.encryption_context, 0).expect("it was checked");
    let context = EncryptionContext::new(context.iter()).expect("its pairs are unique");
    let keys: Vec<_> = header.encrypted_data_keys.iter().collect();
    let body = HeaderBody {
        suite: header.suite,
        message_id: header.message_id,
        encryption_context: &context,
        encrypted_data_keys: &encrypted_data_key::serialize(&keys).expect("they were read"),
        content_type: header.content_type,
        commit_key: header.commit_key,
    };
    let mut written = vec![];
    body.write(&mut written).expect("it was read");
    header::write_authentication(header.suite, header.iv, *header.tag, &mut written);
    assert_eq!(written, reader.since(0));
    true
}

/// Encrypts and decrypts with both AES-GCM backends, and checks that they agree.
pub fn aead_backends_agree(key: &[u8], nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) {
    let used = aead::Key::new(key);
    let portable = aead::Portable::new(key);
    assert_eq!(used.is_some(), portable.is_some());
    let (Some(used), Some(portable)) = (used, portable) else { return };
    let mut one = plaintext.to_vec();
    let mut other = plaintext.to_vec();
    let tag = used.seal(nonce, aad, &mut one);
    let other_tag = portable.seal(nonce, aad, &mut other);
    assert_eq!((&one, tag), (&other, other_tag));
    // Both refuse a wrong tag.
    let wrong = std::array::from_fn(|at| tag[at] ^ u8::from(at == usize::from(nonce[0]) % 16));
    assert!(used.open(nonce, aad, &mut one.clone(), &wrong).is_err());
    assert!(portable.open(nonce, aad, &mut one.clone(), &wrong).is_err());
    assert!(portable.open(nonce, aad, &mut one, &tag).is_ok());
    assert!(used.open(nonce, aad, &mut other, &tag).is_ok());
    assert_eq!((&one[..], &other[..]), (plaintext, plaintext));
}

/// Encrypts a stream that is split in one way, and decrypts it at once and as a stream that is
/// split in another way.
pub fn any_split_gives_the_same(
    suite: u8,
    frame_length: u32,
    plaintext: &[u8],
    written: &[u16],
    read: &[u16],
) {
    let envelope = envelope(suite, frame_length);
    let writer = now(envelope.encryptor(&EncryptionContext::empty(), None))
        .expect("the keyring is local")
        .writer(vec![]);
    let message = write(writer, plaintext, written).expect("the plaintext is short enough");
    let opened = now(envelope.decrypt(&message, &EncryptionContext::empty()))
        .expect("the message is authentic");
    assert_eq!(opened.plaintext(), plaintext);
    assert_eq!(
        decrypt_stream(&envelope, &message, read).expect("the message is authentic"),
        plaintext
    );
    let encryptor =
        now(envelope.encryptor(&EncryptionContext::empty(), Some(plaintext.len() as u64)));
    let mut message = vec![];
    let source = Cut { bytes: plaintext, plan: read, step: 0 };
    encryptor
        .expect("the keyring is local")
        .reader(source)
        .read_to_end(&mut message)
        .expect("the plaintext is short enough");
    let opened = now(envelope.decrypt(&message, &EncryptionContext::empty()))
        .expect("the message is authentic");
    assert_eq!(opened.plaintext(), plaintext);
}

/// Changes a message, and checks that decrypting it at once and as a stream gives the same result.
pub fn a_stream_fails_like_one_call(
    suite: u8,
    frame_length: u32,
    plaintext: &[u8],
    changes: &[(u8, u16, u16)],
    plan: &[u16],
) {
    let envelope = envelope(suite, frame_length);
    let mut message = now(envelope.encrypt(plaintext, &EncryptionContext::empty()))
        .expect("the keyring is local");
    for (kind, at, length) in changes {
        let at = usize::from(*at) % (message.len() + 1);
        let end = (at + usize::from(*length)).min(message.len());
        match kind % 4 {
            0 => message.truncate(at),
            1 => message.get_mut(at).into_iter().for_each(|byte| *byte ^= length.to_le_bytes()[0]),
            2 => drop(message.splice(at..at, message[at..end].to_vec())),
            _ => drop(message.drain(at..end)),
        }
    }
    let whole = now(envelope.decrypt(&message, &EncryptionContext::empty()));
    match (whole, decrypt_stream(&envelope, &message, plan)) {
        (Ok(whole), Ok(streamed)) => assert_eq!(whole.plaintext(), streamed),
        (Err(whole), Err(streamed)) => {
            assert_eq!(
                whole.to_string(),
                Error::in_io(&streamed).expect("memory does not fail").to_string()
            );
        }
        (whole, streamed) => panic!("at once {whole:?}, as a stream {streamed:?}"),
    }
}

/// Applies operations to the cache and to a plain model of it, and checks that they agree.
pub fn cache_operations(operations: &[(u8, u8, u16)]) {
    model::run(operations.iter().copied().map(Operation::decode));
}

/// Returns a client under a fixed raw AES key that writes one of the suites. The body has frames of
/// `frame_length`, or is non-framed for 0.
fn envelope(suite: u8, frame_length: u32) -> Envelope {
    let suites = AlgorithmSuite::ALL
        .into_iter()
        .filter(|suite| cfg!(feature = "aws-lc-rs") || !suite.is_signed());
    let suites: Vec<_> = suites.collect();
    let suite = suites[usize::from(suite) % suites.len()];
    let policy = if suite.commits_to_key() {
        CommitmentPolicy::RequireEncryptRequireDecrypt
    } else {
        CommitmentPolicy::ForbidEncryptAllowDecrypt
    };
    let keyring = RawAesKeyring::new("tests", "key", &DataKey::from_vec(vec![7; 32]))
        .expect("the key is 32 bytes long");
    let builder = Envelope::builder(DefaultMaterialsManager::new(keyring))
        .commitment_policy(policy)
        .suite(suite);
    let builder =
        if frame_length == 0 { builder.framed(false) } else { builder.frame_length(frame_length) };
    builder.legacy_suites(true).build().expect("the settings are valid")
}

/// Polls a future under a local keyring, which never waits but yields during long messages.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let output = (0..1_000_000).find_map(|_| future.as_mut().now_or_never());
    output.expect("a local keyring never waits")
}

/// Decrypts a stream with a reader and with a writer, which must agree.
fn decrypt_stream(envelope: &Envelope, message: &[u8], plan: &[u16]) -> io::Result<Vec<u8>> {
    let mut source = Cut { bytes: message, plan, step: 0 };
    let header = envelope.read_header(&mut source)?;
    let decryptor =
        || now(envelope.decryptor_before_signature(&header, &EncryptionContext::empty()));
    let rest = source.bytes;
    let mut read = vec![];
    let result = decryptor()?.reader(source).read_to_end(&mut read).map(|_| read);
    let written = write(decryptor()?.writer(vec![]), rest, plan);
    assert_eq!(
        result.as_ref().map_err(ToString::to_string),
        written.as_ref().map_err(ToString::to_string)
    );
    result
}

/// Writes in pieces of the plan's lengths. Fails if the writer takes no bytes.
fn write<M: Machine>(
    mut writer: Writer<M, Vec<u8>>,
    bytes: &[u8],
    plan: &[u16],
) -> io::Result<Vec<u8>> {
    let mut source = Cut { bytes, plan, step: 0 };
    let mut piece = vec![0; 1 << 16];
    loop {
        match source.read(&mut piece)? {
            0 => return writer.finish(),
            length => writer.write_all(&piece[..length])?,
        }
    }
}

/// A source that is read in pieces of the plan's lengths, in a cycle.
struct Cut<'a> {
    bytes: &'a [u8],
    plan: &'a [u16],
    step: usize,
}

impl Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let max = self
            .plan
            .get(self.step % self.plan.len().max(1))
            .map_or(usize::MAX, |step| usize::from(*step).max(1));
        self.step += 1;
        let length = max.min(buffer.len());
        self.bytes.read(&mut buffer[..length])
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn streams_agree(
            suite: u8,
            frame_length in prop_oneof![0u32..10, 10u32..6000, 65_000u32..66_000],
            plaintext: Vec<u8>,
            changes in proptest::collection::vec((any::<u8>(), any::<u16>(), 0u16..50), 0..3),
            one: Vec<u16>,
            other: Vec<u16>,
        ) {
            any_split_gives_the_same(suite, frame_length, &plaintext, &one, &other);
            // Writes that end with a frame, and are longer than a stream's chunk.
            let frame = u16::try_from(frame_length).unwrap_or(u16::MAX);
            let frame_length = u32::from(frame);
            let long = vec![7; usize::from(frame) * 2 + plaintext.len()];
            if frame_length >= 65_000 {
                any_split_gives_the_same(suite, frame_length, &long, &[frame], &other);
            }
            a_stream_fails_like_one_call(suite, frame_length, &plaintext, &changes, &one);
        }
    }

    /// The Python client 1.3.5 wrote these 360 messages. `tests/messages/published_vectors.rs` says
    /// where they are.
    #[test]
    fn headers_of_python_1_3_5_are_written_back_to_the_same_bytes() {
        let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors"));
        let folder = std::env::var_os("ENVELOPE_VECTORS").map_or(beside, PathBuf::from);
        let Ok(file) = File::open(folder.join("python-1.3.5.zip")) else {
            println!("skipped python-1.3.5.zip: not in {}", folder.display());
            return;
        };
        let mut archive = zip::ZipArchive::new(file).unwrap();
        let mut messages = 0;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).unwrap();
            let name = entry.name().unwrap().into_owned();
            if name.starts_with("ciphertexts/") && entry.is_file() {
                let mut message = vec![];
                entry.read_to_end(&mut message).unwrap();
                assert!(read_and_write(&message), "{name}");
                messages += 1;
            }
        }
        assert_eq!(messages, 360);
    }
}

//! Streams: the same messages as in one piece, however they are cut, and everything that must make
//! them fail.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    ops::Range,
};

use crate::support::{keyring, now};
use envelope::{
    AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, Error,
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
    stream::{Decryptor, UnverifiedHeader},
};
use proptest::prelude::*;

mod failures;
mod headers;
#[cfg(feature = "tokio")]
mod over_tokio;

/// The suites that this build can write and open.
fn suites() -> impl Iterator<Item = AlgorithmSuite> {
    AlgorithmSuite::ALL
        .into_iter()
        .filter(|suite| cfg!(feature = "aws-lc-rs") || !suite.is_signed())
}

fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42")]).unwrap()
}

/// Frames of `frame_length`, or one piece for 0.
fn envelope(suite: AlgorithmSuite, frame_length: u32) -> Envelope {
    let policy = if suite.commits_to_key() {
        CommitmentPolicy::RequireEncryptRequireDecrypt
    } else {
        CommitmentPolicy::ForbidEncryptAllowDecrypt
    };
    let builder = Envelope::builder(DefaultMaterialsManager::new(keyring()));
    let builder = builder.commitment_policy(policy).suite(suite).legacy_suites(true);
    let builder =
        if frame_length == 0 { builder.framed(false) } else { builder.frame_length(frame_length) };
    builder.build().unwrap()
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

fn encrypt(envelope: &Envelope, plaintext: &[u8]) -> Vec<u8> {
    now(envelope.encrypt(plaintext, &context())).unwrap()
}

fn decrypt(envelope: &Envelope, message: &[u8]) -> Vec<u8> {
    now(envelope.decrypt(message, &context())).unwrap().into_plaintext()
}

/// The header is read off `source`.
fn decryptor(envelope: &Envelope, source: &mut impl Read) -> io::Result<Decryptor> {
    let header = envelope.read_header(source)?;
    Ok(now(envelope.decryptor_before_signature(&header, &context()))?)
}

/// Gives and takes as many bytes at once as its plan says, again and again, and in between fails.
struct Choppy<T> {
    inner: T,
    plan: VecDeque<usize>,
}

impl<T> Choppy<T> {
    fn new(inner: T, plan: &[usize]) -> Self {
        Self { inner, plan: plan.iter().copied().collect() }
    }

    /// How many bytes now; zero in the plan is a failure that passes.
    fn step(&mut self) -> io::Result<usize> {
        let count = self.plan.pop_front().unwrap_or(usize::MAX);
        self.plan.push_back(count);
        if count == 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(count) }
    }
}

impl<R: Read> Read for Choppy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.step()?.min(buffer.len());
        self.inner.read(&mut buffer[..count])
    }
}

impl<W: Write> Write for Choppy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.step()?.min(bytes.len());
        self.inner.write(&bytes[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads everything in the pieces of `plan`, and stops at the first error; gives what was read
/// until then.
fn read_all(reader: impl Read, plan: &[usize]) -> (Vec<u8>, io::Result<()>) {
    let mut read = vec![];
    let result = Choppy::new(reader, plan).read_to_end(&mut read);
    (read, result.map(drop))
}

/// Writes `bytes` in the pieces of `plan`, and retries where that was interrupted.
fn write_all(writer: &mut impl Write, bytes: &[u8], plan: &[usize]) -> io::Result<()> {
    Choppy::new(writer, plan).write_all(bytes)
}

const PLANS: [&[usize]; 5] = [&[usize::MAX], &[1], &[3, 0, 1, 7], &[64, 1], &[100_000, 0]];

#[test]
fn streams_and_single_pieces_open_each_other_in_every_suite() {
    let mut cases = 0;
    for suite in suites() {
        for frame_length in [1, 4, 128, 4096, 0] {
            let envelope = envelope(suite, frame_length);
            for length in [0, 1, 4, 5, 8, 1000] {
                let plaintext = plaintext(length);
                let whole = encrypt(&envelope, &plaintext);
                let plan = PLANS[cases % PLANS.len()];
                let what = format!("{suite}, frames of {frame_length}, {length} bytes, {plan:?}");

                let mut writer = now(envelope.encryptor(&context(), None))
                    .unwrap()
                    .writer(Choppy::new(vec![], plan));
                write_all(&mut writer, &plaintext, plan).unwrap();
                let written = writer.finish().unwrap().inner;
                let encryptor = now(envelope.encryptor(&context(), Some(length as u64))).unwrap();
                let (read, result) =
                    read_all(encryptor.reader(Choppy::new(&plaintext[..], plan)), plan);
                result.unwrap();
                // What opens and is cut alike differs in its random parts alone.
                for message in [&written, &read] {
                    assert_eq!(pieces(message), pieces(&whole), "{what}");
                    assert_eq!(decrypt(&envelope, message), plaintext, "{what}");
                }

                let mut source = Choppy::new(&whole[..], plan);
                let opened = decryptor(&envelope, &mut source).unwrap();
                assert_eq!(
                    (opened.suite(), opened.encryption_context().get("tenant")),
                    (suite, Some("42"))
                );
                let (opened, result) = read_all(opened.reader(source), plan);
                result.unwrap();
                assert_eq!(opened, plaintext, "{what}");

                let mut source = &written[..];
                let mut writer =
                    decryptor(&envelope, &mut source).unwrap().writer(Choppy::new(vec![], plan));
                write_all(&mut writer, source, plan).unwrap();
                assert_eq!(writer.finish().unwrap().inner, plaintext, "{what}");
                cases += 4;
            }
        }
    }
    println!("{cases} streams agree with messages in one piece");
}

/// Where a message's frames lie.
fn pieces(message: &[u8]) -> Vec<Range<u64>> {
    let mut source = message;
    let header = UnverifiedHeader::read(&mut source, 1).unwrap();
    let mut contents = vec![];
    header.read_body(source, |content| contents.push(content)).unwrap();
    contents
}

/// Opens a changed message in pieces of `step` bytes: gives what was released, and why it failed.
fn open_changed(envelope: &Envelope, message: &[u8], step: usize) -> (Vec<u8>, Error) {
    let mut source = message;
    let (read, result) = match decryptor(envelope, &mut source) {
        Ok(decryptor) => {
            let mut reader = decryptor.reader(Choppy::new(source, &[step]));
            let mut read = vec![];
            let result = reader.read_to_end(&mut read);
            if let Err(error) = &result {
                // Nothing more comes, and the reason stays.
                let again = reader.read(&mut [0; 10]).expect_err("read on after an error");
                assert_eq!(again.to_string(), error.to_string());
            }
            (read, result.map(drop))
        }
        Err(error) => (vec![], Err(error)),
    };
    let error = result.expect_err("a changed message opened");
    let inner = Error::in_io(&error).expect("the source does not fail").clone();
    if matches!(inner, Error::Truncated { .. }) {
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    (read, inner)
}

#[test]
fn every_flipped_byte_and_every_truncation_is_refused_and_releases_nothing_behind_it() {
    let mut cases = 0;
    for suite in suites() {
        for frame_length in [4, 0] {
            let envelope = envelope(suite, frame_length);
            let plaintext = b"aaaabbbbcc";
            let message = encrypt(&envelope, plaintext);
            let header = envelope.read_header(&mut &message[..]).unwrap().length();
            // Plaintext of the frames that are whole before this byte; of the last one only with
            // the very end.
            let releasable = |at: usize| match frame_length {
                0 => 0,
                _ => (at.saturating_sub(header) / 36).min(2) * 4,
            };
            for at in 0..message.len() {
                for step in [1, usize::MAX] {
                    let mut changed = message.clone();
                    changed[at] ^= 0x55;
                    let (released, error) = open_changed(&envelope, &changed, step);
                    assert!(plaintext.starts_with(&released), "{suite}, byte {at}: {error:?}");
                    assert!(
                        released.len() <= releasable(at),
                        "{suite}, byte {at}: {released:?} before {error:?}"
                    );
                    if at >= header {
                        let expected = matches!(
                            error,
                            Error::Authentication
                                | Error::Malformed { .. }
                                | Error::Truncated { .. }
                                | Error::TrailingBytes { .. }
                        );
                        assert!(expected, "{suite}, byte {at}: {error:?}");
                    }

                    let (released, error) = open_changed(&envelope, &message[..at], step);
                    assert!(plaintext.starts_with(&released), "{suite}, cut at {at}");
                    assert!(released.len() <= releasable(at), "{suite}, cut at {at}: {released:?}");
                    assert!(
                        matches!(error, Error::Truncated { offset, .. } if offset <= at as u64),
                        "{error:?}"
                    );
                    cases += 2;
                }
            }
        }
    }
    println!("{cases} changed or cut streams refused");
}

#[test]
fn frames_swapped_dropped_doubled_or_spliced_are_refused() {
    let envelope = envelope(AlgorithmSuite::default(), 4);
    let (message, other) =
        (encrypt(&envelope, b"aaaabbbbcccc"), encrypt(&envelope, b"aaaabbbbcccc"));
    let header = envelope.read_header(&mut &message[..]).unwrap().length();
    let frame = |message: &[u8], index: usize| message[header + index * 36..][..36].to_vec();
    let (head, last) = (message[..header].to_vec(), message[header + 72..].to_vec());
    let first = frame(&message, 0);
    let second = frame(&message, 1);
    let cases: [(&str, Vec<&[u8]>, usize); 7] = [
        ("swapped", vec![&head, &second, &first, &last], 0),
        ("dropped", vec![&head, &first, &last], 4),
        ("doubled", vec![&head, &first, &first, &second, &last], 4),
        ("no final frame", vec![&head, &first, &second], 8),
        ("final frame alone", vec![&head, &last], 0),
        ("final frame doubled", vec![&head, &first, &second, &last, &last], 8),
        ("spliced", vec![&head, &first, &other[header + 36..]], 4),
    ];
    for (what, parts, most) in cases {
        for step in [1, 36, usize::MAX] {
            let (released, error) = open_changed(&envelope, &parts.concat(), step);
            assert!(
                b"aaaabbbb".starts_with(&released[..]) && released.len() <= most,
                "{what}: {released:?}"
            );
            let expected = match what {
                "no final frame" => matches!(error, Error::Truncated { .. }),
                "final frame doubled" => matches!(error, Error::TrailingBytes { .. }),
                "spliced" => matches!(error, Error::Authentication),
                _ => matches!(error, Error::Malformed { field: "sequence number", .. }),
            };
            assert!(expected, "{what}: {error:?}");
        }
    }
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn the_last_frame_waits_for_the_signature() {
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384;
    // One signing key for both messages, as a caching manager has it.
    let manager =
        CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring())).build().unwrap();
    let envelope = Envelope::builder(manager).suite(suite).frame_length(4).build().unwrap();
    let (one, two) = (encrypt(&envelope, b"aaaabb"), encrypt(&envelope, b"ccccdd"));
    let header = envelope.read_header(&mut &one[..]).unwrap().length();
    let footer = header + 36 + 40 + 2;
    let exchanged = [&one[..footer], &two[footer..]].concat();
    for step in [1, usize::MAX] {
        let (released, error) = open_changed(&envelope, &exchanged, step);
        assert!(matches!(error, Error::Authentication), "{error:?}");
        assert!(released.is_empty() || released == b"aaaa", "{released:?}");
    }
    let (released, _) = open_changed(&envelope, &exchanged, 1);
    assert_eq!(released, b"aaaa", "the mode releases all frames before the last one");
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn a_signed_message_is_refused_where_unsigned_ones_are_taken_only() {
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384;
    let counted = crate::support::GatedKeyring::open();
    let manager = DefaultMaterialsManager::new(counted.clone());
    let envelope = Envelope::builder(manager).suite(suite).build().unwrap();
    let message = encrypt(&envelope, b"x");
    let header = envelope.read_header(&mut &message[..]).unwrap();
    let refused = now(envelope.decryptor(&header, &context())).unwrap_err();
    assert!(
        matches!(refused, Error::SignedMessage { suite: found } if found == suite),
        "{refused:?}"
    );
    assert_eq!(counted.counts().1, 0, "no keyring was asked");
    assert!(now(envelope.decryptor_before_signature(&header, &context())).is_ok());
}

#[test]
fn what_follows_the_message_is_an_error_or_left_unread() {
    for frame_length in [4, 5, 0] {
        for suite in suites() {
            let envelope = envelope(suite, frame_length);
            let mut bytes = encrypt(&envelope, b"aaaabbbbcc");
            let end = bytes.len() as u64;
            bytes.extend_from_slice(b"what follows");
            for step in [1, 10, usize::MAX] {
                let (released, error) = open_changed(&envelope, &bytes, step);
                assert!(
                    matches!(error, Error::TrailingBytes { offset } if offset == end),
                    "{error:?}"
                );
                assert!(released.len() <= 8, "the last frame is not released");

                let mut source = Choppy::new(&bytes[..], &[step]);
                let decryptor = decryptor(&envelope, &mut source).unwrap().stop_at_message_end();
                let mut reader = decryptor.reader(source);
                let mut plaintext = vec![];
                reader.read_to_end(&mut plaintext).unwrap();
                assert_eq!(plaintext, b"aaaabbbbcc");
                assert_eq!(
                    reader.into_source().inner,
                    b"what follows",
                    "{suite}, frames of {frame_length}"
                );
            }
        }
    }
}

#[test]
fn more_plaintext_than_announced_is_refused() {
    for frame_length in [4, 0] {
        let envelope = envelope(AlgorithmSuite::default(), frame_length);
        let encryptor = || now(envelope.encryptor(&context(), Some(10))).unwrap();
        let mut writer = encryptor().writer(vec![]);
        writer.write_all(&[0; 10]).unwrap();
        let error = writer.write_all(&[0]).unwrap_err();
        assert!(
            matches!(Error::in_io(&error), Some(Error::PlaintextBoundExceeded { bound: 10 })),
            "{error:?}"
        );
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(writer.finish().is_err(), "the message can't be finished");
        let (_, result) = read_all(encryptor().reader(&[0; 11][..]), &[4]);
        assert!(result.is_err());
        // Less than announced is fine.
        let (message, result) = read_all(encryptor().reader(&[0; 9][..]), &[4]);
        result.unwrap();
        assert_eq!(decrypt(&envelope, &message), [0; 9]);
    }
}

#[test]
fn a_known_length_is_reserved_and_an_unknown_one_gets_its_own_data_key() {
    let counted = crate::support::GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let source = DefaultMaterialsManager::new(counted.clone());
    // Refreshes would make further data keys.
    let manager = CachingMaterialsManager::builder(source)
        .cache(&cache)
        .max_bytes(100)
        .refresh_ahead(false)
        .build()
        .unwrap();
    let envelope = Envelope::builder(manager).build().unwrap();
    let seal = |bound| {
        let writer = now(envelope.encryptor(&context(), bound)).unwrap().writer(vec![]);
        crate::support::encrypted_data_keys(&writer.finish().unwrap()).to_vec()
    };
    let first = seal(Some(60));
    assert_eq!(seal(Some(40)), first, "100 bytes fit");
    let second = seal(Some(1));
    assert_ne!(second, first, "the bytes were reserved, though they never came");
    let unknown = [seal(None), seal(None)];
    assert!(unknown[0] != unknown[1] && !unknown.contains(&second), "a data key each");
    assert_eq!(seal(Some(99)), second, "of which the cache knows nothing");
    assert_eq!((counted.counts().0, cache.stats().encryption.bypasses), (4, 2));
}

#[test]
fn pieces_are_shown_without_a_key() {
    for suite in suites() {
        for (frame_length, expected) in [(4, vec![(16, 4), (16, 4), (24, 2)]), (0, vec![(20, 10)])]
        {
            let message = encrypt(&envelope(suite, frame_length), b"aaaabbbbcc");
            let mut source = &message[..];
            let header = UnverifiedHeader::read(&mut source, 1).unwrap();
            assert_eq!(header.version(), if suite.commits_to_key() { 2 } else { 1 });
            assert_eq!((header.suite(), header.frame_length().unwrap_or(0)), (suite, frame_length));
            assert_eq!(header.encryption_context().get("tenant"), Some("42"));
            assert_eq!(header.encrypted_data_keys().count(), 1);
            assert_eq!(header.message_id().len(), if suite.commits_to_key() { 32 } else { 16 });
            let mut position = header.length() as u64;
            for ((before, length), content) in expected.into_iter().zip(pieces(&message)) {
                let start = position + before;
                assert_eq!(content, start..start + length);
                position = content.end + 16;
            }
            let signature = header.read_body(source, |_| ()).unwrap();
            let end = if suite.is_signed() { 2 + signature.unwrap() as u64 } else { 0 };
            assert_eq!(position + end, message.len() as u64);

            for end in header.length()..message.len() {
                let failed = header.read_body(&message[header.length()..end], |_| ()).unwrap_err();
                assert_eq!(failed.kind(), io::ErrorKind::UnexpectedEof);
            }
            let longer = [&message[header.length()..], b"x"].concat();
            let failed = header.read_body(&longer[..], |_| ()).unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
        }
    }
}

proptest! {
    /// Any split of reads and writes.
    #[test]
    fn any_split_gives_the_same_bytes(
        length in 0usize..5000,
        frame_length in prop_oneof![0u32..10, 10u32..6000],
        plans in proptest::collection::vec(proptest::collection::vec(0usize..3000, 1..6), 4),
    ) {
        // A plan of zeros would never end.
        let plans: Vec<Vec<usize>> = plans
            .into_iter()
            .map(|plan| if plan.iter().all(|step| *step == 0) { vec![1] } else { plan })
            .collect();
        let envelope = envelope(AlgorithmSuite::default(), frame_length);
        let plaintext = plaintext(length);
        let encryptor = now(envelope.encryptor(&context(), None)).unwrap();
        let source = Choppy::new(&plaintext[..], &plans[0]);
        let (message, result) = read_all(encryptor.reader(source), &plans[1]);
        result.unwrap();
        prop_assert_eq!(decrypt(&envelope, &message), &plaintext[..]);
        prop_assert_eq!(pieces(&message), pieces(&encrypt(&envelope, &plaintext)));
        let mut source = Choppy::new(&message[..], &plans[2]);
        let decryptor = decryptor(&envelope, &mut source).unwrap();
        let (opened, result) = read_all(decryptor.reader(source), &plans[3]);
        result.unwrap();
        prop_assert_eq!(opened, plaintext);
    }
}

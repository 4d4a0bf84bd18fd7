//! Long messages that several threads seal and open: the same as one does.

use std::io::{Read as _, Write as _};

use crate::support::{context, keyring};
use envelope::{AlgorithmSuite, Envelope, Error, materials::DefaultMaterialsManager};
use futures_util::FutureExt as _;

const SUITES: [AlgorithmSuite; 2] = [
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKey,
    #[cfg(feature = "aws-lc-rs")]
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384,
    #[cfg(not(feature = "aws-lc-rs"))]
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKey,
];

fn envelope(threads: usize, suite: AlgorithmSuite, frame_length: u32) -> Envelope {
    let builder = Envelope::builder(DefaultMaterialsManager::new(keyring()));
    builder.suite(suite).frame_length(frame_length).threads(threads).build().unwrap()
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[tokio::test]
async fn one_thread_and_several_open_each_others_messages() {
    for suite in SUITES {
        for frame_length in [1000, 4096, 65_536, 300_000] {
            let envelopes = [envelope(1, suite, frame_length), envelope(3, suite, frame_length)];
            // Around a multiple of the frame length, of the slice, and of nothing.
            for length in [0, 200_000, 600_000, 786_432, 786_433, 1_000_003] {
                let plaintext = plaintext(length);
                for (sealer, opener) in
                    [(0, 1), (1, 0), (1, 1)].map(|(a, b)| (&envelopes[a], &envelopes[b]))
                {
                    let mut message = sealer.encrypt(&plaintext, &context("42")).await.unwrap();
                    let opened = opener.decrypt(&message, &context("42")).await.unwrap();
                    assert!(opened.plaintext() == plaintext, "{suite} {frame_length} {length}");
                    let opened =
                        opener.decrypt_in_place(&mut message, &context("42")).await.unwrap();
                    assert!(
                        opened.plaintext() == plaintext,
                        "{suite} {frame_length} {length} in place"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn streams_in_large_pieces_agree_with_one_piece() {
    for suite in SUITES {
        let (alone, together) = (envelope(1, suite, 4096), envelope(3, suite, 4096));
        let plaintext = plaintext(2_500_003);
        for piece in [100_000, 1 << 20, plaintext.len()] {
            let mut writer = together.encryptor(&context("42"), None).await.unwrap().writer(vec![]);
            plaintext.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
            let message = writer.finish().unwrap();
            assert!(
                alone.decrypt(&message, &context("42")).await.unwrap().plaintext() == plaintext
            );

            let mut source = &message[..];
            let header = together.read_header(&mut source).unwrap();
            let decryptor =
                together.decryptor_before_signature(&header, &context("42")).await.unwrap();
            let mut writer = decryptor.writer(vec![]);
            source.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
            assert!(writer.finish().unwrap() == plaintext);
            let mut opened = vec![];
            let decryptor =
                together.decryptor_before_signature(&header, &context("42")).await.unwrap();
            decryptor.reader(source).read_to_end(&mut opened).unwrap();
            assert!(opened == plaintext);
        }
    }
}

/// For any error in a frame, several threads report the same error as one thread, and release the
/// same plaintext.
#[tokio::test]
async fn failures_are_the_same_as_of_one_thread() {
    let (alone, together) = (envelope(1, SUITES[0], 4096), envelope(3, SUITES[0], 4096));
    let message = together.encrypt(&plaintext(1_000_000), &context("42")).await.unwrap();
    let header = alone.read_header(&mut &message[..]).unwrap().length();
    let stride = 4096 + 32;
    let wrong_sequence = [header + 50 * stride + 3, header + 3];
    let wrong_iv = [header + 50 * stride + 9];
    let wrong_content =
        [header + 16, header + 100 * stride + 20, header + 101 * stride - 1, message.len() - 1];
    for at in [&wrong_sequence[..], &wrong_iv, &wrong_content].concat() {
        let mut changed = message.clone();
        changed[at] ^= 1;
        let errors = [
            alone.decrypt(&changed, &context("42")).await.unwrap_err(),
            together.decrypt(&changed, &context("42")).await.unwrap_err(),
        ];
        assert_eq!(errors[0].to_string(), errors[1].to_string(), "byte {at}");
        assert_eq!(
            matches!(errors[1], Error::Authentication),
            wrong_content.contains(&at),
            "byte {at}: {:?}",
            errors[1]
        );
        for envelope in [&alone, &together] {
            let mut source = &changed[..];
            let header = envelope.read_header(&mut source).unwrap();
            let decryptor = envelope.decryptor(&header, &context("42")).await.unwrap();
            let mut released = vec![];
            let error = decryptor.reader(source).read_to_end(&mut released).unwrap_err();
            assert_eq!(
                Error::in_io(&error).unwrap().to_string(),
                errors[0].to_string(),
                "byte {at}"
            );
            assert!(plaintext(1_000_000).starts_with(&released), "byte {at}");
            assert!(released.len() <= (at - header.length()) / stride * 4096, "byte {at}");
        }
    }
    for end in [header + 10 * stride, header + 10 * stride + 7, message.len() - 1] {
        let one = alone.decrypt(&message[..end], &context("42")).await.unwrap_err();
        let several = together.decrypt(&message[..end], &context("42")).await.unwrap_err();
        assert_eq!(one.to_string(), several.to_string(), "cut at {end}");
    }
}

#[test]
fn the_number_of_threads_is_checked() {
    for threads in [0, 257] {
        let builder = Envelope::builder(DefaultMaterialsManager::new(keyring())).threads(threads);
        assert!(matches!(builder.build(), Err(Error::InvalidSetting { setting: "threads", .. })));
    }
}

#[tokio::test]
async fn batches_are_shared() {
    let together = envelope(3, SUITES[0], 4096);
    let plaintexts: Vec<_> = (0..200).map(|n| plaintext(n * 7)).collect();
    let messages = together.encrypt_batch(&plaintexts, &context("42")).await.unwrap();
    let opened = together.decrypt_batch(&messages, &context("42")).await;
    assert!(opened.iter().map(|opened| opened.as_ref().unwrap().plaintext()).eq(&plaintexts));
}

/// However short its frames are, opening a message costs in proportion to its length, and others
/// have their turn.
#[tokio::test]
async fn short_frames_are_opened_one_by_one_in_turns() {
    let plaintext = plaintext(50_000);
    for threads in [1, 3] {
        let envelope = envelope(threads, SUITES[0], 1);
        let (message, turns) = polled(envelope.encrypt(&plaintext, &context("42")));
        let mut message = message.unwrap();
        assert_eq!(turns, 50_000usize.div_ceil(256), "{threads}");
        // Behind frames that are in sequence, one that is not, and more.
        let mut wrong = message.clone();
        let header = envelope.read_header(&mut &message[..]).unwrap().length();
        wrong[header + 40_000 * 33 + 3] ^= 1;
        let (opened, turns) = polled(envelope.decrypt(&message, &context("42")));
        assert!(opened.unwrap().plaintext() == plaintext);
        assert_eq!(turns, 50_000usize.div_ceil(256), "{threads}");
        let (opened, turns) = polled(envelope.decrypt(&wrong, &context("42")));
        assert!(matches!(opened, Err(Error::Malformed { field: "sequence number", .. })));
        assert_eq!(turns, 40_001usize.div_ceil(256), "{threads}");
        let (opened, turns) = polled(envelope.decrypt_in_place(&mut message, &context("42")));
        assert!(opened.unwrap().plaintext() == plaintext);
        assert_eq!(turns, 50_000usize.div_ceil(256), "{threads}");
    }
}

/// Threads that share a long message let others have their turn behind each slice of theirs.
#[tokio::test]
async fn shared_frames_are_sealed_and_opened_in_turns() {
    let (envelope, plaintext) =
        (envelope(3, SUITES[0], 4096), plaintext(4 * 3 * 256 * 1024 + 5000));
    let (message, sealed) = polled(envelope.encrypt(&plaintext, &context("42")));
    let message = message.unwrap();
    let (opened, turns) = polled(envelope.decrypt(&message, &context("42")));
    assert!(opened.unwrap().plaintext() == plaintext);
    assert_eq!((sealed, turns), (5, 5));
}

/// However much is written at once, a stream takes what it needs for one turn.
#[tokio::test]
async fn streams_take_a_slice_at_once() {
    let plaintext = plaintext(3_000_000);
    for (threads, most) in [(1, 64 * 1024), (3, 3 * 256 * 1024)] {
        let envelope = envelope(threads, SUITES[0], 4096);
        let mut writer = envelope.encryptor(&context("42"), None).await.unwrap().writer(vec![]);
        for _ in 0..3 {
            let taken = writer.write(&plaintext).unwrap();
            assert!((1..=most).contains(&taken), "{threads}: {taken}");
        }
    }
}

/// Polls it to its end, and counts how often.
fn polled<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut future = std::pin::pin!(future);
    let mut turns = 0;
    loop {
        turns += 1;
        if let Some(done) = future.as_mut().now_or_never() {
            return (done, turns);
        }
    }
}

//! Sources that fail, and writers that take less than they are given.

use std::io::{self, Read, Write};

use envelope::{AlgorithmSuite, Error};

use super::{context, decryptor, encrypt, envelope, pieces, plaintext};
use crate::support::now;

/// Fails once, for good reason, and then goes on.
struct Failing<T>(T, Option<io::Error>);

impl<R: Read> Read for Failing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.1.take() {
            Some(error) => Err(error),
            None => self.0.read(buffer),
        }
    }
}

#[test]
fn an_error_of_the_source_that_passes_does_no_harm() {
    let envelope = envelope(AlgorithmSuite::default(), 4);
    let message = encrypt(&envelope, b"aaaabbbbcc");
    let mut source = &message[..];
    let decryptor = decryptor(&envelope, &mut source).unwrap();
    let mut reader = decryptor.reader(Failing(source, Some(io::ErrorKind::WouldBlock.into())));
    let mut plaintext = vec![];
    assert_eq!(reader.read_to_end(&mut plaintext).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    reader.read_to_end(&mut plaintext).unwrap();
    assert_eq!(plaintext, b"aaaabbbbcc");
}

#[test]
fn a_source_that_failed_for_good_is_never_sealed_over() {
    let envelope = envelope(AlgorithmSuite::default(), 4);
    let encryptor = now(envelope.encryptor(&context(), None)).unwrap();
    let source =
        (&b"aaaabbbbcc"[..]).chain(Failing(&b""[..], Some(io::ErrorKind::ConnectionReset.into())));
    let mut reader = encryptor.reader(source);
    let mut message = vec![];
    for _ in 0..3 {
        let failed = reader.read_to_end(&mut message).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
    }
    now(envelope.decrypt(&message, &context())).unwrap_err();
}

#[test]
fn a_writer_that_failed_does_not_flush() {
    let envelope = envelope(AlgorithmSuite::default(), 4);
    let mut message = encrypt(&envelope, b"aaaabbbbcc");
    *message.last_mut().unwrap() ^= 1;
    let mut source = &message[..];
    let mut writer = decryptor(&envelope, &mut source).unwrap().writer(vec![]);
    writer.write_all(source).unwrap_err();
    for _ in 0..2 {
        let failed = writer.flush().unwrap_err();
        assert!(matches!(Error::in_io(&failed), Some(Error::Authentication)));
    }
}

/// The longest frame that fits what a machine makes at once, and longer ones, in writes that end
/// with a frame.
#[test]
fn a_writer_takes_something_of_every_write() {
    for frame_length in [65_503, 65_504, 65_536, 70_000, 1 << 20] {
        for step in [8192, 65_536, frame_length as usize] {
            let envelope = envelope(AlgorithmSuite::default(), frame_length);
            let plaintext = plaintext(3 * frame_length as usize + 1);
            let mut writer = now(envelope.encryptor(&context(), None)).unwrap().writer(vec![]);
            plaintext.chunks(step).for_each(|piece| writer.write_all(piece).unwrap());
            let message = writer.finish().unwrap();
            assert_eq!(pieces(&message), pieces(&encrypt(&envelope, &plaintext)));
            let mut source = &message[..];
            let mut writer = decryptor(&envelope, &mut source).unwrap().writer(vec![]);
            source.chunks(step).for_each(|piece| writer.write_all(piece).unwrap());
            assert!(
                writer.finish().unwrap() == plaintext,
                "frames of {frame_length}, writes of {step}"
            );
        }
    }
}

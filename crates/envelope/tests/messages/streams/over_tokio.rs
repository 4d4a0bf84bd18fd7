//! Streams over the asynchronous traits of tokio.

use envelope::{AlgorithmSuite, Error};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{context, encrypt, envelope, plaintext};

#[tokio::test]
async fn both_directions_through_a_pipe_that_holds_little() {
    for frame_length in [1, 128, 4096, 100_000, 0] {
        let envelope = envelope(AlgorithmSuite::default(), frame_length);
        let plaintext = plaintext(if frame_length == 1 { 3000 } else { 300_000 });
        let (near, mut far) = duplex(100);
        let encryptor = envelope.encryptor(&context(), Some(plaintext.len() as u64)).await.unwrap();
        let send = async {
            let mut writer = encryptor.writer(near);
            for part in plaintext.chunks(1021) {
                writer.write_all(part).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let receive = async {
            let header = envelope.read_header_async(&mut far).await.unwrap();
            let decryptor = envelope.decryptor_before_signature(&header, &context()).await.unwrap();
            let mut read = vec![];
            decryptor.reader(far).read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(send, receive);
        assert_eq!(read, plaintext, "frames of {frame_length}");

        // The other two: read the message, write the plaintext.
        let mut message = vec![];
        let encryptor = envelope.encryptor(&context(), None).await.unwrap();
        encryptor.reader(&plaintext[..]).read_to_end(&mut message).await.unwrap();
        let mut source = &message[..];
        let header = envelope.read_header_async(&mut source).await.unwrap();
        let decryptor = envelope.decryptor_before_signature(&header, &context()).await.unwrap();
        let mut writer = decryptor.writer(vec![]);
        writer.write_all(source).await.unwrap();
        assert_eq!(writer.finish_async().await.unwrap(), plaintext, "frames of {frame_length}");
    }
}

#[tokio::test]
async fn two_messages_in_one_connection() {
    let envelope = envelope(AlgorithmSuite::default(), 128);
    let (mut near, mut far) = duplex(1 << 16);
    for length in [1000, 256] {
        let mut writer = envelope.encryptor(&context(), None).await.unwrap().writer(near);
        writer.write_all(&plaintext(length)).await.unwrap();
        near = writer.finish_async().await.unwrap();
    }
    // The connection stays open: who read on for the end would wait for ever.
    for length in [1000, 256] {
        let header = envelope.read_header_async(&mut far).await.unwrap();
        let decryptor = envelope.decryptor(&header, &context()).await.unwrap();
        let mut reader = decryptor.stop_at_message_end().reader(far);
        let mut read = vec![];
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, plaintext(length));
        far = reader.into_source();
    }
    drop(near);
}

#[tokio::test]
async fn a_cut_header_and_a_cut_body_are_errors() {
    let envelope = envelope(AlgorithmSuite::default(), 4);
    let message = encrypt(&envelope, b"aaaabbbbcc");
    for end in 0..message.len() {
        let mut source = &message[..end];
        let failed = match envelope.read_header_async(&mut source).await {
            Err(error) => error,
            Ok(header) => {
                let decryptor =
                    envelope.decryptor_before_signature(&header, &context()).await.unwrap();
                decryptor.reader(source).read_to_end(&mut vec![]).await.unwrap_err()
            }
        };
        assert!(matches!(Error::in_io(&failed), Some(Error::Truncated { .. })), "{failed:?}");
    }
}

/// A caller that stops waiting loses none of the existing data.
#[tokio::test]
async fn a_cancelled_read_or_write_can_be_taken_up_again() {
    let envelope = envelope(AlgorithmSuite::default(), 128);
    let plaintext = plaintext(1000);
    // Room for the header, but not for all.
    let (near, mut far) = duplex(1000);
    let mut writer = envelope.encryptor(&context(), None).await.unwrap().writer(near);
    writer.write_all(&plaintext).await.unwrap();
    assert!(writer.shutdown().now_or_never().is_none(), "the pipe is full");
    let header = envelope.read_header_async(&mut far).await.unwrap();
    let decryptor = envelope.decryptor_before_signature(&header, &context()).await.unwrap();
    let mut reader = decryptor.reader(far);
    let mut read = vec![];
    let mut buffer = [0; 50];
    loop {
        match reader.read(&mut buffer).now_or_never() {
            Some(count) => match count.unwrap() {
                0 => break,
                count => read.extend_from_slice(&buffer[..count]),
            },
            None => drop(writer.shutdown().now_or_never()),
        }
    }
    assert_eq!(read, plaintext);
}

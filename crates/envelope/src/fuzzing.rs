//! Doors for the fuzz targets into rooms that are closed otherwise. Only built by `cargo fuzz`.

use crate::format::{
    codec::Reader,
    encrypted_data_key, header,
    header::{HeaderBody, UnverifiedHeader},
};

/// Reads a header, and checks that writing it again gives the bytes that were read.
pub fn header_round_trip(bytes: &[u8]) {
    let mut reader = Reader::new(bytes, 0);
    let Ok(header) = UnverifiedHeader::read(&mut reader, usize::MAX) else { return };
    let context = crate::EncryptionContext::from_serialized(header.encryption_context, 0).expect("it was checked");
    let context = crate::EncryptionContext::new(context.iter()).expect("its pairs are unique");
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
}

//! Doors for the fuzz targets into rooms that are closed otherwise. Only built by `cargo fuzz`, and for tests.

use crate::format::{
    codec::Reader,
    encrypted_data_key, header,
    header::{HeaderBody, UnverifiedHeader},
};

/// Reads a header, and checks that writing it again gives the bytes that were read.
pub fn header_round_trip(bytes: &[u8]) {
    let _ = read_and_write(bytes);
}

/// The same; tells whether it was a header.
fn read_and_write(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes, 0);
    let Ok(header) = UnverifiedHeader::read(&mut reader, usize::MAX) else { return false };
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
    true
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, path::PathBuf};

    use super::*;

    /// 360 messages that the Python client 1.3.5 wrote; see `tests/published_vectors.rs` for where they are.
    #[test]
    fn headers_of_python_1_3_5_write_back_to_the_same_bytes() {
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

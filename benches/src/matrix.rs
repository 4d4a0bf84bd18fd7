//! Every operation at every size, suite, frame length and number of threads, with its floors.

use std::{
    collections::HashMap,
    fmt,
    hint::black_box,
    io::{Read as _, Write as _},
    sync::Arc,
};

use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptionMaterialsRequest,
        MaterialsManager as _,
    },
};

use crate::{
    LONG, Result, context, done, finished,
    floor::{Backend, Floor},
    raw_aes, warm_with,
};

/// Plaintext lengths in bytes.
pub const SIZES: [usize; 7] = [16, 256, 1024, 4096, 65_536, 1_048_576, 67_108_864];
/// With key commitment, with key commitment and signature, with neither.
pub const SUITES: [AlgorithmSuite; 3] = [
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKey,
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384,
    AlgorithmSuite::Aes256GcmHkdfSha256,
];
/// Frame lengths in bytes. `None` is the body in one piece.
pub const FRAME_LENGTHS: [Option<u32>; 3] = [Some(4096), Some(65_536), None];
/// Threads that do the same at the same time, with one client.
pub const THREADS: [usize; 2] = [1, 2];

/// The measured operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `try_encrypt`.
    Encrypt,
    /// `try_decrypt`.
    Decrypt,
    /// `encryptor` and `writer`, into memory.
    EncryptStream,
    /// `read_header`, `decryptor` and `reader`, into memory.
    DecryptStream,
    /// `read_header`. Its floor is a copy of the bytes of the header.
    ReadHeader,
    /// A data key from the cache. Its floor is a lookup in a `HashMap`, and a clone of its `Arc`.
    CacheHit,
}

/// A row of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The measured operation.
    pub operation: Operation,
    /// The suite.
    pub suite: AlgorithmSuite,
    /// Bytes in a frame.
    pub frame_length: Option<u32>,
    /// Bytes of plaintext. Zero if the operation does not depend on it.
    pub size: usize,
}

/// One way to do what a case says.
pub type Side = Box<dyn Fn() + Send + Sync>;
/// The library, and the floors with their names.
pub type Sides = (Side, Vec<(&'static str, Side)>);

/// Returns the rows, without the threads.
#[must_use]
pub fn cases() -> Vec<Case> {
    use Operation::{CacheHit, Decrypt, DecryptStream, Encrypt, EncryptStream, ReadHeader};
    let mut cases = vec![];
    for suite in SUITES {
        for operation in [ReadHeader, CacheHit] {
            cases.push(Case { operation, suite, frame_length: FRAME_LENGTHS[0], size: 0 });
        }
        for operation in [Encrypt, Decrypt, EncryptStream, DecryptStream] {
            for frame_length in FRAME_LENGTHS {
                cases.extend(SIZES.map(|size| Case { operation, suite, frame_length, size }));
            }
        }
    }
    cases
}

impl Case {
    /// Returns the names of the floors, without any setup.
    #[must_use]
    pub fn floors(self) -> &'static [&'static str] {
        match self.operation {
            Operation::ReadHeader => &["copy"],
            Operation::CacheHit => &["HashMap"],
            _ => &["aws-lc", "rustcrypto"],
        }
    }

    /// Sets up the library and the floors.
    pub fn sides(self) -> Result<Sides> {
        let context = context();
        if self.operation == Operation::CacheHit {
            return cache_hit(self.suite, context);
        }
        let envelope = warm_with(raw_aes()?, &context, self.suite, self.frame_length)?;
        let plaintext = vec![7; self.size];
        let message = envelope.try_encrypt(&plaintext, &context)?;
        if self.operation == Operation::ReadHeader {
            let header = message[..envelope.read_header(&mut &message[..])?.length()].to_vec();
            let library = move || done(envelope.read_header(&mut black_box(&message[..])));
            let copy = move || done(black_box(&header).clone());
            return Ok((Box::new(library), vec![("copy", Box::new(copy))]));
        }
        let floor = |backend: Backend| (backend.name(), self.floor(backend, plaintext.clone()));
        let floors = Backend::ALL.map(floor).into();
        Ok((self.library(envelope, context, plaintext, message), floors))
    }

    fn library(
        self,
        envelope: Envelope,
        context: EncryptionContext,
        plaintext: Vec<u8>,
        message: Vec<u8>,
    ) -> Side {
        match self.operation {
            Operation::Encrypt => {
                Box::new(move || done(envelope.try_encrypt(black_box(&plaintext), &context)))
            }
            Operation::Decrypt => {
                Box::new(move || done(envelope.try_decrypt(black_box(&message), &context)))
            }
            Operation::EncryptStream => {
                Box::new(move || done(encrypt_stream(&envelope, &context, &plaintext, &message)))
            }
            _ => Box::new(move || done(decrypt_stream(&envelope, &context, &plaintext, &message))),
        }
    }

    fn floor(self, backend: Backend, plaintext: Vec<u8>) -> Side {
        let floor = Floor::new(backend, self.suite, self.frame_length);
        if matches!(self.operation, Operation::Encrypt | Operation::EncryptStream) {
            return Box::new(move || done(floor.encrypt(black_box(&plaintext))));
        }
        let message = floor.encrypt(&plaintext);
        Box::new(move || done(floor.decrypt(black_box(&message))))
    }
}

/// The operation, the suite and the frame length.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Encrypt => "encrypt",
            Operation::Decrypt => "decrypt",
            Operation::EncryptStream => "encrypt stream",
            Operation::DecryptStream => "decrypt stream",
            Operation::ReadHeader => return write!(f, "read header {}", self.suite),
            Operation::CacheHit => return write!(f, "cache hit {}", self.suite),
        };
        match self.frame_length {
            Some(length) => write!(f, "{operation} {} frames of {length}", self.suite),
            None => write!(f, "{operation} {} in one piece", self.suite),
        }
    }
}

fn encrypt_stream(
    envelope: &Envelope,
    context: &EncryptionContext,
    plaintext: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let encryptor = finished(envelope.encryptor(context, Some(plaintext.len() as u64)));
    // A signature may be a few bytes longer than the last one.
    let sink = Vec::with_capacity(message.len() + 16);
    let mut writer = encryptor.expect("a short context").writer(sink);
    writer.write_all(black_box(plaintext)).expect("memory does not fail");
    writer.finish().expect("memory does not fail")
}

fn decrypt_stream(
    envelope: &Envelope,
    context: &EncryptionContext,
    plaintext: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let mut source = black_box(message);
    let header = envelope.read_header(&mut source).expect("it was encrypted here");
    let decryptor = finished(envelope.decryptor_before_signature(&header, context));
    let mut decrypted = Vec::with_capacity(plaintext.len() + 1);
    let mut reader = decryptor.expect("it was encrypted here").reader(source);
    reader.read_to_end(&mut decrypted).expect("it was encrypted here");
    decrypted
}

fn cache_hit(suite: AlgorithmSuite, context: EncryptionContext) -> Result<Sides> {
    let source = DefaultMaterialsManager::new(raw_aes()?);
    let manager = CachingMaterialsManager::builder(source).max_age(LONG).build()?;
    let request = EncryptionMaterialsRequest::new(suite, &context, Some(1024));
    futures_executor::block_on(manager.encryption_materials(request))?;
    let key = context.as_serialized().to_vec();
    let map = HashMap::from([(key.clone(), Arc::new(DataKey::generate(32)?))]);
    let library = move || {
        let request = EncryptionMaterialsRequest::new(suite, black_box(&context), Some(1024));
        let mut hit = None;
        let found = manager.cached_encryption_materials(request, &mut |it| hit = Some(it.clone()));
        done((found, hit));
    };
    let lookup = move || done(map.get(black_box(&key)).cloned());
    Ok((Box::new(library), vec![("HashMap", Box::new(lookup))]))
}

//! Every operation at every size, suite, frame length and number of threads, each beside its
//! floors.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    hint::black_box,
    io::{Read as _, Write as _},
    sync::Arc,
};

use crate::{
    FOR_LONG, context, finished,
    floor::{Backend, Floor},
    raw_aes, warm_for,
};
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptionMaterialsRequest,
        MaterialsManager as _,
    },
    stream::DecryptionMode,
};

/// Plaintext lengths in bytes.
pub const SIZES: [usize; 7] = [16, 256, 1024, 4096, 65_536, 1_048_576, 67_108_864];
/// With commitment, with commitment and signature, with neither.
pub const SUITES: [AlgorithmSuite; 3] = [
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKey,
    AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384,
    AlgorithmSuite::Aes256GcmHkdfSha256,
];
/// Frame lengths in bytes; `None` is the body in one piece.
pub const FRAME_LENGTHS: [Option<u32>; 3] = [Some(4096), Some(65_536), None];
/// Threads that do the same at once, on one client.
pub const THREADS: [usize; 2] = [1, 2];

/// The measured operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `try_encrypt`.
    Seal,
    /// `try_decrypt`.
    Open,
    /// `encryptor` and `writer`, into memory.
    SealStream,
    /// `read_header`, `decryptor` and `reader`, into memory.
    OpenStream,
    /// `read_header` alone. Its floor is a copy of the header's bytes, since it keeps them.
    ReadHeader,
    /// A data key from the cache alone. Its floor is a look-up in a `HashMap`, and a clone of the
    /// `Arc` in it.
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
    /// Bytes of plaintext; zero where it is of no account.
    pub size: usize,
}

/// One way to do what a case says.
pub type Side = Box<dyn Fn() + Send + Sync>;
/// The library's side, and the floors by their names.
pub type Sides = (Side, Vec<(&'static str, Side)>);

/// The rows, without the threads.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for suite in SUITES {
        for operation in [Operation::ReadHeader, Operation::CacheHit] {
            cases.push(Case { operation, suite, frame_length: FRAME_LENGTHS[0], size: 0 });
        }
        for operation in
            [Operation::Seal, Operation::Open, Operation::SealStream, Operation::OpenStream]
        {
            for frame_length in FRAME_LENGTHS {
                cases.extend(SIZES.map(|size| Case { operation, suite, frame_length, size }));
            }
        }
    }
    cases
}

impl Case {
    /// The floors' names, without setting anything up.
    #[must_use]
    pub fn floors(self) -> &'static [&'static str] {
        match self.operation {
            Operation::ReadHeader => &["copy"],
            Operation::CacheHit => &["HashMap"],
            _ => &["aws-lc", "rustcrypto"],
        }
    }

    /// What takes turns.
    ///
    /// # Errors
    ///
    /// None, unless the machine has no random numbers.
    pub fn sides(self) -> Result<Sides, Box<dyn Error>> {
        let context = context()?;
        if self.operation == Operation::CacheHit {
            return cache_hit(self.suite, &context);
        }
        let envelope = finished(warm_for(self.suite, self.frame_length))?;
        let plaintext = vec![7; self.size];
        let message = envelope.try_encrypt(&plaintext, &context)?;
        if self.operation == Operation::ReadHeader {
            let header = message[..envelope.read_header(&mut &message[..])?.length()].to_vec();
            let library = move || done(envelope.read_header(&mut black_box(&message[..])));
            return Ok((
                Box::new(library),
                vec![("copy", Box::new(move || done(black_box(&header).clone())))],
            ));
        }
        let floors =
            Backend::ALL.map(|backend| (backend.name(), self.floor(backend, plaintext.clone())));
        Ok((self.library(envelope, context, plaintext, message), floors.into()))
    }

    fn library(
        self,
        envelope: Envelope,
        context: EncryptionContext,
        plaintext: Vec<u8>,
        message: Vec<u8>,
    ) -> Side {
        match self.operation {
            Operation::Seal => {
                Box::new(move || done(envelope.try_encrypt(black_box(&plaintext), &context)))
            }
            Operation::Open => {
                Box::new(move || done(envelope.try_decrypt(black_box(&message), &context)))
            }
            Operation::SealStream => {
                Box::new(move || done(seal_stream(&envelope, &context, &plaintext, &message)))
            }
            _ => Box::new(move || done(open_stream(&envelope, &context, &plaintext, &message))),
        }
    }

    fn floor(self, backend: Backend, plaintext: Vec<u8>) -> Side {
        let floor =
            Floor::new(backend, self.suite, self.frame_length.map(|length| length as usize));
        if matches!(self.operation, Operation::Seal | Operation::SealStream) {
            return Box::new(move || done(floor.seal(black_box(&plaintext))));
        }
        let sealed = floor.seal(&plaintext);
        Box::new(move || done(floor.open(black_box(&sealed))))
    }
}

/// The operation, the suite and the frame length.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Seal => "seal",
            Operation::Open => "open",
            Operation::SealStream => "seal stream",
            Operation::OpenStream => "open stream",
            Operation::ReadHeader => return write!(f, "read header {}", self.suite),
            Operation::CacheHit => return write!(f, "cache hit {}", self.suite),
        };
        match self.frame_length {
            Some(length) => write!(f, "{operation} {} frames of {length}", self.suite),
            None => write!(f, "{operation} {} in one piece", self.suite),
        }
    }
}

fn seal_stream(
    envelope: &Envelope,
    context: &EncryptionContext,
    plaintext: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let encryptor = finished(envelope.encryptor(context, Some(plaintext.len() as u64)))
        .expect("a short context");
    // A signature may be some bytes longer than the last one.
    let mut writer = encryptor.writer(Vec::with_capacity(message.len() + 16));
    writer.write_all(black_box(plaintext)).expect("memory takes it");
    writer.finish().expect("memory takes it")
}

fn open_stream(
    envelope: &Envelope,
    context: &EncryptionContext,
    plaintext: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let mut source = black_box(message);
    let header = envelope.read_header(&mut source).expect("it was sealed here");
    let decryptor = finished(envelope.decryptor(
        &header,
        context,
        DecryptionMode::ReleaseBeforeSignatureIsVerified,
    ));
    let decryptor = decryptor.expect("it was sealed here");
    let mut opened = Vec::with_capacity(plaintext.len() + 1);
    decryptor.reader(source).read_to_end(&mut opened).expect("it was sealed here");
    opened
}

fn cache_hit(suite: AlgorithmSuite, context: &EncryptionContext) -> Result<Sides, Box<dyn Error>> {
    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(raw_aes()?))
        .max_age(FOR_LONG)
        .build()?;
    let request = EncryptionMaterialsRequest::new(suite, context, Some(1024));
    finished(manager.encryption_materials(request))?;
    let map = HashMap::from([(context.as_serialized().to_vec(), Arc::new(DataKey::generate(32)?))]);
    let (context, key) = (context.clone(), context.as_serialized().to_vec());
    let library = move || {
        let request = EncryptionMaterialsRequest::new(suite, black_box(&context), Some(1024));
        let mut hit = None;
        let found = manager.cached_encryption_materials(request, &mut |it| hit = Some(it.clone()));
        done((found, hit));
    };
    Ok((
        Box::new(library),
        vec![("HashMap", Box::new(move || done(map.get(black_box(&key)).cloned())))],
    ))
}

fn done<T>(outcome: T) {
    drop(black_box(outcome));
}

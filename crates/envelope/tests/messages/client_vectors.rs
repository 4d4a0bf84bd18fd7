//! Messages that the AWS Encryption SDKs for Python and JavaScript wrote: each opens, and no longer
//! once it is changed.
//!
//! `tests/interop/make_vectors` had them written; `vectors/README.md` tells what they are.

use std::{collections::BTreeMap, fs, io::Read, ops::Range, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
#[cfg(feature = "aws-lc-rs")]
use envelope::keyring::{RawRsaKeyring, RsaPadding, RsaPrivateKey};
use envelope::{
    AlgorithmSuite, CommitmentPolicy, DataKey, EncryptionContext, Envelope, Error,
    keyring::RawAesKeyring, materials::DefaultMaterialsManager, stream::UnverifiedHeader,
};
use futures_util::FutureExt;
use serde_json::Value;

/// What signatures and RSA come from.
const HAS_AWS_LC: bool = cfg!(feature = "aws-lc-rs");

/// Whether that is the error to expect.
type IsRight = fn(&Error) -> bool;

/// A message, and how it was made.
struct Vector {
    name: String,
    message: Vec<u8>,
    plaintext: Vec<u8>,
    suite: AlgorithmSuite,
    frame_length: Option<u32>,
    context: EncryptionContext,
    /// Those that wrapped the data key, as the manifest describes them.
    keys: Vec<Value>,
}

impl Vector {
    /// All of them.
    fn read() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let manifest: Value =
            serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let writers = ["python", "javascript"];
        let packed = writers
            .map(|writer| (writer, fs::read(folder.join(format!("{writer}.messages"))).unwrap()));
        let packed = BTreeMap::from(packed);
        let read = |(name, described): (&String, &Value)| {
            let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let range = number(&described["message"][0])..number(&described["message"][1]);
            let context = manifest["contexts"][text(&described["context"])].as_object().unwrap();
            let frame_length = u32::try_from(number(&described["frame_length"])).unwrap();
            let keys = described["keys"].as_array().unwrap();
            Self {
                name: name.clone(),
                message: packed[&*text(&described["writer"])][range].to_vec(),
                plaintext: (0..number(&described["plaintext_length"]))
                    .map(|i| (i % 251).try_into().unwrap())
                    .collect(),
                suite: AlgorithmSuite::from_id(number(&described["suite"]).try_into().unwrap())
                    .unwrap(),
                frame_length: (frame_length != 0).then_some(frame_length),
                context: EncryptionContext::new(
                    context.iter().map(|(key, value)| (key, text(value))),
                )
                .unwrap(),
                keys: keys.iter().map(|key| manifest["keys"][text(key)].clone()).collect(),
            }
        };
        manifest["messages"].as_object().unwrap().iter().map(read).collect()
    }

    /// Those that this build can open.
    fn usable() -> Vec<Self> {
        let all = Self::read();
        let count = all.len();
        let usable = |vector: &Self| {
            HAS_AWS_LC || !vector.suite.is_signed() && vector.keys.iter().any(is_aes)
        };
        let usable: Vec<_> = all.into_iter().filter(usable).collect();
        if usable.len() < count {
            let left_out = count - usable.len();
            println!(
                "left out {left_out} of {count} messages: without aws-lc-rs, signed messages and \
                 RSA are not supported"
            );
        }
        assert!(usable.len() >= 200, "{} messages", usable.len());
        usable
    }

    /// A client for each of the wrapping keys alone.
    fn each_key(&self) -> Vec<Envelope> {
        let keys = self.keys.iter().filter(|key| HAS_AWS_LC || is_aes(key));
        keys.map(|key| self.envelope(key)).collect()
    }

    fn envelope(&self, key: &Value) -> Envelope {
        let policy = if self.suite.commits_to_key() {
            CommitmentPolicy::RequireEncryptRequireDecrypt
        } else {
            CommitmentPolicy::RequireEncryptAllowDecrypt
        };
        let builder = Envelope::builder(manager(key)).commitment_policy(policy);
        builder.max_encrypted_data_keys(4).build().unwrap()
    }

    /// Fails as `is_right` says, in one piece and as a stream. How many cases that was.
    fn fails(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        what: &str,
        is_right: IsRight,
    ) -> usize {
        let mut cases = 0;
        for envelope in self.each_key() {
            for open in [in_one_piece, as_stream] {
                let error = open(&envelope, message, context).expect_err(what);
                assert!(is_right(&error), "{}: {what}: {error:?}", self.name);
                cases += 1;
            }
        }
        cases
    }

    fn header_length(&self) -> usize {
        UnverifiedHeader::read(&mut &self.message[..], 4).unwrap().length()
    }

    /// The encrypted content of each frame, or of the body in one piece; its tag follows.
    fn contents(&self) -> Vec<Range<usize>> {
        let mut source = &self.message[..];
        let header = UnverifiedHeader::read(&mut source, 4).unwrap();
        let mut contents = vec![];
        let content = |range: Range<u64>| {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            contents.push(start..end);
        };
        header.read_body(source, content).unwrap();
        contents
    }

    /// What to change, at which byte, and how that has to fail.
    fn changes(&self) -> Vec<(&'static str, usize, IsRight)> {
        let (contents, header) = (self.contents(), self.header_length());
        let (first, last) = (contents.first().unwrap(), contents.last().unwrap());
        let is_authentication: IsRight = |error| matches!(error, Error::Authentication);
        let mut changes: Vec<(_, _, IsRight)> = vec![
            ("the version", 0, |error| matches!(error, Error::Unsupported { offset: 0, .. })),
            ("the message id", 10, is_authentication),
            ("the header's tag", header - 1, is_authentication),
            ("the first tag", first.end, is_authentication),
            ("the last tag", last.end + 15, is_authentication),
        ];
        if let [key] = &self.keys[..] {
            let authenticated = if self.suite.commits_to_key() { 32 + 16 } else { 12 + 16 };
            // Before them: the content type, 4 reserved bytes and the IV's length in version 1, the
            // frame length.
            let before = if self.suite.commits_to_key() { 1 + 4 } else { 1 + 4 + 1 + 4 };
            let is_right: IsRight = match key["raw_rsa"]["padding"].as_str() {
                // It unwraps any input to some data key, so that failures reveal nothing.
                Some("PKCS1") => |error| {
                    matches!(error, Error::DataKeyNotUnwrapped { .. } | Error::Authentication)
                },
                _ => |error| matches!(error, Error::DataKeyNotUnwrapped { .. }),
            };
            changes.push(("the wrapped data key", header - authenticated - before - 1, is_right));
        }
        if !last.is_empty() {
            changes.push(("the last content", last.end - 1, is_authentication));
        }
        if self.suite.is_signed() {
            changes.push(("the signature", self.message.len() - 1, is_authentication));
        }
        changes
    }
}

fn is_aes(key: &Value) -> bool {
    key.get("raw_aes").is_some()
}

fn manager(key: &Value) -> DefaultMaterialsManager {
    #[cfg(feature = "aws-lc-rs")]
    if !is_aes(key) {
        return DefaultMaterialsManager::new(rsa_keyring(&key["raw_rsa"]));
    }
    let text = |field| key["raw_aes"][field].as_str().unwrap();
    let material = DataKey::from_vec(BASE64_STANDARD.decode(text("key")).unwrap());
    DefaultMaterialsManager::new(
        RawAesKeyring::new(text("namespace"), text("name"), &material).unwrap(),
    )
}

#[cfg(feature = "aws-lc-rs")]
fn rsa_keyring(key: &Value) -> RawRsaKeyring {
    let text = |field: &str| key[field].as_str().unwrap();
    let padding = match text("padding") {
        "PKCS1" => RsaPadding::Pkcs1,
        "OAEP_SHA1_MGF1" => RsaPadding::OaepSha1Mgf1,
        "OAEP_SHA256_MGF1" => RsaPadding::OaepSha256Mgf1,
        "OAEP_SHA384_MGF1" => RsaPadding::OaepSha384Mgf1,
        "OAEP_SHA512_MGF1" => RsaPadding::OaepSha512Mgf1,
        other => panic!("another padding: {other}"),
    };
    let file = format!("tests/data/rsa/test-only-{}.private.pkcs8.pem", key["bits"]);
    let pem = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let private = RsaPrivateKey::from_pem(pem).unwrap();
    RawRsaKeyring::with_private_key(text("namespace"), text("name"), padding, private).unwrap()
}

/// What a message holds, and the encryption context that it says.
type Opened = Result<(Vec<u8>, EncryptionContext), Error>;

/// What a local keyring answers, which never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a local keyring never waits")
}

fn in_one_piece(envelope: &Envelope, message: &[u8], context: &EncryptionContext) -> Opened {
    let opened = now(envelope.decrypt(message, context))?;
    let context = opened.encryption_context().clone();
    Ok((opened.into_plaintext(), context))
}

fn as_stream(envelope: &Envelope, message: &[u8], context: &EncryptionContext) -> Opened {
    let in_io =
        |error: std::io::Error| Error::in_io(&error).expect("the source does not fail").clone();
    let mut source = message;
    let header = envelope.read_header(&mut source).map_err(in_io)?;
    let decryptor = now(envelope.decryptor_before_signature(&header, context))?;
    let stored = decryptor.encryption_context().clone();
    let mut plaintext = vec![];
    decryptor.reader(source).read_to_end(&mut plaintext).map_err(in_io)?;
    Ok((plaintext, stored))
}

/// Without the public key that a signed message holds there.
fn without_public_key(context: &EncryptionContext) -> EncryptionContext {
    EncryptionContext::new(context.iter().filter(|(key, _)| *key != "aws-crypto-public-key"))
        .unwrap()
}

#[test]
fn each_message_opens_with_each_of_its_keys() {
    let (vectors, mut cases) = (Vector::usable(), 0);
    for vector in &vectors {
        let name = &vector.name;
        let header = UnverifiedHeader::read(&mut &vector.message[..], 4).unwrap();
        assert_eq!(
            (header.suite(), header.frame_length()),
            (vector.suite, vector.frame_length),
            "{name}"
        );
        assert_eq!(header.encrypted_data_keys().count(), vector.keys.len(), "{name}");
        for envelope in vector.each_key() {
            for open in [in_one_piece, as_stream] {
                for supplied in [&vector.context, &EncryptionContext::empty()] {
                    let (plaintext, context) =
                        open(&envelope, &vector.message, supplied).expect(name);
                    assert!(plaintext == vector.plaintext, "{name}: another plaintext");
                    assert_eq!(without_public_key(&context), vector.context, "{name}");
                    cases += 1;
                }
            }
        }
    }
    println!("{} messages opened in {cases} ways", vectors.len());
}

#[test]
fn another_context_is_refused() {
    let mut cases = 0;
    for vector in Vector::usable() {
        let stored: Vec<_> = vector.context.iter().collect();
        for &(key, value) in &stored {
            let changed = EncryptionContext::new([(key, format!("{value}!"))]).unwrap();
            cases += vector.fails(&vector.message, &changed, "another value", |error| {
                matches!(error, Error::EncryptionContextMismatch { .. })
            });
        }
        // It stands for a pair that is required, and so would be authenticated though it is not
        // stored.
        let more = EncryptionContext::new(stored.into_iter().chain([("another", "pair")])).unwrap();
        cases += vector.fails(&vector.message, &more, "another pair", |error| match error {
            Error::DataKeyNotUnwrapped { not_stored, .. } => *not_stored == ["another"],
            // RSA knows nothing of the context, the header does.
            error => matches!(error, Error::Authentication),
        });
    }
    println!("{cases} times another context was refused");
}

#[test]
fn a_changed_byte_is_refused() {
    let mut cases = BTreeMap::new();
    for vector in Vector::usable() {
        for (what, at, is_right) in vector.changes() {
            let mut changed = vector.message.clone();
            changed[at] ^= 1;
            *cases.entry(what).or_insert(0) +=
                vector.fails(&changed, &vector.context, what, is_right);
        }
        let cut = &vector.message[..vector.message.len() - 1];
        let is_right: IsRight = |error| matches!(error, Error::Truncated { .. });
        *cases.entry("cut").or_insert(0) += vector.fails(cut, &vector.context, "cut", is_right);
        let longer = [&vector.message[..], &[0]].concat();
        let is_right: IsRight = |error| matches!(error, Error::TrailingBytes { .. });
        *cases.entry("longer").or_insert(0) +=
            vector.fails(&longer, &vector.context, "longer", is_right);
    }
    println!("refused: {cases:?}");
}

//! Messages that the AWS Encryption SDK projects publish: each opens, or fails, as they say.
//!
//! The archives are not part of this project. They are looked for where `ENVELOPE_VECTORS` points,
//! and in `shared/vectors` beside the checkout; a test says so and passes where there are none.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use envelope::{
    CommitmentPolicy, DataKey, EncryptionContext, Envelope, Error,
    keyring::{
        Keyring, MultiKeyring, RawAesKeyring, RawRsaKeyring, RsaPadding, RsaPrivateKey,
        RsaPublicKey,
    },
    materials::DefaultMaterialsManager,
};
use futures_util::FutureExt;
use serde_json::Value;
use zip::ZipArchive;

/// The archive with this name, or why there is none.
fn archive(name: &str) -> Option<Vectors> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let folder = std::env::var_os("ENVELOPE_VECTORS").map_or(beside, PathBuf::from);
    let path = folder.join(name);
    let Ok(file) = File::open(&path) else {
        println!(
            "skipped {name}: not at {}; ENVELOPE_VECTORS names another folder",
            path.display()
        );
        return None;
    };
    let mut vectors =
        Vectors { archive: ZipArchive::new(file).unwrap(), keys: Value::Null, tests: Value::Null };
    vectors.keys =
        serde_json::from_slice::<Value>(&vectors.read("keys.json")).unwrap()["keys"].take();
    vectors.tests =
        serde_json::from_slice::<Value>(&vectors.read("manifest.json")).unwrap()["tests"].take();
    Some(vectors)
}

struct Vectors {
    archive: ZipArchive<File>,
    keys: Value,
    tests: Value,
}

impl Vectors {
    fn read(&mut self, name: &str) -> Vec<u8> {
        let mut bytes = vec![];
        self.archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Every test: its name, its manifest, its message and its plaintext.
    fn each(&mut self, mut run: impl FnMut(&str, &Value, &Value, &[u8], &[u8])) {
        let (tests, keys) = (self.tests.clone(), self.keys.clone());
        for (name, test) in tests.as_object().unwrap() {
            let message =
                self.read(test["ciphertext"].as_str().unwrap().trim_start_matches("file://"));
            let output = &test["result"]["output"]["plaintext"];
            let plaintext =
                output.as_str().map(|path| self.read(path.trim_start_matches("file://")));
            run(name, test, &keys, &message, &plaintext.unwrap_or_default());
        }
    }
}

/// A client with the raw keyrings that the test names; `None` where they are AWS KMS's, whose keys
/// are not ours.
fn envelope(test: &Value, keys: &Value) -> Option<Envelope> {
    let mut multi = None;
    for described in test["master-keys"].as_array().unwrap() {
        let key = &keys[described["key"].as_str().unwrap()];
        let string = |value: &Value| value.as_str().unwrap().to_owned();
        let name = string(&key["key-id"]);
        let added = match described["encryption-algorithm"].as_str()? {
            "aes" => {
                let material =
                    DataKey::from_vec(BASE64_STANDARD.decode(string(&key["material"])).unwrap());
                add(
                    multi,
                    RawAesKeyring::new(string(&described["provider-id"]), name, &material).unwrap(),
                )
            }
            "rsa" => {
                let padding = match described["padding-hash"].as_str().unwrap() {
                    "sha256" => RsaPadding::OaepSha256Mgf1,
                    "sha512" => RsaPadding::OaepSha512Mgf1,
                    other => panic!("another hash: {other}"),
                };
                let (namespace, pem) =
                    (string(&described["provider-id"]), string(&key["material"]));
                let keyring = if key["type"] == "private" {
                    let key = RsaPrivateKey::from_pem(pem).unwrap();
                    RawRsaKeyring::with_private_key(namespace, name, padding, key).unwrap()
                } else {
                    let key = RsaPublicKey::from_pem(&pem).unwrap();
                    RawRsaKeyring::with_public_key(namespace, name, padding, key).unwrap()
                };
                add(multi, keyring)
            }
            other => panic!("another algorithm: {other}"),
        };
        multi = Some(added);
    }
    let manager = DefaultMaterialsManager::new(multi.unwrap());
    Some(
        Envelope::builder(manager)
            .commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt)
            .build()
            .unwrap(),
    )
}

fn add(multi: Option<MultiKeyring>, keyring: impl Keyring + 'static) -> MultiKeyring {
    match multi {
        None => MultiKeyring::without_generator(keyring),
        Some(multi) => multi.with_child(keyring).unwrap(),
    }
}

fn open(
    envelope: &Envelope,
    message: &[u8],
    context: &EncryptionContext,
) -> Result<Vec<u8>, Error> {
    let opened =
        envelope.decrypt(message, context).now_or_never().expect("local keyrings never wait");
    opened.map(envelope::Decrypted::into_plaintext)
}

/// Opens each raw message with and without the test's context. Gives how many there are, how many
/// open with it, and how many without.
fn outcomes(vectors: &mut Vectors, required: Option<bool>) -> (u32, u32, u32) {
    let mut counts = (0, 0, 0);
    vectors.each(|name, test, keys, message, plaintext| {
        let is_required = test["cmm"] == "RequiredEncryptionContext";
        let Some(envelope) =
            envelope(test, keys).filter(|_| required.is_none_or(|wanted| wanted == is_required))
        else {
            return;
        };
        let pairs = test["encryption-context"].as_object().unwrap();
        let context =
            EncryptionContext::new(pairs.iter().map(|(key, value)| (key, value.as_str().unwrap())))
                .unwrap();
        counts.0 += 1;
        for (context, count) in
            [(context, &mut counts.1), (EncryptionContext::empty(), &mut counts.2)]
        {
            if let Ok(opened) = open(&envelope, message, &context) {
                assert_eq!(opened, plaintext, "{name}");
                *count += 1;
            }
        }
    });
    counts
}

#[test]
fn v4_default_messages_open_with_their_context_and_without() {
    let Some(mut vectors) = archive("v4-Net-4.0.1.zip") else { return };
    assert_eq!(outcomes(&mut vectors, Some(false)), (66, 66, 66));
}

#[test]
fn v4_required_context_messages_open_with_their_context_alone() {
    let Some(mut vectors) = archive("v4-Net-4.0.1.zip") else { return };
    assert_eq!(outcomes(&mut vectors, Some(true)), (33, 33, 0));
}

#[test]
fn valid_messages_open_with_their_context_alone() {
    let Some(mut vectors) = archive("valid-Net-4.0.0.zip") else { return };
    assert_eq!(outcomes(&mut vectors, None), (5, 5, 0));
}

#[test]
fn invalid_messages_do_not_open() {
    let Some(mut vectors) = archive("invalid-Net-4.0.0.zip") else { return };
    assert_eq!(outcomes(&mut vectors, None), (28, 0, 0));
}

//! Both directions with the AWS Encryption SDK for Python, against one `kms-local`.
//!
//! Needs a Python with `tests/interop/requirements.txt` installed, named by `ENVELOPE_PYTHON`; says so and
//! passes where that is not set. `tests/interop/run` sets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use envelope::{
    AlgorithmSuite, CommitmentPolicy, DataKey, EncryptionContext, Envelope,
    keyring::{AwsKmsKeyring, MultiKeyring, RawAesKeyring, RawRsaKeyring, RsaPadding, RsaPrivateKey, RsaPublicKey},
    materials::DefaultMaterialsManager,
};
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};
use serde_json::{Value, json};

const REGION: &str = "us-east-1";

/// The Python client, in a process of its own.
struct Python {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start(python: &str, kms: &KmsLocal, ca_file: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/python_client.py");
        let credentials = kms.issue_credentials();
        let mut process = Command::new(python)
            .arg(script)
            .env("AWS_ACCESS_KEY_ID", credentials.access_key_id())
            .env("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key())
            .env("AWS_ENDPOINT_URL_KMS", kms.endpoint(REGION))
            .env("AWS_CA_BUNDLE", ca_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ENVELOPE_PYTHON runs");
        let (requests, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, requests, answers }
    }

    fn ask(&mut self, request: &Value) -> Result<(Vec<u8>, BTreeMap<String, String>), String> {
        writeln!(self.requests, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the Python client died: {line:?}"));
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok((
                BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap(),
                serde_json::from_value(answer["context"].clone()).unwrap(),
            )),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A raw AES keyring, theirs and ours.
fn raw_aes(name: &str, length: u8) -> (Value, RawAesKeyring) {
    let key: Vec<u8> = (0..length).collect();
    let theirs = json!({ "raw_aes": { "namespace": "ns", "name": name, "key": BASE64_STANDARD.encode(&key) } });
    (theirs, RawAesKeyring::new("ns", name, &DataKey::from_vec(key)).unwrap())
}

/// The paddings, by the names that the material providers library gives them.
const RSA_PADDINGS: [(&str, RsaPadding); 5] = [
    ("PKCS1", RsaPadding::Pkcs1),
    ("OAEP_SHA1_MGF1", RsaPadding::OaepSha1Mgf1),
    ("OAEP_SHA256_MGF1", RsaPadding::OaepSha256Mgf1),
    ("OAEP_SHA384_MGF1", RsaPadding::OaepSha384Mgf1),
    ("OAEP_SHA512_MGF1", RsaPadding::OaepSha512Mgf1),
];

/// A raw RSA keyring, theirs and ours.
fn raw_rsa(theirs: &str, padding: RsaPadding, bits: u32) -> (Value, RawRsaKeyring) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rsa");
    let pem = |form| std::fs::read_to_string(folder.join(format!("test-only-{bits}.{form}.pem"))).unwrap();
    let (public, private) = (pem("public.spki"), pem("private.pkcs8"));
    let keys = (RsaPublicKey::from_pem(&public).unwrap(), RsaPrivateKey::from_pem(private.clone()).unwrap());
    let name = format!("rsa-{bits}");
    let ours = RawRsaKeyring::with_key_pair("ns", &name, padding, keys.0, keys.1).unwrap();
    let theirs = json!({ "raw_rsa": {
        "namespace": "ns", "name": name, "padding": theirs, "public_pem": public, "private_pem": private,
    } });
    (theirs, ours)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_opens_what_the_other_seals() {
    let Ok(python) = std::env::var("ENVELOPE_PYTHON") else {
        println!("skipped each_opens_what_the_other_seals: ENVELOPE_PYTHON is not set, see tests/interop/run");
        return;
    };
    let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, kms.ca_pem()).unwrap();
    let mut python = Python::start(&python, &kms, &ca_file);

    let arn = kms.create_key(REGION);
    let pool = KmsPool::builder().endpoint_url(kms.endpoint(REGION)).trust_root_pem(kms.ca_pem()).build().unwrap();
    let ours_kms = AwsKmsKeyring::new(pool, Principal::new(kms.issue_credentials()), arn.parse().unwrap());
    let mut keyrings = vec![(json!({ "aws_kms": arn }), DefaultMaterialsManager::new(ours_kms.clone()))];
    for length in [16, 24, 32] {
        let (theirs, ours) = raw_aes("name", length);
        keyrings.push((theirs, DefaultMaterialsManager::new(ours)));
    }
    for (theirs, padding) in RSA_PADDINGS {
        for bits in [2048, 3072, 4096] {
            let (theirs, ours) = raw_rsa(theirs, padding, bits);
            keyrings.push((theirs, DefaultMaterialsManager::new(ours)));
        }
    }
    let (their_aes, aes) = raw_aes("name", 32);
    let (their_rsa, rsa) = raw_rsa("OAEP_SHA512_MGF1", RsaPadding::OaepSha512Mgf1, 2048);
    let their_multi = json!({ "multi": [{ "aws_kms": arn }, their_aes, their_rsa] });
    let multi = MultiKeyring::builder().generator(ours_kms).child(aes).child(rsa).build().unwrap();
    keyrings.push((their_multi, DefaultMaterialsManager::new(multi)));
    let contexts = [
        EncryptionContext::empty(),
        EncryptionContext::new([("tenant", "42")]).unwrap(),
        // Sorted by UTF-8 bytes, U+FF5E comes before U+1D518; by UTF-16 units it would come after.
        EncryptionContext::new([("～", "1"), ("𝔘", "2"), ("zweck", "Prüfung"), ("a", "")]).unwrap(),
    ];
    let lengths = [0_usize, 1, 127, 128, 129, 256, 10_000];

    let mut cases = 0;
    for (theirs, ours) in &keyrings {
        let envelope = Envelope::builder(ours.clone()).frame_length(128).build().unwrap();
        // What RSA wraps depends on neither context nor length, and the peer is slow at it: one of each.
        let is_rsa = theirs.get("raw_rsa").is_some();
        let (contexts, lengths) =
            if is_rsa { (&contexts[1..2], &lengths[4..5]) } else { (&contexts[..], &lengths[..]) };
        for context in contexts {
            let pairs: BTreeMap<_, _> = context.iter().collect();
            for &length in lengths {
                let what = format!("{theirs}, {context:?}, {length} bytes");
                let plaintext: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
                let request = |operation, data: &[u8]| {
                    let data = BASE64_STANDARD.encode(data);
                    json!({ "operation": operation, "keyring": theirs, "context": pairs, "data": data, "frame_length": 128 })
                };

                let sealed = envelope.encrypt(&plaintext, context).await.unwrap();
                let (opened, their_context) = python.ask(&request("decrypt", &sealed)).expect(&what);
                assert_eq!(opened, plaintext, "Python opened ours: {what}");
                let their_context = EncryptionContext::new(&their_context).unwrap();
                assert_eq!(their_context, *context, "Python read our context: {what}");

                let (sealed, _) = python.ask(&request("encrypt", &plaintext)).expect(&what);
                let opened = envelope.decrypt(&sealed, context).await.expect(&what);
                assert_eq!(opened.plaintext(), plaintext, "we opened Python's: {what}");
                assert_eq!(opened.encryption_context(), context, "we read Python's context: {what}");

                let mut changed = envelope.encrypt(&plaintext, context).await.unwrap();
                *changed.last_mut().unwrap() ^= 1;
                python.ask(&request("decrypt", &changed)).expect_err("Python opened a changed message");
                cases += 3;
            }
        }
    }
    cases += each_suite_opens(&mut python).await;
    cases += each_member_opens(&mut python).await;
    println!("{cases} cases with the Python client, both directions");
}

/// Every suite, framed and in one piece, in both directions. Returns how many cases.
async fn each_suite_opens(python: &mut Python) -> usize {
    let mut cases = 0;
    for suite in AlgorithmSuite::ALL {
        let policy = if suite.commits_to_key() {
            CommitmentPolicy::RequireEncryptRequireDecrypt
        } else {
            CommitmentPolicy::ForbidEncryptAllowDecrypt
        };
        let (theirs, ours) = raw_aes("name", 32);
        let ours = DefaultMaterialsManager::new(ours);
        let context = EncryptionContext::new([("tenant", "42")]).unwrap();
        for frame_length in [128, 4096, 0] {
            let builder = Envelope::builder(ours.clone());
            let builder = builder.commitment_policy(policy).suite(suite).legacy_suites(true);
            let builder = if frame_length == 0 { builder.framed(false) } else { builder.frame_length(frame_length) };
            let envelope = builder.build().unwrap();
            for length in [0_usize, 1, 128, 300] {
                let what = format!("{suite}, frames of {frame_length}, {length} bytes");
                let plaintext: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
                let request = |operation, data: &[u8]| {
                    json!({
                        "operation": operation, "keyring": theirs, "context": {"tenant": "42"}, "suite": suite.id(),
                        "data": BASE64_STANDARD.encode(data), "frame_length": frame_length,
                    })
                };
                let sealed = envelope.encrypt(&plaintext, &context).await.unwrap();
                let (opened, _) = python.ask(&request("decrypt", &sealed)).expect(&what);
                assert_eq!(opened, plaintext, "Python opened ours: {what}");
                let (sealed, _) = python.ask(&request("encrypt", &plaintext)).expect(&what);
                let opened = envelope.decrypt(&sealed, &context).await.expect(&what);
                assert_eq!(opened.plaintext(), plaintext, "we opened Python's: {what}");
                cases += 2;
            }
        }
    }
    cases
}

/// One side seals with a multi-keyring, the other opens with each of its members alone. Returns how many cases.
async fn each_member_opens(python: &mut Python) -> usize {
    let aes = || raw_aes("first", 32);
    let pkcs1 = || raw_rsa("PKCS1", RsaPadding::Pkcs1, 2048);
    let oaep = || raw_rsa("OAEP_SHA256_MGF1", RsaPadding::OaepSha256Mgf1, 3072);
    let multi = MultiKeyring::builder().generator(aes().1).child(pkcs1().1).child(oaep().1).build().unwrap();
    let their_multi = json!({ "multi": [aes().0, pkcs1().0, oaep().0] });
    let members = [
        (aes().0, DefaultMaterialsManager::new(aes().1)),
        (pkcs1().0, DefaultMaterialsManager::new(pkcs1().1)),
        (oaep().0, DefaultMaterialsManager::new(oaep().1)),
    ];
    let envelope = |manager| Envelope::builder(manager).build().unwrap();
    let context = EncryptionContext::new([("tenant", "42")]).unwrap();
    let request = |operation, keyring: &Value, data: &[u8]| {
        let data = BASE64_STANDARD.encode(data);
        json!({ "operation": operation, "keyring": keyring, "context": {"tenant": "42"}, "data": data, "frame_length": 128 })
    };

    let ours = envelope(DefaultMaterialsManager::new(multi)).encrypt(b"secret", &context).await.unwrap();
    let (theirs, _) = python.ask(&request("encrypt", &their_multi, b"secret")).unwrap();
    for (their_member, our_member) in &members {
        let (opened, _) = python.ask(&request("decrypt", their_member, &ours)).expect("Python's member opens ours");
        assert_eq!(opened, b"secret", "{their_member}");
        let opened = envelope(our_member.clone()).decrypt(&theirs, &context).await.expect("our member opens Python's");
        assert_eq!(opened.plaintext(), b"secret", "{their_member}");
    }
    // Generator absent: children alone open, on both sides.
    let children = json!({ "multi": [null, pkcs1().0, oaep().0] });
    let (opened, _) = python.ask(&request("decrypt", &children, &ours)).expect("Python's children open ours");
    assert_eq!(opened, b"secret");
    python.ask(&request("encrypt", &children, b"secret")).expect_err("Python sealed without a generator");
    // A multi-keyring with a generator is no other one's child, on both sides.
    let nested = json!({ "multi": [raw_aes("outer", 32).0, their_multi] });
    python.ask(&request("encrypt", &nested, b"secret")).expect_err("Python wrapped with a generator's multi-keyring");
    2 * members.len() + 3
}

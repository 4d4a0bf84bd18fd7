//! The same keyring twice: as the peers are told to build it, and ours.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use envelope::{
    DataKey,
    keyring::{
        AwsKmsKeyring, Keyring, MultiKeyring, RawAesKeyring, RawRsaKeyring, RsaPadding,
        RsaPrivateKey, RsaPublicKey,
    },
    materials::DefaultMaterialsManager,
};
use kms_pool::PooledClients;
use serde_json::{Value, json};

/// The paddings, by the names that the material providers library gives them.
pub(crate) const RSA_PADDINGS: [(&str, RsaPadding); 5] = [
    (PKCS1, RsaPadding::Pkcs1),
    ("OAEP_SHA1_MGF1", RsaPadding::OaepSha1Mgf1),
    ("OAEP_SHA256_MGF1", RsaPadding::OaepSha256Mgf1),
    ("OAEP_SHA384_MGF1", RsaPadding::OaepSha384Mgf1),
    ("OAEP_SHA512_MGF1", RsaPadding::OaepSha512Mgf1),
];
pub(crate) const PKCS1: &str = "PKCS1";

/// A keyring, theirs and ours.
#[derive(Clone)]
pub(crate) struct Keys<K = DefaultMaterialsManager> {
    pub(crate) name: String,
    pub(crate) theirs: Value,
    pub(crate) ours: K,
}

impl<K: Keyring + 'static> Keys<K> {
    pub(crate) fn managed(self) -> Keys {
        Keys { name: self.name, theirs: self.theirs, ours: DefaultMaterialsManager::new(self.ours) }
    }
}

/// Of `length` bytes.
pub(crate) fn raw_aes(name: &str, length: u8) -> Keys<RawAesKeyring> {
    let key: Vec<u8> = (0..length).collect();
    let encoded = BASE64_STANDARD.encode(&key);
    let theirs = json!({ "raw_aes": { "namespace": "ns", "name": name, "key": encoded } });
    let ours = RawAesKeyring::new("ns", name, &DataKey::from_vec(key)).unwrap();
    Keys { name: format!("raw AES-{}", u32::from(length) * 8), theirs, ours }
}

pub(crate) fn raw_rsa(padding_name: &str, padding: RsaPadding, bits: u32) -> Keys<RawRsaKeyring> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rsa");
    let pem = |form| {
        std::fs::read_to_string(folder.join(format!("test-only-{bits}.{form}.pem"))).unwrap()
    };
    let (public, private) = (pem("public.spki"), pem("private.pkcs8"));
    let keys = (
        RsaPublicKey::from_pem(&public).unwrap(),
        RsaPrivateKey::from_pem(private.clone()).unwrap(),
    );
    let name = format!("rsa-{bits}");
    let ours = RawRsaKeyring::with_key_pair("ns", &name, padding, keys.0, keys.1).unwrap();
    let theirs = json!({ "raw_rsa": {
        "namespace": "ns", "name": name, "padding": padding_name,
        "public_pem": public, "private_pem": private,
    } });
    Keys { name: format!("raw RSA-{bits} {padding_name}"), theirs, ours }
}

pub(crate) fn aws_kms(
    server: &str,
    endpoint: &str,
    clients: PooledClients,
    arn: &str,
) -> Keys<AwsKmsKeyring> {
    let theirs = json!({ "aws_kms": arn, "endpoint": endpoint });
    Keys {
        name: format!("AWS KMS on {server}"),
        theirs,
        ours: AwsKmsKeyring::new(clients, arn.parse().unwrap()),
    }
}

/// The first generates the data key, the others wrap it, too.
pub(crate) fn multi(
    generator: Keys<impl Keyring + 'static>,
    first: Keys<impl Keyring + 'static>,
    second: Keys<impl Keyring + 'static>,
) -> Keys<MultiKeyring> {
    let theirs = json!({ "multi": [generator.theirs, first.theirs, second.theirs] });
    let ours = MultiKeyring::new(generator.ours)
        .with_child(first.ours)
        .unwrap()
        .with_child(second.ours)
        .unwrap();
    Keys { name: format!("{} + {} + {}", generator.name, first.name, second.name), theirs, ours }
}

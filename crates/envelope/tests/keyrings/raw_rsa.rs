//! Wrapping and unwrapping under a raw RSA keyring, against itself and against OpenSSL.
//!
//! The keys in `tests/data/rsa` were made for these tests alone, by OpenSSL.

use std::{fs, path::Path, process::Command};

use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, Error,
    keyring::{
        Keyring, KeyringError, KeyringRequest, RawRsaKeyring, RsaPadding, RsaPrivateKey,
        RsaPublicKey,
    },
    materials::EncryptedDataKey,
};
use futures_executor::block_on;
use futures_util::FutureExt;

const PADDINGS: [RsaPadding; 5] = [
    RsaPadding::Pkcs1,
    RsaPadding::OaepSha1Mgf1,
    RsaPadding::OaepSha256Mgf1,
    RsaPadding::OaepSha384Mgf1,
    RsaPadding::OaepSha512Mgf1,
];
const OAEP: RsaPadding = RsaPadding::OaepSha256Mgf1;
const BITS: [usize; 3] = [2048, 3072, 4096];

fn path(name: &str) -> String {
    format!("{}/tests/data/rsa/test-only-{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

fn pem(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

fn private_key(bits: usize) -> RsaPrivateKey {
    RsaPrivateKey::from_pem(pem(&format!("{bits}.private.pkcs8"))).unwrap()
}

fn public_key(bits: usize) -> RsaPublicKey {
    RsaPublicKey::from_pem(&pem(&format!("{bits}.public.spki"))).unwrap()
}

fn keyring(bits: usize, padding: RsaPadding) -> RawRsaKeyring {
    RawRsaKeyring::with_key_pair("ns", "name", padding, public_key(bits), private_key(bits))
        .unwrap()
}

fn wrap(keyring: &RawRsaKeyring, data_key: &DataKey) -> Result<EncryptedDataKey, Error> {
    let context = EncryptionContext::empty();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    let wrapped =
        keyring.wrap(request, data_key).now_or_never().expect("a local keyring never waits");
    wrapped.map(|keys| <[_; 1]>::try_from(keys).unwrap()).map(|[key]| key)
}

fn unwrap(
    keyring: &RawRsaKeyring,
    keys: &[EncryptedDataKey],
) -> Result<DataKey, Vec<KeyringError>> {
    let context = EncryptionContext::empty();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    keyring.unwrap(request, keys).now_or_never().expect("a local keyring never waits")
}

/// The one failure's words.
fn refusal(keyring: &RawRsaKeyring, key: EncryptedDataKey) -> String {
    let [failure] = <[_; 1]>::try_from(unwrap(keyring, &[key]).expect_err("unwrapped")).unwrap();
    assert!(!failure.kind().is_retryable());
    format!("{failure}: {}", failure.cause())
}

fn setting(error: &Error) -> &'static str {
    let Error::InvalidSetting { setting, .. } = error else { panic!("another variant: {error:?}") };
    setting
}

#[test]
fn every_size_and_padding_goes_round() {
    for bits in BITS {
        for padding in PADDINGS {
            let keyring = keyring(bits, padding);
            let data_key = DataKey::generate(32).unwrap();
            let wrapped = wrap(&keyring, &data_key).unwrap();
            assert_eq!(wrapped.key_provider_id, "ns");
            assert_eq!(wrapped.key_provider_information, b"name");
            assert_eq!(wrapped.ciphertext.len(), bits / 8);
            let unwrapped = unwrap(&keyring, &[wrapped]).unwrap();
            assert_eq!(
                unwrapped.expose_secret(),
                data_key.expose_secret(),
                "{bits} bits, {padding:?}"
            );
        }
    }
}

#[test]
fn messages_go_round_from_the_public_to_the_private_key() {
    let context = EncryptionContext::new([("tenant", "42")]).unwrap();
    for padding in PADDINGS {
        let sealing =
            RawRsaKeyring::with_public_key("ns", "name", padding, public_key(2048)).unwrap();
        let opening =
            RawRsaKeyring::with_private_key("ns", "name", padding, private_key(2048)).unwrap();
        let (sealing, opening) = (Envelope::new(sealing).unwrap(), Envelope::new(opening).unwrap());
        let message = block_on(sealing.encrypt(b"secret", &context)).unwrap();
        let opened = block_on(opening.decrypt(&message, &context)).unwrap();
        assert_eq!(opened.plaintext(), b"secret", "{padding:?}");
        let error = block_on(sealing.decrypt(&message, &context)).unwrap_err();
        assert!(error.to_string().contains("no private key"), "{error}");
        let error = block_on(opening.encrypt(b"secret", &context)).unwrap_err();
        assert!(
            matches!(&error, Error::DataKeyUnavailable(_))
                && error.keyring_errors()[0].cause().to_string().contains("no public key")
        );
    }
}

#[test]
fn every_form_of_pem_gives_the_same_key() {
    let with_crlf = |name| pem(name).replace('\n', "\r\n");
    let unwrapped = |name: &str| {
        let text = pem(name);
        let mut lines: Vec<_> = text.lines().collect();
        let (first, last) = (lines.remove(0), lines.pop().unwrap());
        format!("{first}\n{}\n{last}", lines.concat())
    };
    let publics = [
        pem("2048.public.spki"),
        pem("2048.public.pkcs1"),
        with_crlf("2048.public.spki"),
        unwrapped("2048.public.spki"),
        format!("a comment\n{}\n\n", pem("2048.public.spki")),
    ];
    let privates = || {
        [
            pem("2048.private.pkcs8"),
            pem("2048.private.pkcs1"),
            with_crlf("2048.private.pkcs1"),
            unwrapped("2048.private.pkcs8"),
            format!("a comment\n{}\n\n", pem("2048.private.pkcs1")),
        ]
    };
    for public in &publics {
        for private in privates() {
            let private = RsaPrivateKey::from_pem(private).unwrap();
            let (given, derived) = (RsaPublicKey::from_pem(public).unwrap(), private.public_key());
            let keyring = RawRsaKeyring::with_key_pair("ns", "name", OAEP, given, private).unwrap();
            let data_key = DataKey::generate(32).unwrap();
            let sealing = RawRsaKeyring::with_public_key("ns", "name", OAEP, derived).unwrap();
            for sealing in [&keyring, &sealing] {
                let unwrapped = unwrap(&keyring, &[wrap(sealing, &data_key).unwrap()]).unwrap();
                assert_eq!(unwrapped.expose_secret(), data_key.expose_secret());
            }
        }
    }
}

#[test]
fn what_is_not_a_usable_key_is_refused() {
    let spki = pem("2048.public.spki");
    let publics = [
        ("empty", String::new()),
        ("no PEM", "secret".to_owned()),
        ("cut", spki[..spki.len() / 2].to_owned()),
        ("a byte lost", spki.replacen('A', "", 1)),
        ("two texts", format!("{spki}{spki}")),
        ("labels differ", spki.replace("END PUBLIC", "END RSA PUBLIC")),
        ("a private key", pem("2048.private.pkcs8")),
        ("another label", spki.replace("PUBLIC KEY", "CERTIFICATE")),
        ("1024 bits", pem("1024.public.spki")),
        ("an elliptic curve", pem("p256.public.spki")),
    ];
    for (what, text) in publics {
        let error = RsaPublicKey::from_pem(&text).expect_err(what);
        assert_eq!(setting(&error), "RSA public key", "{what}");
    }

    let pkcs8 = pem("2048.private.pkcs8");
    let privates = [
        ("empty", String::new()),
        ("cut", pkcs8[..pkcs8.len() / 2].to_owned()),
        ("two texts", format!("{pkcs8}{pkcs8}")),
        ("a public key", spki),
        ("encrypted", pem("2048.private.encrypted")),
        (
            "encrypted the old way",
            pkcs8.replace("KEY-----\nM", "KEY-----\nProc-Type: 4,ENCRYPTED\n\nM"),
        ),
        ("1024 bits", pem("1024.private.pkcs8")),
        ("an elliptic curve", pem("p256.private.pkcs8")),
        ("for signatures", pem("2048.private.pss")),
    ];
    let lines: Vec<_> = pkcs8.lines().map(str::to_owned).collect();
    for (what, text) in privates {
        let error = RsaPrivateKey::from_pem(text).expect_err(what);
        assert_eq!(setting(&error), "RSA private key", "{what}");
        let shown = format!("{error} {error:?}");
        assert!(!lines.iter().any(|line| shown.contains(line)), "{what}: {shown}");
    }
}

#[test]
fn a_private_key_that_was_tampered_with_is_refused() {
    let text = pem("2048.private.pkcs8");
    let middle = text.len() / 2;
    let changed = if &text[middle..=middle] == "A" { "B" } else { "A" };
    let text = format!("{}{changed}{}", &text[..middle], &text[middle + 1..]);
    assert_eq!(setting(&RsaPrivateKey::from_pem(text).unwrap_err()), "RSA private key");
}

#[test]
fn misuse_shows_when_it_is_built() {
    let with = |namespace: &str, name: &str| {
        let public =
            RawRsaKeyring::with_public_key(namespace, name, OAEP, public_key(2048)).map(drop);
        let private =
            RawRsaKeyring::with_private_key(namespace, name, OAEP, private_key(2048)).map(drop);
        assert_eq!(public.is_ok(), private.is_ok());
        public
    };
    let longest = "a".repeat(65_535);
    with(&longest, &longest).unwrap();
    for (namespace, name) in [
        ("aws-kms", "name"),
        ("aws-kms-mrk", "name"),
        ("", "name"),
        ("ns", ""),
        (&*format!("{longest}a"), "name"),
        ("ns", &*format!("{longest}a")),
    ] {
        let error = with(namespace, name).unwrap_err();
        assert_eq!(setting(&error), if name == "name" { "namespace" } else { "name" });
    }

    let mixed =
        RawRsaKeyring::with_key_pair("ns", "name", OAEP, public_key(3072), private_key(2048));
    assert_eq!(setting(&mixed.unwrap_err()), "RSA key pair");

    let for_signatures = RsaPublicKey::from_pem(&pem("2048.public.pss")).unwrap();
    for padding in PADDINGS {
        let keyring = RawRsaKeyring::with_public_key("ns", "name", padding, for_signatures.clone());
        assert_eq!(setting(&keyring.unwrap_err()), "RSA public key", "{padding:?}");
    }
}

#[test]
fn a_data_key_that_does_not_fit_is_an_error() {
    for (padding, longest) in PADDINGS.into_iter().zip([245, 214, 190, 158, 126]) {
        let keyring = keyring(2048, padding);
        wrap(&keyring, &DataKey::from_vec(vec![1; longest])).unwrap();
        let error = wrap(&keyring, &DataKey::from_vec(vec![1; longest + 1])).unwrap_err();
        assert!(matches!(error, Error::DataKeyUnavailable(_)), "{error:?}");
    }
}

#[test]
fn another_namespace_or_name_is_no_match() {
    let keyring = keyring(2048, OAEP);
    let wrapped = wrap(&keyring, &DataKey::generate(32).unwrap()).unwrap();
    for (namespace, name) in
        [("n", "name"), ("ns2", "name"), ("ns", "nam"), ("ns", "name2"), ("ns", "NAME")]
    {
        let other =
            RawRsaKeyring::with_private_key(namespace, name, OAEP, private_key(2048)).unwrap();
        assert!(
            unwrap(&other, std::slice::from_ref(&wrapped)).unwrap_err().is_empty(),
            "{namespace}/{name}"
        );
        let sealing =
            RawRsaKeyring::with_public_key(namespace, name, OAEP, public_key(2048)).unwrap();
        assert!(
            unwrap(&sealing, std::slice::from_ref(&wrapped)).unwrap_err().is_empty(),
            "{namespace}/{name}"
        );
    }
}

#[test]
fn every_failed_unwrapping_says_the_same() {
    for padding in PADDINGS {
        let keyring = keyring(2048, padding);
        let data_key = DataKey::generate(32).unwrap();
        let good = wrap(&keyring, &data_key).unwrap();
        let with = |ciphertext: &[u8]| EncryptedDataKey {
            ciphertext: ciphertext.to_vec(),
            ..good.clone()
        };
        let ciphertext = &good.ciphertext[..];
        let other_padding = PADDINGS.into_iter().filter(|other| *other != padding);
        let other_padding = other_padding
            .map(|other| wrap(&self::keyring(2048, other), &data_key).unwrap().ciphertext);
        let mut bad: Vec<_> = other_padding.collect();
        let flipped = |at: usize| {
            let mut changed = ciphertext.to_vec();
            changed[at] ^= 1;
            changed
        };
        bad.extend([0, 128, 255].map(flipped));
        bad.extend([0, 1, 255].map(|length| ciphertext[..length].to_vec()));
        bad.push([ciphertext, &[0]].concat());
        bad.push([&[0], ciphertext].concat());
        bad.extend([vec![0; 256], vec![0xFF; 256]]);
        bad.push(wrap(&self::keyring(3072, padding), &data_key).unwrap().ciphertext);
        // Rightly padded, but data keys of the wrong length.
        bad.extend(
            [0, 31, 33].map(|length| {
                wrap(&keyring, &DataKey::from_vec(vec![1; length])).unwrap().ciphertext
            }),
        );

        let messages: Vec<_> =
            bad.iter().map(|ciphertext| refusal(&keyring, with(ciphertext))).collect();
        assert!(
            messages.iter().all(|message| *message == messages[0]),
            "{padding:?}: {messages:?}"
        );
        assert!(
            messages[0].starts_with("ns/name failed: the wrapped data key did not decrypt"),
            "{}",
            messages[0]
        );

        // And none hides a good one that follows.
        let keys: Vec<_> =
            bad.iter().map(|ciphertext| with(ciphertext)).chain([good.clone()]).collect();
        assert_eq!(unwrap(&keyring, &keys).unwrap().expose_secret(), data_key.expose_secret());
    }
}

#[test]
fn another_key_of_the_same_size_does_not_unwrap() {
    let other = RsaPrivateKey::from_pem(pem("2048-other.private.pkcs8")).unwrap();
    for padding in PADDINGS {
        let wrapped = wrap(&keyring(2048, padding), &DataKey::generate(32).unwrap()).unwrap();
        let other = RsaPrivateKey::from_pem(pem("2048-other.private.pkcs8")).unwrap();
        let other = RawRsaKeyring::with_private_key("ns", "name", padding, other).unwrap();
        refusal(&other, wrapped);
    }
    let mixed = RawRsaKeyring::with_key_pair("ns", "name", OAEP, public_key(2048), other);
    assert_eq!(setting(&mixed.unwrap_err()), "RSA key pair");
}

#[test]
fn nothing_secret_is_printed() {
    let keyring = keyring(2048, OAEP);
    let shown = format!("{keyring:?} {keyring:#?}");
    assert!(shown.contains("bits: 2048") && shown.len() < 1000, "{shown}");
}

/// OpenSSL's options for a padding.
fn openssl_options(padding: RsaPadding) -> Vec<String> {
    let hash = match padding {
        RsaPadding::Pkcs1 => return vec!["-pkeyopt".into(), "rsa_padding_mode:pkcs1".into()],
        RsaPadding::OaepSha1Mgf1 => "sha1",
        RsaPadding::OaepSha256Mgf1 => "sha256",
        RsaPadding::OaepSha384Mgf1 => "sha384",
        RsaPadding::OaepSha512Mgf1 => "sha512",
    };
    let options = [
        "rsa_padding_mode:oaep".to_owned(),
        format!("rsa_oaep_md:{hash}"),
        format!("rsa_mgf1_md:{hash}"),
    ];
    options.into_iter().flat_map(|option| ["-pkeyopt".to_owned(), option]).collect()
}

fn openssl(
    operation: &str,
    key: &str,
    padding: RsaPadding,
    folder: &Path,
    input: &[u8],
) -> Vec<u8> {
    let [from, to] = ["in", "out"].map(|name| folder.join(name));
    fs::write(&from, input).unwrap();
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", operation, "-inkey", &path(key)]).args(openssl_options(padding));
    if key.contains("public") {
        command.arg("-pubin");
    }
    let done = command.arg("-in").arg(from).arg("-out").arg(&to).output().unwrap();
    assert!(done.status.success(), "{padding:?}, {key}: {}", String::from_utf8_lossy(&done.stderr));
    fs::read(to).unwrap()
}

#[test]
fn openssl_unwraps_ours_and_we_openssl_s() {
    if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success())
    {
        println!("skipped openssl_unwraps_ours_and_we_openssl_s: there is no program `openssl`");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cases = 0;
    for bits in BITS {
        for padding in PADDINGS {
            let keyring = keyring(bits, padding);
            let data_key = DataKey::generate(32).unwrap();
            let wrapped = wrap(&keyring, &data_key).unwrap();
            let private = format!("{bits}.private.pkcs8");
            let theirs = openssl("-decrypt", &private, padding, folder.path(), &wrapped.ciphertext);
            assert_eq!(
                theirs,
                data_key.expose_secret(),
                "OpenSSL unwrapped ours: {bits} bits, {padding:?}"
            );

            let public = format!("{bits}.public.spki");
            let ciphertext =
                openssl("-encrypt", &public, padding, folder.path(), data_key.expose_secret());
            let ours = unwrap(&keyring, &[EncryptedDataKey { ciphertext, ..wrapped }]).unwrap();
            assert_eq!(
                ours.expose_secret(),
                data_key.expose_secret(),
                "we unwrapped OpenSSL's: {bits}, {padding:?}"
            );
            cases += 2;
        }
    }
    println!("{cases} cases with OpenSSL, both directions");
}

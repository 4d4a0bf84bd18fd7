//! Files that were encrypted can be decrypted again.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
};

use kms_local::KmsLocal;

use crate::{AES, OTHER_AES, Place, RSA, RSA_PUBLIC, finish, plaintext};

const REGION: &str = "eu-west-1";

#[test]
fn through_pipes_and_files_of_any_length() {
    let place = Place::new();
    for length in [0, 1, 4095, 4096, 4097, 1_000_000, 3_000_000] {
        let plaintext = plaintext(length);
        let message = place.succeeds(&["encrypt", "--wrapping-key", AES], &plaintext);
        assert_eq!(
            place.succeeds(&["decrypt", "--wrapping-key", AES, "-i", "-", "-o", "-"], &message),
            plaintext
        );

        place.write("plain", &plaintext);
        place.succeeds(&["encrypt", "--wrapping-key", AES, "-i", "plain", "-o", "message"], b"");
        assert_eq!(
            place.succeeds(&["decrypt", "--wrapping-key", AES, "--input", "message"], b""),
            plaintext
        );
        place.succeeds(
            &["decrypt", "--wrapping-key", AES, "-i", "message", "--output", "again"],
            b"",
        );
        assert_eq!(place.read("again"), plaintext);
    }
    let names: Vec<_> = place.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["aes.key", "again", "message", "other.key", "plain", "rsa.pem", "rsa.public.pem"]
    );
}

#[test]
fn under_several_keys_any_of_which_decrypts() {
    let place = Place::new();
    let arguments = [
        "encrypt",
        "--wrapping-key",
        AES,
        "--wrapping-key",
        RSA_PUBLIC,
        "--wrapping-key",
        OTHER_AES,
    ];
    let message = place.succeeds(&arguments, b"secret");
    for key in [AES, RSA, OTHER_AES] {
        assert_eq!(place.succeeds(&["decrypt", "--wrapping-key", key], &message), b"secret");
    }
    // The first key can be RSA, and a private key can encrypt, too.
    for first in [RSA, RSA_PUBLIC] {
        let message =
            place.succeeds(&["encrypt", "--wrapping-key", first, "--wrapping-key", AES], b"secret");
        assert_eq!(place.succeeds(&["decrypt", "--wrapping-key", RSA], &message), b"secret");
        assert_eq!(
            place.succeeds(
                &["decrypt", "--wrapping-key", OTHER_AES, "--wrapping-key", AES],
                &message
            ),
            b"secret"
        );
    }
}

#[test]
fn under_each_length_of_aes_and_each_padding_of_rsa() {
    let place = Place::new();
    for length in [16, 24, 32] {
        place.write("a, \\ b.key", &vec![9; length]);
        let key = "raw-aes,namespace=n\\,s,name=\\\\,key-file=a\\, \\\\ b.key";
        let message = place.succeeds(&["encrypt", "--wrapping-key", key], b"secret");
        assert_eq!(place.succeeds(&["decrypt", "--wrapping-key", key], &message), b"secret");
        let shown = place.succeeds(&["inspect"], &message);
        assert!(String::from_utf8(shown).unwrap().contains(r#""n,s""#));
    }
    for padding in ["pkcs1", "oaep-sha1", "oaep-sha256", "oaep-sha384", "oaep-sha512"] {
        let public = RSA_PUBLIC.replace("oaep-sha256", padding);
        let message = place.succeeds(&["encrypt", "--wrapping-key", &public], b"secret");
        let private = RSA.replace("oaep-sha256", padding);
        assert_eq!(place.succeeds(&["decrypt", "--wrapping-key", &private], &message), b"secret");
    }
}

#[test]
fn in_every_suite() {
    let place = Place::new();
    for suite in
        ["0478", "0x0578", "0014", "0046", "0078", "0114", "0146", "0178", "0214", "0346", "0378"]
    {
        let commits = ["0478", "0x0578"].contains(&suite);
        let policy: &[_] =
            if commits { &[] } else { &["--commitment-policy", "forbid-encrypt-allow-decrypt"] };
        let encrypt = ["encrypt", "--wrapping-key", AES, "--suite", suite, "-o", "message"];
        let mut arguments = [&encrypt, policy].concat();
        if suite.starts_with("00") {
            place.fails(&arguments, b"secret", "--legacy");
            arguments.push("--legacy");
        }
        place.succeeds(&arguments, b"secret");
        place.succeeds(&["decrypt", "--wrapping-key", AES, "-i", "message", "-o", "again"], b"");
        assert_eq!(place.read("again"), b"secret", "{suite}");
    }
}

#[test]
fn with_encryption_context_stored_and_required() {
    let place = Place::new();
    let stored = ["--encryption-context", "tenant=42", "--encryption-context", "zweck=a=b, ü"];
    let message =
        place.succeeds(&[&["encrypt", "--wrapping-key", AES], &stored[..]].concat(), b"secret");
    let decrypt = ["decrypt", "--wrapping-key", AES];
    for supplied in [&stored[..], &stored[..2], &stored[2..], &[]] {
        assert_eq!(place.succeeds(&[&decrypt, supplied].concat(), &message), b"secret");
    }

    let encrypt =
        [&["encrypt", "--wrapping-key", AES, "--required-context", "tenant"], &stored[..]].concat();
    let message = place.succeeds(&encrypt, b"secret");
    assert_eq!(place.succeeds(&[&decrypt, &stored[..2]].concat(), &message), b"secret");
    place.fails(&decrypt, &message, "encryption context");
    place.fails(&[&decrypt, &["--encryption-context", "tenant=43"][..]].concat(), &message, "");
    let shown = String::from_utf8(place.succeeds(&["inspect"], &message)).unwrap();
    assert!(shown.contains("zweck") && !shown.contains("tenant"), "{shown}");
}

#[test]
fn onto_the_input_itself_through_a_link_and_with_its_permissions() {
    let place = Place::new();
    place.write("file", b"secret");
    fs::set_permissions(place.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("file", place.path("link")).unwrap();
    place.succeeds(&["encrypt", "--wrapping-key", AES, "-i", "file", "-o", "link"], b"");
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(place.path("file")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(place.read("file"), b"secret");
    place.succeeds(&["decrypt", "--wrapping-key", AES, "-i", "file", "-o", "file"], b"");
    assert_eq!(place.read("file"), b"secret");
}

#[test]
fn a_dangling_link_is_kept() {
    let place = Place::new();
    std::os::unix::fs::symlink("target", place.path("link")).unwrap();
    place.succeeds(&["encrypt", "--wrapping-key", AES, "-o", "link"], b"secret");
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert!(!place.read("target").is_empty());
}

#[test]
fn a_replaced_file_loses_its_set_user_id_bit() {
    let place = Place::new();
    place.write("older", b"as it was");
    fs::set_permissions(place.path("older"), fs::Permissions::from_mode(0o4750)).unwrap();
    place.succeeds(&["encrypt", "--wrapping-key", AES, "-o", "older"], b"secret");
    assert_eq!(fs::metadata(place.path("older")).unwrap().permissions().mode() & 0o7777, 0o750);
}

/// An open descriptor is written to, not replaced.
#[test]
fn onto_a_descriptor_by_its_name() {
    let place = Place::new();
    let message = place.succeeds(&["encrypt", "--wrapping-key", AES], b"secret");
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        place.write("log", b"line\n");
        let log = fs::OpenOptions::new().append(true).open(place.path("log")).unwrap();
        let mut process = place
            .command(&["decrypt", "--wrapping-key", AES, "-o", name])
            .stdout(log)
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut process.stdin.take().unwrap(), &message).unwrap();
        assert!(finish(process).status.success(), "{name}");
        assert_eq!(place.read("log"), b"line\nsecret", "{name}");
    }
}

#[test]
fn frames_have_the_requested_length() {
    let place = Place::new();
    for (length, frames) in [("1", 10_001), ("4096", 3), ("10000", 2), ("4294967295", 1)] {
        let message = place.succeeds(
            &["encrypt", "--wrapping-key", AES, "--frame-length", length],
            &plaintext(10_000),
        );
        let shown: serde_json::Value =
            serde_json::from_slice(&place.succeeds(&["inspect", "--json"], &message)).unwrap();
        assert_eq!(shown["frame_length"].to_string(), length);
        // A message ends with a final frame, which is empty if the others hold the whole plaintext.
        assert!(
            shown["body"]["frames"] == frames || shown["body"]["frames"] == frames - 1,
            "{shown}"
        );
        assert_eq!(
            place.succeeds(&["decrypt", "--wrapping-key", AES], &message),
            plaintext(10_000)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_aws_kms() {
    let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
    let credentials = kms.issue_credentials();
    let mut place = Place::new();
    place.write("ca.pem", kms.ca_pem().as_bytes());
    place.variables = vec![
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key().to_owned()),
    ];
    let arn = kms.create_key(REGION);
    let key = format!("aws-kms:{arn}");
    let other_key = format!("aws-kms:{}", kms.create_key(REGION));
    let endpoint = kms.endpoint(REGION).to_string();
    let options = ["--endpoint-url", &endpoint, "--ca-file", "ca.pem"];

    let encrypt =
        [&["encrypt", "--wrapping-key", &key, "--wrapping-key", AES], &options[..]].concat();
    let message = place.succeeds(&encrypt, b"secret");
    assert_eq!(
        place.succeeds(&[&["decrypt", "--wrapping-key", &key], &options[..]].concat(), &message),
        b"secret"
    );
    assert_eq!(place.succeeds(&["decrypt", "--wrapping-key", AES], &message), b"secret");
    let failed = place.fails(
        &[&["decrypt", "--wrapping-key", &other_key], &options[..]].concat(),
        &message,
        "inspect",
    );
    assert!(!failed.stderr.contains("secret"));

    // The environment can contain the same settings.
    place.variables.push(("AWS_ENDPOINT_URL_KMS", endpoint.clone()));
    place.variables.push(("AWS_CA_BUNDLE", place.path("ca.pem").to_str().unwrap().to_owned()));
    assert_eq!(place.succeeds(&["decrypt", "--wrapping-key", &key], &message), b"secret");

    // KMS has no such key, is unavailable, or receives no credentials.
    let missing = format!("aws-kms:{}00000000-0000-0000-0000-000000000000", &arn[..arn.len() - 36]);
    place.fails(&["encrypt", "--wrapping-key", &missing, "-o", "out"], b"secret", "no such key");
    let nobody =
        ["encrypt", "--wrapping-key", &key, "--endpoint-url", "https://127.0.0.1:1", "-o", "out"];
    place.fails(&nobody, b"secret", "try again later");
    place.variables.retain(|(name, _)| !name.contains("ACCESS_KEY"));
    place.fails(&["encrypt", "--wrapping-key", &key, "-o", "out"], b"secret", "credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_keys_of_aws_kms_that_the_message_names() {
    let kms = KmsLocal::builder()
        .account("111122223333")
        .region(REGION)
        .region("us-east-1")
        .start()
        .await
        .unwrap();
    let credentials = kms.issue_credentials();
    let mut place = Place::new();
    place.write("ca.pem", kms.ca_pem().as_bytes());
    place.variables = vec![
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key().to_owned()),
        ("AWS_CA_BUNDLE", place.path("ca.pem").to_str().unwrap().to_owned()),
    ];
    let here = format!("region={REGION}");
    let run = |region: &str, command: &str, key: &str, input: &[u8]| {
        place.succeeds(
            &[command, "--wrapping-key", key, "--endpoint-url", kms.endpoint(region)],
            input,
        )
    };
    let requests = || kms.counters(REGION).requests("Decrypt");

    let single = run(REGION, "encrypt", &format!("aws-kms:{}", kms.create_key(REGION)), b"secret");
    for filter in
        ["", ",account=111122223333", ",account=444455556666,account=111122223333,partition=aws"]
    {
        for region in ["", &*format!(",{here}")] {
            let key = format!("aws-kms-discovery{filter}{region}");
            assert_eq!(run(REGION, "decrypt", &key, &single), b"secret", "{key}");
        }
    }
    // No request is sent for other accounts, partitions and regions.
    let before = requests();
    for excluding in
        ["account=444455556666", "account=111122223333,partition=aws-cn", "region=us-east-1"]
    {
        let key = format!("aws-kms-discovery,{excluding}");
        let decrypt = ["decrypt", "--wrapping-key", &key, "--endpoint-url", kms.endpoint(REGION)];
        place.fails(&decrypt, &single, "no encrypted data key in the message matches");
    }
    assert_eq!(requests(), before);

    // A multi-Region key encrypts in one region and decrypts in another.
    let there = kms.create_multi_region_key("us-east-1", &[REGION]);
    let message = run("us-east-1", "encrypt", &format!("aws-kms-mrk:{there}"), b"secret");
    let related = format!("aws-kms-mrk:{}", there.replace("us-east-1", REGION));
    for key in [
        &*related,
        &format!("aws-kms-discovery,{here}"),
        &format!("aws-kms-discovery,account=111122223333,{here}"),
    ] {
        assert_eq!(run(REGION, "decrypt", key, &message), b"secret", "{key}");
    }
    assert_eq!(kms.counters("us-east-1").requests("Decrypt"), 0);
    let strict = related.replace("aws-kms-mrk:", "aws-kms:");
    let decrypt = ["decrypt", "--wrapping-key", &strict, "--endpoint-url", kms.endpoint(REGION)];
    place.fails(&decrypt, &message, "no encrypted data key in the message matches");
}

/// Slow input from a pipe is encrypted, and decrypted, frame by frame.
#[test]
fn a_frame_does_not_wait_for_more_than_the_next_byte() {
    let place = Place::new();
    let mut encrypting = place
        .command(&["encrypt", "--wrapping-key", AES, "--frame-length", "100"])
        .spawn()
        .unwrap();
    let mut decrypting = place.command(&["decrypt", "--wrapping-key", AES]);
    let mut decrypting = decrypting.stdin(encrypting.stdout.take().unwrap()).spawn().unwrap();
    let mut slow = encrypting.stdin.take().unwrap();
    let mut decrypted = decrypting.stdout.take().unwrap();
    for _ in 0..20 {
        slow.write_all(&plaintext(101)).unwrap();
        slow.flush().unwrap();
        let mut frame = [0; 100];
        decrypted.read_exact(&mut frame).unwrap();
    }
    drop(slow);
    let mut rest = vec![];
    decrypted.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 20);
    assert!(finish(encrypting).status.success() && finish(decrypting).status.success());
}

/// The disk starts writing before the end.
#[test]
fn from_file_to_file_of_many_megabytes() {
    let place = Place::new();
    let plaintext = vec![7; 70_000_000];
    place.write("plain", &plaintext);
    for threads in [&[][..], &["--threads", "1"], &["--threads", "3"]] {
        let with = |arguments: &[&'static str]| [arguments, threads].concat();
        place.succeeds(
            &with(&["encrypt", "--wrapping-key", AES, "-i", "plain", "-o", "message"]),
            b"",
        );
        place.succeeds(
            &with(&["decrypt", "--wrapping-key", AES, "-i", "message", "-o", "again"]),
            b"",
        );
        assert!(place.read("again") == plaintext);
        assert!(
            place.succeeds(&with(&["decrypt", "--wrapping-key", AES, "-i", "message"]), b"")
                == plaintext
        );
    }
}

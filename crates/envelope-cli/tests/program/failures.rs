//! Failures print one line with the reason, and change no file.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
};

use crate::{AES, OTHER_AES, Place, RSA, RSA_PUBLIC, finish, plaintext};

const SIGPIPE: i32 = 13;
const DECRYPT: [&str; 3] = ["decrypt", "--wrapping-key", AES];

/// Returns a message of several frames.
fn message(place: &Place) -> Vec<u8> {
    let arguments = [
        "encrypt",
        "--wrapping-key",
        AES,
        "--frame-length",
        "100",
        "--encryption-context",
        "tenant=42",
    ];
    place.succeeds(&arguments, &plaintext(1000))
}

#[test]
fn wrong_keys_and_wrong_contexts_decrypt_nothing() {
    let place = Place::new();
    place.write("older", b"as it was");
    let message = message(&place);
    let wrong = AES.replace("aes.key", "other.key");
    for key in [OTHER_AES, RSA, &wrong] {
        for output in ["new", "older", "-"] {
            let ran = place.fails(
                &["decrypt", "--wrapping-key", key, "-o", output],
                &message,
                "envelope inspect",
            );
            assert_eq!(ran.output, b"");
        }
    }
    for (pair, expected) in [("tenant=43", "mismatch"), ("other=1", "other")] {
        let ran = place.fails(
            &[&DECRYPT[..], &["--encryption-context", pair, "-o", "older"]].concat(),
            &message,
            expected,
        );
        assert!(ran.stderr.contains("envelope inspect"), "{}", ran.stderr);
    }
}

#[test]
fn a_damaged_message_leaves_no_file_and_no_byte_of_the_damaged_frame() {
    let place = Place::new();
    place.write("older", b"as it was");
    let whole = plaintext(1000);
    let encrypted = message(&place);
    let mut changed = encrypted.clone();
    // Change the last frame.
    *changed.last_mut().unwrap() ^= 1;
    let truncated = encrypted[..encrypted.len() - 1].to_vec();
    let extended = [&encrypted[..], b"\n"].concat();
    for (damaged, expected) in [
        (changed, "authentication"),
        (truncated, "the input may be truncated"),
        (extended, "trailing bytes"),
    ] {
        place.write("message", &damaged);
        for output in ["new", "older"] {
            place.fails(&[&DECRYPT[..], &["-o", output]].concat(), &damaged, expected);
            place.fails(&[&DECRYPT[..], &["-i", "message", "-o", output]].concat(), b"", expected);
        }
        // A pipe received only verified frames.
        let piped = place.fails(&DECRYPT, &damaged, expected).output;
        assert!(
            piped.len().is_multiple_of(100) && whole.starts_with(&piped),
            "{} bytes",
            piped.len()
        );
    }
    for no_message in [&b""[..], b"x", b"Dear Sir or Madam, this is no message", &[0; 5000]] {
        place.fails(&[&DECRYPT[..], &["-o", "new"]].concat(), no_message, "input");
    }
}

#[test]
fn a_signed_message_goes_to_a_file_or_is_released_on_request() {
    let place = Place::new();
    let message =
        place.succeeds(&["encrypt", "--wrapping-key", AES, "--suite", "0578"], &plaintext(10_000));
    let refused = place.fails(&DECRYPT, &message, "--release-unverified");
    assert_eq!(refused.output, b"");
    place.fails(&[&DECRYPT[..], &["-o", "/dev/null"]].concat(), &message, "-o FILE");
    place.succeeds(&[&DECRYPT[..], &["-o", "again"]].concat(), &message);
    assert_eq!(place.read("again"), plaintext(10_000));
    assert_eq!(
        place.succeeds(&[&DECRYPT[..], &["--release-unverified"]].concat(), &message),
        plaintext(10_000)
    );
    // Use the footer of another message.
    let other =
        place.succeeds(&["encrypt", "--wrapping-key", AES, "--suite", "0578"], &plaintext(10_000));
    let forged = [&message[..message.len() - 80], &other[other.len() - 80..]].concat();
    place.fails(&[&DECRYPT[..], &["-o", "forged"]].concat(), &forged, "");
    place.fails(&[&DECRYPT[..], &["--release-unverified"]].concat(), &forged, "");
}

#[test]
fn policies_and_limits_are_enforced() {
    let place = Place::new();
    let encrypt = ["encrypt", "--wrapping-key", AES, "--wrapping-key", OTHER_AES];
    place.fails(&[&encrypt[..], &["--suite", "0178"]].concat(), b"secret", "--commitment-policy");
    let old = [&encrypt[..], &["--commitment-policy", "forbid-encrypt-allow-decrypt"]].concat();
    place.fails(&[&old[..], &["--suite", "0478"]].concat(), b"secret", "--commitment-policy");
    let message = place.succeeds(&old, b"secret");
    // The program decrypts messages without key commitment by default.
    assert_eq!(
        place.succeeds(&[&DECRYPT[..], &["--release-unverified"]].concat(), &message),
        b"secret"
    );
    let strict =
        [&DECRYPT[..], &["--commitment-policy", "require-encrypt-require-decrypt"]].concat();
    place.fails(&strict, &message, "--commitment-policy");
    let one_key = [&DECRYPT[..], &["--max-encrypted-data-keys", "1"]].concat();
    place.fails(&one_key, &message, "--max-encrypted-data-keys");
}

#[test]
fn files_that_cannot_be_read_or_written_are_named() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    place.write("short.key", &[1; 31]);
    place.write("long.key", &[1; 33]);
    place.write("empty.pem", b"");
    let key = |file: &str| AES.replace("aes.key", file);
    let encrypt = ["encrypt", "--wrapping-key", AES];
    let message = message(&place);
    for command in [&encrypt[..], &DECRYPT] {
        place.fails(&[command, &["-i", "missing", "-o", "out"]].concat(), b"", "missing: ");
        place.fails(&[command, &["-i", "folder", "-o", "out"]].concat(), b"", "folder");
        place.fails(&[command, &["-o", "folder"]].concat(), &message, "folder: is a directory");
        place.fails(&[command, &["-o", "missing/out"]].concat(), &message, "missing");
        place.fails(&[command, &["-o", "aes.key/out"]].concat(), &message, "aes.key/out");
        place.fails(&[command, &["-o", "/dev/full"]].concat(), &message, "/dev/full: No space");
        let named = command[0];
        for file in ["short.key", "long.key", "missing.key", "folder"] {
            place.fails(&[named, "--wrapping-key", &key(file), "-o", "out"], &message, file);
        }
        for file in ["empty.pem", "aes.key", "missing.pem"] {
            let key = RSA.replace("rsa.pem", file);
            place.fails(&[named, "--wrapping-key", &key, "-o", "out"], &message, file);
        }
    }
    place.fails(&["decrypt", "--wrapping-key", RSA_PUBLIC], &message, "public key");
    place.fails(
        &["encrypt", "--wrapping-key", &key("aes.key").replace("ns", "aws-kms")],
        b"",
        "aws-kms",
    );
    place.fails(&["inspect", "-i", "missing"], b"", "missing: ");
}

#[test]
fn a_full_disk_leaves_no_file() {
    let place = Place::new();
    let command = place.command(&[]);
    let program = command.get_program().to_str().unwrap();
    place.write("older", b"as it was");
    let before = place.files();
    for output in ["new", "older"] {
        // Writes fail when the file has grown to a few kilobytes.
        let script = format!(
            "ulimit -f 8; trap '' XFSZ; exec '{program}' encrypt --wrapping-key {AES} -o {output}"
        );
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &script])
            .current_dir(&place.folder)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let _ = std::io::Write::write_all(&mut shell.stdin.take().unwrap(), &plaintext(1_000_000));
        let done = finish(shell);
        assert_eq!(done.status.code(), Some(1));
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert!(stderr.contains(output) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(place.files(), before);
    }
}

#[test]
fn a_wrapping_key_file_is_not_overwritten() {
    let place = Place::new();
    let message = message(&place);
    fs::hard_link(place.path("aes.key"), place.path("another name")).unwrap();
    let before = place.files();
    for (command, input) in [("encrypt", &b"secret"[..]), ("decrypt", &message)] {
        for output in ["aes.key", "./aes.key", "another name"] {
            let ran = place.run(&[command, "--wrapping-key", AES, "-o", output], input);
            assert!(
                ran.status == Some(2)
                    && ran.stderr.contains("refusing to overwrite a wrapping key file"),
                "{}",
                ran.stderr
            );
            assert_eq!(place.files(), before);
        }
    }
}

#[test]
fn usage_errors_have_their_own_status() {
    let place = Place::new();
    for (arguments, expected) in [
        (&["encrypt"][..], "--wrapping-key"),
        (&["decrypt"], "--wrapping-key"),
        (&["encrypt", "--wrapping-key", "key"], "raw-aes or raw-rsa"),
        (&["encrypt", "--wrapping-key", "aws-kms-discovery"], "aws-kms:KEY-ARN"),
        (
            &[
                "encrypt",
                "--wrapping-key",
                AES,
                "--wrapping-key",
                "aws-kms-discovery,region=eu-west-1",
            ],
            "aws-kms-discovery cannot encrypt",
        ),
        (
            &["decrypt", "--wrapping-key", "aws-kms-discovery,region=EU"],
            "invalid region name \"EU\"",
        ),
        (
            &["decrypt", "--wrapping-key", "aws-kms-discovery,account=1111-2222-3333"],
            "expected 12 digits",
        ),
        (
            &["decrypt", "--wrapping-key", "aws-kms-discovery,account=111122223333,partition=AWS"],
            "invalid partition",
        ),
        (&["decrypt", "--wrapping-key", "aws-kms-discovery,partition=aws"], "account="),
        (&["encrypt", "--wrapping-key", AES, "--suite", "0479"], "0478"),
        (&["encrypt", "--wrapping-key", AES, "--frame-length", "0"], "frame-length"),
        (&["encrypt", "--wrapping-key", AES, "--encryption-context", "tenant"], "KEY=VALUE"),
        (
            &[
                "encrypt",
                "--wrapping-key",
                AES,
                "--encryption-context",
                "a=1",
                "--encryption-context",
                "a=2",
            ],
            "context",
        ),
        (
            &["encrypt", "--wrapping-key", AES, "--encryption-context", "aws-crypto-public-key=1"],
            "aws-crypto",
        ),
        (&["encrypt", "--wrapping-key", AES, "--required-context", "a"], "a=VALUE"),
        (
            &["decrypt", "--wrapping-key", AES, "--max-encrypted-data-keys", "0"],
            "max-encrypted-data-keys",
        ),
        (
            &["decrypt", "--wrapping-key", AES, "--commitment-policy", "none"],
            "require-encrypt-allow-decrypt",
        ),
        (&["man", "nothing"], "nothing"),
        (&["seal"], "seal"),
        (&[], "Usage"),
    ] {
        let ran = place.run(arguments, b"secret");
        assert_eq!(
            (ran.status, &*ran.output),
            (Some(2), &b""[..]),
            "{arguments:?}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn an_unwritable_standard_output_is_a_failure() {
    let place = Place::new();
    let message = message(&place);
    let closed = fs::File::open("/dev/null").unwrap();
    let mut process = place.command(&DECRYPT).stdout(closed).spawn().unwrap();
    std::io::Write::write_all(&mut process.stdin.take().unwrap(), &message).unwrap();
    let done = finish(process);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(1) && stderr.contains("standard output"), "{stderr}");
}

#[test]
fn a_damaged_message_is_not_a_usage_error() {
    let place = Place::new();
    let old = [
        "encrypt",
        "--wrapping-key",
        AES,
        "--commitment-policy",
        "forbid-encrypt-allow-decrypt",
        "--suite",
        "0178",
    ];
    let mut message = place.succeeds(
        &[&old[..], &["--encryption-context", "aws-kripto-public-key=1"]].concat(),
        b"secret",
    );
    let key = message.windows(10).position(|window| window == b"aws-kripto").unwrap();
    message[key..key + 10].copy_from_slice(b"aws-crypto");
    place.fails(&DECRYPT, &message, "encryption context");
}

#[test]
fn a_closed_pipe_ends_the_program_by_sigpipe_without_a_message() {
    let place = Place::new();
    place.write(
        "message",
        &place.succeeds(&["encrypt", "--wrapping-key", AES], &plaintext(10_000_000)),
    );
    let mut process = place.command(&[&DECRYPT[..], &["-i", "message"]].concat()).spawn().unwrap();
    let mut first = [0; 10];
    process.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let done = finish(process);
    assert_eq!((done.status.signal(), &*done.stderr), (Some(SIGPIPE), &b""[..]));
}

/// The input stays open and sends nothing more. The failure of the output must still end the
/// program.
#[test]
fn a_failed_output_ends_the_program_while_the_input_waits() {
    let place = Place::new();
    let mut process = place.command(&["encrypt", "--wrapping-key", AES]).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    process.stdout.take().unwrap().read_exact(&mut [0; 20]).unwrap();
    stdin.write_all(&plaintext(10_000)).unwrap();
    let done = finish(process);
    assert_eq!((done.status.signal(), &*done.stderr), (Some(SIGPIPE), &b""[..]));
    drop(stdin);

    let before = place.files();
    let command = place.command(&[]);
    let program = command.get_program().to_str().unwrap();
    let script =
        format!("ulimit -f 8; trap '' XFSZ; exec '{program}' encrypt --wrapping-key {AES} -o new");
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", &script])
        .current_dir(&place.folder)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = shell.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // The program may end before it has read everything.
    let _ = stdin.write_all(&plaintext(1_000_000));
    let done = finish(process);
    assert!(
        done.status.code() == Some(1) && done.stderr.starts_with(b"envelope: new: "),
        "{done:?}"
    );
    assert_eq!(place.files(), before);
    drop(stdin);
}

#[test]
fn an_input_that_is_damaged_in_the_middle_leaves_no_file() {
    let place = Place::new();
    let message = place.succeeds(&["encrypt", "--wrapping-key", AES], &plaintext(5_000_000));
    let mut changed = message.clone();
    changed[3_000_000] ^= 1;
    place.write("changed", &changed);
    place.write("cut", &message[..4_000_000]);
    for (input, expected) in [("changed", "authentication"), ("cut", "the input may be truncated")]
    {
        place.fails(&[&DECRYPT[..], &["-i", input, "-o", "new"]].concat(), b"", expected);
        let piped = place.fails(&[&DECRYPT[..], &["-i", input]].concat(), b"", expected).output;
        assert!(plaintext(5_000_000).starts_with(&piped));
    }
}

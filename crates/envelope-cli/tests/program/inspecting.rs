//! `inspect`, and the help, completions and manual pages of the program.

use serde_json::{Value, json};

use crate::{AES, Place, RSA_PUBLIC, plaintext};

/// Returns a signed message under two keys, with an encryption context that tries to control the
/// terminal.
fn message(place: &Place) -> Vec<u8> {
    let context =
        ["--encryption-context", "a\x1b[31m=\u{202e}b\n", "--encryption-context", "tenant=42"];
    let keys = ["encrypt", "--wrapping-key", AES, "--wrapping-key", RSA_PUBLIC, "--suite", "0578"];
    place.succeeds(&[&keys[..], &context, &["--frame-length", "1000"]].concat(), &plaintext(2500))
}

#[test]
fn the_summary_needs_no_key_and_says_that_it_is_unverified() {
    let place = Place::new();
    let shown = String::from_utf8(place.succeeds(&["inspect"], &message(&place))).unwrap();
    assert!(shown.starts_with("NOT VERIFIED"), "{shown}");
    for part in [
        "0x0578",
        "with key commitment, with signature",
        "tenant",
        r#""ns" "aes""#,
        "frames of 1000",
        "2500 bytes",
    ] {
        assert!(shown.contains(part), "{part} is missing in: {shown}");
    }
    let printable =
        |character: char| character == '\n' || !character.is_control() && character != '\u{202e}';
    assert!(shown.chars().all(printable), "{shown:?}");
}

#[test]
fn json_has_the_same_content() {
    let place = Place::new();
    let shown = place.succeeds(&["inspect", "--json"], &message(&place));
    assert!(shown.iter().all(|byte| byte.is_ascii_graphic() || b" \n".contains(byte)));
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["verified"], false);
    assert_eq!(shown["version"], 2);
    assert_eq!(shown["algorithm_suite"], "0x0578");
    assert_eq!(shown["encryption_context"]["a\x1b[31m"], "\u{202e}b\n");
    assert_eq!(shown["encrypted_data_keys"][0]["key_name"], "aes");
    let rsa = json!({
        "key_provider_id": "ns",
        "key_name": "rsa",
        "key_provider_information": "727361",
        "branch_key_version": null,
        "ciphertext_length": 256,
    });
    assert_eq!(shown["encrypted_data_keys"][1], rsa);
    assert_eq!(shown["message_id"].as_str().unwrap().len(), 64);
    assert_eq!(
        (&shown["body"]["frames"], &shown["body"]["plaintext_length"]),
        (&json!(3), &json!(2500))
    );
}

#[test]
fn a_damaged_message_fails_after_its_header_is_shown() {
    let place = Place::new();
    let message = message(&place);
    for (damaged, expected) in [
        (&message[..message.len() - 1], "message truncated"),
        (&message[..message.len() - 200], "message truncated"),
        (&[&message[..], b"x"].concat(), "trailing bytes"),
    ] {
        for arguments in [&["inspect"][..], &["inspect", "--json"]] {
            let ran = place.fails(arguments, damaged, expected);
            assert!(String::from_utf8(ran.output).unwrap().contains("0x0578"));
        }
    }
    assert_eq!(place.fails(&["inspect"], &message[..50], "message truncated").output, b"");
    assert_eq!(place.fails(&["inspect"], b"", "empty").output, b"");
}

#[test]
fn the_program_describes_itself() {
    let place = Place::new();
    let text = |arguments: &[&str]| String::from_utf8(place.succeeds(arguments, b"")).unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(text(&["completions", shell]).contains("--required-context") || shell == "fish");
    }
    assert!(text(&["completions", "fish"]).contains("required-context"));
    for (page, title) in [(&["man"][..], "envelope"), (&["man", "encrypt"], "envelope\\-encrypt")] {
        let page = text(page);
        assert!(page.contains(".TH envelope") && page.contains(title), "{page}");
    }
    let help = text(&["decrypt", "--help"]);
    for part in [
        "[default: require-encrypt-allow-decrypt]",
        "SPEC",
        "raw-rsa,",
        "AWS_ENDPOINT_URL_KMS",
        "Exit status",
    ] {
        assert!(help.contains(part), "{part} is missing in: {help}");
    }
    assert!(text(&["--version"]).starts_with("envelope "));
}

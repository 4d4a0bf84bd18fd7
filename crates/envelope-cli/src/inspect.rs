//! The command `envelope inspect`.

use std::{collections::BTreeMap, fmt::Write as _, io::Read};

use envelope::stream::UnverifiedHeader;
use serde::Serialize;

use crate::{
    arguments::Inspect,
    failure::{Failure, is_plain},
    input::Input,
    json,
    output::print,
    store::version_text,
};

/// The maximum of the format. Here, encrypted data keys cost no requests.
const MAX_ENCRYPTED_DATA_KEYS: usize = 65_535;

/// The unverified content of a message. Field names are those of the specification.
#[derive(Debug, Serialize)]
struct Summary {
    verified: bool,
    version: u8,
    algorithm_suite: String,
    committed: bool,
    signed: bool,
    message_id: String,
    encryption_context: BTreeMap<String, String>,
    encrypted_data_keys: Vec<EncryptedDataKey>,
    /// `null` if the body is non-framed.
    frame_length: Option<u32>,
    header_length: usize,
    body: Option<Body>,
}

#[derive(Debug, Serialize)]
struct EncryptedDataKey {
    key_provider_id: String,
    /// The provider's name of the key, if it is text.
    key_name: Option<String>,
    /// In hexadecimal.
    key_provider_information: String,
    /// The UUID of the version, if a branch key wraps the data key.
    branch_key_version: Option<String>,
    ciphertext_length: usize,
}

#[derive(Debug, Serialize)]
struct Body {
    frames: u64,
    plaintext_length: u64,
    /// `null` if the message has no signature.
    signature_length: Option<usize>,
}

pub(crate) fn run(arguments: &Inspect) -> Result<(), Failure> {
    let input = Input::open(&arguments.input)?;
    let name = input.name();
    let mut input = input.buffered();
    let failed = |error: &std::io::Error| Failure::stream(name.display(), error);
    let header = UnverifiedHeader::read(&mut input, MAX_ENCRYPTED_DATA_KEYS)
        .map_err(|error| failed(&error))?;
    let mut summary = Summary::new(&header);
    let body = body(&header, input);
    let failure = match body {
        Ok(body) => {
            summary.body = Some(body);
            None
        }
        Err(error) => Some(failed(&error)),
    };
    let text = if arguments.json { json::pretty(&summary) } else { summary.text() };
    print(text.as_bytes())?;
    // The header is shown even if the body is damaged.
    failure.map_or(Ok(()), Err)
}

fn body(header: &UnverifiedHeader, input: impl Read) -> std::io::Result<Body> {
    let mut frames = 0;
    let mut plaintext_length = 0;
    let signature_length = header.read_body(input, |content| {
        frames += 1;
        plaintext_length += content.end - content.start;
    })?;
    Ok(Body { frames, plaintext_length, signature_length })
}

impl Summary {
    fn new(header: &UnverifiedHeader) -> Self {
        let suite = header.suite();
        let encrypted_data_keys = header.encrypted_data_keys().map(|key| EncryptedDataKey {
            key_name: key_name(&key.key_provider_information),
            branch_key_version: branch_key_version(&key.key_provider_id, &key.ciphertext),
            key_provider_information: hex::encode(&key.key_provider_information),
            key_provider_id: key.key_provider_id,
            ciphertext_length: key.ciphertext.len(),
        });
        let context = header.encryption_context().iter();
        Self {
            verified: false,
            version: header.version(),
            algorithm_suite: suite.to_string(),
            committed: suite.commits_to_key(),
            signed: suite.is_signed(),
            message_id: hex::encode(header.message_id()),
            encryption_context: context
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            encrypted_data_keys: encrypted_data_keys.collect(),
            frame_length: header.frame_length(),
            header_length: header.length(),
            body: None,
        }
    }

    /// Returns the summary as text. Strings from the message are escaped, because they could
    /// contain terminal control sequences.
    fn text(&self) -> String {
        let mut out =
            "NOT VERIFIED: anyone can write a message that looks like this one\n".to_owned();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<21} {value}");
        };
        line("format version", self.version.to_string());
        let has = |is: bool, what: &str| format!("{} {what}", if is { "with" } else { "without" });
        let properties =
            [has(self.committed, "key commitment"), has(self.signed, "signature")].join(", ");
        line("algorithm suite", format!("{}, {properties}", self.algorithm_suite));
        line("message id", self.message_id.clone());
        for (key, value) in &self.encryption_context {
            line("encryption context", format!("{key:?} = {value:?}"));
        }
        if self.encryption_context.is_empty() {
            line("encryption context", "empty".to_owned());
        }
        for key in &self.encrypted_data_keys {
            let name = match &key.key_name {
                Some(name) => format!("{name:?}"),
                None => format!("0x{}", key.key_provider_information),
            };
            let version = key.branch_key_version.as_ref();
            let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
            let length = key.ciphertext_length;
            line(
                "encrypted data key",
                format!("{:?} {name}{version}, {length} bytes", key.key_provider_id),
            );
        }
        line("header", format!("{} bytes", self.header_length));
        let frame_length = self.frame_length.map(|length| format!("frames of {length} bytes"));
        line("body", frame_length.unwrap_or_else(|| "non-framed".to_owned()));
        if let Some(body) = &self.body {
            if self.frame_length.is_some() {
                line("frames", body.frames.to_string());
            }
            line("plaintext", format!("{} bytes", body.plaintext_length));
            if let Some(length) = body.signature_length {
                line("signature", format!("{length} bytes"));
            }
        }
        out
    }
}

/// Returns the key name at the start of the key provider information.
///
/// For AWS KMS and raw RSA keyrings, that is all of it. For a raw AES keyring, the tag length in
/// bits, the IV length in bytes and the IV follow. See the AWS Encryption SDK specification,
/// framework/raw-aes-keyring.md, "Key Provider Information".
fn key_name(information: &[u8]) -> Option<String> {
    let aes = information
        .split_last_chunk::<12>()
        .and_then(|(rest, _iv)| rest.strip_suffix(&[0, 0, 0, 128, 0, 0, 0, 12]));
    let name = std::str::from_utf8(aes.unwrap_or(information)).ok()?;
    name.chars().all(is_plain).then(|| name.to_owned())
}

/// Returns the version of the branch key that wraps a data key.
///
/// A salt of 16 bytes, an IV of 12 and the version of 16 precede the wrapped data key and a tag of
/// 16. See the AWS Encryption SDK specification, framework/aws-kms/aws-kms-hierarchical-keyring.md,
/// "Ciphertext".
fn branch_key_version(provider: &str, ciphertext: &[u8]) -> Option<String> {
    let is_whole = [16, 24, 32].iter().any(|length| ciphertext.len() == 60 + length);
    if provider != "aws-kms-hierarchy" || !is_whole {
        return None;
    }
    let version = ciphertext.get(28..44)?.try_into().ok()?;
    Some(version_text(version))
}

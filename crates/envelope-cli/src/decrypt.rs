//! `envelope decrypt`.

use envelope::stream::DecryptionMode;

use crate::{
    arguments::Decrypt,
    encrypt::{builder, context, copy, runtime},
    failure::Failure,
    input::Input,
    output::Output,
    wrapping_key::{self, Purpose},
};

pub(crate) fn run(arguments: &Decrypt) -> Result<(), Failure> {
    let context = context(&arguments.encryption_context)?;
    let runtime = runtime()?;
    let keyring = wrapping_key::keyring(&arguments.wrapping_keys, Purpose::Decrypt, &arguments.kms, &runtime)?;
    let envelope = builder(keyring, &[])?
        .commitment_policy(arguments.commitment_policy.into())
        .max_encrypted_data_keys(arguments.max_encrypted_data_keys.into())
        .build()
        .map_err(|error| Failure::envelope(&error))?;

    let input = Input::open(&arguments.files.input, arguments.files.quiet)?;
    let name = input.name();
    let mut input = input.buffered();
    let failed = |error: &std::io::Error| Failure::stream(name.display(), error);
    let header = envelope.read_header(&mut input).map_err(|error| failed(&error))?;
    let mut output = Output::open(arguments.files.output.as_deref(), false, &arguments.wrapping_keys)?;
    // A file appears after the signature was verified.
    let mode = if output.appears_at_the_end() || arguments.release_unverified {
        DecryptionMode::ReleaseBeforeSignatureIsVerified
    } else {
        DecryptionMode::UnsignedOnly
    };
    let decryptor = runtime.block_on(envelope.decryptor(&header, &context, mode));
    let decryptor = decryptor.map_err(|error| Failure::envelope(&error))?;
    copy(&mut decryptor.reader(&mut input), &mut output, failed)?;
    output.finish()
}

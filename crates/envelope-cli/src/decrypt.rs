//! The command `envelope decrypt`.

use crate::{
    arguments::Decrypt,
    encrypt::{builder, context, kept_files, runtime},
    failure::Failure,
    flow,
    input::Input,
    keyring::{Purpose, keyring},
    output::Output,
};

pub(crate) fn run(arguments: &Decrypt) -> Result<(), Failure> {
    let context = context(&arguments.encryption_context)?;
    let runtime = runtime()?;
    let keyring = runtime.block_on(keyring(
        &arguments.wrapping_keys,
        Purpose::Decrypt,
        &arguments.store,
        &arguments.branch_keys,
        &arguments.kms,
    ))?;
    let mut input = Input::open(&arguments.files.input)?.buffered();
    let threads = flow::threads(&input, arguments.files.threads);
    let envelope = builder(keyring)
        .threads(threads)
        .commitment_policy(arguments.commitment_policy.into())
        .max_encrypted_data_keys(arguments.max_encrypted_data_keys.into())
        .build()
        .map_err(|error| Failure::envelope(&error))?;

    let header = envelope.read_header(&mut input);
    let header = header.map_err(|error| Failure::stream(input.name().display(), &error))?;
    let kept = kept_files(&arguments.wrapping_keys, &arguments.store);
    let output = Output::open(arguments.files.output.as_deref(), false, &kept)?;
    // A file appears only after the signature is verified.
    let decryptor = if output.appears_at_the_end() || arguments.release_unverified {
        runtime.block_on(envelope.decryptor_before_signature(&header, &context))
    } else {
        runtime.block_on(envelope.decryptor(&header, &context))
    };
    let decryptor = decryptor.map_err(|error| Failure::envelope(&error))?;
    flow::copy(input, output, threads, arguments.files.quiet, |sink| decryptor.writer(sink))
}

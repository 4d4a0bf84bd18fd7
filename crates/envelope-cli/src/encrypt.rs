//! The command `envelope encrypt`.

use std::path::Path;

use envelope::{EncryptionContext, Envelope, EnvelopeBuilder, materials::DefaultMaterialsManager};

use crate::{
    arguments::Encrypt,
    failure::Failure,
    flow,
    input::Input,
    keyring::{Purpose, keyring},
    options::StoreOptions,
    output::Output,
    store,
    wrapping_key::WrappingKey,
};

pub(crate) fn run(arguments: &Encrypt) -> Result<(), Failure> {
    let context = context(&arguments.encryption_context)?;
    if let Some(key) = arguments.required_context.iter().find(|key| context.get(key).is_none()) {
        return Err(Failure::usage(format!(
            "--required-context {key} has no value: add --encryption-context {key}=VALUE"
        )));
    }
    let runtime = runtime()?;
    let keyring = runtime.block_on(keyring(
        &arguments.wrapping_keys,
        Purpose::Encrypt,
        &arguments.store,
        &arguments.branch_keys,
        &arguments.kms,
    ))?;
    let input = Input::open(&arguments.files.input)?;
    let threads = flow::threads(&input, arguments.files.threads);
    let envelope = builder(keyring)
        .required_keys(&arguments.required_context)
        .threads(threads)
        .commitment_policy(arguments.commitment_policy.into())
        .legacy_suites(arguments.legacy)
        .frame_length(arguments.frame_length);
    let envelope = if let Some(suite) = arguments.suite { envelope.suite(suite) } else { envelope };
    let envelope = envelope.build().map_err(|error| Failure::envelope(&error))?;

    let kept = kept_files(&arguments.wrapping_keys, &arguments.store);
    let output = Output::open(arguments.files.output.as_deref(), true, &kept)?;
    let encryptor = runtime
        .block_on(envelope.encryptor(&context, None))
        .map_err(|error| Failure::context(&error))?;
    flow::copy(input, output, threads, arguments.files.quiet, |sink| encryptor.writer(sink))
}

/// Returns a builder of an envelope that requests a new data key for each message.
pub(crate) fn builder(keyring: envelope::keyring::MultiKeyring) -> EnvelopeBuilder {
    Envelope::builder(DefaultMaterialsManager::new(keyring))
}

/// Returns the files that no output may replace.
pub(crate) fn kept_files<'a>(keys: &'a [WrappingKey], store: &'a StoreOptions) -> Vec<&'a Path> {
    keys.iter().filter_map(WrappingKey::file).chain(store::file(store)).collect()
}

/// Returns the encryption context of the command line.
pub(crate) fn context(pairs: &[(String, String)]) -> Result<EncryptionContext, Failure> {
    let pairs = pairs.iter().map(|(key, value)| (key, value));
    EncryptionContext::new(pairs).map_err(|error| Failure::context(&error))
}

/// Returns a runtime that starts no threads.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(format!("could not start the async runtime: {error}")))
}

//! Credentials from a profile of the AWS CLI's files.

use std::path::PathBuf;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

use super::principal::Reason;
use crate::connection;

/// Reads the file each time it is asked; the SDK's provider reads it once.
#[derive(Debug)]
pub(super) struct ProfileFile {
    pub(super) file: PathBuf,
    pub(super) profile: String,
}

impl ProvideCredentials for ProfileFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            // A profile may name a role, for which STS is asked.
            let http = aws_smithy_http_client::Builder::new()
                .tls_provider(connection::tls_provider())
                .build_https();
            let config = ProviderConfig::without_region().with_http_client(http);
            let files = EnvConfigFiles::builder()
                .with_file(EnvConfigFileKind::Credentials, &self.file)
                .build();
            let provider = ProfileFileCredentialsProvider::builder()
                .configure(&config)
                .profile_files(files)
                .profile_name(&self.profile)
                .build();
            // What the provider says names neither.
            provider.provide_credentials().await.map_err(|_| {
                let reason = format!(
                    "no credentials in profile `{}` of {}",
                    self.profile,
                    self.file.display()
                );
                CredentialsError::not_loaded(Reason(reason))
            })
        })
    }
}

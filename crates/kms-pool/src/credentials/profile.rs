//! Credentials from a profile of the AWS CLI's files.

use std::path::PathBuf;

use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

use super::principal::{Provider, Reason};
use super::sessions::Surroundings;

/// Reads the file each time it is asked; the SDK's provider reads it once.
#[derive(Debug)]
pub(super) struct ProfileFile {
    pub(super) file: PathBuf,
    pub(super) profile: String,
}

impl Provider for ProfileFile {
    fn credentials<'a>(&'a self, by: &'a Surroundings) -> future::ProvideCredentials<'a> {
        future::ProvideCredentials::new(async {
            let config = ProviderConfig::without_region().with_http_client(by.http().clone());
            let files = EnvConfigFiles::builder()
                .with_file(EnvConfigFileKind::Credentials, &self.file)
                .build();
            // A profile may name a role, which is assumed at the STS of its region.
            let region = ProfileFileRegionProvider::builder()
                .configure(&config)
                .profile_files(files.clone())
                .profile_name(&self.profile)
                .build();
            let config = config.with_region(region.region().await);
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

//! Loads credentials from a profile in a file of the AWS CLI.

use std::path::PathBuf;

use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials as _};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::reason::{Reason, missing_feature};

/// A profile. Its file is read for each load; the SDK's provider would read it only once.
pub(super) struct ProfileFile {
    pub(super) file: PathBuf,
    pub(super) profile: String,
}

impl ProfileFile {
    pub(super) async fn load(&self, http: &SharedHttpClient) -> provider::Result {
        let config = ProviderConfig::without_region().with_http_client(http.clone());
        let files =
            EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, &self.file).build();
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
        // The provider's message names neither the profile nor the file.
        provider.provide_credentials().await.map_err(|error| {
            let profile = format!("profile `{}` of {}", self.profile, self.file.display());
            let reason = match missing_feature(&error) {
                Some(feature) => format!("{profile} {feature}"),
                None => format!("no credentials in {profile}"),
            };
            CredentialsError::not_loaded(Reason(reason))
        })
    }
}

//! Loads credentials from the default chain of the AWS SDKs.

use std::sync::Arc;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials as _};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::sync::OnceCell;

use super::reason::{Reason, missing_feature};

/// The chain, set up on its first use: finding the region may need the network, and therefore a
/// runtime.
#[derive(Default)]
pub(super) struct DefaultChain(Arc<OnceCell<DefaultCredentialsChain>>);

impl DefaultChain {
    pub(super) async fn load(&self, http: &SharedHttpClient) -> provider::Result {
        if self.0.get().is_none() {
            let chain = Arc::clone(&self.0);
            let http = http.clone();
            // This may exceed the provider timeout. The next call then uses its result.
            let set_up = async move {
                chain.get_or_init(|| set_up(http)).await;
            };
            tokio::spawn(set_up).await.map_err(CredentialsError::unhandled)?;
        }
        match self.0.get() {
            Some(chain) => {
                chain.provide_credentials().await.map_err(|error| match missing_feature(&error) {
                    Some(feature) => CredentialsError::invalid_configuration(Reason(format!(
                        "the profile of the default chain {feature}"
                    ))),
                    None => error,
                })
            }
            None => Err(CredentialsError::unhandled("the default chain is not set up")),
        }
    }
}

async fn set_up(http: SharedHttpClient) -> DefaultCredentialsChain {
    let config = ProviderConfig::without_region().with_http_client(http);
    DefaultCredentialsChain::builder().configure(config).build().await
}

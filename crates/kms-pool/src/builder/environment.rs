//! Reads settings of a pool from environment variables.

use super::KmsPoolBuilder;
use crate::connection::Proxies;
use crate::error::BuildError;

impl KmsPoolBuilder {
    /// Applies the environment variables that the AWS SDKs and the AWS CLI also read.
    ///
    /// - `AWS_ENDPOINT_URL_KMS`, or else `AWS_ENDPOINT_URL`: the endpoint. For DynamoDB,
    ///   `AWS_ENDPOINT_URL_DYNAMODB` takes precedence over `AWS_ENDPOINT_URL`. All are ignored if
    ///   `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` is `true`.
    /// - `AWS_CA_BUNDLE`: a PEM file with certificate authorities to trust instead of the
    ///   platform's.
    /// - `HTTPS_PROXY`, or else `ALL_PROXY`: the [proxy](Self::proxy), unless `NO_PROXY` lists the
    ///   host.
    ///
    /// The proxy variables have the same meaning as for curl: the lower-case name takes precedence,
    /// and an empty variable counts as unset. `NO_PROXY` is `*` for all hosts, or a list of
    /// host names (which include their subdomains), IP addresses and networks such as `10.0.0.0/8`.
    /// Unlike for curl, an entry can have a port, such as `kms.internal:8443`, and then applies to
    /// that port only.
    ///
    /// The pool reads no environment variables unless you call this method.
    ///
    /// # Errors
    ///
    /// - [`BuildError::CaBundle`] if the file in `AWS_CA_BUNDLE` cannot be read.
    /// - [`BuildError::Proxy`] if a proxy variable is not a valid proxy URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example() -> Result<(), kms_pool::BuildError> {
    /// let pool = kms_pool::KmsPool::builder().with_environment()?.build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_environment(self) -> Result<Self, BuildError> {
        self.with_variables(|name| std::env::var(name).ok())
    }

    fn with_variables(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BuildError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
            .is_none_or(|value| !value.eq_ignore_ascii_case("true"))
        {
            let endpoint = |name| set(name).or_else(|| set("AWS_ENDPOINT_URL"));
            self.endpoint = endpoint("AWS_ENDPOINT_URL_KMS").or(self.endpoint);
            if let Some(url) = endpoint("AWS_ENDPOINT_URL_DYNAMODB") {
                self.service_endpoints.insert("dynamodb".to_owned(), url);
            }
        }
        if let Some(path) = set("AWS_CA_BUNDLE") {
            let pem = std::fs::read(&path).map_err(|cause| BuildError::CaBundle { path, cause })?;
            self.connections.roots.pems.push(pem);
        }
        let proxies = Proxies::from_variables(variable)?;
        if !proxies.is_none() {
            self.connections.proxies = proxies;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use crate::KmsPool;

    use super::*;

    const ROOT: &[u8] = include_bytes!("../../tests/data/root.pem");

    #[test]
    fn the_environment_sets_endpoint_and_roots() {
        let with = |variables: &'static [(&'static str, &'static str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            };
            KmsPool::builder().endpoint_url("https://own").with_variables(variable)
        };
        let endpoint = |variables| with(variables).unwrap().endpoint.unwrap();
        let dynamodb =
            |variables| with(variables).unwrap().service_endpoints.get("dynamodb").cloned();
        assert_eq!(dynamodb(&[("AWS_ENDPOINT_URL_KMS", "https://kms")]), None);
        assert_eq!(dynamodb(&[("AWS_ENDPOINT_URL", "https://all")]).unwrap(), "https://all");
        let both =
            &[("AWS_ENDPOINT_URL", "https://all"), ("AWS_ENDPOINT_URL_DYNAMODB", "https://own")];
        assert_eq!(dynamodb(both).unwrap(), "https://own");
        assert_eq!(endpoint(&[]), "https://own");
        assert_eq!(endpoint(&[("AWS_ENDPOINT_URL", "https://all")]), "https://all");
        assert_eq!(
            endpoint(&[
                ("AWS_ENDPOINT_URL", "https://all"),
                ("AWS_ENDPOINT_URL_KMS", "https://kms")
            ]),
            "https://kms"
        );
        let ignored = &[
            ("AWS_ENDPOINT_URL_KMS", "https://kms"),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"),
        ];
        assert_eq!(endpoint(ignored), "https://own");
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/root.pem");
        let roots = |path: String| {
            KmsPool::builder()
                .with_variables(move |name| (name == "AWS_CA_BUNDLE").then(|| path.clone()))
        };
        assert_eq!(roots(root.to_owned()).unwrap().connections.roots.pems, [ROOT]);
        assert!(matches!(roots("missing.pem".to_owned()), Err(BuildError::CaBundle { .. })));
    }
}

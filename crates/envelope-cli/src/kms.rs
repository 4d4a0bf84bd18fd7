//! AWS clients with the settings of the command line.

use std::{cell::OnceCell, fs};

use kms_pool::{BuildError, KmsPool, PooledClients, Principal};

use crate::{
    failure::{Failure, with_causes},
    options::Kms,
};

/// A pool of AWS clients and the credentials of the default chain, built on first use.
pub(crate) struct Aws<'a> {
    options: &'a Kms,
    built: OnceCell<(KmsPool, Principal)>,
}

impl<'a> Aws<'a> {
    pub(crate) fn new(options: &'a Kms) -> Self {
        Self { options, built: OnceCell::new() }
    }

    /// Returns KMS clients for all regions.
    pub(crate) fn clients(&self) -> Result<PooledClients, Failure> {
        let (pool, principal) = self.built()?;
        Ok(pool.clients(principal))
    }

    pub(crate) fn built(&self) -> Result<&(KmsPool, Principal), Failure> {
        if self.built.get().is_none() {
            let _ = self.built.set((pool(self.options)?, Principal::from_default_chain()));
        }
        Ok(self.built.get().expect("it was set above"))
    }
}

fn pool(kms: &Kms) -> Result<KmsPool, Failure> {
    let failed = |error: BuildError| Failure::new(with_causes(&error));
    let mut builder = KmsPool::builder().with_environment().map_err(failed)?;
    if let Some(url) = &kms.endpoint_url {
        builder = builder.endpoint_url(url);
    }
    if let Some(file) = &kms.ca_file {
        builder =
            builder.trust_root_pem(fs::read(file).map_err(|error| Failure::file(file, &error))?);
    }
    builder.build().map_err(failed)
}

//! Supplies the KMS client of a region.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kms::Client;

use crate::client::Purpose;
use crate::credentials::Principal;
use crate::error::{KmsError, KmsErrorKind};
use crate::pool::KmsPool;
use crate::region::check_region;

/// A future that returns a client.
pub type ClientFuture<'a> = Pin<Box<dyn Future<Output = Result<Client, KmsError>> + Send + 'a>>;

/// Supplies a KMS client for a region: the *client supplier* of the AWS Encryption SDK.
///
/// Code that uses KMS keys of many regions takes a supplier instead of a client, and calls it for
/// each region that it needs. The implementation decides which regions may be used, and with which
/// principal. [`PooledClients`] implements it over a [`KmsPool`].
///
/// ```
/// use kms_pool::{ClientFuture, ClientSupplier};
///
/// /// Says on standard error which regions are asked for.
/// #[derive(Debug)]
/// struct Watched<S>(S);
///
/// impl<S: ClientSupplier> ClientSupplier for Watched<S> {
///     fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
///         eprintln!("a client for {region}");
///         self.0.client(region)
///     }
/// }
/// ```
pub trait ClientSupplier: fmt::Debug + Send + Sync {
    /// Returns the client of `region`, which may come from an untrusted message.
    ///
    /// # Errors
    ///
    /// [`KmsErrorKind::InvalidRequest`] for an invalid region, or one that is not allowed, and any
    /// error that prevents building the client. No request is sent to KMS.
    fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a>;

    /// Returns the client for requests with a certain purpose. Default: one client for all of them.
    ///
    /// # Errors
    ///
    /// The errors of [`client`](Self::client).
    fn client_for<'a>(&'a self, region: &'a str, purpose: Purpose) -> ClientFuture<'a> {
        let _ = purpose;
        self.client(region)
    }

    /// Grows when the clients belong to another identity than before: see
    /// [`Principal::tenure`](crate::Principal::tenure). Default: it never grows.
    fn tenure(&self) -> u64 {
        0
    }
}

impl<S: ClientSupplier + ?Sized> ClientSupplier for Arc<S> {
    fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
        (**self).client(region)
    }

    fn client_for<'a>(&'a self, region: &'a str, purpose: Purpose) -> ClientFuture<'a> {
        (**self).client_for(region, purpose)
    }

    fn tenure(&self) -> u64 {
        (**self).tenure()
    }
}

/// Clients of a pool, with one principal for all regions, or a separate one for some regions.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kms_pool::{ClientSupplier as _, KmsPool, Principal};
///
/// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
/// # let role_for_europe = principal.clone();
/// let clients = pool
///     .clients(&principal)
///     .with_principal_in("eu-central-1", role_for_europe)
///     .limited_to(["eu-central-1", "us-east-1"]);
/// let client = clients.client("us-east-1").await?;
/// assert!(clients.client("ap-south-1").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PooledClients {
    pool: KmsPool,
    principal: Principal,
    by_region: HashMap<String, Principal>,
    limited_to: Option<Vec<String>>,
    /// The regions that were asked for so far. Shared by all clones.
    seen: Arc<Mutex<HashSet<Box<str>>>>,
}

/// More than AWS has. Regions may come from untrusted messages, and each takes the place of a client in the pool.
const MAX_REGIONS: usize = 64;

impl KmsPool {
    /// Returns a [`ClientSupplier`] of this pool's clients for `principal`.
    ///
    /// # Examples
    ///
    /// See [`PooledClients`].
    pub fn clients(&self, principal: &Principal) -> PooledClients {
        PooledClients::new(self.clone(), principal.clone())
    }
}

impl PooledClients {
    fn new(pool: KmsPool, principal: Principal) -> Self {
        Self { pool, principal, by_region: HashMap::new(), limited_to: None, seen: Arc::default() }
    }

    /// Signs as `principal` in `region`, for example under a role that is for this region alone.
    /// Repeatable; the last call for a region wins.
    #[must_use]
    pub fn with_principal_in(mut self, region: impl Into<String>, principal: Principal) -> Self {
        self.by_region.insert(region.into(), principal);
        self
    }

    /// Supplies no client for any other region. Default: every region is supplied, up to 64
    /// different ones; who opens messages of strangers names the regions, so that made-up ones do
    /// not use up that number.
    #[must_use]
    pub fn limited_to(mut self, regions: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.limited_to = Some(regions.into_iter().map(Into::into).collect());
        self
    }
}

impl PooledClients {
    async fn supply(&self, region: &str, purpose: Purpose) -> Result<Client, KmsError> {
        check_region(region)?;
        if self.limited_to.as_ref().is_some_and(|regions| !regions.iter().any(|it| it == region)) {
            let message = "the region is not among those that clients are supplied for";
            return Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None));
        }
        if self.limited_to.is_none() && !self.is_one_of_few(region) {
            let message = "clients were supplied for 64 other regions: name the regions that may be reached, by `limited_to`";
            return Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None));
        }
        let principal = self.by_region.get(region).unwrap_or(&self.principal);
        self.pool.client_for(region, principal, purpose).await
    }
}

impl PooledClients {
    /// Whether a client for this region is within [`MAX_REGIONS`].
    fn is_one_of_few(&self, region: &str) -> bool {
        // An insertion is whole or not there.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.contains(region) || (seen.len() < MAX_REGIONS && seen.insert(region.into()))
    }
}

impl ClientSupplier for PooledClients {
    fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
        self.client_for(region, Purpose::Foreground)
    }

    fn client_for<'a>(&'a self, region: &'a str, purpose: Purpose) -> ClientFuture<'a> {
        Box::pin(self.supply(region, purpose))
    }

    fn tenure(&self) -> u64 {
        self.by_region
            .values()
            .map(Principal::tenure)
            .fold(self.principal.tenure(), u64::wrapping_add)
    }
}

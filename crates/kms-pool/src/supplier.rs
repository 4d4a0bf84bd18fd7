//! Supplies KMS clients for regions.

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

/// The future that [`ClientSupplier::client`] returns.
pub type ClientFuture<'a> = Pin<Box<dyn Future<Output = Result<Client, KmsError>> + Send + 'a>>;

/// Supplies a KMS client for a region: the *client supplier* of the AWS Encryption SDK.
///
/// Code that uses KMS keys of several regions takes a supplier instead of a client, and calls it
/// for each region that it needs. The implementation decides which regions are allowed, and which
/// principal signs. [`PooledClients`] implements it over a [`KmsPool`].
///
/// # Examples
///
/// ```
/// use kms_pool::{ClientFuture, ClientSupplier};
///
/// /// Prints each region for which a client is needed.
/// #[derive(Debug)]
/// struct Traced<S>(S);
///
/// impl<S: ClientSupplier> ClientSupplier for Traced<S> {
///     fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
///         eprintln!("a client for {region}");
///         self.0.client(region)
///     }
/// }
/// ```
pub trait ClientSupplier: fmt::Debug + Send + Sync {
    /// Returns the client for `region`. The name may come from an untrusted message.
    ///
    /// # Errors
    ///
    /// - [`KmsErrorKind::InvalidRequest`] if `region` is invalid or not allowed.
    /// - Any error of creating the client. No request is sent to KMS.
    fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a>;

    /// Returns the client for requests with a certain purpose. Default: [`client`](Self::client).
    ///
    /// # Errors
    ///
    /// The errors of [`client`](Self::client).
    fn client_for<'a>(&'a self, region: &'a str, purpose: Purpose) -> ClientFuture<'a> {
        let _ = purpose;
        self.client(region)
    }

    /// Returns a number that grows when the identity behind the clients changes: see
    /// [`Principal::tenure`]. Default: 0.
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

/// Clients of a pool, with one principal for all regions or separate ones for some of them.
///
/// [`KmsPool::clients`] creates it.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kms_pool::{ClientSupplier as _, KmsPool, Principal};
///
/// let pool = KmsPool::builder().build()?;
/// let principal = Principal::from_default_chain();
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
#[derive(Clone, Debug)]
pub struct PooledClients {
    pool: KmsPool,
    principal: Principal,
    by_region: HashMap<String, Principal>,
    limited_to: Option<Vec<String>>,
    /// The regions that clients were supplied for. Shared by all clones.
    seen: Arc<Mutex<HashSet<Box<str>>>>,
}

/// More regions than AWS has. Their names may come from untrusted messages, and each takes the
/// place of a client in the pool.
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

    /// Sets the principal for one region, for example a role for this region only.
    ///
    /// If this is called more than once for a region, the last call applies.
    #[must_use]
    pub fn with_principal_in(mut self, region: impl Into<String>, principal: Principal) -> Self {
        self.by_region.insert(region.into(), principal);
        self
    }

    /// Sets the allowed regions. Default: any region, up to 64 different ones.
    ///
    /// If you decrypt untrusted messages, set the allowed regions: otherwise invented region names
    /// can use up the 64.
    #[must_use]
    pub fn limited_to(mut self, regions: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.limited_to = Some(regions.into_iter().map(Into::into).collect());
        self
    }

    async fn supply(&self, region: &str, purpose: Purpose) -> Result<Client, KmsError> {
        check_region(region)?;
        if self.limited_to.as_ref().is_some_and(|regions| !regions.iter().any(|it| it == region)) {
            let message = "the region is not allowed by `limited_to`";
            return Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None));
        }
        if self.limited_to.is_none() && !self.is_one_of_few(region) {
            let message = "too many regions, at most 64 are allowed: set them by `limited_to`";
            return Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None));
        }
        let principal = self.by_region.get(region).unwrap_or(&self.principal);
        self.pool.client_for(region, principal, purpose).await
    }

    /// Whether a client for this region is within [`MAX_REGIONS`].
    fn is_one_of_few(&self, region: &str) -> bool {
        // A single insertion: a panic cannot leave it half done.
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

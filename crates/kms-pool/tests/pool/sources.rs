//! Sources of credentials, and when they are called again.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use kms_local::{Faults, KmsLocal};
use kms_pool::{BuildError, ClientSupplier as _, KmsErrorKind, Principal, Role};

use crate::support::{OTHER, REGION, Sessions, builder, random, server, until};

/// Sessions that expire after two seconds, from a provider that can be broken.
#[derive(Debug)]
struct ShortSessions {
    kms: Arc<KmsLocal>,
    broken: Arc<AtomicBool>,
}

impl ProvideCredentials for ShortSessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(if self.broken.load(SeqCst) {
            Err(CredentialsError::provider_error("broken"))
        } else {
            Ok(self.kms.issue_session(Duration::from_secs(2)))
        })
    }
}

#[tokio::test]
async fn credentials_are_refreshed_before_they_expire_without_any_caller() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(ShortSessions { kms: Arc::clone(&kms), broken: Arc::default() });
    let client = pool.client(REGION, &principal).await.unwrap();
    until(|| pool.stats().rotations >= 2).await;
    random(&client).await.unwrap();
    assert_eq!(
        kms.counters(REGION).total(),
        1,
        "the first session has ended, and nothing was refused"
    );
    assert_eq!(pool.client_stats()[0].generation, pool.stats().rotations + 1);
}

#[tokio::test]
async fn a_broken_provider_fails_no_request_until_its_credentials_expire() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let principal =
        Principal::new(ShortSessions { kms: Arc::clone(&kms), broken: Arc::clone(&broken) });
    let client = pool.client(REGION, &principal).await.unwrap();
    broken.store(true, SeqCst);
    while pool.stats().failures == 0 {
        random(&client).await.unwrap();
    }
    until(|| pool.client_stats()[0].credentials_left <= Some(Duration::ZERO)).await;
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
    broken.store(false, SeqCst);
    // The failure is repeated to callers for a moment.
    while random(&client).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn all_regions_share_the_credentials_of_a_principal() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(ShortSessions { kms: Arc::clone(&kms), broken: Arc::default() });
    for region in [REGION, OTHER] {
        pool.client(region, &principal).await.unwrap();
    }
    assert_eq!((pool.stats().refreshes, pool.stats().clients), (1, 2));
}

fn write_profile(file: &Path, keys: &Credentials) {
    let (id, secret) = (keys.access_key_id(), keys.secret_access_key());
    fs::write(
        file,
        format!("[payments]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    )
    .unwrap();
}

#[tokio::test]
async fn a_profile_that_changes_on_disk_is_read_again() {
    let kms = server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let (first, second) = (kms.issue_credentials(), kms.issue_credentials());
    write_profile(&file, &first);
    let pool = builder(&kms).watch_files_every(Duration::from_millis(10)).build().unwrap();
    let client = pool.client(REGION, &Principal::from_profile(&file, "payments")).await.unwrap();
    random(&client).await.unwrap();
    // By a rename, so that the file is complete at any time.
    let next = folder.path().join("next");
    write_profile(&next, &second);
    fs::rename(next, &file).unwrap();
    until(|| pool.stats().rotations > 0).await;
    random(&client).await.unwrap();
    let counted = kms.counters(REGION).access_keys;
    assert_eq!([&first, &second].map(|keys| counted[keys.access_key_id()]), [1, 1]);
}

#[cfg(all(unix, feature = "credentials-process"))]
#[tokio::test]
async fn a_profile_may_name_a_program_that_prints_credentials() {
    let kms = server().await;
    let keys = kms.issue_credentials();
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let id = keys.access_key_id();
    let secret = keys.secret_access_key();
    let json = format!(r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "{secret}"}}"#);
    fs::write(&printed, json).unwrap();
    let file = folder.path().join("credentials");
    let profile = format!("[payments]\ncredential_process = cat {}\n", printed.display());
    fs::write(&file, profile).unwrap();
    let pool = builder(&kms).build().unwrap();
    let client = pool.client(REGION, &Principal::from_profile(&file, "payments")).await.unwrap();
    random(&client).await.unwrap();
}

#[tokio::test]
async fn a_profile_that_needs_a_missing_feature_names_it() {
    let kms = server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let sso = "sso_start_url = https://127.0.0.1:1\nsso_region = us-east-1\n\
        sso_account_id = 111122223333\nsso_role_name = payments";
    let profiles = format!("[sso]\n{sso}\n[program]\ncredential_process = false\n");
    fs::write(&file, profiles).unwrap();
    let pool = builder(&kms).build().unwrap();
    for (profile, feature, is_on) in [
        ("sso", "`sso` of kms-pool", cfg!(feature = "sso")),
        ("program", "`credentials-process` of kms-pool", cfg!(feature = "credentials-process")),
    ] {
        let error = pool.client(REGION, &Principal::from_profile(&file, profile)).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
        assert_eq!(error.to_string().contains(feature), !is_on, "{error}");
    }
}

/// Kubernetes swaps a link to the directory of a mounted secret.
#[cfg(unix)]
#[tokio::test]
async fn a_swapped_file_of_the_same_length_and_time_is_read_again() {
    let kms = server().await;
    let folder = tempfile::tempdir().unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
    let keys = ["first", "second"].map(|version| {
        let keys = kms.issue_credentials();
        fs::create_dir(folder.path().join(version)).unwrap();
        let file = folder.path().join(version).join("credentials");
        write_profile(&file, &keys);
        fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
        keys
    });
    let link = folder.path().join("current");
    std::os::unix::fs::symlink("first", &link).unwrap();
    let pool = builder(&kms).watch_files_every(Duration::from_millis(10)).build().unwrap();
    let principal = Principal::from_profile(link.join("credentials"), "payments");
    let client = pool.client(REGION, &principal).await.unwrap();
    random(&client).await.unwrap();
    let next = folder.path().join("next");
    std::os::unix::fs::symlink("second", &next).unwrap();
    fs::rename(next, &link).unwrap();
    let swapped = async {
        until(|| pool.stats().rotations > 0).await;
    };
    tokio::time::timeout(Duration::from_secs(30), swapped).await.expect("the new file is read");
    random(&client).await.unwrap();
    let counted = kms.counters(REGION).access_keys;
    assert_eq!(keys.map(|keys| counted[keys.access_key_id()]), [1, 1]);
}

fn role(kms: &KmsLocal) -> Role {
    let arn = "arn:aws:iam::111122223333:role/payments";
    Role::new(arn, REGION).endpoint_url(kms.sts_endpoint().unwrap()).trust_root_pem(kms.ca_pem())
}

async fn server_with_sts() -> Arc<KmsLocal> {
    Arc::new(KmsLocal::builder().region(REGION).region(OTHER).sts().start().await.unwrap())
}

#[tokio::test]
async fn tenants_with_the_same_role_have_their_own_clients_and_tags() {
    let kms = server_with_sts().await;
    let pool = builder(&kms).build().unwrap();
    let service = Principal::new(kms.issue_credentials());
    for tenant in ["acme", "umbrella"] {
        let role =
            role(&kms).session_name(format!("payments-{tenant}")).session_tag("tenant", tenant);
        let principal = role.assumed_by(&service).unwrap().with_label(tenant);
        random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    }
    assert_eq!(pool.stats().clients, 2);
    let sessions = kms.role_sessions();
    let tags: Vec<_> =
        sessions.iter().map(|session| (&*session.session_name, &*session.tags["tenant"])).collect();
    assert_eq!(tags, [("payments-acme", "acme"), ("payments-umbrella", "umbrella")]);
    let counted = kms.counters(REGION).access_keys;
    assert!(sessions.iter().all(|session| counted[&session.access_key_id] == 1), "{counted:?}");
}

#[tokio::test]
async fn roles_share_the_load_of_their_base_and_refresh_it_when_sts_rejects_it() {
    #[derive(Debug)]
    struct Counted(Arc<KmsLocal>, Arc<AtomicU64>);

    impl ProvideCredentials for Counted {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.1.fetch_add(1, SeqCst);
            future::ProvideCredentials::ready(Ok(self.0.issue_session(Duration::from_hours(1))))
        }
    }

    let kms = server_with_sts().await;
    let pool = builder(&kms).build().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let service = Principal::new(Counted(Arc::clone(&kms), Arc::clone(&asked)));
    let tenants: Vec<_> = (0..20).map(|_| role(&kms).assumed_by(&service).unwrap()).collect();
    let clients = tenants.iter().map(|tenant| pool.client(REGION, tenant));
    for client in futures_util::future::join_all(clients).await {
        random(&client.unwrap()).await.unwrap();
    }
    assert_eq!(asked.load(SeqCst), 1);
    kms.expire_sessions();
    for tenant in &tenants {
        pool.refresh(tenant).await.unwrap();
    }
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn all_roles_of_a_chain_share_the_session_of_the_role_before() {
    let kms = server_with_sts().await;
    let pool = builder(&kms).build().unwrap();
    let service = Principal::new(kms.issue_session(Duration::from_hours(1)));
    let middle = role(&kms).session_name("middle").assumed_by(&service).unwrap();
    let tenants: Vec<_> =
        (0..20).map(|_| role(&kms).session_name("tenant").assumed_by(&middle).unwrap()).collect();
    let clients = tenants.iter().map(|tenant| pool.client(REGION, tenant));
    for client in futures_util::future::join_all(clients).await {
        random(&client.unwrap()).await.unwrap();
    }
    let sessions = kms.role_sessions();
    let of = |name| sessions.iter().filter(|session| session.session_name == name).count();
    assert_eq!((of("middle"), of("tenant")), (1, 20));
    // Each of the 20 roles, the one before them, and the service.
    assert_eq!(pool.stats().refreshes, 22);
}

#[tokio::test]
async fn a_role_works_though_this_machines_clock_is_wrong() {
    for set in [Faults::clock_ahead, Faults::clock_behind] {
        let kms = server_with_sts().await;
        for faults in [kms.sts_faults(), kms.faults(REGION)] {
            set(&faults, Duration::from_mins(30));
        }
        let pool = builder(&kms).max_attempts(1).build().unwrap();
        let service = Principal::new(kms.issue_credentials());
        let tenant = role(&kms).assumed_by(&service).unwrap();
        let client = pool.client(REGION, &tenant).await.unwrap();
        random(&client).await.unwrap();
        // From now on the date is known.
        let before = kms.sts_counters().total();
        pool.refresh(&tenant).await.unwrap();
        random(&client).await.unwrap();
        assert_eq!(kms.sts_counters().total(), before + 1);
        assert_eq!(pool.stats().refreshes, 3, "the service's once, and the role's twice");
    }
}

#[tokio::test]
async fn a_shutdown_disturbs_no_refresh_in_another_pool() {
    let kms = server_with_sts().await;
    let [first, second] = [(); 2].map(|()| builder(&kms).build().unwrap());
    let service = Principal::new(Sessions(Arc::clone(&kms)));
    let principal = Role::new("arn:aws:iam::111122223333:role/payments", REGION)
        .endpoint_url(kms.sts_endpoint().unwrap())
        .assumed_by(&service)
        .unwrap();
    for pool in [&first, &second] {
        random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    }
    kms.sts_faults().hang(true);
    let under_way = async {
        until(|| kms.sts_counters().in_flight >= 1).await;
        assert!(first.shutdown(Duration::from_secs(10)).await);
        drop(first);
        kms.sts_faults().clear();
    };
    tokio::join!(second.refresh(&principal), under_way).0.unwrap();
    random(&second.client(REGION, &principal).await.unwrap()).await.unwrap();
    assert_eq!(second.stats().failures, 0);
}

#[tokio::test]
async fn each_region_can_have_a_role_of_its_own() {
    let kms = server_with_sts().await;
    let pool = builder(&kms).build().unwrap();
    let service = Principal::new(kms.issue_credentials());
    let [here, there] =
        [REGION, OTHER].map(|region| role(&kms).session_name(region).assumed_by(&service).unwrap());
    let clients = pool.clients(&here).with_principal_in(OTHER, there).limited_to([REGION, OTHER]);
    for region in [REGION, OTHER] {
        random(&clients.client(region).await.unwrap()).await.unwrap();
    }
    let error = clients.client("ap-south-1").await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::InvalidRequest);
    for session in kms.role_sessions() {
        assert_eq!(kms.counters(&session.session_name).access_keys[&session.access_key_id], 1);
    }
}

#[tokio::test]
async fn a_role_is_assumed_with_the_current_credentials_of_its_base() {
    let kms = server_with_sts().await;
    let pool = builder(&kms).build().unwrap();
    let service = Principal::new(kms.issue_session(Duration::from_hours(1)));
    let principal = role(&kms).assumed_by(&service).unwrap();
    pool.client(REGION, &principal).await.unwrap();
    kms.expire_sessions();
    let error = pool.refresh(&principal).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
    service.rotate(kms.issue_session(Duration::from_hours(1)));
    pool.refresh(&principal).await.unwrap();
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_web_identity_is_read_again_when_its_token_changes() {
    let kms = server_with_sts().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    kms.accept_web_identity_token("first");
    fs::write(&file, "first\n").unwrap();
    let principal = role(&kms).with_web_identity(&file).unwrap();
    let pool = builder(&kms).watch_files_every(Duration::from_millis(10)).build().unwrap();
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    let sessions = kms.role_sessions().len();
    kms.accept_web_identity_token("second");
    fs::write(&file, "second").unwrap();
    until(|| kms.role_sessions().len() != sessions).await;
}

#[tokio::test]
async fn the_error_contains_the_reason_of_sts() {
    let kms = server_with_sts().await;
    let pool = builder(&kms).build().unwrap();
    kms.sts_faults().deny_access(true);
    let principal =
        role(&kms).assumed_by(&Principal::new(kms.issue_credentials())).unwrap().with_label("acme");
    let error = pool.client(REGION, &principal).await.unwrap_err().to_string();
    assert!(
        error.contains("`acme`")
            && error.contains("role/payments")
            && error.contains("AccessDenied"),
        "{error}"
    );
    let error = pool
        .client(REGION, &Principal::from_profile("/nowhere", "payments"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("profile `payments` of /nowhere"), "{error}");
    let tagged = role(&kms).session_tag("tenant", "acme").with_web_identity("/nowhere");
    assert!(matches!(tagged, Err(BuildError::Role { .. })));
}

#[tokio::test]
async fn an_account_that_changes_while_there_is_no_client_is_another_identity() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let of_account = |account: &str| {
        let keys = kms.issue_credentials();
        let keys = Credentials::builder()
            .access_key_id(keys.access_key_id())
            .secret_access_key(keys.secret_access_key());
        keys.account_id(account).provider_name("test").build()
    };
    let principal = Principal::new(of_account("111111111111"));
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    pool.clear();
    principal.rotate(of_account("222222222222"));
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    assert_eq!(principal.tenure(), 1);
}

#[tokio::test]
async fn a_refreshed_session_keeps_its_tenure_unlike_other_credentials() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    for _ in 0..3 {
        pool.refresh(&principal).await.unwrap();
    }
    assert_eq!((pool.stats().rotations, principal.tenure()), (3, 0));
    // None of these credentials has an account id.
    let stranger = KmsLocal::builder().account("222222222222").start().await.unwrap();
    let unknown = |id: &str| Credentials::new(id, "secret", None, None, "test");
    let others = [stranger.issue_credentials(), unknown("one"), unknown("other")];
    for (tenure, credentials) in (1..).zip(others) {
        principal.rotate(credentials.clone());
        pool.client(REGION, &principal).await.unwrap();
        assert_eq!(principal.tenure(), tenure);
        principal.rotate(credentials);
        assert_eq!(principal.tenure(), tenure);
    }
}

#[tokio::test]
async fn credentials_of_another_account_start_another_tenure() {
    let kms = server().await;
    let stranger = KmsLocal::builder().account("222222222222").start().await.unwrap();
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(Each(Mutex::new(vec![
        stranger.issue_session(Duration::from_hours(1)),
        kms.issue_session(Duration::from_hours(1)),
        kms.issue_session(Duration::from_hours(1)),
    ])));
    pool.client(REGION, &principal).await.unwrap();
    for tenure in [0, 1] {
        pool.refresh(&principal).await.unwrap();
        assert_eq!(principal.tenure(), tenure);
    }
}

#[tokio::test]
async fn rejected_credentials_are_refreshed_once_per_operation() {
    let kms = server().await;
    let pool = builder(&kms).max_attempts(10).build().unwrap();
    let principal = Principal::new(Strangers);
    let client = pool.client(REGION, &principal).await.unwrap();
    assert_eq!(random(&client).await.unwrap_err().kind(), KmsErrorKind::CredentialsRejected);
    assert_eq!(kms.counters(REGION).total(), 2);
}

#[tokio::test]
async fn a_region_that_knows_no_access_key_causes_no_refresh() {
    let kms = server().await;
    // The server of the other region does not know these access keys.
    let foreign = server().await;
    let pool = builder(&kms)
        .endpoint_url_for(OTHER, foreign.endpoint(OTHER))
        .trust_root_pem(foreign.ca_pem());
    let pool = pool.build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    let foreign = pool.client(OTHER, &principal).await.unwrap();
    for _ in 0..20 {
        assert_eq!(random(&foreign).await.unwrap_err().kind(), KmsErrorKind::CredentialsRejected);
    }
    assert_eq!(pool.stats().refreshes, 1);
}

/// Returns these credentials one after another, starting with the last.
#[derive(Debug)]
struct Each(Mutex<Vec<Credentials>>);

impl ProvideCredentials for Each {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let next = self.0.lock().unwrap().pop();
        future::ProvideCredentials::ready(next.ok_or(CredentialsError::not_loaded("no more")))
    }
}

/// Returns unknown access keys, different ones on each call.
#[derive(Debug)]
struct Strangers;

impl ProvideCredentials for Strangers {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = format!("AKIASTRANGER{:04}", NEXT.fetch_add(1, SeqCst));
        future::ProvideCredentials::ready(Ok(Credentials::new(id, "secret", None, None, "test")))
    }
}

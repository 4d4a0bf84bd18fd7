use std::io::ErrorKind;

use kms_local::{KmsLocal, StartError};
use tokio::net::TcpStream;

use crate::support::{REGION, Setup, client, setup, until};

#[tokio::test]
async fn the_default_region_is_us_east_1() {
    let kms = KmsLocal::builder().start().await.unwrap();
    assert_eq!(kms.regions().collect::<Vec<_>>(), ["us-east-1"]);
    assert!(kms.admin_endpoint().is_none());
    assert!(kms.create_key(REGION).starts_with("arn:aws:kms:us-east-1:000000000000:key/"));
}

#[tokio::test]
async fn plain_http_needs_no_authority() {
    let kms = KmsLocal::builder().plaintext_http().start().await.unwrap();
    assert_eq!(kms.ca_pem(), "");
    let config = aws_sdk_kms::Config::builder()
        .behavior_version_latest()
        .region(aws_sdk_kms::config::Region::new(REGION))
        .endpoint_url(kms.endpoint(REGION))
        .credentials_provider(kms.issue_credentials())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_kms::Client::from_conf(config).list_keys().send().await.unwrap();
}

#[tokio::test]
async fn invalid_settings_have_separate_errors() {
    let start = async |builder: kms_local::KmsLocalBuilder| builder.start().await.unwrap_err();
    let builder = KmsLocal::builder;
    for name in ["", "us east", "-us-east", "us-east-", "../x", "US-EAST-1", &"x".repeat(33)] {
        let error = start(builder().region(name)).await;
        assert!(matches!(error, StartError::InvalidRegion(_)), "{name:?}");
    }
    let error = start(builder().region(REGION).region(REGION)).await;
    assert!(matches!(error, StartError::DuplicateRegion(_)));
    for account in ["", "1", "00000000000x", "0000000000000"] {
        let error = start(builder().account(account)).await;
        assert!(matches!(error, StartError::InvalidAccount(_)), "{account:?}");
    }

    let taken = builder().start().await.unwrap();
    let port = taken.endpoint(REGION).rsplit(':').next().unwrap().parse().unwrap();
    let error = start(builder().region_on_port(REGION, port)).await;
    let StartError::Bind { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), ErrorKind::AddrInUse);
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = start(builder().data_dir(file.path())).await;
    assert!(matches!(error, StartError::DataDirectory { .. }), "{error:?}");
}

#[tokio::test]
async fn nothing_listens_after_a_drop() {
    let Setup { kms, client, .. } = setup().await;
    client.list_keys().send().await.unwrap();
    let address = kms.endpoint(REGION).strip_prefix("https://").unwrap().to_owned();
    drop(kms);
    let mut open = true;
    while open {
        open = TcpStream::connect(&address).await.is_ok();
    }
    client.list_keys().send().await.unwrap_err();
}

#[tokio::test]
async fn a_graceful_stop_responds_to_requests_in_flight() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).hang(true);
    let faults = kms.faults(REGION);
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).in_flight == 1).await;
    faults.clear();
    waiting.await.unwrap().unwrap();
    // An idle connection does not delay the shutdown.
    kms.shutdown().await;
}

#[tokio::test]
async fn a_faults_handle_does_not_lock_the_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let start = || KmsLocal::builder().data_dir(directory.path()).start();
    let kms = start().await.unwrap();
    let faults = kms.faults(REGION);
    let client = client(&kms, REGION, kms.issue_credentials());
    client.list_keys().send().await.unwrap();
    drop(kms);
    let _kms = start().await.unwrap();
    faults.clear();
}

#[tokio::test]
async fn a_failed_start_releases_the_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let taken = KmsLocal::builder().start().await.unwrap();
    let port = taken.endpoint(REGION).rsplit(':').next().unwrap().parse().unwrap();
    let builder = KmsLocal::builder().data_dir(directory.path()).region(REGION);
    let failed = builder.clone().region_on_port("eu-west-1", port).start().await;
    assert!(matches!(failed, Err(StartError::Bind { .. })), "{failed:?}");
    let _kms = builder.start().await.unwrap();
}

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use aws_credential_types::Credentials;
use aws_sdk_kms::{Client, primitives::Blob, types::KeyState};
use kms_local::{KmsLocal, StartError};
use tokio::task::JoinSet;

use crate::support::{REGION, client, client_of, code};

/// The program on a data directory, with a fixed access key.
struct Program {
    child: Child,
    client: Client,
    lines: Vec<String>,
}

impl Program {
    fn start(directory: &Path) -> Self {
        let ca_file = directory.join("ca.pem");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kms-local"))
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--ca-file")
            .arg(&ca_file)
            .args(["--create-key", "alias/app"])
            .args([
                "--region",
                "us-east-1",
                "--region",
                "eu-west-1",
                "--create-multi-region-key",
                "alias/everywhere",
            ])
            .env("KMS_LOCAL_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .env("KMS_LOCAL_SECRET_ACCESS_KEY", "secret")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let lines = out.lines().map(Result::unwrap).take_while(|line| line != "ready");
        let lines: Vec<_> = lines.collect();
        let endpoint = lines.iter().find_map(|line| line.strip_prefix("endpoint us-east-1 "));
        let ca_pem = std::fs::read_to_string(ca_file).unwrap();
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
        let client = client_of(endpoint.unwrap(), &ca_pem, REGION, credentials);
        Self { child, client, lines }
    }

    /// `kill -9`: nothing in the program runs any more.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and returns whether it did so in good order.
    fn terminate(mut self) -> bool {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn keys_states_and_aliases_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let builder = KmsLocal::builder().region(REGION).region("eu-west-1");
        builder.data_dir(directory.path()).start()
    };
    let kms = start().await.unwrap();
    let old = client(&kms, REGION, kms.issue_credentials());
    let key = kms.ensure_alias(REGION, "alias/app").unwrap();
    let [disabled, pending] = [kms.create_key(REGION), kms.create_key(REGION)];
    let elsewhere = kms.create_key("eu-west-1");
    old.disable_key().key_id(&disabled).send().await.unwrap();
    let scheduled = old.schedule_key_deletion().key_id(&pending).send().await.unwrap();
    old.create_alias().alias_name("alias/gone").target_key_id(&key).send().await.unwrap();
    old.delete_alias().alias_name("alias/gone").send().await.unwrap();
    let encrypt = old.encrypt().key_id(&key).plaintext(Blob::new("x"));
    let blob = encrypt.send().await.unwrap().ciphertext_blob.unwrap();
    let described = old.describe_key().key_id(&key).send().await.unwrap().key_metadata;
    let aliases = old.list_aliases().send().await.unwrap().aliases;
    kms.shutdown().await;

    let kms = start().await.unwrap();
    let new = client(&kms, REGION, kms.issue_credentials());
    let opened = new.decrypt().ciphertext_blob(blob).send().await.unwrap();
    assert_eq!(opened.plaintext().unwrap().as_ref(), b"x");
    let again = new.describe_key().key_id("alias/app").send().await.unwrap().key_metadata;
    assert_eq!(again, described);
    assert_eq!(new.list_aliases().send().await.unwrap().aliases, aliases);
    let state = async |key: &str| {
        let described = new.describe_key().key_id(key).send().await.unwrap();
        described.key_metadata.unwrap()
    };
    assert_eq!(state(&disabled).await.key_state(), Some(&KeyState::Disabled));
    let pending = state(&pending).await;
    assert_eq!(pending.key_state(), Some(&KeyState::PendingDeletion));
    assert_eq!(pending.deletion_date(), scheduled.deletion_date());
    assert_eq!(new.list_keys().send().await.unwrap().keys().len(), 3);
    let there = client(&kms, "eu-west-1", kms.issue_credentials());
    there.describe_key().key_id(elsewhere).send().await.unwrap();
}

#[tokio::test]
async fn a_data_directory_has_one_server_and_one_account() {
    let directory = tempfile::tempdir().unwrap();
    let builder = || KmsLocal::builder().data_dir(directory.path());
    let kms = builder().start().await.unwrap();
    let error = builder().start().await.unwrap_err();
    assert!(matches!(error, StartError::DataDirectoryInUse(_)), "{error:?}");
    drop(kms);
    let error = builder().account("111122223333").start().await.unwrap_err();
    assert!(matches!(error, StartError::AccountMismatch { .. }), "{error:?}");
    builder().start().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_with_the_keys_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a/b");
    let _kms = KmsLocal::builder().data_dir(&data).start().await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("kms-local.redb")), 0o600);
}

#[tokio::test]
async fn a_killed_program_opens_what_it_sealed_before() {
    let directory = tempfile::tempdir().unwrap();
    let first = Program::start(directory.path());
    let encrypt = first.client.encrypt().key_id("alias/app").plaintext(Blob::new("x"));
    let sealed = encrypt.send().await.unwrap();
    let first_lines = first.lines.clone();
    first.kill();

    let second = Program::start(directory.path());
    let decrypt = second.client.decrypt().ciphertext_blob(sealed.ciphertext_blob.unwrap());
    let opened = decrypt.send().await.unwrap();
    assert_eq!(opened.plaintext().unwrap().as_ref(), b"x");
    assert_eq!(opened.key_id(), sealed.key_id.as_deref());
    let key = format!("key us-east-1 alias/app {}", opened.key_id().unwrap());
    assert!(second.lines.contains(&key), "{:?}", second.lines);
    let everywhere = |region: &str| {
        let start =
            format!("key {region} alias/everywhere arn:aws:kms:{region}:000000000000:key/mrk-");
        second.lines.iter().find_map(|line| line.strip_prefix(&start))
    };
    assert!(
        everywhere(REGION).is_some() && everywhere(REGION) == everywhere("eu-west-1"),
        "{:?}",
        second.lines
    );
    assert!(
        first_lines.iter().all(|line| !line.starts_with("key ") || second.lines.contains(line))
    );
    assert!(second.terminate());
}

/// Kills the program while it creates keys and switches them, and looks for each thing that it had
/// acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..4 {
        let program = Program::start(directory.path());
        let mut writers = JoinSet::new();
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..4 {
            let (client, report) = (program.client.clone(), report.clone());
            writers.spawn(async move {
                loop {
                    let Ok(created) = client.create_key().send().await else { return };
                    let key = created.key_metadata.unwrap().arn.unwrap();
                    let disabled = client.disable_key().key_id(&key).send().await.is_ok();
                    if report.send((key, disabled)).is_err() || !disabled {
                        return;
                    }
                }
            });
        }
        drop(report);
        let mut seen = Vec::new();
        while seen.len() < 10 + round {
            seen.push(reports.recv().await.unwrap());
        }
        program.kill();
        while let Some(report) = reports.recv().await {
            seen.push(report);
        }

        let again = Program::start(directory.path());
        for (key, disabled) in seen {
            let described = again.client.describe_key().key_id(&key).send().await.unwrap();
            let state = described.key_metadata.unwrap().key_state.unwrap();
            if disabled {
                assert_eq!(state, KeyState::Disabled);
            }
            acknowledged.push(key);
        }
        again.kill();
    }
    let last = Program::start(directory.path());
    for key in acknowledged {
        last.client.enable_key().key_id(&key).send().await.unwrap();
        let generate = last.client.generate_data_key().key_id(&key).number_of_bytes(32);
        generate.send().await.unwrap();
    }
}

#[tokio::test]
async fn the_program_says_what_is_wrong() {
    let run = |arguments: &[&str]| {
        let program = Command::new(env!("CARGO_BIN_EXE_kms-local")).args(arguments).output();
        let output = program.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (succeeded, said) = run(&["--account", "1"]);
    assert!(!succeeded && said.contains("`1` is not an account"), "{said}");
    let (succeeded, said) = run(&["--region", "a", "--region", "b", "--port", "65535"]);
    assert!(!succeeded && said.contains("ports"), "{said}");

    let directory = tempfile::tempdir().unwrap();
    let first = Program::start(directory.path());
    let data = directory.path().join("data");
    let (succeeded, said) = run(&["--data-dir", data.to_str().unwrap()]);
    assert!(!succeeded && said.contains("in use by another"), "{said}");
    assert!(code(first.client.describe_key().key_id("x").send().await) == "NotFoundException");
}

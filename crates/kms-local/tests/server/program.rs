//! Tests the program: its output, its data directory after `kill -9`, and its error messages.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use aws_credential_types::Credentials;
use aws_sdk_kms::{Client, primitives::Blob, types::KeyState};
use tokio::task::JoinSet;

use crate::support::{REGION, client_of};

/// The running program with a data directory and a fixed access key.
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

    /// Ends the program like `kill -9`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the program with SIGTERM, and returns whether it exited with success.
    /// Kills it after a minute, so that a test fails instead of hanging.
    fn terminate(mut self) -> bool {
        let id = self.child.id().to_string();
        let kill = |signal: &str, id: &str| Command::new("kill").args([signal, id]).status();
        assert!(kill("-TERM", &id).unwrap().success());
        let (finished, waiting) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if waiting.recv_timeout(Duration::from_mins(1)) == Err(RecvTimeoutError::Timeout) {
                kill("-KILL", &id).unwrap();
            }
        });
        let status = self.child.wait().unwrap();
        drop(finished);
        watchdog.join().unwrap();
        status.success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_restarted_program_decrypts_earlier_ciphertexts() {
    let directory = tempfile::tempdir().unwrap();
    let first = Program::start(directory.path());
    let encrypt = first.client.encrypt().key_id("alias/app").plaintext(Blob::new("x"));
    let encrypted = encrypt.send().await.unwrap();
    let first_lines = first.lines.clone();
    first.kill();

    let second = Program::start(directory.path());
    let decrypt = second.client.decrypt().ciphertext_blob(encrypted.ciphertext_blob.unwrap());
    let decrypted = decrypt.send().await.unwrap();
    assert_eq!(decrypted.plaintext().unwrap().as_ref(), b"x");
    assert_eq!(decrypted.key_id(), encrypted.key_id.as_deref());
    let key = format!("key us-east-1 alias/app {}", decrypted.key_id().unwrap());
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

/// Kills the program while it creates and disables keys. Everything that it acknowledged must be
/// there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_changes_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..4 {
        let program = Program::start(directory.path());
        let mut writers = JoinSet::new();
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..4 {
            let client = program.client.clone();
            let report = report.clone();
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
async fn errors_are_printed_with_their_causes() {
    let run = |arguments: &[&str]| {
        let program = Command::new(env!("CARGO_BIN_EXE_kms-local")).args(arguments).output();
        let output = program.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (succeeded, error) = run(&["--account", "1"]);
    assert!(!succeeded && error.contains("invalid account `1`"), "{error}");
    let (succeeded, error) = run(&["--region", "a", "--region", "b", "--port", "65535"]);
    assert!(!succeeded && error.contains("invalid --port"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let first = Program::start(directory.path());
    let data = directory.path().join("data");
    let (succeeded, error) = run(&["--data-dir", data.to_str().unwrap()]);
    assert!(!succeeded && error.contains("in use by another"), "{error}");
    first.client.list_keys().send().await.unwrap();
}

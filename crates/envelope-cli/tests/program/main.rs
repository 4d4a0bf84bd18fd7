//! Tests the program as its users run it: the real binary, files, pipes, and a KMS on a socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "sqlite")]
mod branch_keys;
mod failures;
mod inspecting;
mod interrupts;
mod round_trips;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

const AES: &str = "raw-aes,namespace=ns,name=aes,key-file=aes.key";
const OTHER_AES: &str = "raw-aes,namespace=ns,name=other,key-file=other.key";
const RSA_PUBLIC: &str =
    "raw-rsa,namespace=ns,name=rsa,padding=oaep-sha256,key-file=rsa.public.pem";
const RSA: &str = "raw-rsa,namespace=ns,name=rsa,padding=oaep-sha256,key-file=rsa.pem";

/// A folder with keys, in which the program runs.
struct Place {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

/// The result of a run.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    output: Vec<u8>,
    /// The text on standard error.
    stderr: String,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), variables: vec![] };
        place.write("aes.key", &[7; 32]);
        place.write("other.key", &[8; 32]);
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        fs::copy(keys.join("test-only-2048.private.pkcs8.pem"), place.path("rsa.pem")).unwrap();
        fs::copy(keys.join("test-only-2048.public.spki.pem"), place.path("rsa.public.pem"))
            .unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Returns a command of the program. Its AWS settings are only those of `variables`.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envelope"));
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_"))
        {
            command.env_remove(name);
        }
        command
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut process = self.command(arguments).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let done = thread::scope(|scope| {
            // A program that fails early does not read everything.
            scope.spawn(move || drop(stdin.write_all(input)));
            finish(process)
        });
        Ran {
            status: done.status.code(),
            output: done.stdout,
            stderr: String::from_utf8(done.stderr).unwrap(),
        }
    }

    /// Runs the program, which must succeed, and returns its standard output.
    fn succeeds(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let ran = self.run(arguments, input);
        assert_eq!((ran.status, &*ran.stderr), (Some(0), ""), "{arguments:?}");
        ran.output
    }

    /// Runs the program, which must fail with one line on standard error that contains `expected`,
    /// and must not change any file.
    fn fails(&self, arguments: &[&str], input: &[u8], expected: &str) -> Ran {
        let before = self.files();
        let ran = self.run(arguments, input);
        assert_eq!(ran.status, Some(1), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("envelope: ") && ran.stderr.ends_with('\n'),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert_eq!(self.files(), before, "{arguments:?} created, removed or changed a file");
        ran
    }

    /// Returns the names and contents of all files in the folder.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let files = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = files
            .filter(|file| file.file_type().unwrap().is_file())
            .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
            .collect();
        files.sort();
        files
    }
}

/// Waits for a program to end. Kills it after a minute, so that a test fails instead of hanging.
fn finish(process: Child) -> Output {
    let id = process.id();
    let (finished, waiting) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if waiting.recv_timeout(Duration::from_mins(1)) == Err(RecvTimeoutError::Timeout) {
            kill(id, "KILL");
        }
    });
    let output = process.wait_with_output().unwrap();
    drop(finished);
    watchdog.join().unwrap();
    output
}

fn kill(process: u32, signal: &str) {
    let sent =
        Command::new("sh").args(["-c", &format!("kill -s {signal} {process}")]).status().unwrap();
    assert!(sent.success());
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

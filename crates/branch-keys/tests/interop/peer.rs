//! Another client, in a process that answers a line of JSON with a line of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the clients that the environment names: see the test's documentation.
    pub(crate) fn start_all(environment: &[(&str, &str)]) -> Vec<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/python_client.py");
        let variable = |name| std::env::var(name).ok();
        let python = variable("ENVELOPE_PYTHON")
            .map(|python| Self::start("Python", &python, script, environment));
        let javascript = variable("ENVELOPE_JAVASCRIPT")
            .map(|script| Self::start("JavaScript", "node", &script, environment));
        python.into_iter().chain(javascript).collect()
    }

    fn start(
        name: &'static str,
        program: &str,
        script: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut process = Command::new(program)
            .arg(script)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { name, process, requests, answers }
    }

    /// Returns the answer, or the client's error.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").unwrap();
        let mut line = String::new();
        while !line.starts_with('{') {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "{} ended", self.name);
        }
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    /// Encrypts or decrypts `data`.
    pub(crate) fn crypt(&mut self, request: &Value) -> Result<Vec<u8>, String> {
        let answer = self.ask(request)?;
        Ok(BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

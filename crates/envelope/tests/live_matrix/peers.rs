//! Other people's clients, each in a process of its own that answers a line of JSON with a line of
//! JSON.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

/// A message or a plaintext, with the encryption context that the client reports; or why there is
/// none.
pub(crate) type Answer = Result<(Vec<u8>, BTreeMap<String, String>), String>;

/// A running client.
pub(crate) struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
        let (requests, answers) =
            (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, requests, answers }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Answer {
        self.ask_all(std::slice::from_ref(request)).remove(0)
    }

    /// Asks everything at once: neither side waits for the other between two requests.
    pub(crate) fn ask_all(&mut self, requests: &[Value]) -> Vec<Answer> {
        let Self { requests: sink, answers, .. } = self;
        thread::scope(|scope| {
            scope.spawn(move || {
                for request in requests {
                    writeln!(sink, "{request}").unwrap();
                }
            });
            requests.iter().map(|_| read_answer(answers)).collect()
        })
    }
}

fn read_answer(answers: &mut impl BufRead) -> Answer {
    let mut line = String::new();
    // Node.js begins with a warning if it was told to do what it thinks better of.
    while !line.starts_with('{') {
        line.clear();
        assert!(answers.read_line(&mut line).unwrap() > 0, "the peer died");
    }
    let answer: Value =
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not an answer: {line:?}"));
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok((
            BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap(),
            serde_json::from_value(answer["context"].clone()).unwrap(),
        )),
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

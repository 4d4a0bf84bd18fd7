//! The contenders as the driver sees them: processes that do as they are told, one at a time.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::Settings;

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Envelope,
    Prepared,
    Buffer,
    Uncached,
    AwsEsdk,
    Python,
    JavaScript,
    Tink,
    AesGcm,
    AwsLc,
    Floor,
    EnvelopeSigned,
    AwsEsdkSigned,
    Signature,
    KeyPair,
}

impl Who {
    /// Those of the main comparison.
    pub(crate) const COMPARED: [Self; 11] = [
        Self::Envelope,
        Self::Prepared,
        Self::Buffer,
        Self::Uncached,
        Self::AwsEsdk,
        Self::Python,
        Self::JavaScript,
        Self::Tink,
        Self::AesGcm,
        Self::AwsLc,
        Self::Floor,
    ];
    /// Those of the comparison with signatures, and what these cost alone.
    pub(crate) const SIGNED: [Self; 4] =
        [Self::EnvelopeSigned, Self::AwsEsdkSigned, Self::Signature, Self::KeyPair];

    /// What tables and pictures call it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Prepared => "envelope, prepared",
            Self::Buffer => "envelope, own buffer",
            Self::Uncached => "envelope, no cache",
            Self::AwsEsdk => "aws-esdk",
            Self::Python => "Python client",
            Self::JavaScript => "JavaScript client",
            Self::Tink => "Tink",
            Self::AesGcm => "aes-gcm, raw",
            Self::AwsLc => "aws-lc-rs, raw",
            Self::Floor => "primitives alone",
            Self::EnvelopeSigned => "envelope, 0x0578",
            Self::AwsEsdkSigned => "aws-esdk, 0x0578",
            Self::Signature => "ECDSA P-384 alone",
            Self::KeyPair => "a P-384 key pair",
        }
    }

    /// Its process, not started yet. What AWS KMS is, is for the environment to say.
    pub(crate) fn command(
        self,
        settings: &Settings,
        kms_key: Option<&str>,
    ) -> Result<Command, Box<dyn Error>> {
        let python = |worker| {
            let mut command = Command::new(&settings.python);
            command.arg(settings.python_workers.join(worker));
            command
        };
        let ours = |name| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["worker", name]);
            Ok::<_, Box<dyn Error>>(command)
        };
        let mut command = match self {
            Self::Envelope => ours("envelope")?,
            Self::Prepared => ours("envelope-prepared")?,
            Self::Buffer => ours("envelope-buffer")?,
            Self::Uncached => ours("envelope-uncached")?,
            Self::AwsEsdk => ours("aws-esdk")?,
            Self::AesGcm => ours("aes-gcm")?,
            Self::AwsLc => ours("aws-lc-rs")?,
            Self::Floor => ours("floor")?,
            Self::EnvelopeSigned => ours("envelope-signed")?,
            Self::AwsEsdkSigned => ours("aws-esdk-signed")?,
            Self::Signature => ours("signature")?,
            Self::KeyPair => ours("key-pair")?,
            Self::Python => python("encryption_sdk.py"),
            Self::Tink => python("tink_envelope.py"),
            Self::JavaScript => {
                let mut command = Command::new("node");
                // Not what it thinks of the versions to come.
                command.arg("--no-warnings").arg(&settings.javascript);
                command
            }
        };
        command.args(kms_key);
        Ok(command)
    }

    /// An interpreter runs one thread at a time: it takes a second process to use a second core.
    fn interpreted(self) -> bool {
        matches!(self, Self::Python | Self::JavaScript | Self::Tink)
    }
}

/// The operation that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Encrypt,
    Decrypt,
}

impl Operation {
    pub(crate) const BOTH: [Self; 2] = [Self::Encrypt, Self::Decrypt];

    /// What it is called, in orders as well as in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }
}

/// All of them, running.
pub(crate) struct Peers(BTreeMap<Who, Vec<Process>>);

impl Peers {
    pub(crate) fn start(settings: &Settings) -> Result<Self, Box<dyn Error>> {
        let start = |who: Who| {
            let count = if who.interpreted() { 2 } else { 1 };
            let processes = (0..count).map(|_| Process::start(who.command(settings, None)?));
            Ok((who, processes.collect::<Result<_, Box<dyn Error>>>()?))
        };
        Ok(Self(
            Who::COMPARED
                .into_iter()
                .chain(Who::SIGNED)
                .map(start)
                .collect::<Result<_, Box<dyn Error>>>()?,
        ))
    }

    /// What each said that it is.
    pub(crate) fn versions(&self) -> Vec<String> {
        let mut versions: Vec<_> =
            self.0.values().map(|processes| processes[0].version.clone()).collect();
        let mut seen = vec![];
        versions.retain(|version| {
            !seen.contains(version) && {
                seen.push(version.clone());
                true
            }
        });
        versions
    }

    /// What one answers.
    pub(crate) fn ask(&mut self, who: Who, order: &str) -> Result<String, Box<dyn Error>> {
        self.processes(who)[0].ask(order)
    }

    /// Nanoseconds for one message, where `threads` work side by side: the time that passes for one
    /// more message.
    pub(crate) fn time(
        &mut self,
        who: Who,
        operation: Operation,
        size: usize,
        repeats: u32,
        threads: u32,
    ) -> Result<f64, Box<dyn Error>> {
        let processes = self.processes(who);
        let name = operation.name();
        if threads == 1 || !who.interpreted() {
            return Ok(processes[0].ask(&format!("{name} {size} {repeats} {threads}"))?.parse()?);
        }
        for process in &mut *processes {
            process.tell(&format!("{name} {size} {repeats} 1"))?;
        }
        let mut longest = 0.0_f64;
        for process in &mut *processes {
            longest = longest.max(process.hear()?.parse()?);
        }
        Ok(longest / f64::from(threads))
    }

    fn processes(&mut self, who: Who) -> &mut Vec<Process> {
        self.0.get_mut(&who).expect("all were started")
    }
}

/// A process that answers each line with a line. It ends when dropped.
pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    version: String,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Result<Self, Box<dyn Error>> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (orders, answers) =
            (child.stdin.take().ok_or("piped")?, child.stdout.take().ok_or("piped")?);
        let mut process =
            Self { child, orders, answers: BufReader::new(answers), version: String::new() };
        process.version = process.hear()?;
        Ok(process)
    }

    pub(crate) fn ask(&mut self, order: &str) -> Result<String, Box<dyn Error>> {
        self.tell(order)?;
        self.hear()
    }

    /// The most memory that it had so far, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("Linux counts")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn tell(&mut self, order: &str) -> Result<(), Box<dyn Error>> {
        writeln!(self.orders, "{order}")?;
        Ok(self.orders.flush()?)
    }

    fn hear(&mut self) -> Result<String, Box<dyn Error>> {
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err("a peer ended instead of answering".into());
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left of it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

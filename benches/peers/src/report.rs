//! The report, as Markdown.

use std::{
    error::Error,
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use serde::Deserialize;

use crate::{
    lines::Lines,
    machine::Machine,
    measure::{Figures, KIBIBYTE, MEBIBYTE, Plan, bytes, time},
    memory::{Memory, mebibytes},
    peer::{Operation, Who},
    picture,
    requests::{SIDES, Workload},
};

/// The lines of README between which the newest figures stand.
const MARKS: [&str; 2] = ["<!-- newest figures -->\n", "<!-- end of newest figures -->\n"];

/// All that one run found.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) plan: Plan,
    pub(crate) versions: Vec<String>,
    pub(crate) checked: usize,
    pub(crate) figures: Figures,
    pub(crate) memory: Vec<Memory>,
    pub(crate) requests: Vec<Workload>,
    pub(crate) lines: Lines,
    pub(crate) build: Option<Build>,
}

/// What `run --build` measured.
#[derive(Deserialize)]
pub(crate) struct Build {
    machine: String,
    date: String,
    ours: Service,
    theirs: Service,
}

#[derive(Deserialize)]
struct Service {
    seconds: f64,
    crates: u32,
}

impl Report {
    /// Writes REPORT.md and its pictures into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let pictures = folder.join("report");
        fs::create_dir_all(&pictures)?;
        picture::latency(&pictures.join("peers-latency.svg"), &self.figures, &self.plan)?;
        picture::throughput(&pictures.join("peers-throughput.svg"), &self.figures, &self.plan)?;
        picture::requests(&pictures.join("peers-requests.svg"), &self.requests)?;
        Ok(fs::write(folder.join("REPORT.md"), self.to_string())?)
    }

    /// Puts the newest figures where README shows them.
    pub(crate) fn show_in(&self, readme: &Path) -> Result<(), Box<dyn Error>> {
        let text = fs::read_to_string(readme)?;
        let missing = || format!("README has no line {:?}", MARKS[0]);
        let (before, rest) = text.split_once(MARKS[0]).ok_or_else(missing)?;
        let (_, after) = rest.split_once(MARKS[1]).ok_or_else(missing)?;
        Ok(fs::write(readme, [before, MARKS[0], &self.newest()?, MARKS[1], after].concat())?)
    }

    /// The table that README shows.
    fn newest(&self) -> Result<String, fmt::Error> {
        let mut table = String::from(
            "| how many times as long as `envelope` | encrypt 1 KiB | decrypt 1 KiB | encrypt 1 MiB | decrypt 1 MiB |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for who in [Who::AwsEsdk, Who::Python, Who::JavaScript, Who::Tink] {
            let cells = [KIBIBYTE, MEBIBYTE].into_iter().flat_map(|size| {
                Operation::BOTH
                    .map(|operation| times(self.figures.ratio(who, Who::Envelope, operation, size)))
            });
            writeln!(table, "| {} | {} |", who.label(), cells.collect::<Vec<_>>().join(" | "))?;
        }
        Ok(table)
    }

    fn how(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { rounds, quick, .. } = self.plan;
        writeln!(f, "# Beside its peers\n")?;
        writeln!(
            f,
            "Written by `benches/peers/run{}` on {}.\n",
            if quick { " --quick" } else { "" },
            self.machine
        )?;
        writeln!(f, "Compared: {}.\n", self.versions.join("; "))?;
        writeln!(
            f,
            "AES-256-GCM, suite 0x0478, 4 KiB frames, one pair of encryption context, a raw AES key as the wrapping key. Each \
             has a process of its own; they take turns, and a figure is the median of {rounds} alternating rounds. Absolute \
             times say something about the machine and what else it did, ratios about the code.\n"
        )?;
        writeln!(
            f,
            "- `envelope`: `try_encrypt(&plaintext, &context)` with a warm cache of data keys; *prepared*: the same on a \
             `PreparedContext`; *own buffer*: its `try_encrypt_into` and `try_decrypt_into`, into a buffer that is used again; \
             *no cache*: `encrypt` with a data key of its own for each message.\n\
             - `aws-esdk` has no cache of data keys. Its API takes plaintext and context by value: their copies count.\n\
             - The Python and JavaScript clients have a caching materials manager, warm.\n\
             - Tink (Python over C++) is `KmsEnvelopeAead` with a new data key for each message, under a key at hand: no KMS, no \
             commitment, no frames.\n\
             - *Raw* is one AES-256-GCM call under one key: no data keys, no derivation, no context, no frames.\n\
             - *Primitives alone* are what a message of this suite takes: 32 random bytes, HKDF-SHA-512, the header's tag, the \
             frames.\n\n\
             {} pairs of sealer and opener were checked before anything was timed: each opens what it sealed, and `envelope`, \
             `aws-esdk`, the Python and the JavaScript client what the others sealed.\n",
            self.checked
        )
    }

    fn claims(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## What it had to show\n")?;
        writeln!(
            f,
            "| | how many times as long as `envelope` | at least | as a prepared context | as the primitives alone | |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for line in &self.lines.0 {
            let prepared = line.prepared.map_or(String::new(), times);
            let (who, operation, size) =
                (line.who.label(), line.operation.name(), bytes(line.size));
            let (ratio, least, bound, verdict) =
                (times(line.ratio), line.least, times(line.bound), line.verdict());
            writeln!(
                f,
                "| {who}, {operation} {size} | {ratio} | {least} | {prepared} | {bound} | {verdict} |"
            )?;
        }
        writeln!(
            f,
            "\n**{}.** The primitives alone are what bounds each line on this machine: for 0x0478 the random bytes, HKDF, the \
             header's tag and the frames, for 0x0578 the signature.\n",
            self.lines.verdict()
        )
    }

    fn latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "## Time by size\n\n![Time for a message by its size](report/peers-latency.svg)\n"
        )?;
        writeln!(
            f,
            "Time for a message on one thread, and how many times as long as `envelope`.\n"
        )?;
        self.table(f, |who, operation, size| {
            let ratio = self.figures.ratio(who, Who::Envelope, operation, size);
            format!("{} ({})", time(self.figures.of(who, operation, size, 1)), times(ratio))
        })
    }

    fn throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "## Throughput by size and threads\n\n![Bytes a second](report/peers-throughput.svg)\n"
        )?;
        writeln!(
            f,
            "What two threads do, in times of what one does. Those in Rust share one client between two threads; an \
             interpreter runs one thread at a time, so that Python, JavaScript and Tink have two processes instead.\n"
        )?;
        self.table(f, |who, operation, size| {
            let [one, two] = [1, 2].map(|threads| self.figures.of(who, operation, size, threads));
            format!("{:.2}", one / two)
        })
    }

    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        cell: impl Fn(Who, Operation, usize) -> String,
    ) -> fmt::Result {
        let labels = Who::COMPARED.map(Who::label);
        writeln!(f, "| | {} |\n|{}", labels.join(" | "), " --- |".repeat(labels.len() + 1))?;
        for operation in Operation::BOTH {
            for &size in &self.plan.sizes {
                let cells = Who::COMPARED.map(|who| cell(who, operation, size));
                writeln!(f, "| {} {} | {} |", operation.name(), bytes(size), cells.join(" | "))?;
            }
        }
        writeln!(f)
    }

    fn signatures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |who, operation| self.figures.of(who, operation, KIBIBYTE, 1);
        writeln!(
            f,
            "## With signatures\n\nSuite 0x0578 at 1 KiB: what was measured, and what share of it ECDSA P-384 is.\n"
        )?;
        writeln!(
            f,
            "| | envelope | signature's share | aws-esdk | signature's share | signature alone |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for operation in Operation::BOTH {
            let (ours, theirs) =
                (of(Who::EnvelopeSigned, operation), of(Who::AwsEsdkSigned, operation));
            let signature = of(Who::Signature, operation);
            let pair =
                if operation == Operation::Encrypt { of(Who::KeyPair, operation) } else { 0.0 };
            let shares = [signature / ours, (signature + pair) / theirs]
                .map(|share| format!("{:.0}%", share * 100.0));
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} |",
                operation.name(),
                time(ours),
                shares[0],
                time(theirs),
                shares[1],
                time(signature)
            )?;
        }
        writeln!(
            f,
            "\n`aws-esdk` makes a key pair for each message ({}, counted in its share); `envelope` caches it with the data key. \
             The signature alone is by AWS-LC through `aws-lc-rs`, as in both. It bounds the ratio: had all else been free, \
             decrypting could be at most {} faster than `aws-esdk`.\n",
            time(of(Who::KeyPair, Operation::Encrypt)),
            times(
                of(Who::AwsEsdkSigned, Operation::Decrypt) / of(Who::Signature, Operation::Decrypt)
            ),
        )
    }

    fn requests(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "## Requests to KMS\n\nAs the server counts them. Each message of 1 KiB is sealed, then opened.\n\n\
             ![Requests by workload](report/peers-requests.svg)\n"
        )?;
        let labels = SIDES.map(Who::label);
        writeln!(
            f,
            "| messages | contexts | {} |\n|{}",
            labels.join(" | "),
            " --- |".repeat(labels.len() + 2)
        )?;
        for Workload { messages, contexts, requests } in &self.requests {
            let cells: Vec<_> = requests.iter().map(u64::to_string).collect();
            writeln!(f, "| {messages} | {contexts} | {} |", cells.join(" | "))?;
        }
        writeln!(f)
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "## Memory\n\nThe most that a process had (`VmHWM`), once started, and after sealing and opening 1,000 messages of \
             1 KiB and 20 of 1 MiB. Those in Rust are one program, which holds the code of all of them.\n"
        )?;
        writeln!(f, "| | started | done |\n| --- | --- | --- |")?;
        for Memory { who, started, done } in &self.memory {
            writeln!(f, "| {} | {} | {} |", who.label(), mebibytes(*started), mebibytes(*done))?;
        }
        writeln!(f)
    }

    fn building(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## Build\n")?;
        let Some(Build { machine, date, ours, theirs }) = &self.build else {
            return writeln!(f, "Not measured yet: `benches/peers/run --build`.");
        };
        writeln!(
            f,
            "The smallest service over AWS KMS, by `cargo build --release` into an empty folder, all crates downloaded before. \
             Measured by `benches/peers/run --build` on {machine}, {date}.\n"
        )?;
        writeln!(f, "| | seconds | crates |\n| --- | --- | --- |")?;
        writeln!(
            f,
            "| `services/ours`, with `envelope` and `kms-pool` | {:.0} | {} |",
            ours.seconds, ours.crates
        )?;
        writeln!(
            f,
            "| `services/theirs`, with `aws-esdk` | {:.0} | {} |",
            theirs.seconds, theirs.crates
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.how(f)?;
        self.claims(f)?;
        self.latency(f)?;
        self.throughput(f)?;
        self.signatures(f)?;
        self.requests(f)?;
        self.memory(f)?;
        self.building(f)
    }
}

/// A ratio for people.
fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2} ×") } else { format!("{ratio:.0} ×") }
}

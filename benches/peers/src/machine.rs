//! Where and when.

use std::{fmt, fs, process::Command, thread};

use time::{OffsetDateTime, macros::format_description};

/// What makes AES-GCM and SHA-2 fast, where it is there.
const INSTRUCTIONS: [&str; 5] = ["aes", "avx2", "avx512f", "sha_ni", "vaes"];

/// What a reader needs to know of the machine.
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    instructions: String,
    system: String,
    date: String,
    load: String,
    compiler: String,
    revision: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let of_processor = |field: &str| {
            let line = processors.lines().find(|line| line.starts_with(field));
            line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value)
        };
        let flags: Vec<_> =
            of_processor("flags").split(' ').filter(|flag| INSTRUCTIONS.contains(flag)).collect();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
        Self {
            processor: of_processor("model name").to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            instructions: flags.join(" "),
            system: said_by("uname", &["-sr"]),
            date: OffsetDateTime::now_utc().format(format).unwrap_or_default(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            compiler: said_by("rustc", &["--version"]),
            revision: said_by("git", &["rev-parse", "--short", "HEAD"]),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, instructions, system, date, compiler, load, revision } = self;
        write!(
            f,
            "{processor}, {cores} cores ({instructions}), {system}; {compiler}; {date}, \
             load {load} before; revision {revision}"
        )
    }
}

/// What a program prints.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

//! Where and when.

use std::{fmt, fs, process::Command, thread};

use time::{OffsetDateTime, macros::format_description};

/// What a reader needs to know of the machine.
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    system: String,
    instructions: String,
    date: String,
    compiler: String,
    revision: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            processors.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
        let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
        let flags = processors.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |wanted: &&str| flags.split_whitespace().any(|flag| flag == *wanted);
        Self {
            instructions: ["aes", "vaes", "avx2", "avx512f", "sha_ni"]
                .into_iter()
                .filter(has)
                .collect::<Vec<_>>()
                .join(" "),
            processor: model.map_or("a processor without a name", |(_, name)| name).to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            system: said_by("uname", &["-sr"]),
            date: OffsetDateTime::now_utc().format(format).unwrap_or_default(),
            compiler: said_by("rustc", &["--version"]),
            revision: said_by("git", &["rev-parse", "--short", "HEAD"]),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, instructions, system, date, compiler, revision } = self;
        write!(f, "{processor}, {cores} cores ({instructions}), {system}; {compiler}; {date}; revision {revision}")
    }
}

/// What a program prints.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

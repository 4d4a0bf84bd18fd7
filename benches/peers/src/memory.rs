//! The most memory that each has, in a fresh process that does the same work.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::error::Error;

use crate::{
    Settings,
    peer::{Operation, Process, Who},
};

/// Bytes and messages, each sealed and opened so often.
const WORK: [(usize, u32); 2] = [(1 << 10, 1_000), (1 << 20, 20)];

/// Bytes at the most, once started and once all is done.
pub(crate) struct Memory {
    pub(crate) who: Who,
    pub(crate) started: u64,
    pub(crate) done: u64,
}

pub(crate) fn run(settings: &Settings) -> Result<Vec<Memory>, Box<dyn Error>> {
    Who::COMPARED.into_iter().map(|who| measure(settings, who)).collect()
}

fn measure(settings: &Settings, who: Who) -> Result<Memory, Box<dyn Error>> {
    let mut process = Process::start(who.command(settings, None)?)?;
    let started = process.peak_memory()?;
    for (size, repeats) in WORK {
        for operation in Operation::BOTH {
            process.ask(&format!("{} {size} {repeats} 1", operation.name()))?;
        }
    }
    let memory = Memory { who, started, done: process.peak_memory()? };
    println!(
        "{:>20}  {:>9} started, {:>9} at the most",
        who.label(),
        mebibytes(memory.started),
        mebibytes(memory.done)
    );
    Ok(memory)
}

/// For people.
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

//! Rounds in which all take turns, and their medians.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{collections::BTreeMap, error::Error};

use crate::peer::{Operation, Peers, Who};

/// One KiB and one MiB: the sizes that the lines are about.
pub(crate) const KIBIBYTE: usize = 1 << 10;
pub(crate) const MEBIBYTE: usize = 1 << 20;

/// How much is measured.
pub(crate) struct Plan {
    /// Whether figures are rough.
    pub(crate) quick: bool,
    /// How often each has its turn, for each figure.
    pub(crate) rounds: usize,
    /// Bytes of plaintext.
    pub(crate) sizes: Vec<usize>,
    /// Nanoseconds of a turn; of one message, where that takes longer. Short, so that few are
    /// interrupted.
    turn: f64,
}

impl Plan {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            let sizes = vec![16, 256, KIBIBYTE, 4 << 10, 64 << 10, MEBIBYTE];
            Self { quick, rounds: 9, sizes, turn: 3e6 }
        } else {
            let sizes =
                vec![16, 64, 256, KIBIBYTE, 4 << 10, 16 << 10, 64 << 10, 256 << 10, MEBIBYTE];
            Self { quick, rounds: 41, sizes, turn: 3e6 }
        }
    }
}

/// Median nanoseconds for a message.
pub(crate) struct Figures(BTreeMap<(Who, Operation, usize, u32), f64>);

impl Figures {
    /// Of one, on so many threads.
    pub(crate) fn of(&self, who: Who, operation: Operation, size: usize, threads: u32) -> f64 {
        self.0.get(&(who, operation, size, threads)).copied().unwrap_or(f64::NAN)
    }

    /// How many times as long `who` takes as `than`, on one thread.
    pub(crate) fn ratio(&self, who: Who, than: Who, operation: Operation, size: usize) -> f64 {
        self.of(who, operation, size, 1) / self.of(than, operation, size, 1)
    }
}

/// Measures all, and prints as it goes.
pub(crate) fn run(peers: &mut Peers, plan: &Plan) -> Result<Figures, Box<dyn Error>> {
    let mut figures = Figures(BTreeMap::new());
    // Interpreters with a just-in-time compiler have compiled the code before anything counts.
    for who in Who::COMPARED {
        for operation in Operation::BOTH {
            turn(peers, who, operation, KIBIBYTE, 30.0 * plan.turn)?;
        }
    }
    for threads in [1, 2] {
        heading(
            &format!("{threads} thread{}", if threads == 1 { "" } else { "s" }),
            &Who::COMPARED,
        );
        for &size in &plan.sizes {
            round(peers, plan, &Who::COMPARED, size, threads, &mut figures)?;
        }
    }
    heading("0x0578", &Who::SIGNED);
    round(peers, plan, &Who::SIGNED, KIBIBYTE, 1, &mut figures)?;
    Ok(figures)
}

/// A time for people, with three digits.
pub(crate) fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        nanos if nanos < 1e3 => (nanos, "ns"),
        nanos if nanos < 1e6 => (nanos / 1e3, "µs"),
        nanos => (nanos / 1e6, "ms"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// A number of bytes for people.
pub(crate) fn bytes(size: usize) -> String {
    match size {
        MEBIBYTE.. => format!("{} MiB", size / MEBIBYTE),
        KIBIBYTE.. => format!("{} KiB", size / KIBIBYTE),
        _ => format!("{size} B"),
    }
}

fn heading(text: &str, who: &[Who]) {
    print!("\n{text:>16}");
    for who in who {
        print!("  {:>20}", who.label());
    }
    println!();
}

fn round(
    peers: &mut Peers,
    plan: &Plan,
    all: &[Who],
    size: usize,
    threads: u32,
    figures: &mut Figures,
) -> Result<(), Box<dyn Error>> {
    for operation in Operation::BOTH {
        let mut series = vec![];
        for &who in all {
            series.push((who, turn(peers, who, operation, size, plan.turn)?, vec![]));
        }
        for _ in 0..plan.rounds {
            for (who, repeats, times) in &mut series {
                times.push(peers.time(*who, operation, size, *repeats, threads)?);
            }
        }
        print!("{:>8} {}", bytes(size), operation.name());
        for (who, _, mut times) in series {
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            print!("  {:>20}", time(median));
            figures.0.insert((who, operation, size, threads), median);
        }
        println!();
    }
    Ok(())
}

/// How many messages last about `nanos` on one thread, found by doing them: the best of three, or
/// one that had to wait for its turn on the machine would pass for slow.
fn turn(
    peers: &mut Peers,
    who: Who,
    operation: Operation,
    size: usize,
    nanos: f64,
) -> Result<u32, Box<dyn Error>> {
    let mut repeats = 1;
    loop {
        let mut each = f64::INFINITY;
        for _ in 0..3 {
            each = each.min(peers.time(who, operation, size, repeats, 1)?);
        }
        let wanted = fitting(nanos / each);
        if each * f64::from(repeats) > nanos / 4.0 || wanted <= repeats {
            return Ok(wanted);
        }
        repeats = wanted.min(repeats * 16);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is clamped to small whole numbers"
)]
fn fitting(count: f64) -> u32 {
    count.clamp(1.0, 1e6) as u32
}

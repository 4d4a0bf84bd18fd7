//! What a caller sees in 64 outages and refusals, and how soon it goes on after them.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, fmt::Display, process::ExitCode, time::Duration};

use benches::{
    outage::{Answer, Cell, Fault, Outcome, TIMEOUT},
    verdict,
};
use clap::Parser;

#[derive(Parser)]
#[command(
    about = "Meets each fault of KMS in each state of the cache, and prints what the caller sees"
)]
struct Args {
    /// Changes nothing: it takes seconds anyway
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let _ = Args::parse();
    let mut rows = vec![];
    for fault in Fault::ALL {
        let mut row = vec![];
        for cell in Cell::of(fault) {
            row.push((cell, cell.run().await?));
        }
        rows.push((fault, row));
    }
    println!(
        "cold: no data key is cached; warm: one is; at expiry: one past its max_age is; in grace: the same, within\n\
         serve_stale_for. timeout: the answer comes too late; hang: none comes.\n"
    );
    println!("What the caller sees (* the second call is refused at once; ! not as expected):\n");
    print_table(&rows, seen);
    println!(
        "\nHow long the first call takes (a request has {TIMEOUT:?} and one attempt here; a pool's defaults are 10 s and three), in milliseconds:\n"
    );
    print_table(&rows, |_, outcome| milliseconds(outcome.took));
    println!(
        "\nHow long after the end of the fault the operation succeeds again (- where it never failed), in milliseconds:\n"
    );
    print_table(&rows, |_, outcome| match outcome.recovery {
        _ if outcome.answers.iter().all(|answer| answer.is_ok()) => "-".to_owned(),
        Some(recovery) => milliseconds(recovery),
        None => "never".to_owned(),
    });
    let cells: Vec<_> = rows.into_iter().flat_map(|(_, row)| row).collect();
    let met = cells.iter().filter(|(cell, outcome)| outcome.is_as_expected(*cell)).count();
    let all = cells.len();
    println!();
    Ok(verdict(met == all, format!("{met} of {all} cells as expected")))
}

type Row = (Fault, Vec<(Cell, Outcome)>);

fn print_table(rows: &[Row], show: impl Fn(Cell, &Outcome) -> String) {
    let columns: Vec<_> = Cell::of(Fault::Timeout).collect();
    print_line("", columns.iter().map(|cell| cell.state));
    print_line("", columns.iter().map(|cell| cell.operation));
    for (fault, row) in rows {
        print_line(fault, row.iter().map(|(cell, outcome)| show(*cell, outcome)));
    }
}

fn print_line(head: impl Display, columns: impl Iterator<Item = impl Display>) {
    print!("{head:19}");
    for column in columns {
        print!("{column:>14}");
    }
    println!();
}

fn seen(cell: Cell, outcome: &Outcome) -> String {
    let [first, second] = outcome.answers;
    let remembered = if matches!(second, Answer::Remembered(_)) { "*" } else { "" };
    let unexpected = if outcome.is_as_expected(cell) { "" } else { "!" };
    format!("{first}{remembered}{unexpected}")
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

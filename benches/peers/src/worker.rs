//! The process of a contender: one line of standard input is one order, one line of standard output
//! its answer.
//!
//! `python/worker.py` and `javascript/worker.mjs` are the same in their languages.

use std::{
    collections::HashMap,
    error::Error,
    hint::black_box,
    io::{Write, stdin, stdout},
    sync::Barrier,
    thread,
};

use tokio::time::Instant;

use crate::contender::Contender;

/// Answers until standard input ends.
pub(crate) fn serve(contender: &dyn Contender) -> Result<(), Box<dyn Error>> {
    let mut messages = HashMap::new();
    let mut answers = stdout().lock();
    writeln!(answers, "{}", contender.version())?;
    answers.flush()?;
    for line in stdin().lines() {
        let line = line?;
        let answer = match *line.split(' ').collect::<Vec<_>>() {
            ["encrypt", size, repeats, threads] => {
                let plaintext = vec![0; size.parse()?];
                let encrypt =
                    |message: &mut _| contender.encrypt_into(black_box(&plaintext), message);
                time(encrypt, repeats.parse()?, threads.parse()?).to_string()
            }
            ["decrypt", size, repeats, threads] => {
                let size = size.parse()?;
                let message: &Vec<u8> =
                    messages.entry(size).or_insert_with(|| contender.encrypt(&vec![0; size]));
                let decrypt =
                    |plaintext: &mut _| contender.decrypt_into(black_box(message), plaintext);
                time(decrypt, repeats.parse()?, threads.parse()?).to_string()
            }
            ["seal", plaintext] => hex::encode(contender.encrypt(&hex::decode(plaintext)?)),
            ["open", message] => hex::encode(contender.decrypt(&hex::decode(message)?)),
            _ => return Err(format!("no order: {line}").into()),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

/// Nanoseconds for one call, of which each thread makes `repeats`.
fn time(call: impl Fn(&mut Vec<u8>) + Sync, repeats: u32, threads: u32) -> f64 {
    let start = Barrier::new(threads as usize);
    let work = || {
        let mut made = vec![];
        start.wait();
        let started = Instant::now();
        for _ in 0..repeats {
            call(&mut made);
            black_box(&made);
        }
        started
    };
    let started = thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work()
    });
    started.elapsed().as_secs_f64() * 1e9 / f64::from(repeats) / f64::from(threads)
}

//! The [matrix](benches::matrix) with Criterion: each row with its floors. The samples are short,
//! because there are over a thousand; `cargo bench -- 'encrypt 0x0478'` runs some of them.
#![allow(missing_docs, reason = "Criterion's macros write public items")]

use std::{cell::LazyCell, iter, thread, time::Duration};

use benches::matrix::{self, Side, THREADS};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::time::Instant;

fn all(criterion: &mut Criterion) {
    for case in matrix::cases() {
        // Set up when the first one runs, because a filter may skip all of them.
        let sides = LazyCell::new(|| case.sides().expect("the system has random numbers"));
        for threads in THREADS {
            let mut group = criterion.benchmark_group(format!("{case}, threads {threads}"));
            group.throughput(Throughput::Bytes((case.size * threads) as u64));
            for (number, name) in iter::once(&"library").chain(case.floors()).enumerate() {
                group.bench_function(BenchmarkId::new(*name, case.size), |bencher| {
                    let (library, floors) = &*sides;
                    let side = if number == 0 { library } else { &floors[number - 1].1 };
                    bencher.iter_custom(|times| measure(times, threads, side));
                });
            }
            group.finish();
        }
    }
}

/// Returns how long it takes if each thread does it so many times.
fn measure(times: u64, threads: usize, side: &Side) -> Duration {
    let repeat = || (0..times).for_each(|_| side());
    let started = Instant::now();
    if threads == 1 {
        repeat();
    } else {
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(repeat))));
    }
    started.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .nresamples(1_000)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200));
    targets = all
}
criterion_main!(benches);

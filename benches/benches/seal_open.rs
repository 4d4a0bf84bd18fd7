//! Sealing and opening with a warm cache, beside the primitives' floor.
#![allow(missing_docs, reason = "Criterion's macros write public items")]

use std::hint::black_box;

use benches::{context, floor_open, floor_seal, warm};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn seal_open(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let envelope = runtime.block_on(warm()).expect("the system has random numbers");
    let context = context().expect("one short pair");
    let data_key = [7; 32];
    for size in [16, 256, 1024, 4096, 65_536, 1_048_576] {
        let plaintext = vec![0; size];
        let message = envelope.try_encrypt(&plaintext, &context).expect("the cache is warm");
        let floor_message = floor_seal(&data_key, &plaintext);

        let mut group = criterion.benchmark_group("seal");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("floor", size), |b| {
            b.iter(|| floor_seal(&data_key, black_box(&plaintext)));
        });
        group.bench_function(BenchmarkId::new("envelope", size), |b| {
            b.iter(|| envelope.try_encrypt(black_box(&plaintext), &context));
        });
        group.finish();

        let mut group = criterion.benchmark_group("open");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("floor", size), |b| {
            b.iter(|| floor_open(&data_key, black_box(&floor_message)));
        });
        group.bench_function(BenchmarkId::new("envelope", size), |b| {
            b.iter(|| envelope.try_decrypt(black_box(&message), &context));
        });
        group.finish();
    }
}

criterion_group!(benches, seal_open);
criterion_main!(benches);

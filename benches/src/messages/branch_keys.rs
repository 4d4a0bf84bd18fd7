//! What `try_encrypt` and `try_decrypt` cost over a warm branch key without a cache of data keys,
//! as ratios to the primitives alone; and what a hit in the cache of branch keys costs.
//!
//! Each message then has a data key of its own, wrapped locally. Library and floors alternate in
//! rounds.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{hint::black_box, time::Duration};

use benches::{
    BRANCH_KEY, Result, context, done, finished,
    floor::{Backend, Floor, Wrapping},
    limits::Limits,
    warm_branch_key,
};
use envelope::DataKey;

use crate::{
    Args,
    rounds::{Call, median, medians, rates, ratio, repeat, time},
};

pub(crate) fn run(args: &Args) -> Result {
    let rounds = args.pick(501, 3_001);
    let context = context();
    let (envelope, keys) = warm_branch_key(DataKey::generate(32)?)?;
    let mut limits = Limits::default();
    println!(
        "0x0478 over a warm branch key, no cache of data keys, one thread; median of {rounds} \
         alternating rounds, in microseconds and over the floor"
    );
    println!(
        "{:>9}  {:>9} {:>9} {:>6}   {:>9} {:>9} {:>6}",
        "bytes", "encrypt", "floor", "ratio", "decrypt", "floor", "ratio"
    );
    let floors = Backend::ALL.map(Floor::usual);
    let wrappings = Backend::ALL.map(Wrapping::new);
    for (size, has_limit) in [(16, false), (1024, true), (65_536, false)] {
        let plaintext = vec![0; size];
        let message = envelope.try_encrypt(&plaintext, &context)?;
        let messages = floors.each_ref().map(|floor| floor.encrypt(&plaintext));
        let wrapped = wrappings.each_ref().map(Wrapping::wrap);
        // The ciphers of a side may differ: which is faster depends on the length.
        let encrypt_by = |message: usize, wrapping: usize| {
            done(wrappings[wrapping].wrap());
            done(floors[message].encrypt(black_box(&plaintext)));
        };
        let decrypt_by = |message: usize, wrapping: usize| {
            done(wrappings[wrapping].unwrap(black_box(&wrapped[wrapping])));
            done(floors[message].decrypt(black_box(&messages[message])));
        };
        let encrypt = || done(envelope.try_encrypt(black_box(&plaintext), &context));
        let repeat = repeat(time(1, encrypt));
        let [encrypt, encrypt_floors @ ..] = medians(
            rounds,
            repeat,
            [
                &mut { encrypt },
                &mut || encrypt_by(0, 0),
                &mut || encrypt_by(0, 1),
                &mut || encrypt_by(1, 0),
                &mut || encrypt_by(1, 1),
            ],
        );
        let [decrypt, decrypt_floors @ ..] = medians(
            rounds,
            repeat,
            [
                &mut || done(envelope.try_decrypt(black_box(&message), &context)),
                &mut || decrypt_by(0, 0),
                &mut || decrypt_by(0, 1),
                &mut || decrypt_by(1, 0),
                &mut || decrypt_by(1, 1),
            ],
        );
        let encrypt_floor = least(encrypt_floors);
        let decrypt_floor = least(decrypt_floors);

        let ratios = [encrypt / encrypt_floor, decrypt / decrypt_floor];
        let micros = [encrypt, encrypt_floor, decrypt, decrypt_floor].map(|nanos| nanos / 1e3);
        println!(
            "{size:>9}  {:>9.2} {:>9.2} {:>6.2}   {:>9.2} {:>9.2} {:>6.2}",
            micros[0], micros[1], ratios[0], micros[2], micros[3], ratios[1]
        );
        if has_limit {
            limits.at_most("1 KiB over a branch key: encrypt over floor", ratios[0], 1.15);
            limits.at_most("1 KiB over a branch key: decrypt over floor", ratios[1], 1.20);
        }
    }

    let [hit] = medians(rounds, 2_000, [&mut || done(finished(keys.active(BRANCH_KEY)))]);
    println!("\na hit in the cache of branch keys, with a reference to the key: {hit:.1} ns");
    limits.at_most("a hit in the cache of branch keys, in nanoseconds", hit, 60.0);

    let rounds = args.pick(15, 61);
    let span = Duration::from_millis(args.pick(80, 200));
    let message = envelope.try_encrypt(&[7; 16], &context)?;
    let encrypt = || done(envelope.try_encrypt(black_box(&[7; 16]), &context));
    let decrypt = || done(envelope.try_decrypt(black_box(&message), &context));
    let operations: [(&str, &Call); 2] = [("encrypt", &encrypt), ("decrypt", &decrypt)];
    println!("\n16 bytes, two threads over one, on one client and one branch key");
    for (name, call) in operations {
        let [one, two] = rates(rounds, span, [&[call], &[call; 2]]);
        let times = ratio(&two, &one);
        let (one, two) = (median(one), median(two));
        println!("{name}: one thread {one:.0} a second, two {two:.0}: {times:.2} times");
        limits.at_least(format!("16 bytes: {name}, two threads over one"), times, 1.9);
    }
    Ok(limits.verdict())
}

fn least(values: [f64; 4]) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

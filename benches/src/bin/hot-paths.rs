//! Runs one hot path so many times, for `benches/instructions` to count its instructions. Prints
//! nothing but the names.
//!
//! The setup takes the same number of instructions however often the path runs, so that it cancels
//! out between two runs. One thread, a current-thread runtime, fixed keys: only message ids are
//! random.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, hint::black_box};

use benches::{FOR_LONG, FRAME_LENGTH, context, finished, warm_under};
use clap::Parser;
use envelope::{
    AlgorithmSuite, DataKey,
    keyring::RawAesKeyring,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptionMaterialsRequest,
        MaterialsManager as _,
    },
};

/// The paths, and how often the gate runs each: tens of millions of instructions. None is signed:
/// signatures are AWS-LC's, take fifty times as many, and vary by more than a hundredth.
const PATHS: [(&str, u32); 13] = [
    ("seal-16", 500),
    ("seal-1024", 500),
    ("seal-65536", 40),
    ("seal-await-1024", 500),
    ("seal-prepared-1024", 500),
    ("seal-into-65536", 40),
    ("open-16", 500),
    ("open-1024", 500),
    ("open-65536", 40),
    ("open-into-65536", 40),
    ("open-in-place-65536", 40),
    ("read-header", 2_000),
    ("cache-hit", 5_000),
];

#[derive(Parser)]
#[command(about = "Runs one hot path of the library, for its instructions to be counted")]
struct Args {
    /// Which path; without one, the paths are listed, with how often to run each
    path: Option<String>,

    /// How many times to run it
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Args { path, times } = Args::parse();
    let Some(path) = path else {
        for (path, times) in PATHS {
            println!("{path} {times}");
        }
        return Ok(());
    };
    let (operation, size) = match path.rsplit_once('-') {
        Some((operation, size)) if size.parse::<usize>().is_ok() => (operation, size.parse()?),
        _ => (&path[..], 0),
    };
    let (context, suite) = (context()?, AlgorithmSuite::default());
    let suite = if operation.contains("signed") {
        AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384
    } else {
        suite
    };
    let envelope = warm_under(keyring()?, &context, suite, Some(FRAME_LENGTH)).await?;
    let prepared = envelope.prepare(&context)?;
    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring()?))
        .max_age(FOR_LONG)
        .build()?;
    let request = EncryptionMaterialsRequest::new(suite, &context, Some(1024));
    manager.encryption_materials(request).await?;
    let plaintext = vec![7; size];
    let message = envelope.encrypt(&plaintext, &context).await?;
    envelope.decrypt(&message, &context).await?;

    let mut buffer = Vec::with_capacity(message.len());
    // As many for once as for twice: what copies them cancels out.
    let mut messages =
        if operation == "open-in-place" { vec![message.clone(); 80] } else { vec![] };
    let run = |call: &mut dyn FnMut()| (0..times).for_each(|_| call());
    match operation {
        "seal" => run(&mut || done(envelope.try_encrypt(black_box(&plaintext), &context))),
        "seal-await" => {
            run(&mut || done(finished(envelope.encrypt(black_box(&plaintext), &context))));
        }
        "seal-prepared" => run(&mut || done(prepared.try_encrypt(black_box(&plaintext)))),
        "open" => run(&mut || done(envelope.try_decrypt(black_box(&message), &context))),
        "seal-into" => run(&mut || {
            buffer.clear();
            done(envelope.try_encrypt_into(black_box(&plaintext), &context, &mut buffer));
        }),
        "open-into" => run(&mut || {
            buffer.clear();
            done(envelope.try_decrypt_into(black_box(&message), &context, &mut buffer));
        }),
        "open-in-place" => run(&mut || {
            let mut message = messages.pop().expect("there are as many as the gate takes");
            done(envelope.try_decrypt_in_place(black_box(&mut message), &context));
        }),
        "read-header" => run(&mut || done(envelope.read_header(&mut black_box(&message[..])))),
        "cache-hit" => run(&mut || {
            let (request, mut hit) = (black_box(request), None);
            let found =
                manager.cached_encryption_materials(request, &mut |it| hit = Some(it.clone()));
            done((found, hit));
        }),
        _ => return Err(format!("no path is called {path}").into()),
    }
    Ok(())
}

fn done<T>(outcome: T) {
    drop(black_box(outcome));
}

fn keyring() -> Result<RawAesKeyring, envelope::Error> {
    RawAesKeyring::new("benches", "key", &DataKey::from_vec(vec![7; 32]))
}

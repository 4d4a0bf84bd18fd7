//! Runs one hot path so many times, for `benches/instructions` to count its instructions.
//!
//! The setup takes the same number of instructions however often the path runs, so that it cancels
//! out between two runs. Only message ids are random.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{hint::black_box, process::ExitCode};

use benches::{
    BRANCH_KEY, FRAME_LENGTH, LONG, Result, context, done, finished, warm_branch_key, warm_with,
};
use envelope::{
    AlgorithmSuite, DataKey,
    keyring::RawAesKeyring,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptionMaterialsRequest,
        MaterialsManager as _,
    },
};

/// The paths, and how often the gate runs each: tens of millions of instructions. None is signed,
/// because signatures are AWS-LC's, take fifty times as many, and vary by over 1 %.
const PATHS: [(&str, u32); 16] = [
    ("encrypt-16", 500),
    ("encrypt-1024", 500),
    ("encrypt-65536", 40),
    ("encrypt-await-1024", 500),
    ("encrypt-prepared-1024", 500),
    ("encrypt-into-65536", 40),
    ("decrypt-16", 500),
    ("decrypt-1024", 500),
    ("decrypt-65536", 40),
    ("decrypt-into-65536", 40),
    ("decrypt-in-place-65536", 40),
    ("read-header", 2_000),
    ("cache-hit", 5_000),
    ("branch-key-encrypt-1024", 500),
    ("branch-key-decrypt-1024", 500),
    ("branch-key-hit", 5_000),
];

/// Runs a path, or lists the paths with how often to run each.
pub(crate) fn run(path: Option<&str>, times: u32) -> Result {
    let Some(path) = path else {
        for (path, times) in PATHS {
            println!("{path} {times}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let (operation, size) = match path.rsplit_once('-') {
        Some((operation, size)) if size.parse::<usize>().is_ok() => (operation, size.parse()?),
        _ => (path, 0),
    };
    let (context, suite) = (context(), AlgorithmSuite::default());
    let envelope = warm_with(keyring()?, &context, suite, Some(FRAME_LENGTH))?;
    let prepared = envelope.prepare(&context)?;
    let source = DefaultMaterialsManager::new(keyring()?);
    let manager = CachingMaterialsManager::builder(source).max_age(LONG).build()?;
    let request = EncryptionMaterialsRequest::new(suite, &context, Some(1024));
    futures_executor::block_on(manager.encryption_materials(request))?;
    let plaintext = vec![7; size];
    let message = finished(envelope.encrypt(&plaintext, &context))?;
    finished(envelope.decrypt(&message, &context))?;

    let (branch, keys) = warm_branch_key(DataKey::from_vec(vec![7; 32]))?;
    let under_branch_key = branch.try_encrypt(&plaintext, &context)?;
    branch.try_decrypt(&under_branch_key, &context)?;

    let mut buffer = Vec::with_capacity(message.len());
    // As many for one run as for twice as many calls, so that copying them cancels out.
    let copies = if operation == "decrypt-in-place" { 80 } else { 0 };
    let mut messages = vec![message.clone(); copies];
    let run = |call: &mut dyn FnMut()| (0..times).for_each(|_| call());
    match operation {
        "encrypt" => run(&mut || done(envelope.try_encrypt(black_box(&plaintext), &context))),
        "encrypt-await" => {
            run(&mut || done(finished(envelope.encrypt(black_box(&plaintext), &context))));
        }
        "encrypt-prepared" => run(&mut || done(prepared.try_encrypt(black_box(&plaintext)))),
        "encrypt-into" => run(&mut || {
            buffer.clear();
            done(envelope.try_encrypt_into(black_box(&plaintext), &context, &mut buffer));
        }),
        "decrypt" => run(&mut || done(envelope.try_decrypt(black_box(&message), &context))),
        "decrypt-into" => run(&mut || {
            buffer.clear();
            done(envelope.try_decrypt_into(black_box(&message), &context, &mut buffer));
        }),
        "decrypt-in-place" => run(&mut || {
            let mut message = messages.pop().expect("there are enough for the gate");
            done(envelope.try_decrypt_in_place(black_box(&mut message), &context));
        }),
        "read-header" => run(&mut || done(envelope.read_header(&mut black_box(&message[..])))),
        "cache-hit" => run(&mut || {
            let (request, mut hit) = (black_box(request), None);
            let found =
                manager.cached_encryption_materials(request, &mut |it| hit = Some(it.clone()));
            done((found, hit));
        }),
        "branch-key-encrypt" => {
            run(&mut || done(branch.try_encrypt(black_box(&plaintext), &context)));
        }
        "branch-key-decrypt" => {
            run(&mut || done(branch.try_decrypt(black_box(&under_branch_key), &context)));
        }
        "branch-key-hit" => run(&mut || done(finished(keys.active(black_box(BRANCH_KEY))))),
        _ => return Err(format!("invalid path \"{path}\": run without one to list them").into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn keyring() -> Result<RawAesKeyring> {
    Ok(RawAesKeyring::new("benches", "key", &DataKey::from_vec(vec![7; 32]))?)
}

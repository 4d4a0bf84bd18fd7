//! Searches memory for secrets that operations leave behind: derived keys, and the data that AES
//! and HMAC expand from keys.

use std::{
    hint::black_box,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use envelope::{
    DataKey, EncryptionContext, Envelope,
    branch_key::{BranchKeys, StaticBranchKeys},
    keyring::{HierarchicalKeyring, RawAesKeyring},
    materials::DefaultMaterialsManager,
};

use crate::{
    Result,
    memory::{Masked, Memory},
    secrets::{Deriver, Secret},
    spy::{Spy, Watched},
};

/// The operation that uses the secrets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Encrypt,
    Decrypt,
    Encryptor,
    BranchKey,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] =
        [Self::Encrypt, Self::Decrypt, Self::Encryptor, Self::BranchKey];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "encrypt, decrypt",
            Self::Encryptor => "encryptor",
            Self::BranchKey => "branch key",
        }
    }
}

/// How many pieces of one secret were found.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) secret: String,
    pub(crate) in_use: usize,
    pub(crate) gone: usize,
}

/// The inputs for computing the secrets of an operation.
enum Subject {
    Message { wrapping_key: Masked, data_key: Masked, message_id: Vec<u8> },
    BranchKey { branch_key: Masked, salt: Vec<u8> },
}

/// Runs the operation, and searches for its secrets in the middle and at the end.
pub(crate) fn follow(
    memory: &mut Memory,
    deriver: &mut Deriver,
    operation: Operation,
) -> Result<Vec<Leftover>> {
    let (tell, told) = mpsc::channel::<Subject>();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    // On a separate thread, which waits while its stack is searched, so that nothing is
    // overwritten.
    thread::scope(|scope| {
        let running = scope.spawn(move || {
            let pause = |subject| {
                let _ = tell.send(subject);
                let _ = may_go_on.recv();
            };
            deep_down(&|| run(operation, &pause))?;
            drop(tell);
            let _ = may_go_on.recv();
            Result::Ok(())
        });
        // The operation has failed without a message.
        let Ok(subject) = told.recv() else {
            drop(go_on);
            return Err(running.join().map_or_else(
                |_| "it panicked".into(),
                |it| match it {
                    Ok(()) => "the operation sent no subject".into(),
                    Err(failure) => failure,
                },
            ));
        };
        let secrets = match subject {
            Subject::Message { wrapping_key, data_key, message_id } => {
                deriver.secrets(&wrapping_key, &data_key, &message_id)?
            }
            Subject::BranchKey { branch_key, salt } => {
                deriver.branch_key_secrets(&branch_key, &salt)?
            }
        };
        let in_use = count(memory, &secrets)?;
        go_on.send(())?;
        // Wait until it has ended; its thread then keeps its stack.
        let _ = told.recv();
        let gone = count(memory, &secrets)?;
        drop(go_on);
        running.join().map_err(|_| "it panicked")??;
        let leftovers = secrets.into_iter().zip(in_use.into_iter().zip(gone));
        Ok(leftovers
            .map(|(secret, (in_use, gone))| Leftover { secret: secret.name, in_use, gone })
            .collect())
    })
}

fn count(memory: &mut Memory, secrets: &[Secret]) -> Result<Vec<usize>> {
    let counts = secrets.iter().map(|secret| memory.count_all(&secret.pieces));
    Ok(counts.collect::<std::io::Result<_>>()?)
}

/// The number of copies found on the stack of a function that has returned: proves that the search
/// detects leftovers.
pub(crate) fn planted(memory: &mut Memory) -> Result<usize> {
    let key = DataKey::generate(32)?;
    let masked = Masked::new(key.expose_secret());
    let (tell, told) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            deep_down(&|| leave(&key));
            drop(key);
            let _ = tell.send(());
            let _ = may_go_on.recv();
        });
        told.recv()?;
        let found = memory.count_all(&masked.in_each_order())?;
        drop(go_on);
        Ok(found)
    })
}

#[inline(never)]
fn leave(key: &DataKey) {
    let mut copy = [0_u8; 32];
    copy.copy_from_slice(key.expose_secret());
    black_box(&copy);
}

/// Runs it so deep in the stack that later calls do not overwrite its frame.
#[inline(never)]
fn deep_down<T>(run: &dyn Fn() -> T) -> T {
    #[expect(clippy::large_stack_arrays, reason = "to be far down the stack is what it is for")]
    let above = [0_u8; 256 * 1024];
    black_box(&above);
    let result = run();
    black_box(&above);
    result
}

/// Runs the operation; calls `pause` while its keys are in use, and drops everything before it
/// returns.
fn run(operation: Operation, pause: &dyn Fn(Subject)) -> Result<()> {
    if let Operation::BranchKey = operation {
        return run_under_branch_key(pause);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let wrapping_key = DataKey::generate(32)?;
    let masked = Masked::new(wrapping_key.expose_secret());
    let source =
        DefaultMaterialsManager::new(RawAesKeyring::new("benches", "resident", &wrapping_key)?);
    drop(wrapping_key);
    let spy = Arc::new(Spy { source, seen: Mutex::default() });
    let envelope = Envelope::builder(Watched(Arc::clone(&spy))).build()?;
    let context = EncryptionContext::new([("tenant", "42")])?;
    let subject = |message: &[u8]| Subject::Message {
        wrapping_key: masked.clone(),
        data_key: spy.first().1,
        // The id follows the version and the suite (specification:
        // `data-format/message-header.md`).
        message_id: message[3..35].to_vec(),
    };
    runtime.block_on(async {
        match operation {
            Operation::Encrypt => {
                pause(subject(&envelope.encrypt(&[7; 10_000], &context).await?));
            }
            Operation::Decrypt => {
                let message = envelope.encrypt(&[7; 10_000], &context).await?;
                envelope.decrypt(&message, &context).await?;
                pause(subject(&message));
            }
            Operation::BranchKey => unreachable!("it has its own function"),
            Operation::Encryptor => {
                let mut message = vec![];
                let mut writer =
                    envelope.encryptor(&context, Some(20_000)).await?.writer(&mut message);
                std::io::Write::write_all(&mut writer, &[7; 10_000])?;
                std::io::Write::flush(&mut writer)?;
                pause(subject(writer.sink()));
                writer.finish()?;
            }
        }
        Result::Ok(())
    })
}

/// Encrypts and decrypts under a branch key that is cached, like [`run`].
fn run_under_branch_key(pause: &dyn Fn(Subject)) -> Result<()> {
    const ID: &str = "a branch key's id";
    let secret = DataKey::generate(32)?;
    let branch_key = Masked::new(secret.expose_secret());
    let keys = BranchKeys::new(StaticBranchKeys::new().with_active(ID, [1; 16], secret)?);
    let keyring = HierarchicalKeyring::new(keys.clone(), ID)?;
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?;
    let context = EncryptionContext::new([("tenant", "42")])?;
    let blocking = envelope.blocking();
    blocking.encrypt(&[7; 100], &context)?;
    let message = envelope.try_encrypt(&[7; 100], &context)?;
    envelope.try_decrypt(&message, &context)?;
    // The ciphertext of the encrypted data key follows the id and its own length.
    let id = message.windows(ID.len()).position(|bytes| bytes == ID.as_bytes());
    let start = id.ok_or("the message does not name the branch key")? + ID.len() + 2;
    let shown = format!("{keys:?} {envelope:?} {:?}", futures_executor::block_on(keys.active(ID))?);
    let key = DataKey::from_vec(branch_key.reveal());
    let start_of_key = format!("{:?}", &key.expose_secret()[..4]);
    drop(key);
    assert!(!shown.contains(start_of_key.trim_matches(['[', ']'])), "{shown}");
    pause(Subject::BranchKey { branch_key, salt: message[start..start + 16].to_vec() });
    Ok(())
}

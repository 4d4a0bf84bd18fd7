//! What operations leave in memory of the secrets that they make: derived keys, and what AES and
//! HMAC make of keys.

use std::{
    error::Error,
    hint::black_box,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use benches::{
    context,
    memory::{Masked, Memory},
    secrets::{Deriver, Secret},
};
use envelope::{DataKey, Envelope, keyring::RawAesKeyring, materials::DefaultMaterialsManager};

use crate::{Spy, Watched};

/// What is done with the secrets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Encrypt,
    Decrypt,
    Encryptor,
}

impl Operation {
    pub(crate) const ALL: [Self; 3] = [Self::Encrypt, Self::Decrypt, Self::Encryptor];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "encrypt, decrypt",
            Self::Encryptor => "encryptor",
        }
    }
}

/// How often pieces of one secret were found.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) secret: String,
    pub(crate) in_use: usize,
    pub(crate) gone: usize,
}

/// Of whom secrets are to be computed.
struct Subject {
    wrapping_key: Masked,
    data_key: Masked,
    message_id: Vec<u8>,
}

/// A failure that goes from thread to thread.
type Failure = Box<dyn Error + Send + Sync>;

/// Does the operation, and looks for its secrets in the middle and at the end.
pub(crate) fn follow(
    memory: &mut Memory,
    deriver: &mut Deriver,
    operation: Operation,
) -> Result<Vec<Leftover>, Failure> {
    let (tell, told) = mpsc::channel::<Subject>();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    // On a thread of its own, which waits while its stack is looked at: nothing overwrites what lies
    // there.
    thread::scope(|scope| {
        let running = scope.spawn(move || {
            let pause = |subject| {
                let _ = tell.send(subject);
                let _ = may_go_on.recv();
            };
            deep_down(&|| run(operation, &pause))?;
            drop(tell);
            let _ = may_go_on.recv();
            Ok::<_, Failure>(())
        });
        // Nothing is told when it fails.
        let Ok(subject) = told.recv() else {
            drop(go_on);
            return Err(running.join().map_or_else(
                |_| "it panicked".into(),
                |it| match it {
                    Ok(()) => "nothing was told".into(),
                    Err(failure) => failure,
                },
            ));
        };
        let Subject { wrapping_key, data_key, message_id } = subject;
        let secrets = deriver.secrets(&wrapping_key, &data_key, &message_id)?;
        let in_use = count(memory, &secrets)?;
        go_on.send(())?;
        // Until it has ended, and waits with its stack in place.
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

fn count(memory: &mut Memory, secrets: &[Secret]) -> Result<Vec<usize>, Failure> {
    let counts = secrets.iter().map(|secret| memory.count_all(&secret.pieces));
    Ok(counts.collect::<Result<_, _>>()?)
}

/// How often a copy is found that a function leaves on its stack when it returns: what the search
/// for leftovers has to find.
pub(crate) fn planted(memory: &mut Memory) -> Result<usize, Failure> {
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

/// Runs it so far down the stack that nothing which is called afterwards comes there.
#[inline(never)]
fn deep_down<T>(run: &dyn Fn() -> T) -> T {
    #[expect(clippy::large_stack_arrays, reason = "to be far down the stack is what it is for")]
    let above = [0_u8; 256 * 1024];
    black_box(&above);
    let result = run();
    black_box(&above);
    result
}

/// Does the operation; calls `pause` when its keys are in use, and leaves nothing alive.
fn run(operation: Operation, pause: &dyn Fn(Subject)) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let wrapping_key = DataKey::generate(32)?;
    let masked = Masked::new(wrapping_key.expose_secret());
    let source =
        DefaultMaterialsManager::new(RawAesKeyring::new("benches", "resident", &wrapping_key)?);
    drop(wrapping_key);
    let spy = Arc::new(Spy { source, seen: Mutex::default() });
    let envelope = Envelope::builder(Watched(Arc::clone(&spy))).build()?;
    let context = context()?;
    let subject = |message: &[u8]| Subject {
        wrapping_key: masked.clone(),
        data_key: spy.first().1,
        // After the version and the suite (specification: `data-format/message-header.md`).
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
        Ok::<_, Failure>(())
    })
}

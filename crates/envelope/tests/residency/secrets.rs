//! Computes the data derived from a message's keys and its wrapping key, to search memory for it.
//!
//! Computing a secret leaves copies of it. A separate process therefore does it, and exchanges
//! secrets only in masked form.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use aes_gcm::{
    KeyInit,
    aes::{Aes256, cipher::BlockCipherEncrypt as _},
};
use hkdf::{
    Hkdf,
    hmac::{Hmac, Mac as _},
};
use sha2::{Sha256, Sha512, block_api::compress256};

use crate::memory::Masked;

/// The program starts itself with this command, which calls [`derive()`].
pub(crate) const DERIVE: &str = "derive-secrets";
/// The length of a piece that counts as found: half an AES-256 key, or one round key.
const PIECE: usize = 16;

/// One secret, in pieces of 16 bytes, in every byte order in which it may be stored.
#[derive(Debug)]
pub(crate) struct Secret {
    /// The name of the secret.
    pub(crate) name: String,
    /// The pieces of the secret.
    pub(crate) pieces: Vec<Masked>,
}

/// A process that computes secrets.
#[derive(Debug)]
pub(crate) struct Deriver {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Deriver {
    /// Starts this program again, as a process that runs [`derive()`].
    pub(crate) fn start() -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(DERIVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (questions, answers) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .ok_or_else(|| io::Error::other("the deriving process has no pipes"))?;
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// The secrets of a message with the default algorithm suite (0x0478, without the signature of
    /// 0x0578) under this wrapping key and data key.
    pub(crate) fn secrets(
        &mut self,
        wrapping_key: &Masked,
        data_key: &Masked,
        message_id: &[u8],
    ) -> io::Result<Vec<Secret>> {
        let words = [wrapping_key.bytes(), data_key.bytes(), message_id].map(hex::encode);
        self.answer(&words.join(" "))
    }

    /// The secrets of a data key that is wrapped under a branch key with this salt.
    pub(crate) fn branch_key_secrets(
        &mut self,
        branch_key: &Masked,
        salt: &[u8],
    ) -> io::Result<Vec<Secret>> {
        self.answer(&[branch_key.bytes(), salt].map(hex::encode).join(" "))
    }

    fn answer(&mut self, question: &str) -> io::Result<Vec<Secret>> {
        writeln!(self.questions, "{question}")?;
        let (mut secrets, mut line) = (vec![], String::new());
        loop {
            line.clear();
            self.answers.read_line(&mut line)?;
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { return Ok(secrets) };
            let pieces = words.map(|word| Ok(Masked::from_bytes(bytes(word)?.into())));
            let pieces = pieces.collect::<io::Result<Vec<_>>>()?;
            let pieces = pieces.iter().flat_map(Masked::in_each_order).collect();
            secrets.push(Secret { name: name.replace('_', " "), pieces });
        }
    }
}

impl Drop for Deriver {
    fn drop(&mut self) {
        // The process has no state to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Responds to the requests of [`Deriver::secrets`] on standard input.
pub(crate) fn derive() -> io::Result<()> {
    let mut answers = io::stdout().lock();
    for question in io::stdin().lock().lines() {
        let words: Vec<_> = question?.split(' ').map(bytes).collect::<Result<_, _>>()?;
        let reveal = |masked: &[u8]| Masked::from_bytes(masked.into()).reveal();
        let secrets = match &words[..] {
            [wrapping_key, data_key, message_id] => {
                secrets(&reveal(wrapping_key), &reveal(data_key), message_id)?
            }
            [branch_key, salt] => branch_key_secrets(&reveal(branch_key), salt)?,
            _ => return Err(io::Error::other("expected two or three words")),
        };
        for (name, secret) in secrets {
            let pieces =
                secret.chunks_exact(PIECE).map(|piece| hex::encode(Masked::new(piece).bytes()));
            writeln!(answers, "{name} {}", pieces.collect::<Vec<_>>().join(" "))?;
        }
        writeln!(answers)?;
        answers.flush()?;
    }
    Ok(())
}

/// The secrets by name (specification: `framework/algorithm-suites.md`; RFC 5869; RFC 2104).
fn secrets(
    wrapping_key: &[u8],
    data_key: &[u8],
    message_id: &[u8],
) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    const SUITE: [u8; 2] = [0x04, 0x78];
    const BLOCK: usize = 128;
    let (prk, hkdf) = Hkdf::<Sha512>::extract(Some(message_id), data_key);
    let mut message_key = vec![0; 32];
    hkdf.expand_multi_info(&[&SUITE, b"DERIVEKEY"], &mut message_key).map_err(io::Error::other)?;
    // As HMAC pads its key; the rest of the block is not secret.
    let padded = |pad: u8| prk.iter().map(|byte| byte ^ pad).collect::<Vec<_>>();
    assert!(prk.len() <= BLOCK, "a longer key would be hashed first");
    Ok(vec![
        ("wrapping_key", wrapping_key.to_vec()),
        ("its_round_keys", round_keys(wrapping_key)[32..].to_vec()),
        ("its_hash_key", hash_key(wrapping_key)?),
        ("data_key", data_key.to_vec()),
        ("PRK", prk.to_vec()),
        ("PRK_^_ipad", padded(0x36)),
        ("PRK_^_opad", padded(0x5C)),
        ("message_key", message_key.clone()),
        ("its_round_keys", round_keys(&message_key)[32..].to_vec()),
        ("its_hash_key", hash_key(&message_key)?),
    ])
}

/// The secrets by name (NIST SP 800-108r1, section 4.1; RFC 2104; FIPS 180-4, section 5.3.3).
fn branch_key_secrets(branch_key: &[u8], salt: &[u8]) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut hmac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(branch_key).map_err(io::Error::other)?;
    for part in [&[0, 0, 0, 1], &b"aws-kms-hierarchy"[..], &[0], salt, &[0, 0, 1, 0]] {
        hmac.update(part);
    }
    let wrapping_key = hmac.finalize().into_bytes().to_vec();
    let padded = |pad: u8| {
        let mut block = [pad; 64];
        block.iter_mut().zip(branch_key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let state = |pad: u8| {
        let mut state = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ];
        compress256(&mut state, &[padded(pad)]);
        state.iter().flat_map(|word: &u32| word.to_be_bytes()).collect::<Vec<_>>()
    };
    Ok(vec![
        ("branch_key", branch_key.to_vec()),
        ("branch_key_^_ipad", padded(0x36)[..32].to_vec()),
        ("branch_key_^_opad", padded(0x5C)[..32].to_vec()),
        ("inner_HMAC_state", state(0x36)),
        ("outer_HMAC_state", state(0x5C)),
        ("derived_key", wrapping_key.clone()),
        ("its_round_keys", round_keys(&wrapping_key)[32..].to_vec()),
        ("its_hash_key", hash_key(&wrapping_key)?),
    ])
}

/// The hash key of GCM: an encrypted block of zeros.
fn hash_key(key: &[u8]) -> io::Result<Vec<u8>> {
    let mut block = [0; 16].into();
    Aes256::new_from_slice(key).map_err(io::Error::other)?.encrypt_block(&mut block);
    Ok(block.to_vec())
}

/// The fifteen round keys of AES-256; the first two are the key itself (FIPS 197, section 5.2).
fn round_keys(key: &[u8]) -> Vec<u8> {
    let mut words: Vec<[u8; 4]> =
        key.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]).collect();
    let mut constant = 1;
    for at in 8..60 {
        let mut word = words[at - 1];
        if at % 8 == 0 {
            word.rotate_left(1);
        }
        if at % 4 == 0 {
            word = word.map(substitute);
        }
        if at % 8 == 0 {
            word[0] ^= constant;
            constant = times(constant, 2);
        }
        let before = words[at - 8];
        words.push([0, 1, 2, 3].map(|byte| word[byte] ^ before[byte]));
    }
    words.concat()
}

/// The S-box of AES (FIPS 197, section 5.1.1).
fn substitute(byte: u8) -> u8 {
    // The power of 254 is the inverse, and zero for zero.
    let inverse = (0..253).fold(byte, |power, _| times(power, byte));
    (1..5).fold(inverse ^ 0x63, |sum, by| sum ^ inverse.rotate_left(by))
}

/// Multiplication in AES's field (FIPS 197, section 4.2).
fn times(mut one: u8, mut other: u8) -> u8 {
    let mut product = 0;
    while other > 0 {
        if other & 1 == 1 {
            product ^= one;
        }
        one = one << 1 ^ if one & 0x80 == 0 { 0 } else { 0x1B };
        other >>= 1;
    }
    product
}

/// Checks the round keys with the example of the standard (FIPS 197, appendix A.3).
pub(crate) fn check_round_keys() -> io::Result<()> {
    let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")?;
    let keys = hex::encode(round_keys(&key));
    assert_eq!(keys[64..96], *"9ba354118e6925afa51a8b5f2067fcde");
    assert_eq!(keys[keys.len() - 32..], *"fe4890d1e6188d0b046df344706c631e");
    Ok(())
}

fn bytes(hex: &str) -> io::Result<Vec<u8>> {
    hex::decode(hex).map_err(io::Error::other)
}

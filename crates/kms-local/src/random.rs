//! Bytes from the operating system.

use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Fills `bytes` from the operating system's generator.
///
/// # Panics
///
/// When the operating system has none to give. A key service that cannot draw keys must not go on.
pub(crate) fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system supplies random bytes");
}

/// `length` random bytes that wipe themselves. The caller bounds `length`.
pub(crate) fn secret(length: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    fill(&mut bytes);
    bytes
}

/// An access key id with `prefix`, in the format of AWS: it encodes the account, twelve digits, and
/// is otherwise random.
pub(crate) fn access_key_id(prefix: &str, account: &str) -> String {
    let account: u64 = account.parse().unwrap_or_default();
    let mut bits = [0; 2];
    fill(&mut bits);
    // A set bit, 40 bits of the account and 9 random bits: ten characters of five bits.
    let first_bits =
        1 << 49 | (account & ((1 << 40) - 1)) << 9 | u64::from(u16::from_be_bytes(bits) & 0x1FF);
    let first = (0..10)
        .rev()
        .map(|at| ALPHABET[usize::from((first_bits >> (5 * at)).to_le_bytes()[0] % 32)]);
    let first: String = first.map(char::from).collect();
    format!("{prefix}{first}{}", base32(6))
}

/// `length` random characters of the alphabet that AWS draws access key ids from.
pub(crate) fn base32(length: usize) -> String {
    let bytes = secret(length);
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

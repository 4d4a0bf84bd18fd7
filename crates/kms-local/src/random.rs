//! Random bytes from the operating system.

use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Fills `bytes` with random bytes.
///
/// # Panics
///
/// Panics if the operating system supplies none. A key service must not run without them.
pub(crate) fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system supplies random bytes");
}

/// Returns `length` random bytes that are wiped on drop. The caller must limit `length`.
pub(crate) fn secret(length: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    fill(&mut bytes);
    bytes
}

/// Returns an access key id in the format of AWS: `prefix`, the encoded account of twelve digits,
/// and random characters.
pub(crate) fn access_key_id(prefix: &str, account: &str) -> String {
    let account: u64 = account.parse().unwrap_or_default();
    let mut bits = [0; 2];
    fill(&mut bits);
    // One set bit, 40 bits of the account and 9 random bits: ten characters of five bits each.
    let first_bits =
        1 << 49 | (account & ((1 << 40) - 1)) << 9 | u64::from(u16::from_be_bytes(bits) & 0x1FF);
    let first = (0..10)
        .rev()
        .map(|at| ALPHABET[usize::from((first_bits >> (5 * at)).to_le_bytes()[0] % 32)]);
    let first: String = first.map(char::from).collect();
    format!("{prefix}{first}{}", base32(6))
}

/// Returns `length` random characters from the alphabet of AWS access key ids.
pub(crate) fn base32(length: usize) -> String {
    let bytes = secret(length);
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

//! Bytes from the operating system.

use zeroize::Zeroizing;

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

/// `length` random characters of the alphabet that AWS draws access key ids from.
pub(crate) fn base32(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bytes = secret(length);
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

//! A process that looks into its own memory, through `/proc/self`. Linux alone.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use zeroize::Zeroize;

/// How much is read at once.
const WINDOW: usize = 1 << 20;
/// Of a freed block, the allocator overwrites this much with links of its own.
const LINKS: usize = 16;
/// The maximum length of a pattern.
const LONGEST: usize = 64;

/// The bytes of a secret, masked so that a search for them does not find them here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked(Box<[u8]>);

impl Masked {
    const MASK: u8 = 0xA5;

    /// Masks a secret of 16 to 64 bytes.
    ///
    /// # Panics
    ///
    /// If the secret has another length.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self::from_bytes(secret.iter().map(|byte| byte ^ Self::MASK).collect())
    }

    /// Takes bytes that are already masked, as [`bytes`](Self::bytes) returns them.
    ///
    /// # Panics
    ///
    /// If there are fewer than 16 or more than 64 bytes.
    #[must_use]
    pub fn from_bytes(bytes: Box<[u8]>) -> Self {
        assert!((LINKS..=LONGEST).contains(&bytes.len()), "{} bytes", bytes.len());
        Self(bytes)
    }

    /// The masked bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret itself. The caller must wipe it.
    #[must_use]
    pub fn reveal(&self) -> Vec<u8> {
        self.0.iter().map(|byte| byte ^ Self::MASK).collect()
    }

    /// The same bytes in each order in which a processor or a library may store them: as they are,
    /// reversed, and reversed within each number of 4 or 8 bytes.
    #[must_use]
    pub fn in_each_order(&self) -> [Self; 4] {
        [1, self.0.len(), 4, 8].map(|number| {
            Self(self.0.chunks(number).flat_map(|bytes| bytes.iter().rev().copied()).collect())
        })
    }

    fn is(&self, bytes: &[u8]) -> bool {
        bytes.iter().zip(&self.0).all(|(byte, masked)| byte ^ Self::MASK == *masked)
    }

    fn first_byte(&self) -> u8 {
        self.0[0] ^ Self::MASK
    }
}

/// What stands where a key was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The key.
    Key,
    /// Zeros, but for what the allocator writes into a free block.
    Zeros,
    /// Something else: the block serves another purpose already.
    Other,
}

/// The memory of this process, to be read as a file.
#[derive(Debug)]
pub struct Memory {
    file: File,
    window: Vec<u8>,
}

impl Memory {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// Where there is no `/proc/self/mem`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/mem")?, window: vec![0; WINDOW + LONGEST] })
    }

    /// What stands at the address where `key` was.
    ///
    /// # Errors
    ///
    /// When the address is mapped no more.
    pub fn look(&mut self, address: usize, key: &Masked) -> io::Result<Found> {
        self.read(address, key.0.len())?;
        let bytes = &mut self.window[..key.0.len()];
        let found = if key.is(bytes) {
            Found::Key
        } else if bytes[LINKS..].iter().all(|byte| *byte == 0) {
            Found::Zeros
        } else {
            Found::Other
        };
        bytes.zeroize();
        Ok(found)
    }

    /// How often `key` stands anywhere in what this process can write to: heap, stacks, anonymous
    /// and static memory.
    ///
    /// # Errors
    ///
    /// When the memory can't be read.
    pub fn count(&mut self, key: &Masked) -> io::Result<usize> {
        self.count_all(std::slice::from_ref(key))
    }

    /// How many times any of these secrets occurs.
    ///
    /// # Errors
    ///
    /// The errors of [`count`](Self::count).
    pub fn count_all(&mut self, secrets: &[Masked]) -> io::Result<usize> {
        let mut count = 0;
        for region in writable()? {
            let mut start = region.start;
            while start < region.end {
                // Overlap the windows: otherwise a secret across two windows would be missed.
                let length = (region.end - start).min(WINDOW + LONGEST - 1);
                match self.read(start, length) {
                    Ok(()) => {}
                    // Another thread has ended or freed it meanwhile.
                    Err(_) if !writable()?.contains(&region) => break,
                    Err(error) => return Err(error),
                }
                count += secrets.iter().map(|it| self.finds_in(start, length, it)).sum::<usize>();
                start += WINDOW;
            }
        }
        self.window.zeroize();
        self.window.resize(WINDOW + LONGEST, 0);
        Ok(count)
    }

    /// How many times `secret` begins in the window, which was read from `start`. Occurrences in
    /// the window buffer itself do not count.
    fn finds_in(&self, start: usize, length: usize, secret: &Masked) -> usize {
        let own = self.window.as_ptr().addr()..self.window.as_ptr().addr() + self.window.len();
        // Occurrences that begin after the window belong to the next one.
        let bytes = &self.window[..length.min(WINDOW + secret.0.len() - 1)];
        let (mut found, mut from) = (0, 0);
        while let Some(next) = bytes[from..].iter().position(|byte| *byte == secret.first_byte()) {
            let at = from + next;
            let Some(candidate) = bytes.get(at..at + secret.0.len()) else { break };
            found += usize::from(secret.is(candidate) && !own.contains(&(start + at)));
            from = at + 1;
        }
        found
    }

    fn read(&mut self, address: usize, length: usize) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(address as u64))?;
        self.file.read_exact(&mut self.window[..length])
    }
}

/// How many bytes of this process are in memory.
///
/// # Errors
///
/// Where `/proc/self/status` does not tell.
pub fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))? * 1024)
}

/// The regions that this process can write to.
fn writable() -> io::Result<Vec<Range<usize>>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let region = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        rest.starts_with("rw").then_some(range)
    };
    Ok(maps.lines().filter_map(region).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// The window of one search holds copies of what another test has in memory.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    #[test]
    fn a_key_is_found_until_it_is_gone() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = Memory::open().unwrap();
        let mut key = vec![0; 32];
        getrandom::fill(&mut key).unwrap();
        let masked = Masked::new(&key);
        assert_eq!(memory.look(key.as_ptr().addr(), &masked).unwrap(), Found::Key);
        assert!(memory.count(&masked).unwrap() >= 1);
        key.zeroize();
        assert_eq!(memory.look(key.as_ptr().addr(), &masked).unwrap(), Found::Zeros);
        assert_eq!(memory.count(&masked).unwrap(), 0);
    }

    #[test]
    fn a_secret_is_found_in_each_order() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = Memory::open().unwrap();
        let mut key = vec![0; 32];
        getrandom::fill(&mut key).unwrap();
        let masked = Masked::new(&key);
        key.zeroize();
        for order in masked.in_each_order() {
            let mut planted = order.reveal();
            assert_eq!(memory.count_all(&masked.in_each_order()).unwrap(), 1);
            planted.zeroize();
        }
        assert_eq!(memory.count_all(&masked.in_each_order()).unwrap(), 0);
    }

    #[test]
    fn orders_depend_on_the_number_of_bytes() {
        let bytes: Vec<u8> = (0..16).collect();
        let [same, whole, by_four, by_eight] =
            Masked::new(&bytes).in_each_order().map(|it| it.reveal());
        assert_eq!(same, bytes);
        assert!(whole.iter().rev().eq(&bytes));
        assert_eq!(by_four[..8], [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(by_eight[..8], [7, 6, 5, 4, 3, 2, 1, 0]);
    }
}

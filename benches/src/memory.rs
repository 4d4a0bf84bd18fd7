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
/// A key's length.
pub const KEY: usize = 32;

/// A key's bytes, so disguised that whoever looks for them does not find them here.
#[derive(Debug, Clone, Copy)]
pub struct Masked([u8; KEY]);

impl Masked {
    const MASK: u8 = 0xA5;

    /// Disguises a key of 32 bytes.
    ///
    /// # Panics
    ///
    /// When it is of another length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        assert_eq!(key.len(), KEY, "a key has 32 bytes");
        let mut masked = [0; KEY];
        masked.iter_mut().zip(key).for_each(|(masked, byte)| *masked = byte ^ Self::MASK);
        Self(masked)
    }

    fn is(&self, bytes: &[u8]) -> bool {
        bytes.iter().zip(self.0).all(|(byte, masked)| byte ^ Self::MASK == masked)
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
        Ok(Self { file: File::open("/proc/self/mem")?, window: vec![0; WINDOW + KEY] })
    }

    /// What stands at the address where `key` was.
    ///
    /// # Errors
    ///
    /// When the address is mapped no more.
    pub fn look(&mut self, address: usize, key: &Masked) -> io::Result<Found> {
        self.read(address, KEY)?;
        let bytes = &mut self.window[..KEY];
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
        let mut count = 0;
        for region in writable()? {
            let mut start = region.start;
            while start < region.end {
                // The last bytes of a window are the first of the next, or a key across both would
                // be missed.
                let length = (region.end - start).min(WINDOW + KEY - 1);
                match self.read(start, length) {
                    Ok(()) => {}
                    // Another thread has ended or freed it meanwhile.
                    Err(_) if !writable()?.contains(&region) => break,
                    Err(error) => return Err(error),
                }
                count += self.keys_in(start, length, key);
                start += WINDOW;
            }
        }
        self.window.zeroize();
        self.window.resize(WINDOW + KEY, 0);
        Ok(count)
    }

    /// How often `key` stands in the window, which was read from `start`. What was read from the
    /// window itself is no find.
    fn keys_in(&self, start: usize, length: usize, key: &Masked) -> usize {
        let own = self.window.as_ptr().addr()..self.window.as_ptr().addr() + self.window.len();
        let bytes = &self.window[..length];
        let (mut found, mut from) = (0, 0);
        while let Some(next) = bytes[from..].iter().position(|byte| *byte == key.first_byte()) {
            let at = from + next;
            let Some(candidate) = bytes.get(at..at + KEY) else { break };
            found += usize::from(key.is(candidate) && !own.contains(&(start + at)));
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
    use super::*;

    #[test]
    fn a_key_is_found_until_it_is_gone() {
        let mut memory = Memory::open().unwrap();
        let mut key = vec![0; KEY];
        getrandom::fill(&mut key).unwrap();
        let masked = Masked::new(&key);
        assert_eq!(memory.look(key.as_ptr().addr(), &masked).unwrap(), Found::Key);
        assert!(memory.count(&masked).unwrap() >= 1);
        key.zeroize();
        assert_eq!(memory.look(key.as_ptr().addr(), &masked).unwrap(), Found::Zeros);
        assert_eq!(memory.count(&masked).unwrap(), 0);
    }
}

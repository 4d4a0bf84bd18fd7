//! Searches the memory of this process, through `/proc/self`. Linux only.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use zeroize::Zeroize;

/// The bytes that are read at once.
const WINDOW: usize = 1 << 20;
/// The bytes at the start of a freed block that the allocator overwrites.
const LINKS: usize = 16;
/// The maximum length of a pattern.
const MAX_LENGTH: usize = 64;

/// The bytes of a secret, masked so that a search for them does not find them here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Masked(Box<[u8]>);

impl Masked {
    const MASK: u8 = 0xA5;

    /// Masks a secret of 16 to 64 bytes.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self::from_bytes(secret.iter().map(|byte| byte ^ Self::MASK).collect())
    }

    /// Takes bytes that are already masked, as [`bytes`](Self::bytes) returns them.
    pub(crate) fn from_bytes(bytes: Box<[u8]>) -> Self {
        assert!((LINKS..=MAX_LENGTH).contains(&bytes.len()), "{} bytes", bytes.len());
        Self(bytes)
    }

    /// Returns the masked bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the secret itself. The caller must wipe it.
    pub(crate) fn reveal(&self) -> Vec<u8> {
        self.0.iter().map(|byte| byte ^ Self::MASK).collect()
    }

    /// Returns the same bytes in each order in which a processor or a library may store them: as
    /// they are, reversed, and reversed within each number of 4 or 8 bytes.
    pub(crate) fn in_each_order(&self) -> [Self; 4] {
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

/// The bytes at the address of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The key.
    Key,
    /// Zeros, except for what the allocator writes into a free block.
    Zeros,
    /// Something else: the block is used again.
    Other,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Key => "the key",
            Self::Zeros => "zeros",
            Self::Other => "other",
        })
    }
}

/// The memory of this process.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    window: Vec<u8>,
}

impl Memory {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/mem")?, window: vec![0; WINDOW + MAX_LENGTH] })
    }

    /// Returns what the address of `key` holds now.
    pub(crate) fn look(&mut self, address: usize, key: &Masked) -> io::Result<Found> {
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

    /// Returns how many times `key` occurs in memory that this process can write to: heap, stacks,
    /// anonymous and static memory.
    pub(crate) fn count(&mut self, key: &Masked) -> io::Result<usize> {
        self.count_all(std::slice::from_ref(key))
    }

    /// Returns how many times any of these secrets occurs.
    pub(crate) fn count_all(&mut self, secrets: &[Masked]) -> io::Result<usize> {
        let mut count = 0;
        for region in writable()? {
            let mut start = region.start;
            while start < region.end {
                // Overlap the windows: otherwise a secret across two windows would be missed.
                let length = (region.end - start).min(WINDOW + MAX_LENGTH - 1);
                match self.read(start, length) {
                    Ok(()) => {}
                    // It was unmapped meanwhile, by another thread.
                    Err(_) if !writable()?.contains(&region) => break,
                    Err(error) => return Err(error),
                }
                count += secrets.iter().map(|it| self.finds_in(start, length, it)).sum::<usize>();
                start += WINDOW;
            }
        }
        self.window.zeroize();
        self.window.resize(WINDOW + MAX_LENGTH, 0);
        Ok(count)
    }

    /// Returns how many times `secret` begins in the window, which was read from `start`.
    /// Occurrences in the window buffer itself do not count.
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

/// Returns the regions that this process can write to.
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

//! The input: a file or standard input.

use std::{
    fs::{File, Metadata},
    io::{self, BufReader, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise};

use crate::failure::Failure;

const BUFFER: usize = 256 * 1024;

/// A file or standard input.
pub(crate) struct Input {
    source: Source,
    name: PathBuf,
    length: Option<u64>,
}

enum Source {
    /// Without a buffer: a plaintext must not be left in memory.
    Plain(File),
    Buffered(BufReader<File>),
}

impl Input {
    /// Opens a file, or standard input for `-`.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let source = if path == Path::new("-") {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let source = source.map_err(|error| Failure::file(path, &error))?;
        let length =
            source.metadata().ok().filter(Metadata::is_file).map(|metadata| metadata.len());
        if length.is_some() {
            // The kernel then reads further ahead. If it does not support this, that is no error.
            let _ = fadvise(&source, 0, None, Advice::Sequential);
        }
        let name =
            if path == Path::new("-") { PathBuf::from("standard input") } else { path.to_owned() };
        Ok(Self { source: Source::Plain(source), name, length })
    }

    /// Returns the same input with a buffer, for a message, whose header is read in small pieces.
    pub(crate) fn buffered(self) -> Self {
        let source = match self.source {
            Source::Plain(source) => Source::Buffered(BufReader::with_capacity(BUFFER, source)),
            buffered @ Source::Buffered(_) => buffered,
        };
        Self { source, ..self }
    }

    /// Returns the name for error messages.
    pub(crate) fn name(&self) -> PathBuf {
        self.name.clone()
    }

    /// Returns the length, if the input is a file.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::Plain(source) => source.read(buffer),
            Source::Buffered(source) => source.read(buffer),
        }
    }
}

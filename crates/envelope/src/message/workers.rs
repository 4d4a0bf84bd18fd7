//! The threads that encrypt or decrypt the frames of a long message in parallel.

#[cfg(feature = "parallel")]
use std::sync::Arc;

#[cfg(feature = "parallel")]
use rayon::{
    ThreadPool, ThreadPoolBuilder,
    iter::{IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _},
    slice::{ParallelSlice as _, ParallelSliceMut as _},
};

use crate::error::Error;

/// The number of bytes that one thread processes at once, in about 0.1 ms.
pub(crate) const SLICE: usize = 256 * 1024;
/// The min number of bytes for which other threads are used.
const WORTH_SHARING: usize = 128 * 1024;
/// The min number of bytes that another thread is given.
#[cfg(feature = "parallel")]
const SHARE: usize = 32 * 1024;
/// The min cost of a frame in bytes: a frame of a few bytes takes as long as 1,024 bytes of
/// encryption.
const MIN_FRAME_COST: usize = 1024;
const MAX_THREADS: usize = 256;

/// The threads that share the work. A single one is the caller's.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    threads: usize,
    #[cfg(feature = "parallel")]
    pool: Option<Arc<ThreadPool>>,
}

impl Workers {
    /// Starts `threads` threads; none for 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the number is out of range, or the system cannot start them.
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(Error::invalid_setting(
                "threads",
                format!("expected 1 to {MAX_THREADS}, got {threads}"),
            ));
        }
        #[cfg(feature = "parallel")]
        if threads > 1 {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|at| format!("envelope-{at}"))
                .build();
            let pool =
                pool.map_err(|error| Error::invalid_setting("threads", error.to_string()))?;
            return Ok(Self { threads, pool: Some(Arc::new(pool)) });
        }
        Ok(Self::default())
    }

    /// Returns how many bytes all threads process at once.
    pub(crate) fn slice(&self) -> usize {
        SLICE * self.threads
    }

    /// Returns how many frames of `length` bytes are processed at once; 0 when one frame is longer
    /// than a slice.
    pub(crate) fn frames(&self, length: usize) -> usize {
        let shared = self.slice() / cost(length);
        if self.share(shared * length) { shared } else { SLICE / cost(length) }
    }

    /// Returns whether this many bytes in several frames are processed by several threads.
    pub(crate) fn share(&self, bytes: usize) -> bool {
        self.threads > 1 && bytes >= WORTH_SHARING
    }

    /// Calls `work` for each frame, with its index, its `read` bytes of `input`, and its `written`
    /// bytes of `output`. Returns any of the errors.
    #[cfg_attr(
        not(feature = "parallel"),
        expect(clippy::unused_self, reason = "without the feature, there are no other threads")
    )]
    pub(crate) fn each<E: Send>(
        &self,
        (input, read): (&[u8], usize),
        output: &mut [u8],
        written: usize,
        work: impl Fn(u32, &[u8], &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        #[cfg(feature = "parallel")]
        if let Some(pool) = &self.pool {
            let min_frames = (SHARE / written).max(1);
            let pieces =
                output.par_chunks_exact_mut(written).zip(input.par_chunks_exact(read)).enumerate();
            let pieces = pieces.with_min_len(min_frames);
            return pool.install(|| {
                pieces.try_for_each(|(at, (output, input))| work(number(at), input, output))
            });
        }
        let mut pieces = output.chunks_exact_mut(written).zip(input.chunks_exact(read)).enumerate();
        pieces.try_for_each(|(at, (output, input))| work(number(at), input, output))
    }

    /// Calls `work` for each item. Returns the results in the same order.
    #[cfg_attr(
        not(feature = "parallel"),
        expect(clippy::unused_self, reason = "without the feature, there are no other threads")
    )]
    pub(crate) fn map<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> R + Sync,
    ) -> Vec<R> {
        #[cfg(feature = "parallel")]
        if let Some(pool) = &self.pool {
            return pool.install(|| items.par_iter().map(&work).collect());
        }
        items.iter().map(work).collect()
    }
}

/// Only the caller's thread.
impl Default for Workers {
    fn default() -> Self {
        Self {
            threads: 1,
            #[cfg(feature = "parallel")]
            pool: None,
        }
    }
}

/// Returns the cost of a frame of this length, in bytes.
pub(crate) fn cost(frame: usize) -> usize {
    frame.max(MIN_FRAME_COST)
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("a slice has fewer than 2^32 frames")
}

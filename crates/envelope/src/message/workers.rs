//! The threads that seal and open the frames of a long message together.

#[cfg(feature = "parallel")]
use std::sync::Arc;

#[cfg(feature = "parallel")]
use rayon::{
    ThreadPool, ThreadPoolBuilder,
    iter::{IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _},
    slice::{ParallelSlice as _, ParallelSliceMut as _},
};

use crate::error::Error;

/// How much one thread seals or opens at once, in bytes: some 0.1 ms.
pub(crate) const SLICE: usize = 256 * 1024;
/// The least that is worth waking others for, in bytes.
const WORTH_SHARING: usize = 128 * 1024;
/// The least that is worth giving to another, in bytes.
#[cfg(feature = "parallel")]
const SHARE: usize = 32 * 1024;
/// What a frame costs at the least, as bytes: one of a few bytes takes as long as encrypting so
/// many.
const FRAME: usize = 1024;
const MOST_THREADS: usize = 256;

/// Threads that work together; of a single one, the caller's is that.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    threads: usize,
    #[cfg(feature = "parallel")]
    pool: Option<Arc<ThreadPool>>,
}

impl Workers {
    /// So many threads.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a number out of range, or when the system has no more threads.
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        if !(1..=MOST_THREADS).contains(&threads) {
            return Err(Error::invalid_setting(
                "threads",
                format!("{threads} is not in 1..={MOST_THREADS}"),
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

    /// How many bytes are sealed or opened at once.
    pub(crate) fn slice(&self) -> usize {
        SLICE * self.threads
    }

    /// How many frames of so many bytes are sealed or opened at once; none where a single one is
    /// more than that.
    pub(crate) fn frames(&self, length: usize) -> usize {
        let shared = self.slice() / cost(length);
        if self.share(shared * length) { shared } else { SLICE / cost(length) }
    }

    /// Whether so many bytes in several frames are worth sharing.
    pub(crate) fn share(&self, bytes: usize) -> bool {
        self.threads > 1 && bytes >= WORTH_SHARING
    }

    /// Does the work on each frame: from a piece of `input`, of `read` bytes, to the piece of
    /// `output` at the same place, of `written` bytes. Any of the failures is returned.
    #[cfg_attr(
        not(feature = "parallel"),
        expect(clippy::unused_self, reason = "there are no others without the feature")
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
            let least = (SHARE / written).max(1);
            let pieces =
                output.par_chunks_exact_mut(written).zip(input.par_chunks_exact(read)).enumerate();
            let pieces = pieces.with_min_len(least);
            return pool.install(|| {
                pieces.try_for_each(|(at, (output, input))| work(number(at), input, output))
            });
        }
        let mut pieces = output.chunks_exact_mut(written).zip(input.chunks_exact(read)).enumerate();
        pieces.try_for_each(|(at, (output, input))| work(number(at), input, output))
    }

    /// Does the work on each of `items`.
    #[cfg_attr(
        not(feature = "parallel"),
        expect(clippy::unused_self, reason = "there are no others without the feature")
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

/// The caller's thread alone.
impl Default for Workers {
    fn default() -> Self {
        Self {
            threads: 1,
            #[cfg(feature = "parallel")]
            pool: None,
        }
    }
}

/// What a frame of so many bytes costs, as bytes.
pub(crate) fn cost(frame: usize) -> usize {
    frame.max(FRAME)
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("a slice has fewer than 2^32 frames")
}

//! Wiping what functions leave on the stack.
//!
//! Like `zeroize_stack` of `zeroize`, but in frames that `memset` fills with vector instructions:
//! for more it stores byte by byte, which takes longer to begin.

use zeroize::optimization_barrier;

/// Less than the 2,048 bytes from which glibc's `memset` stores byte by byte.
const FRAME: usize = 2_000;

/// Wipes `frames` times 2,000 bytes of the stack below the caller's. What left something there must
/// not be inlined into the caller.
#[inline(never)]
pub(super) fn wipe(frames: u32) {
    let zeros = [0_u8; FRAME];
    optimization_barrier(&zeros);
    if frames > 1 {
        wipe(frames - 1);
    }
    // After the call, so that each frame lies below the one before.
    optimization_barrier(&zeros);
}

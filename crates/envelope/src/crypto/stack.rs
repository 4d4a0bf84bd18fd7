//! Wipes data that functions leave on the stack.
//!
//! Like `zeroize_stack` of `zeroize`, but in frames that `memset` fills with vector instructions:
//! larger frames are filled byte by byte, which takes longer to start.

use zeroize::optimization_barrier;

/// Less than the 2,048 bytes from which glibc's `memset` fills byte by byte.
const FRAME: usize = 2_000;

/// Wipes `frames` times 2,000 bytes of the stack below the caller's. The function that left data
/// there must not be inlined into the caller.
#[inline(never)]
pub(super) fn wipe(frames: u32) {
    let zeros = [0_u8; FRAME];
    optimization_barrier(&zeros);
    if frames > 1 {
        wipe(frames - 1);
    }
    // After the call, so that each frame lies below the previous one.
    optimization_barrier(&zeros);
}
